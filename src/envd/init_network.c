/*
 * The guest's side of its network interface, where the machine has one. All guests have the same addresses
 * (node/network has the other side), so that what a snapshot holds of them is right in every copy.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/route.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "envd/envd.h"

#define INTERFACE "eth0"
#define ADDRESS   "169.254.0.21"
#define MASK      "255.255.255.252"
#define GATEWAY   "169.254.0.22" /* answers DNS, too */
#define RESOLVER  "/etc/resolv.conf"

static void set_in(struct sockaddr *to, const char *address)
{
	const struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = inet_addr(address) };

	memcpy(to, &in, sizeof(in));
}

static int set_interface(int fd, unsigned long what, const char *address)
{
	struct ifreq request = { .ifr_name = INTERFACE };

	set_in(&request.ifr_addr, address);
	return ioctl(fd, what, &request);
}

static int bring_up(int fd)
{
	struct ifreq request = { .ifr_name = INTERFACE };

	if (ioctl(fd, SIOCGIFFLAGS, &request) < 0)
		return -1;
	request.ifr_flags |= IFF_UP;
	return ioctl(fd, SIOCSIFFLAGS, &request);
}

static int set_default_route(int fd)
{
	struct rtentry route = { .rt_flags = RTF_UP | RTF_GATEWAY };

	set_in(&route.rt_dst, "0.0.0.0");
	set_in(&route.rt_genmask, "0.0.0.0");
	set_in(&route.rt_gateway, GATEWAY);
	return ioctl(fd, SIOCADDRT, &route);
}

/* There is none out there: programs need not wait for it. */
static void leave_out_ipv6(void)
{
	cleanup_close int fd =
	        open("/proc/sys/net/ipv6/conf/" INTERFACE "/disable_ipv6", O_WRONLY | O_CLOEXEC);

	if (fd >= 0)
		(void)!write(fd, "1", 1);
}

/* In images of others it may be a link to what a service would make that does not run here. */
static void write_resolver(void)
{
	static const char text[] = "nameserver " GATEWAY "\n";
	cleanup_close int fd = -1;

	(void)unlink(RESOLVER);
	fd = open(RESOLVER, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd < 0 || write(fd, text, sizeof(text) - 1) < 0)
		log_warn("write " RESOLVER ": %s", strerror(errno));
}

void init_bring_up_network(void)
{
	cleanup_close int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || if_nametoindex(INTERFACE) == 0)
		return;
	leave_out_ipv6();
	if (set_interface(fd, SIOCSIFADDR, ADDRESS) < 0 || set_interface(fd, SIOCSIFNETMASK, MASK) < 0 ||
	    bring_up(fd) < 0 || (set_default_route(fd) < 0 && errno != EEXIST))
		log_warn("set up " INTERFACE ": %s", strerror(errno));
	write_resolver();
}
