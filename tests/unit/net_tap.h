/* Real taps in a network namespace of the test's own. */
#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* Whether this thread, and those that it starts, are in a fresh namespace where taps can be made. */
static inline bool tap_namespace(void)
{
	return unshare(CLONE_NEWNET) == 0 && access("/dev/net/tun", R_OK | W_OK) == 0;
}

static inline int interface_ioctl(unsigned long request, struct ifreq *interface)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int ret = ioctl(fd, request, interface);

	close(fd);
	return ret;
}

static inline int tap_set_up(const char *name, bool up)
{
	struct ifreq interface = { .ifr_flags = up ? IFF_UP : 0 };

	(void)snprintf(interface.ifr_name, sizeof(interface.ifr_name), "%s", name);
	return interface_ioctl(SIOCSIFFLAGS, &interface);
}

/* A tap that stays, as `ip tuntap add` makes it. */
static inline int tap_make(const char *name)
{
	struct ifreq interface = { .ifr_flags = IFF_TAP | IFF_NO_PI };
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	int ret;

	(void)snprintf(interface.ifr_name, sizeof(interface.ifr_name), "%s", name);
	ret = fd < 0 || ioctl(fd, TUNSETIFF, &interface) < 0 || ioctl(fd, TUNSETPERSIST, 1) < 0 ? -1 : 0;
	close(fd);
	return ret == 0 ? tap_set_up(name, true) : ret;
}

/* As `ip link del`. */
static inline int tap_delete(const char *name)
{
	struct {
		struct nlmsghdr header;
		struct ifinfomsg info;
	} request = { .header = { .nlmsg_len = sizeof(request),
		                  .nlmsg_type = RTM_DELLINK,
		                  .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK },
		      .info = { .ifi_index = (int)if_nametoindex(name) } };
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	char answer[256];
	bool done = send(fd, &request, sizeof(request), 0) == (ssize_t)sizeof(request) &&
	            recv(fd, answer, sizeof(answer), 0) > 0;

	close(fd);
	return done && if_nametoindex(name) == 0 ? 0 : -1;
}

/* A raw socket on the host's side of a tap, for frames of the type for experiments. */
static inline int tap_packet_socket(const char *name)
{
	struct sockaddr_ll address = { .sll_family = AF_PACKET,
		                       .sll_protocol = htons(0x88b5),
		                       .sll_ifindex = (int)if_nametoindex(name) };
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, htons(0x88b5));

	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

/* Whether the kernel leaves something (ETHTOOL_GTXCSUM, ETHTOOL_GTSO) to the reader of a tap. -1: no answer.
 */
static inline int tap_leaves(const char *name, unsigned command)
{
	struct ethtool_value value = { .cmd = command };
	struct ifreq interface = { .ifr_data = (char *)&value };

	(void)snprintf(interface.ifr_name, sizeof(interface.ifr_name), "%s", name);
	return interface_ioctl(SIOCETHTOOL, &interface) < 0 ? -1 : (int)value.data;
}
