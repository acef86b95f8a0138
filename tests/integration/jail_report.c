/*
 * What a program in a jail sees, told on standard output: tests/integration/jail reads it. Static, because
 * there is nothing in the jail but itself. With --wait it stays until standard input ends.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define DEPTH_MAX 5
#define FDS_MAX   4096

static void list_tree(const char *path, int depth)
{
	DIR *directory = opendir(path);
	struct dirent *entry;
	struct stat st;
	char inner[512];

	while (directory && depth < DEPTH_MAX && (entry = readdir(directory))) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		(void)snprintf(inner, sizeof(inner), "%s/%s", strcmp(path, "/") == 0 ? "" : path,
		               entry->d_name);
		if (lstat(inner, &st) < 0)
			continue;
		printf("file %s %c %o %u:%u %u:%u\n", inner,
		       S_ISDIR(st.st_mode)   ? 'd'
		       : S_ISCHR(st.st_mode) ? 'c'
		                             : 'f',
		       st.st_mode & 07777, st.st_uid, st.st_gid, major(st.st_rdev), minor(st.st_rdev));
		if (S_ISDIR(st.st_mode))
			list_tree(inner, depth + 1);
	}
	if (directory)
		closedir(directory);
}

static void tell_user(void)
{
	uid_t uid[3];
	gid_t gid[3];

	(void)getresuid(&uid[0], &uid[1], &uid[2]);
	(void)getresgid(&gid[0], &gid[1], &gid[2]);
	printf("uid %u %u %u\ngid %u %u %u\ngroups %d\n", uid[0], uid[1], uid[2], gid[0], gid[1], gid[2],
	       getgroups(0, NULL));
}

static void tell_privileges(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = { 0 };
	int bounding = 0;
	int has;

	(void)syscall(SYS_capget, &header, data);
	for (unsigned long i = 0; (has = prctl(PR_CAPBSET_READ, i, 0, 0, 0)) >= 0; i++)
		bounding += has;
	printf("capabilities %x %x %x bounding %d\n", data[0].effective | data[1].effective,
	       data[0].permitted | data[1].permitted, data[0].inheritable | data[1].inheritable, bounding);
	printf("no_new_privs %d\n", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
}

static void tell_limits(void)
{
	struct rlimit files;
	struct rlimit size;
	struct rlimit core;
	mode_t mask = umask(0);

	(void)getrlimit(RLIMIT_NOFILE, &files);
	(void)getrlimit(RLIMIT_FSIZE, &size);
	(void)getrlimit(RLIMIT_CORE, &core);
	printf("no-file %lu %lu\nfsize %lu %lu\ncore %lu\numask %o\n", files.rlim_cur, files.rlim_max,
	       size.rlim_cur, size.rlim_max, core.rlim_max, mask);
}

static void tell_device(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	printf("open %s %s\n", path, fd < 0 ? strerror(errno) : "ok");
	if (fd >= 0)
		close(fd);
}

int main(int argc, char **argv)
{
	char directory[256];
	char byte;

	setvbuf(stdout, NULL, _IOFBF, 1 << 16);
	printf("descriptors");
	for (int fd = 0; fd < FDS_MAX; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			printf(" %d", fd);
	printf("\narguments");
	for (int i = 0; i < argc; i++)
		printf(" %s", argv[i]);
	printf("\nenvironment");
	for (char **at = environ; *at; at++)
		printf(" %s", *at);
	printf("\npid %d\ncwd %s\n", getpid(), getcwd(directory, sizeof(directory)) ? directory : "?");
	tell_user();
	tell_privileges();
	tell_limits();
	list_tree("/", 0);
	tell_device("/dev/urandom");
	tell_device("/dev/kvm");
	printf("end\n");
	(void)fflush(stdout);
	if (argc > 1 && strcmp(argv[argc - 1], "--wait") == 0)
		while (read(STDIN_FILENO, &byte, 1) > 0)
			;
	if (argc > 1 && strcmp(argv[argc - 1], "--stay") == 0)
		(void)sleep(600);
	return 0;
}
