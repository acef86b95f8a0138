/* What an entry is to clients, and the walks that look at many. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "api/volumes/tree_internal.h"
#include "base/base.h"

#define OWNER          "user.atoll.owner" /* "UID GID MODE", decimal */
#define MODE_FILE      0666 /* as E2B: whoever has the volume may write, whichever user of a guest it is */
#define MODE_DIRECTORY 0777

/* --- owners --- */

static void link_of(int fd, char link[32])
{
	(void)snprintf(link, 32, "/proc/self/fd/%d", fd);
}

void tree_read_owner(int fd, mode_t type, struct tree_owner *owner)
{
	char link[32];
	char text[64];
	ssize_t size;

	*owner = (struct tree_owner){ .mode = S_ISDIR(type)   ? MODE_DIRECTORY
		                              : S_ISLNK(type) ? 0777
		                                              : MODE_FILE };
	if (!S_ISDIR(type) && !S_ISREG(type))
		return;
	link_of(fd, link);
	size = getxattr(link, OWNER, text, sizeof(text) - 1);
	if (size <= 0)
		return;
	text[size] = '\0';
	(void)sscanf(text, "%u %u %u", &owner->uid, &owner->gid, &owner->mode);
}

int tree_write_owner(int fd, const struct tree_owner *owner)
{
	struct tree_owner whole;
	struct stat st;
	char link[32];
	char text[64];
	int size;

	if (!owner->has_uid && !owner->has_gid && !owner->has_mode)
		return 0;
	if (fstat(fd, &st) < 0)
		return -errno;
	tree_read_owner(fd, st.st_mode, &whole);
	size = snprintf(text, sizeof(text), "%u %u %u", owner->has_uid ? owner->uid : whole.uid,
	                owner->has_gid ? owner->gid : whole.gid, owner->has_mode ? owner->mode : whole.mode);
	link_of(fd, link);
	return setxattr(link, OWNER, text, (size_t)size, 0) < 0 ? -errno : 0;
}

/* --- one entry --- */

static const char *type_name(mode_t mode)
{
	if (S_ISREG(mode))
		return "file";
	if (S_ISDIR(mode))
		return "directory";
	return S_ISLNK(mode) ? "symlink" : "unknown";
}

static const char *format_time(struct timespec time, char text[TIME_RFC3339_SIZE])
{
	return time_format_rfc3339((int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000, text);
}

int tree_write_entry(int fd, const char *path, struct buffer *json)
{
	const char *slash = strrchr(path, '/');
	cleanup_json json_t *entry = NULL;
	cleanup_free char *text = NULL;
	char full[TREE_PATH_MAX + 1];
	char target[PATH_MAX];
	char times[3][TIME_RFC3339_SIZE];
	struct tree_owner owner;
	struct stat st;
	ssize_t size;

	if (fstat(fd, &st) < 0)
		return -errno;
	tree_read_owner(fd, st.st_mode, &owner);
	(void)snprintf(full, sizeof(full), "/%s", path);
	entry = json_pack("{s:s,s:s,s:s,s:I,s:I,s:I,s:I,s:s,s:s,s:s}", "name", slash ? slash + 1 : path,
	                  "type", type_name(st.st_mode), "path", full, "size", (json_int_t)st.st_size, "mode",
	                  (json_int_t)owner.mode, "uid", (json_int_t)owner.uid, "gid", (json_int_t)owner.gid,
	                  "atime", format_time(st.st_atim, times[0]), "mtime",
	                  format_time(st.st_mtim, times[1]), "ctime", format_time(st.st_ctim, times[2]));
	if (!entry)
		return -EILSEQ; /* its name is no UTF-8: it cannot be told */
	size = S_ISLNK(st.st_mode) ? readlinkat(fd, "", target, sizeof(target) - 1) : -1;
	if (size >= 0) {
		target[size] = '\0';
		(void)json_object_set_new(entry, "target", json_string(target));
	}
	text = json_dumps(entry, JSON_COMPACT);
	return text ? buffer_append_string(json, text) : -ENOMEM;
}

int tree_stat(int root, const char *path, struct buffer *json, struct error *err)
{
	cleanup_close int fd = tree_openat(root, path, O_PATH | O_NOFOLLOW);
	int ret = fd < 0 ? fd : tree_write_entry(fd, path, json);

	return ret < 0 ? tree_fail(err, ret == -ENOTDIR ? ENOENT : -ret, path) : 0;
}

int tree_set_owner(int root, const char *path, const struct tree_owner *owner, struct buffer *json,
                   struct error *err)
{
	cleanup_close int fd = tree_openat(root, path, O_PATH | O_NOFOLLOW);
	struct stat st;
	int ret = fd < 0 ? fd : fstat(fd, &st) < 0 ? -errno : 0;

	if (ret == 0 && !S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode))
		return error_set(err, EINVAL, "Path /%s is neither a file nor a directory", path);
	if (ret == 0)
		ret = tree_write_owner(fd, owner);
	if (ret == 0)
		ret = tree_write_entry(fd, path, json);
	return ret < 0 ? tree_fail(err, ret == -ENOTDIR ? ENOENT : -ret, path) : 0;
}

/* --- many --- */

/* "directory/name"; false: it is too long to be told. */
static bool join(char path[TREE_PATH_MAX], const char *directory, const char *name)
{
	int size = snprintf(path, TREE_PATH_MAX, "%s%s%s", directory, *directory ? "/" : "", name);

	return size > 0 && size < TREE_PATH_MAX;
}

struct listing {
	struct buffer *json;
	bool begun;
};

static int list_entry_of(struct listing *listing, int fd, const char *path)
{
	size_t before = listing->json->size;
	int ret = listing->begun ? buffer_append(listing->json, ",", 1) : 0;

	if (ret == 0)
		ret = tree_write_entry(fd, path, listing->json);
	if (ret == 0)
		listing->begun = true;
	else
		listing->json->size = before;
	return ret == -EILSEQ ? 0 : ret;
}

/* Takes `fd`. */
static int list_directory(struct listing *listing, int fd, const char *directory, unsigned depth)
{
	DIR *stream = tree_read(fd);
	struct dirent *entry;
	int ret = 0;

	if (!stream)
		return -errno;
	while (ret == 0 && (entry = tree_next(stream))) {
		char path[TREE_PATH_MAX];
		cleanup_close int child = -1;
		struct stat st;

		if (!join(path, directory, entry->d_name))
			continue;
		child = openat(fd, entry->d_name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		if (child < 0 || fstat(child, &st) < 0)
			continue; /* it has just gone */
		ret = list_entry_of(listing, child, path);
		if (ret == 0 && depth > 1 && S_ISDIR(st.st_mode)) {
			int below =
			        openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

			ret = below < 0 ? 0 : list_directory(listing, below, path, depth - 1);
		}
	}
	(void)closedir(stream);
	return ret;
}

int tree_list(int root, const char *path, unsigned depth, struct buffer *json, struct error *err)
{
	struct listing listing = { .json = json };
	int fd = tree_openat(root, path, O_RDONLY | O_DIRECTORY);
	int ret = fd < 0 ? fd : buffer_append(json, "[", 1);

	if (ret == 0)
		ret = list_directory(&listing, fd, path, depth);
	if (ret == 0)
		ret = buffer_append(json, "]", 1);
	if (ret == -EMSGSIZE)
		return error_set(err, EINVAL, "the listing is larger than %d MiB: ask for less depth",
		                 TREE_LIST_MAX >> 20);
	return ret < 0 ? tree_fail(err, ret == -ENOTDIR ? ENOENT : -ret, path) : 0;
}

uint64_t tree_cost(uint64_t size)
{
	return (size + TREE_ENTRY_BYTES - 1) / TREE_ENTRY_BYTES * TREE_ENTRY_BYTES + TREE_ENTRY_BYTES;
}

uint64_t tree_cost_of(const struct stat *st)
{
	return S_ISREG(st->st_mode) && st->st_size > 0 ? tree_cost((uint64_t)st->st_size) : TREE_ENTRY_BYTES;
}

/* Takes `fd`. */
static int measure_directory(int fd, uint64_t *total)
{
	DIR *stream = tree_read(fd);
	struct dirent *entry;
	int ret = 0;

	if (!stream)
		return -errno;
	while (ret == 0 && (entry = tree_next(stream))) {
		struct stat st;
		int below;

		if (fstatat(fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		*total += tree_cost_of(&st);
		if (!S_ISDIR(st.st_mode))
			continue;
		below = openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		ret = below < 0 ? -errno : measure_directory(below, total);
	}
	(void)closedir(stream);
	return ret;
}

int tree_measure(int root, uint64_t *ret, struct error *err)
{
	int fd = tree_openat(root, "", O_RDONLY | O_DIRECTORY);
	int status;

	*ret = 0;
	status = fd < 0 ? fd : measure_directory(fd, ret);
	return status < 0 ? error_errno(err, -status, "measure the volume") : 0;
}
