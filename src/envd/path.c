#include "envd/path.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Take ".", ".." and doubled slashes out of an absolute path, in place. */
static void normalise(char *path)
{
	char *out = path;
	char *in = path;

	while (*in) {
		size_t size;

		while (*in == '/')
			in++;
		size = strcspn(in, "/");
		if (size == 2 && memcmp(in, "..", 2) == 0) {
			while (out > path && *--out != '/')
				continue;
		} else if (size && !(size == 1 && *in == '.')) {
			*out++ = '/';
			memmove(out, in, size);
			out += size;
		}
		in += size;
	}
	if (out == path)
		*out++ = '/';
	*out = '\0';
}

int path_resolve(const struct envd *envd, const struct user *user, const char *path, char resolved[4096],
                 struct error *err)
{
	const char *base = user->home[0] ? user->home : "/";
	int size;

	if (path[0] == '\0' && envd->default_workdir[0])
		return path_resolve(envd, user, envd->default_workdir, resolved, err);
	if (path[0] == '~' && path[1] != '\0' && path[1] != '/')
		return error_set(err, EINVAL, "cannot expand user-specific home dir in '%s'", path);
	if (path[0] == '/')
		size = snprintf(resolved, 4096, "%s", path);
	else
		size = snprintf(resolved, 4096, "%s/%s", base, path[0] == '~' ? path + 1 : path);
	if (size >= 4096)
		return error_set(err, ENAMETOOLONG, "the path is longer than 4095 bytes");
	normalise(resolved);
	return 0;
}

static int make_one(const char *path, const struct user *user, struct error *err)
{
	if (mkdir(path, 0755) < 0)
		return errno == EEXIST ? -EEXIST : error_errno(err, errno, "create directory '%s'", path);
	if (geteuid() == 0 && chown(path, user->uid, user->gid) < 0)
		return error_errno(err, errno, "own directory '%s'", path);
	return 0;
}

int path_make_parents(const char *path, const struct user *user, struct error *err)
{
	char part[4096];

	for (const char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		struct stat st;
		int ret;

		(void)snprintf(part, sizeof(part), "%.*s", (int)(slash - path), path);
		ret = make_one(part, user, err);
		if (ret == -EEXIST && (stat(part, &st) < 0 || !S_ISDIR(st.st_mode)))
			return error_set(err, ENOTDIR, "path is a file: %s", part);
		if (ret < 0 && ret != -EEXIST)
			return ret;
	}
	return 0;
}

int path_make_directories(const char *path, const struct user *user, struct error *err)
{
	int ret = path_make_parents(path, user, err);

	return ret < 0 ? ret : make_one(path, user, err);
}
