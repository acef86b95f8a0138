#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

int fd_write_all(int fd, const void *data, size_t size)
{
	const char *from = data;

	while (size) {
		ssize_t done = write(fd, from, size);

		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return -errno;
		from += done;
		size -= (size_t)done;
	}
	return 0;
}

int fd_read_all(int fd, void *data, size_t size)
{
	char *to = data;

	while (size) {
		ssize_t done = read(fd, to, size);

		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return -errno;
		if (done == 0)
			return -EPIPE;
		to += done;
		size -= (size_t)done;
	}
	return 0;
}

int file_read(const char *path, struct buffer *to, struct error *err)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return error_errno(err, errno, "open %s", path);
	for (;;) {
		char chunk[8192];
		ssize_t got = read(fd, chunk, sizeof(chunk));
		int ret;

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return error_errno(err, errno, "read %s", path);
		if (got == 0)
			return buffer_reserve(to, 0);
		ret = buffer_append(to, chunk, (size_t)got);
		if (ret < 0)
			return error_errno(err, -ret, "read %s", path);
	}
}

int file_sync_directory(const char *path, struct error *err)
{
	cleanup_close int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 || fsync(fd) < 0 ? error_errno(err, errno, "sync directory %s", path) : 0;
}

int file_sync_parent(const char *path, struct error *err)
{
	char copy[PATH_MAX];

	(void)snprintf(copy, sizeof(copy), "%s", path);
	return file_sync_directory(dirname(copy), err);
}

/* A hidden name, so that who reads the directory never takes it for a file of its kind. */
#define TEMPORARY ".new."

static int temporary_name(const char *path, char temporary[PATH_MAX])
{
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;
	int size = snprintf(temporary, PATH_MAX, "%.*s.%s" TEMPORARY "%d", (int)(name - path), path, name,
	                    (int)getpid());

	return size < PATH_MAX ? 0 : -ENAMETOOLONG;
}

void file_remove_temporaries(const char *directory)
{
	DIR *stream = opendir(directory);
	struct dirent *entry;

	while (stream && (entry = readdir(stream))) {
		const char *end = entry->d_name[0] == '.' ? strstr(entry->d_name, TEMPORARY) : NULL;

		if (end && end[strspn(end + strlen(TEMPORARY), "0123456789") + strlen(TEMPORARY)] == '\0')
			(void)unlinkat(dirfd(stream), entry->d_name, 0);
	}
	if (stream)
		(void)closedir(stream);
}

int file_write_atomic(const char *path, const void *data, size_t size, mode_t mode, struct error *err)
{
	char temporary[PATH_MAX];
	int ret;

	if (temporary_name(path, temporary) < 0)
		return error_errno(err, ENAMETOOLONG, "write %s", path);
	(void)unlink(temporary);
	cleanup_close int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
	if (fd < 0)
		return error_errno(err, errno, "create %s", path);
	ret = fd_write_all(fd, data, size);
	if (ret == 0 && (fchmod(fd, mode) < 0 || fsync(fd) < 0 || rename(temporary, path) < 0))
		ret = -errno;
	if (ret < 0) {
		(void)unlink(temporary);
		return error_errno(err, -ret, "write %s", path);
	}
	return file_sync_parent(path, err);
}

int file_make_directories(const char *path, mode_t mode, struct error *err)
{
	char partial[PATH_MAX];
	size_t length = strlen(path);

	if (length == 0 || length >= sizeof(partial))
		return error_errno(err, length ? ENAMETOOLONG : EINVAL, "make directory '%s'", path);
	memcpy(partial, path, length + 1);
	for (size_t i = 1; i <= length; i++) {
		if (partial[i] != '/' && partial[i] != '\0')
			continue;
		partial[i] = '\0';
		if (mkdir(partial, mode) < 0 && errno != EEXIST)
			return error_errno(err, errno, "make directory %s", partial);
		partial[i] = path[i];
	}
	return 0;
}

bool file_path_is_plain(const char *path)
{
	const char *name = path + 1;

	if (path[0] != '/')
		return false;
	while (*name) {
		size_t size = strcspn(name, "/");

		if (size == 0 || size > NAME_MAX || (size == 1 && name[0] == '.') ||
		    (size == 2 && name[0] == '.' && name[1] == '.'))
			return false;
		name += size;
		if (*name == '/' && !*++name)
			return false;
	}
	return true;
}

static int remove_entry(const char *path, const struct stat *st, int flag, struct FTW *walk)
{
	(void)st;
	(void)flag;
	(void)walk;
	return remove(path) < 0 && errno != ENOENT ? -1 : 0;
}

int file_remove_tree(const char *path, struct error *err)
{
	if (nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) < 0 && errno != ENOENT)
		return error_errno(err, errno, "remove %s", path);
	return 0;
}

int fd_pwrite_all(int fd, const void *data, size_t size, uint64_t offset)
{
	while (size) {
		ssize_t done = pwrite(fd, data, size, (off_t)offset);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return done < 0 ? -errno : -EIO;
		data = (const char *)data + done;
		size -= (size_t)done;
		offset += (uint64_t)done;
	}
	return 0;
}

int fd_pread_all(int fd, void *data, size_t size, uint64_t offset)
{
	while (size) {
		ssize_t done = pread(fd, data, size, (off_t)offset);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return done < 0 ? -errno : -EPIPE;
		data = (char *)data + done;
		size -= (size_t)done;
		offset += (uint64_t)done;
	}
	return 0;
}
