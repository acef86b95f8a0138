/*
 * Firecracker's Uffd back end (its docs/snapshotting/handling-page-faults-on-snapshot-resume.md): another
 * process fills guest memory page by page. It listens on a unix socket and gets one message: a JSON array
 * with a mapping per region, and the userfaultfd (Documentation/admin-guide/mm/userfaultfd.rst) as
 * SCM_RIGHTS.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/base.h"
#include "vmm/snapshot/image_internal.h"

#ifndef USERFAULTFD_IOC_NEW /* Linux 6.1: /dev/userfaultfd, governed by its permissions */
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

static int make(struct error *err)
{
	cleanup_close int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE };
	int fd;

	/* Faults of KVM happen in the kernel: a userfaultfd for user mode only would not do. */
	fd = device >= 0 ? ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK)
	                 : (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return error_errno(err, errno, "make a userfaultfd");
	if (ioctl(fd, UFFDIO_API, &api) < 0) {
		int code = errno;

		close(fd);
		return error_errno(err, code, "UFFDIO_API");
	}
	return fd;
}

static int connect_handler(const char *path, struct error *err)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd;

	if (strlen(path) >= sizeof(address.sun_path))
		return error_set(err, ENAMETOOLONG, "the path of the page fault handler is too long: %s",
		                 path);
	memcpy(address.sun_path, path, strlen(path));
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_errno(err, errno, "connect to the page fault handler");
	if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
		int code = errno;

		close(fd);
		return error_errno(err, code, "connect to the page fault handler at %s", path);
	}
	return fd;
}

static int send_mapping(int socket, const struct image *image, int uffd, struct error *err)
{
	char text[256];
	int size = snprintf(text, sizeof(text),
	                    "[{\"base_host_virt_addr\":%llu,\"size\":%llu,\"offset\":0,\"page_size\":%d,"
	                    "\"page_size_kib\":%d}]",
	                    (unsigned long long)(uintptr_t)image->host, (unsigned long long)image->size, PAGE,
	                    PAGE);
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec iov = { .iov_base = text, .iov_len = (size_t)size };
	struct msghdr message = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
	};

	control.header = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int)),
		                           .cmsg_level = SOL_SOCKET,
		                           .cmsg_type = SCM_RIGHTS };
	memcpy(CMSG_DATA(&control.header), &uffd, sizeof(uffd));
	if (sendmsg(socket, &message, MSG_NOSIGNAL) != size)
		return error_errno(err, errno, "tell the page fault handler of the memory");
	return 0;
}

int image_hand_to_uffd(struct image *image, const char *path, struct error *err)
{
	struct uffdio_register range = { .range = { (uintptr_t)image->host, image->size },
		                         .mode = UFFDIO_REGISTER_MODE_MISSING };

	image->uffd = make(err);
	if (image->uffd < 0)
		return image->uffd;
	if (ioctl(image->uffd, UFFDIO_REGISTER, &range) < 0)
		return error_errno(err, errno, "UFFDIO_REGISTER");
	image->handler = connect_handler(path, err);
	return image->handler < 0 ? image->handler : send_mapping(image->handler, image, image->uffd, err);
}
