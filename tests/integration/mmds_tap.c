/*
 * The metadata service behind a tap device, for tests/integration/mmds: the kernel of this network namespace
 * is the guest.
 *
 *     mmds_tap TAP VERSION DOCUMENT [offload] [loss=N]
 *
 * `offload` lets the kernel leave checksums and segmentation to the device, as a virtio-net driver does;
 * loss=N loses every Nth frame of either direction. Prints "ready" when the device is there.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/base.h"
#include "vmm/mmds/mmds.h"

#define FRAME_MAX 65562

static struct {
	int fd;
	bool offload;
	unsigned loss;
	unsigned frames;
} tap;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void open_tap(const char *name)
{
	struct ifreq request = { .ifr_flags = IFF_TAP | IFF_NO_PI };

	if (tap.offload)
		request.ifr_flags |= IFF_VNET_HDR;
	(void)snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
	tap.fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (tap.fd < 0 || ioctl(tap.fd, TUNSETIFF, &request) < 0)
		fail("open tap device");
	if (tap.offload && ioctl(tap.fd, TUNSETOFFLOAD, (unsigned long)(TUN_F_CSUM | TUN_F_TSO4)) < 0)
		fail("set offload");
}

static bool is_lost(void)
{
	return tap.loss && ++tap.frames % tap.loss == 0;
}

static size_t header_size(void)
{
	return tap.offload ? sizeof(struct virtio_net_hdr) : 0;
}

/* All frames that the kernel has for us. */
static void take_all(const struct net_peer *peer)
{
	static char frame[FRAME_MAX + sizeof(struct virtio_net_hdr)];
	ssize_t size;

	while ((size = read(tap.fd, frame, sizeof(frame))) > (ssize_t)header_size())
		if (!is_lost())
			(void)peer->take(peer->context, frame + header_size(), (size_t)size - header_size());
	if (size < 0 && errno != EAGAIN)
		fail("read from tap device");
}

static void give_all(const struct net_peer *peer)
{
	static char frame[FRAME_MAX + sizeof(struct virtio_net_hdr)];
	size_t size;

	while ((size = peer->give(peer->context, frame + header_size(), 1526))) {
		if (!is_lost() && write(tap.fd, frame, size + header_size()) < 0 && errno != EIO)
			fail("write to tap device");
	}
}

static struct mmds *make_service(const char *version, const char *path)
{
	struct mmds_config config = MMDS_CONFIG_INIT;
	struct mmds *mmds = mmds_new(0, NULL, NULL);
	static char document[MMDS_SIZE_LIMIT];
	FILE *file = fopen(path, "re");
	struct error err = { 0 };
	size_t size;

	if (!mmds || !file)
		fail(path);
	size = fread(document, 1, sizeof(document), file);
	(void)fclose(file);
	config.version = strcmp(version, "V2") == 0 ? MMDS_V2 : MMDS_V1;
	if (mmds_configure(mmds, &config, &err) < 0 || mmds_put(mmds, document, size, &err) < 0) {
		(void)fprintf(stderr, "%s\n", err.message);
		exit(1);
	}
	return mmds;
}

int main(int argc, char **argv)
{
	static const uint8_t mac[6] = { 2, 0, 0, 0, 0, 1 };
	struct net_peer *peer;

	if (argc < 4) {
		(void)fprintf(stderr, "usage: mmds_tap TAP VERSION DOCUMENT [offload] [loss=N]\n");
		return 2;
	}
	for (int i = 4; i < argc; i++) {
		tap.offload |= strcmp(argv[i], "offload") == 0;
		if (strncmp(argv[i], "loss=", 5) == 0)
			tap.loss = (unsigned)strtoul(argv[i] + 5, NULL, 10);
	}
	open_tap(argv[1]);
	peer = mmds_peer_new(make_service(argv[2], argv[3]), mac, NULL);
	if (!peer)
		fail("make peer");
	(void)puts("ready");
	(void)fflush(stdout);
	for (;;) {
		struct pollfd wait = { .fd = tap.fd, .events = POLLIN };

		if (poll(&wait, 1, peer->timeout(peer->context)) < 0)
			fail("poll");
		take_all(peer);
		give_all(peer);
	}
}
