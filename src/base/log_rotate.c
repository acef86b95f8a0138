#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"

/* Copy all of `from` to a new file `path`, whole or not at all. */
static int copy_aside(int from, const char *path, off_t size)
{
	char partial[PATH_MAX + 8];
	cleanup_close int to = -1;
	off_t offset = 0;
	int ret = 0;

	(void)snprintf(partial, sizeof(partial), "%s.new", path);
	to = open(partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (to < 0)
		return -errno;
	while (ret == 0 && offset < size)
		if (sendfile(to, from, &offset, (size_t)(size - offset)) <= 0)
			ret = errno ? -errno : -EIO;
	if (ret == 0 && rename(partial, path) < 0)
		ret = -errno;
	if (ret < 0)
		(void)unlink(partial);
	return ret;
}

int log_rotate(int fd, off_t limit)
{
	cleanup_close int from = -1;
	char link[32];
	char path[PATH_MAX + 4];
	struct stat st;
	ssize_t size;
	int ret;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || st.st_size <= limit)
		return 0;
	(void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	size = readlink(link, path, PATH_MAX - 1);
	from = size < 0 ? -1 : open(link, O_RDONLY | O_CLOEXEC);
	if (from < 0)
		return -errno;
	memcpy(path + size, ".1", 3);
	ret = copy_aside(from, path, st.st_size);
	if (ret == 0 && ftruncate(fd, 0) < 0)
		ret = -errno;
	return ret;
}
