/* Changes to a volume's files. Of those of one volume, one is made at a time. */
#include "api/volumes/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "api/volumes/tree_internal.h"
#include "base/base.h"

/* --- directories --- */

/* One more, or the one that is there. A descriptor of it (O_PATH) or -errno. */
static int make_one(int parent, const char *name, uint64_t room, uint64_t *cost)
{
	struct stat st;
	int fd;

	if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		if (*cost + TREE_ENTRY_BYTES > room)
			return -EDQUOT;
		if (mkdirat(parent, name, 0700) < 0)
			return -errno;
		*cost += TREE_ENTRY_BYTES;
	}
	fd = openat(parent, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* Make what is missing of all but the last of the path's names. */
static int make_parents(int root, const char *path, uint64_t room, uint64_t *cost, struct error *err)
{
	char part[TREE_PATH_MAX];

	for (const char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
		cleanup_close int parent = -1;
		cleanup_close int fd = -1;
		const char *name;

		(void)snprintf(part, sizeof(part), "%.*s", (int)(slash - path), path);
		parent = tree_open_parent(root, part, &name, err);
		if (parent < 0)
			return parent;
		fd = make_one(parent, name, room, cost);
		if (fd < 0)
			return tree_fail(err, -fd, part);
	}
	return 0;
}

int tree_make_directory(int root, const char *path, const struct tree_owner *owner, bool force, uint64_t room,
                        uint64_t *ret_cost, struct buffer *json, struct error *err)
{
	cleanup_close int parent = -1;
	cleanup_close int fd = -1;
	const char *name;
	struct stat st;
	int ret = 0;

	*ret_cost = 0;
	if (!*path)
		return force ? tree_stat(root, path, json, err) : tree_fail(err, EEXIST, path);
	if (force)
		ret = make_parents(root, path, room, ret_cost, err);
	if (ret < 0)
		return ret;
	parent = tree_open_parent(root, path, &name, err);
	if (parent < 0)
		return parent;
	if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
		if (!force || !S_ISDIR(st.st_mode))
			return tree_fail(err, EEXIST, path);
		return tree_stat(root, path, json, err);
	}
	fd = make_one(parent, name, room, ret_cost);
	ret = fd < 0 ? fd : tree_write_owner(fd, owner);
	if (ret == 0)
		ret = tree_write_entry(fd, path, json);
	return ret < 0 ? tree_fail(err, -ret, path) : 0;
}

/* --- the end of entries --- */

static int remove_entry(int parent, const char *name, uint64_t *freed);

/* Takes `fd`. */
static int remove_below(int fd, uint64_t *freed)
{
	DIR *stream = tree_read(fd);
	struct dirent *entry;
	int ret = 0;

	if (!stream)
		return -errno;
	while (ret == 0 && (entry = tree_next(stream)))
		ret = remove_entry(fd, entry->d_name, freed);
	(void)closedir(stream);
	return ret;
}

static int remove_entry(int parent, const char *name, uint64_t *freed)
{
	struct stat st;
	int ret = 0;

	if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (S_ISDIR(st.st_mode)) {
		int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

		ret = fd < 0 ? -errno : remove_below(fd, freed);
	}
	if (ret == 0 && unlinkat(parent, name, S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0) < 0)
		ret = -errno;
	if (ret == 0)
		*freed += tree_cost_of(&st);
	return ret;
}

int tree_remove(int root, const char *path, uint64_t *ret_freed, struct error *err)
{
	cleanup_close int parent = -1;
	const char *name;
	int ret;

	*ret_freed = 0;
	if (!*path)
		return error_set(err, EINVAL, "the root of a volume cannot be deleted");
	parent = tree_open_parent(root, path, &name, NULL);
	ret = parent < 0 ? parent : remove_entry(parent, name, ret_freed);
	return ret < 0 ? tree_fail(err, ret == -ENOTDIR ? ENOENT : -ret, path) : 0;
}

/* --- files --- */

int tree_open(int root, const char *path, uint64_t *ret_size, struct error *err)
{
	/* O_NONBLOCK: what is there may be a pipe. */
	int fd = tree_openat(root, path, O_RDONLY | O_NONBLOCK);
	struct stat st;

	if (fd < 0)
		return tree_fail(err, fd == -ENOTDIR || fd == -ENXIO ? ENOENT : -fd, path);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		close(fd);
		return error_set(err, ENOENT, "Path /%s is not a file", path);
	}
	*ret_size = (uint64_t)st.st_size;
	return fd;
}

/* Whether `name` may be (re)placed; *ret_freed is what its present content costs. */
static int check_target(int parent, const char *name, const char *path, bool force, uint64_t *ret_freed,
                        struct error *err)
{
	struct stat st;

	*ret_freed = 0;
	if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : tree_fail(err, errno, path);
	if (S_ISDIR(st.st_mode))
		return tree_fail(err, EISDIR, path);
	if (!force)
		return tree_fail(err, EEXIST, path);
	*ret_freed = tree_cost_of(&st);
	return 0;
}

/* The directory that a file is to be in. */
static int open_target(int root, const char *path, const char **ret_name, struct error *err)
{
	int parent;

	if (!*path)
		return tree_fail(err, EISDIR, path);
	parent = tree_open_parent(root, path, ret_name, err);
	return parent == -ENOTDIR ? tree_fail(err, ENOENT, path) : parent;
}

int tree_may_put(int root, const char *path, bool force, struct error *err)
{
	const char *name = NULL;
	cleanup_close int parent = open_target(root, path, &name, err);
	uint64_t freed;

	return parent < 0 ? parent : check_target(parent, name, path, force, &freed, err);
}

int tree_put(int root, int uploads, const char *upload, int fd, const char *path,
             const struct tree_owner *owner, bool force, uint64_t *ret_freed, struct buffer *json,
             struct error *err)
{
	const char *name = NULL;
	cleanup_close int parent = open_target(root, path, &name, err);
	int ret = parent < 0 ? parent : check_target(parent, name, path, force, ret_freed, err);

	if (ret < 0)
		return ret;
	ret = tree_write_owner(fd, owner);
	/* On the disk before it has its name: a crash leaves the old content or the new. */
	if (ret == 0 && fsync(fd) < 0)
		ret = -errno;
	if (ret == 0 && renameat(uploads, upload, parent, name) < 0)
		ret = -errno;
	if (ret == 0)
		ret = tree_write_entry(fd, path, json);
	return ret < 0 ? tree_fail(err, -ret, path) : 0;
}
