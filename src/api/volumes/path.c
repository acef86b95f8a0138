/* Paths as clients send them, and ways to what they name that lead nowhere else. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "api/volumes/tree_internal.h"
#include "base/base.h"

static bool is_utf8(const char *text)
{
	json_t *string = json_string(text);
	bool fits = string;

	json_decref(string);
	return fits;
}

int tree_normalize(const char *text, char path[TREE_PATH_MAX], struct error *err)
{
	size_t used = 0;

	path[0] = '\0';
	if (!*text)
		return error_set(err, EINVAL, "the path is empty");
	if (strlen(text) >= TREE_PATH_MAX)
		return error_set(err, EINVAL, "the path is longer than %d bytes", TREE_PATH_MAX - 1);
	if (!is_utf8(text))
		return error_set(err, EINVAL, "the path is not UTF-8");
	while (*text) {
		size_t size = strcspn(text, "/");

		if (size > NAME_MAX)
			return error_set(err, EINVAL, "a name in the path is longer than %d bytes", NAME_MAX);
		if (size == 2 && memcmp(text, "..", 2) == 0)
			return error_set(err, EINVAL, "the path must not contain '..'");
		if (size > 0 && !(size == 1 && *text == '.')) {
			if (used)
				path[used++] = '/';
			memcpy(path + used, text, size);
			used += size;
			path[used] = '\0';
		}
		text += size + (text[size] == '/');
	}
	return 0;
}

int tree_openat(int root, const char *path, int flags)
{
	struct open_how how = { .flags = (uint64_t)(unsigned)flags | O_CLOEXEC,
		                .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS };
	long fd = syscall(SYS_openat2, root, *path ? path : ".", &how, sizeof(how));

	return fd < 0 ? -errno : (int)fd;
}

int tree_open_parent(int root, const char *path, const char **ret_name, struct error *err)
{
	const char *slash = strrchr(path, '/');
	char parent[TREE_PATH_MAX];
	int fd;

	(void)snprintf(parent, sizeof(parent), "%.*s", slash ? (int)(slash - path) : 0, path);
	*ret_name = slash ? slash + 1 : path;
	fd = tree_openat(root, parent, O_RDONLY | O_DIRECTORY);
	return fd < 0 ? tree_fail(err, -fd, parent) : fd;
}

DIR *tree_read(int fd)
{
	DIR *stream = fdopendir(fd);
	int code = errno;

	if (!stream) {
		close(fd);
		errno = code;
	}
	return stream;
}

struct dirent *tree_next(DIR *stream)
{
	struct dirent *entry;

	do
		entry = readdir(stream);
	while (entry && (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0));
	return entry;
}

int tree_fail(struct error *err, int code, const char *path)
{
	if (code == ENOENT)
		return error_set(err, ENOENT, "Path /%s not found", path);
	if (code == EEXIST)
		return error_set(err, EEXIST, "Path /%s already exists", path);
	if (code == ENOTDIR)
		return error_set(err, ENOTDIR, "Path /%s is not a directory", path);
	if (code == EISDIR)
		return error_set(err, EISDIR, "Path /%s is a directory", path);
	if (code == ELOOP || code == EXDEV)
		return error_set(err, EINVAL, "Path /%s leads over a symbolic link, which is not followed",
		                 path);
	return error_errno(err, code, "Path /%s", path);
}
