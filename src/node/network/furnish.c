/* One monitor's namespace, from outside. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "node/network/network_internal.h"

#define PATIENCE_MS 20000 /* until a process that was just forked is in its namespace */
#define STEP_MS     2

/* A thread that cannot come home again would do all else to a stranger's namespace. */
static void go_home(int home)
{
	if (setns(home, CLONE_NEWNET) < 0) {
		log_error("return to the host's network namespace: %s", strerror(errno));
		abort();
	}
}

/* Enter the namespace of the process. It may still be in ours. */
static int enter(int home, int pidfd, struct error *err)
{
	const struct timespec step = { .tv_nsec = STEP_MS * 1000000 };
	struct stat ours;
	struct stat its;

	if (fstat(home, &ours) < 0)
		return error_errno(err, errno, "look at the host's network namespace");
	for (int waited = 0; waited < PATIENCE_MS; waited += STEP_MS) {
		if (setns(pidfd, CLONE_NEWNET) < 0)
			return error_errno(err, errno, "enter the network namespace of a monitor");
		if (stat("/proc/thread-self/ns/net", &its) < 0) {
			int code = errno;

			go_home(home);
			return error_errno(err, code, "look at the network namespace of a monitor");
		}
		if (its.st_ino != ours.st_ino)
			return 0;
		(void)nanosleep(&step, NULL);
	}
	return error_set(err, ETIMEDOUT, "a monitor has no network namespace of its own");
}

/* It stays when its descriptor is closed, for the user who may attach to it. */
static int make_tap(uid_t owner, struct error *err)
{
	struct ifreq request = { .ifr_name = NETWORK_TAP, .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	cleanup_close int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return error_errno(err, errno, "open /dev/net/tun");
	if (ioctl(fd, TUNSETIFF, &request) < 0 || ioctl(fd, TUNSETOWNER, (unsigned long)owner) < 0 ||
	    ioctl(fd, TUNSETPERSIST, 1ul) < 0)
		return error_errno(err, errno, "make " NETWORK_TAP);
	return 0;
}

/* Of the calling thread's namespace: /proc/sys/net is whose who looks. */
static int forward(struct error *err)
{
	cleanup_close int fd = open("/proc/sys/net/ipv4/ip_forward", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, "1", 1) != 1)
		return error_errno(err, errno, "switch on the forwarding of packets");
	return 0;
}

static int furnish_tap(struct mnl_socket *inside, uid_t owner, struct error *err)
{
	int ret = make_tap(owner, err);

	if (ret == 0)
		ret = links_set_mac(inside, NETWORK_TAP, NETWORK_TAP_MAC, err);
	if (ret == 0)
		ret = links_set_address(inside, NETWORK_TAP, inet_addr(NETWORK_GATEWAY), NETWORK_TAP_BITS,
		                        err);
	return ret == 0 ? links_set_up(inside, NETWORK_TAP, err) : ret;
}

void network_host_veth(unsigned slot, char name[16])
{
	(void)snprintf(name, 16, NETWORK_HOST_VETH "%u", slot % NETWORK_SLOTS);
}

/* What leads out, once there are rules. */
static int furnish_pair(int home, struct mnl_socket *outside, struct mnl_socket *inside, unsigned slot,
                        struct error *err)
{
	uint32_t pair = NETWORK_VETHS_BASE + 2 * slot;
	char name[16];
	int ret;

	network_host_veth(slot, name);
	/* That of the one before may be on its way out yet. */
	(void)links_remove(outside, name, NULL);
	ret = links_make_pair(inside, NETWORK_VETH, home, name, err);
	if (ret == 0)
		ret = links_set_address(inside, NETWORK_VETH, htonl(pair + 1), NETWORK_VETH_BITS, err);
	if (ret == 0)
		ret = links_set_up(inside, NETWORK_VETH, err);
	if (ret == 0)
		ret = links_set_address(outside, name, htonl(pair), NETWORK_VETH_BITS, err);
	if (ret == 0)
		ret = links_set_up(outside, name, err);
	return ret == 0 ? links_set_default_route(inside, htonl(pair), err) : ret;
}

static int furnish(int home, struct mnl_socket *outside, const struct furnishing *furnishing,
                   struct error *err)
{
	struct mnl_socket *inside = links_open(err);
	int ret = inside ? furnish_tap(inside, furnishing->owner, err) : -err->code;

	if (ret == 0 && !furnishing->tap_only) {
		ret = rules_set_guest(&furnishing->policy, furnishing->resolver, &furnishing->limits, err);
		if (ret == 0)
			ret = forward(err);
		if (ret == 0)
			ret = furnish_pair(home, outside, inside, furnishing->slot, err);
	}
	if (inside)
		(void)mnl_socket_close(inside);
	return ret;
}

int furnish_namespace(int home, struct mnl_socket *links, const struct furnishing *furnishing,
                      struct error *err)
{
	int ret = enter(home, furnishing->pidfd, err);

	if (ret < 0)
		return ret;
	ret = furnish(home, links, furnishing, err);
	go_home(home);
	return ret;
}

static bool is_source(void *context, uint32_t source)
{
	return source == *(const uint32_t *)context;
}

void furnish_forget(unsigned slot)
{
	uint32_t source = NETWORK_VETHS_BASE + 2 * slot + 1;

	links_forget_connections_of(source, is_source, &source);
}

int furnish_policy(int home, const struct furnishing *furnishing, struct error *err)
{
	int ret = enter(home, furnishing->pidfd, err);

	if (ret < 0)
		return ret;
	ret = rules_set_guest(&furnishing->policy, furnishing->resolver, &furnishing->limits, err);
	/* No rule lets them go on. Without this those of UDP would stay dead as long as the guest talks. */
	if (ret == 0)
		links_forget_connections();
	go_home(home);
	return ret;
}
