/* The process that serves a mounted volume: it mounts it, says how that went, and serves until the mount is
 * gone. */
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "envd/volume_mounts.h"
#include "envd/volume_server.h"

#define PATIENCE_NAME "ATOLL_VOLUME_PATIENCE" /* of the environment: seconds, for tests */
#define PATIENCE      60

struct volume_process {
	unsigned index;
	const char *id;
	const char *path;
	const char *door; /* "": vsock */
};

static int bind_unix(const struct volume_process *process)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int length = snprintf(address.sun_path, sizeof(address.sun_path), "%s-volume-%u", process->door,
	                      process->index);
	int fd;

	if (length >= (int)sizeof(address.sun_path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	(void)unlink(address.sun_path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd >= 0 && fchmod(fd, 0600) == 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

static int bind_vsock(const struct volume_process *process)
{
	struct sockaddr_vm address = { .svm_family = AF_VSOCK,
		                       .svm_cid = VMADDR_CID_ANY,
		                       .svm_port = VOLUME_PORT + process->index };
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

/* What is left at the path of a mount whose process was killed with its agent says ENOTCONN. */
static int make_directory(const char *path, struct error *err)
{
	struct stat st;
	int ret;

	if (stat(path, &st) < 0 && errno == ENOTCONN)
		(void)umount2(path, MNT_DETACH);
	ret = file_make_directories(path, 0755, err);
	if (ret < 0)
		return ret;
	if (stat(path, &st) < 0)
		return error_errno(err, errno, "mount at %s", path);
	return S_ISDIR(st.st_mode) ? 0 : error_errno(err, ENOTDIR, "mount at %s", path);
}

static int mount_volume(const struct volume_process *process, struct error *err)
{
	char options[128];
	int ret = make_directory(process->path, err);
	int fd;

	if (ret < 0)
		return ret;
	fd = open("/dev/fuse", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return error_errno(err, errno, "open /dev/fuse");
	(void)snprintf(options, sizeof(options),
	               "fd=%d,rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other", fd);
	if (mount(process->id, process->path, "fuse.atoll", MS_NOSUID | MS_NODEV, options) < 0) {
		ret = error_errno(err, errno, "mount at %s", process->path);
		close(fd);
		return ret;
	}
	return fd;
}

static unsigned patience(void)
{
	const char *text = getenv(PATIENCE_NAME);
	unsigned long seconds = text ? strtoul(text, NULL, 10) : 0;

	return seconds > 0 && seconds <= 3600 ? (unsigned)seconds : PATIENCE;
}

static int start(const struct volume_process *process, uv_loop_t *loop, struct error *err)
{
	int fd = process->door[0] ? bind_unix(process) : bind_vsock(process);
	struct volume_link *link;

	if (fd < 0)
		return error_errno(err, errno, "make the socket for volume %s", process->id);
	link = volume_link_new(loop, fd, process->id, patience(), err);
	if (!link)
		return -err->code;
	fd = mount_volume(process, err);
	return fd < 0 ? fd : volume_server_start(loop, fd, link, err);
}

int volume_process_main(char **arguments, int count)
{
	struct volume_process process;
	struct error err = { 0 };
	int ret;

	if (count != 4)
		return EXIT_FAILURE;
	log_init("envd-volume", LOG_LEVEL_INFO);
	(void)signal(SIGPIPE, SIG_IGN);
	umask(0022);
	process = (struct volume_process){ .index = (unsigned)strtoul(arguments[0], NULL, 10),
		                           .id = arguments[1],
		                           .path = arguments[2],
		                           .door = arguments[3] };
	/* (An agent that has ended meanwhile reads no report.) */
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	ret = start(&process, uv_default_loop(), &err);
	if (ret < 0)
		(void)fd_write_all(VOLUME_REPORT_FD, err.message, strlen(err.message));
	else
		ret = fd_write_all(VOLUME_REPORT_FD, "", 1);
	close(VOLUME_REPORT_FD);
	if (ret < 0)
		return EXIT_FAILURE;
	(void)uv_run(uv_default_loop(), UV_RUN_DEFAULT);
	return EXIT_SUCCESS;
}
