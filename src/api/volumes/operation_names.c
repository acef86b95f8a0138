/* What is done to the names of a mounted volume. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "api/volumes/operation_internal.h"
#include "base/base.h"

/* --- new ones --- */

static int make(const struct operation *operation, int parent, const char *name)
{
	int fd;

	switch (operation->head.op) {
	case VOLUME_MKDIR:
		return mkdirat(parent, name, 0700) < 0 ? -errno : 0;
	case VOLUME_SYMLINK:
		return symlinkat(operation->other, parent, name) < 0 ? -errno : 0;
	default:
		fd = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
		if (fd < 0)
			return -errno;
		close(fd);
		return 0;
	}
}

/* Could what is there be what this very request made, whose answer was lost? */
static bool is_made(const struct operation *operation, int parent, const char *name, const struct stat *st)
{
	char target[VOLUME_PATH_MAX + 1];
	ssize_t size;

	if (!(operation->head.flags & VOLUME_AGAIN))
		return false;
	switch (operation->head.op) {
	case VOLUME_MKDIR:
		return S_ISDIR(st->st_mode);
	case VOLUME_SYMLINK:
		size = S_ISLNK(st->st_mode) ? readlinkat(parent, name, target, sizeof(target)) : -1;
		return size == operation->head.other_size &&
		       memcmp(target, operation->other, (size_t)size) == 0;
	default:
		return S_ISREG(st->st_mode) && st->st_size == 0;
	}
}

/* Make it and note whose it is: both, or nothing. */
static int make_owned(struct operation *operation, int parent, const char *name)
{
	const struct volume_request *head = &operation->head;
	const struct tree_owner owner = { .has_uid = true,
		                          .has_gid = true,
		                          .has_mode = true,
		                          .uid = head->uid,
		                          .gid = head->gid,
		                          .mode = head->mode & 07777 };
	cleanup_close int fd = -1;
	int ret = operation->room < TREE_ENTRY_BYTES ? -ENOSPC : make(operation, parent, name);

	if (ret < 0)
		return ret;
	fd = openat(parent, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	ret = fd < 0 ? -errno : head->op == VOLUME_SYMLINK ? 0 : tree_write_owner(fd, &owner);
	if (ret == 0)
		ret = operation_show(operation, fd);
	if (ret == 0)
		operation->cost = TREE_ENTRY_BYTES;
	else
		(void)unlinkat(parent, name, head->op == VOLUME_MKDIR ? AT_REMOVEDIR : 0);
	return ret;
}

int operation_make(struct operation *operation, int root)
{
	const char *name;
	cleanup_close int parent = -1;
	cleanup_close int fd = -1;
	struct stat st;

	if (!operation->path[0])
		return -EEXIST;
	parent = operation_open_parent(root, operation->path, &name);
	if (parent < 0)
		return parent;
	if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? make_owned(operation, parent, name) : -errno;
	if (!is_made(operation, parent, name, &st))
		return -EEXIST;
	fd = openat(parent, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? -errno : operation_show(operation, fd);
}

/* --- the end of one --- */

int operation_remove(struct operation *operation, int root)
{
	bool directory = operation->head.op == VOLUME_RMDIR;
	const char *name;
	cleanup_close int parent = -1;
	struct stat st;

	if (!operation->path[0])
		return directory ? -EBUSY : -EISDIR;
	parent = operation_open_parent(root, operation->path, &name);
	if (parent < 0)
		return parent;
	if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT && (operation->head.flags & VOLUME_AGAIN) ? 0 : -errno;
	if (directory != (bool)S_ISDIR(st.st_mode))
		return directory ? -ENOTDIR : -EISDIR;
	if (unlinkat(parent, name, directory ? AT_REMOVEDIR : 0) < 0)
		return -errno;
	operation->freed = tree_cost_of(&st);
	return 0;
}

/* --- another one --- */

/* Whether the ways to all below the directory that is open as `fd`, which is taken, are `left` bytes at most.
 */
static int check_below(int fd, size_t left)
{
	DIR *stream = tree_read(fd);
	struct dirent *entry;
	int ret = 0;

	if (!stream)
		return -errno;
	while (ret == 0 && (entry = tree_next(stream))) {
		size_t size = strlen(entry->d_name) + 1;
		int child = -ENOTDIR;

		if (size > left)
			ret = -ENAMETOOLONG;
		else if (entry->d_type == DT_DIR || entry->d_type == DT_UNKNOWN)
			child = tree_openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY);
		if (child >= 0)
			ret = check_below(child, left - size);
		else if (child != -ENOTDIR && child != -ELOOP)
			ret = child;
	}
	(void)closedir(stream);
	return ret;
}

/* A directory that gets a longer way takes all below it along. */
static int check_length(const struct operation *operation, int parent, const char *name,
                        const struct stat *st)
{
	size_t size = strlen(operation->other);
	int fd;

	if (!S_ISDIR(st->st_mode) || size <= strlen(operation->path))
		return 0;
	fd = tree_openat(parent, name, O_RDONLY | O_DIRECTORY);
	return fd < 0 ? fd : check_below(fd, TREE_PATH_MAX - 1 - size);
}

bool operation_hides(const struct operation *operation)
{
	const char *slash = strrchr(operation->other, '/');

	return operation->head.op == VOLUME_RENAME && volume_is_hidden(slash ? slash + 1 : operation->other);
}

int operation_rename(struct operation *operation, int root)
{
	const char *name;
	const char *new_name;
	cleanup_close int parent = -1;
	cleanup_close int new_parent = -1;
	bool replaces;
	struct stat new_st;
	struct stat st;
	int ret = operation_check_path(operation->other);

	if (ret < 0 || !operation->path[0] || !operation->other[0])
		return ret < 0 ? ret : -EBUSY;
	parent = operation_open_parent(root, operation->path, &name);
	new_parent = operation_open_parent(root, operation->other, &new_name);
	if (parent < 0 || new_parent < 0)
		return parent < 0 ? parent : new_parent;
	replaces = fstatat(new_parent, new_name, &new_st, AT_SYMLINK_NOFOLLOW) == 0;
	if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT && replaces && (operation->head.flags & VOLUME_AGAIN) ? 0 : -errno;
	/* Nobody comes between: the changes of a volume are made one at a time. */
	if (replaces && (operation->head.flags & VOLUME_NOREPLACE))
		return -EEXIST;
	ret = check_length(operation, parent, name, &st);
	if (ret == 0 && operation_hides(operation))
		ret = tree_note_hidden(root);
	if (ret == 0 && renameat(parent, name, new_parent, new_name) < 0)
		ret = -errno;
	if (ret == 0 && replaces && new_st.st_ino != st.st_ino)
		operation->freed = tree_cost_of(&new_st);
	return ret;
}
