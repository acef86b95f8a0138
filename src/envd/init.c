/* What init does in a guest: the mounts that a Linux user expects, the loopback interface, limits. */
#include <errno.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "envd/envd.h"

static const struct mount_point {
	const char *type;
	const char *target;
	unsigned long flags;
	const char *options;
	mode_t mode; /* of the directory, when it is missing */
} mounts[] = {
	{ "proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, 0555 },
	{ "sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, 0555 },
	{ "devtmpfs", "/dev", MS_NOSUID, "mode=0755", 0755 },
	{ "devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666", 0755 },
	{ "tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777", 01777 },
	{ "mqueue", "/dev/mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, 01777 },
	{ "tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755", 0755 },
	{ "tmpfs", "/run/lock", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777,size=5m", 01777 },
	{ "cgroup2", "/sys/fs/cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, 0555 },
	{ "binfmt_misc", "/proc/sys/fs/binfmt_misc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, 0555 },
	{ "bpf", "/sys/fs/bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700", 0700 },
};

static const char *const links[][2] = {
	{ "/proc/self/fd", "/dev/fd" },
	{ "/proc/self/fd/0", "/dev/stdin" },
	{ "/proc/self/fd/1", "/dev/stdout" },
	{ "/proc/self/fd/2", "/dev/stderr" },
};

/* Settings that a sandbox's user would otherwise make by hand. */
static const char *const settings[][2] = {
	{ "/proc/sys/fs/inotify/max_user_watches", "65536" },
	{ "/proc/sys/fs/inotify/max_user_instances", "1024" },
	{ "/proc/sys/net/ipv4/ip_unprivileged_port_start", "0" },
	{ "/proc/sys/net/ipv4/ping_group_range", "0 2147483647" },
	{ "/proc/sys/vm/overcommit_memory", "1" },
};

static void mount_all(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(mounts); i++) {
		const struct mount_point *point = &mounts[i];

		(void)mkdir(point->target, point->mode);
		/* The kernel mounts /dev by itself; what it lacks is said by the program that needs it. */
		if (mount(point->type, point->target, point->type, point->flags, point->options) < 0 &&
		    errno != EBUSY && errno != ENODEV)
			log_warn("mount %s: %s", point->target, strerror(errno));
	}
	for (size_t i = 0; i < ARRAY_SIZE(links); i++)
		(void)!symlink(links[i][0], links[i][1]);
	if (mount(NULL, "/", NULL, MS_REMOUNT | MS_NOATIME, NULL) < 0)
		log_warn("remount /: %s", strerror(errno));
}

static void bring_up_loopback(void)
{
	struct ifreq request = { .ifr_name = "lo" };
	cleanup_close int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &request) < 0)
		return;
	request.ifr_flags |= IFF_UP;
	if (ioctl(fd, SIOCSIFFLAGS, &request) < 0)
		log_warn("bring up lo: %s", strerror(errno));
}

static void write_settings(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(settings); i++) {
		FILE *file = fopen(settings[i][0], "we");

		if (file) {
			(void)fputs(settings[i][1], file);
			(void)fclose(file);
		}
	}
}

void init_prepare(void)
{
	struct rlimit files = { .rlim_cur = 65536, .rlim_max = 1048576 };

	umask(0022);
	mount_all();
	bring_up_loopback();
	init_bring_up_network();
	write_settings();
	(void)setrlimit(RLIMIT_NOFILE, &files);
	(void)setsid();
	if (chdir("/") < 0)
		log_warn("chdir: %s", strerror(errno));
}
