#include "vmm/device/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define TUN_DEVICE "/dev/net/tun"

static int attach_failed(const char *name, struct error *err)
{
	int code = errno;

	if (code == EBUSY)
		return error_set(err, code, "the tap %s is in use by somebody else", name);
	if (code == EINVAL)
		return error_set(err, code, "the interface %s is not a tap (of one queue)", name);
	return error_errno(err, code, "attach to the tap %s", name);
}

/* TUNSETIFF makes an interface that is missing. So it must be there before, and be the one that we get. */
static int attach(int fd, const char *name, struct error *err)
{
	struct ifreq request = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	unsigned index = if_nametoindex(name);

	if (index == 0)
		return error_set(err, ENODEV, "there is no tap %s: it must be made before (ip tuntap add)",
		                 name);
	memcpy(request.ifr_name, name, strlen(name));
	if (ioctl(fd, TUNSETIFF, &request) < 0)
		return attach_failed(name, err);
	if (if_nametoindex(request.ifr_name) != index)
		return error_set(err, ENODEV, "the tap %s went away while it was opened", name);
	return 0;
}

int tap_open(const char *name, struct error *err)
{
	int header_size = TAP_HEADER_SIZE;
	int fd;
	int ret;

	if (!name || !*name || strlen(name) >= IFNAMSIZ)
		return error_set(err, EINVAL, "\"%s\" is no name of a tap: 1 to %d characters",
		                 name ? name : "", IFNAMSIZ - 1);
	fd = open(TUN_DEVICE, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return error_errno(err, errno, "open " TUN_DEVICE " for the tap %s", name);
	ret = attach(fd, name, err);
	if (ret == 0 && ioctl(fd, TUNSETVNETHDRSZ, &header_size) < 0)
		ret = error_errno(err, errno, "set the header size of the tap %s", name);
	if (ret == 0)
		ret = tap_set_offloads(fd, 0, err);
	if (ret < 0) {
		close(fd);
		return ret;
	}
	return fd;
}

int tap_set_offloads(int fd, unsigned flags, struct error *err)
{
	if (ioctl(fd, TUNSETOFFLOAD, (unsigned long)flags) < 0)
		return error_errno(err, errno, "set the offloads of a tap");
	return 0;
}

bool tap_exists(int fd)
{
	struct ifreq request;

	return ioctl(fd, TUNGETIFF, &request) == 0;
}
