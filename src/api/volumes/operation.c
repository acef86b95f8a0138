#include "api/volumes/operation.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "api/volumes/operation_internal.h"
#include "base/base.h"

#define NS_PER_S INT64_C(1000000000)

/* --- what a request is --- */

struct operation *operation_new(const struct volume_request *head, const struct volume_parts *parts)
{
	size_t size = (size_t)head->path_size + 1 + head->other_size + 1 + head->data_size;
	struct operation *operation = calloc(1, sizeof(*operation) + size);
	char *at;

	if (!operation)
		return NULL;
	operation->head = *head;
	at = operation->text;
	operation->path = memcpy(at, parts->path, head->path_size);
	at += head->path_size + 1;
	operation->other = memcpy(at, parts->other, head->other_size);
	at += head->other_size + 1;
	operation->data = memcpy(at, parts->data, head->data_size);
	return operation;
}

void operation_free(struct operation *operation)
{
	free(operation->answer);
	free(operation);
}

bool operation_changes(const struct operation *operation)
{
	switch (operation->head.op) {
	case VOLUME_STAT:
	case VOLUME_READLINK:
	case VOLUME_READ:
	case VOLUME_READDIR:
		return false;
	case VOLUME_SYNC:
		return !operation->path[0]; /* that of all is a burden: one at a time */
	default:
		return true; /* also VOLUME_SPACE: it takes a volume that is measured */
	}
}

/* Bytes of answer that it asks for. */
static size_t answer_limit(const struct operation *operation)
{
	uint32_t count = operation->head.count;

	switch (operation->head.op) {
	case VOLUME_READ:
	case VOLUME_READDIR:
		return count < VOLUME_DATA_MAX ? count : VOLUME_DATA_MAX;
	case VOLUME_READLINK:
		return PATH_MAX;
	case VOLUME_SPACE:
		return sizeof(struct volume_space);
	default:
		return 0;
	}
}

size_t operation_weight(const struct operation *operation)
{
	return sizeof(*operation) + operation->head.size + answer_limit(operation);
}

struct volume_reply operation_reply(const struct operation *operation)
{
	struct volume_reply reply = { .tag = operation->head.tag, .error = operation->error };

	if (!operation->error) {
		reply.data_size = (uint32_t)operation->answer_size;
		reply.attributes = operation->attributes;
	}
	reply.size = (uint32_t)sizeof(reply) + reply.data_size;
	return reply;
}

/* Names with single slashes between them, none of which means another place. */
int operation_check_path(const char *path)
{
	if (strlen(path) >= TREE_PATH_MAX)
		return -ENAMETOOLONG;
	for (const char *name = path; *path;) {
		size_t size = strcspn(name, "/");

		if (size > NAME_MAX)
			return -ENAMETOOLONG;
		if (size == 0 || (name[0] == '.' && (size == 1 || (size == 2 && name[1] == '.'))))
			return -EINVAL;
		name += size;
		if (!*name)
			break;
		name++;
	}
	return 0;
}

/* --- what they share --- */

int operation_open(int root, const char *path, int flags, struct stat *st)
{
	/* O_NONBLOCK: no open waits for anybody. */
	int fd = tree_openat(root, path, flags | O_NOFOLLOW | (flags & O_PATH ? 0 : O_NONBLOCK));

	if (fd >= 0 && fstat(fd, st) < 0) {
		int code = errno;

		close(fd);
		return -code;
	}
	return fd;
}

int operation_open_parent(int root, const char *path, const char **ret_name)
{
	const char *slash = strrchr(path, '/');
	char parent[TREE_PATH_MAX];
	int fd;

	text_copy(parent, sizeof(parent), path, slash ? (size_t)(slash - path) : 0);
	*ret_name = slash ? slash + 1 : path;
	fd = tree_openat(root, parent, O_PATH | O_DIRECTORY);
	return fd == -ELOOP ? -ENOTDIR : fd;
}

static int64_t nanoseconds(struct timespec time)
{
	return (int64_t)time.tv_sec * NS_PER_S + time.tv_nsec;
}

int operation_show(struct operation *operation, int fd)
{
	struct tree_owner owner;
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	tree_read_owner(fd, st.st_mode, &owner);
	operation->attributes = (struct volume_attributes){
		.id = st.st_ino,
		.size = (uint64_t)st.st_size,
		.blocks = (uint64_t)st.st_blocks,
		.atime_ns = nanoseconds(st.st_atim),
		.mtime_ns = nanoseconds(st.st_mtim),
		.ctime_ns = nanoseconds(st.st_ctim),
		.mode = (st.st_mode & S_IFMT) | (owner.mode & 07777),
		.links = (uint32_t)st.st_nlink,
		.uid = owner.uid,
		.gid = owner.gid,
	};
	return 0;
}

/* Open a regular file; *st is what it is. */
static int open_file(int root, const char *path, int flags, struct stat *st)
{
	int fd = operation_open(root, path, flags, st);

	if (fd < 0 || S_ISREG(st->st_mode))
		return fd;
	close(fd);
	return S_ISDIR(st->st_mode) ? -EISDIR : -EINVAL;
}

/* May the file `st` become `size` long? */
static int check_room(const struct operation *operation, const struct stat *st, uint64_t size)
{
	struct stat after = *st;
	uint64_t before = tree_cost_of(st);
	uint64_t cost;

	if (size > INT64_MAX - TREE_ENTRY_BYTES)
		return -EFBIG;
	after.st_size = (off_t)size;
	cost = tree_cost_of(&after);
	return cost > before && cost - before > operation->room ? -ENOSPC : 0;
}

/* Count what the file that was `before` has become, whether all went well or not. */
static void account(struct operation *operation, int fd, const struct stat *before)
{
	uint64_t cost_before = tree_cost_of(before);
	uint64_t cost_after = cost_before;
	struct stat after;

	if (fstat(fd, &after) == 0)
		cost_after = tree_cost_of(&after);
	if (cost_after > cost_before)
		operation->cost += cost_after - cost_before;
	else
		operation->freed += cost_before - cost_after;
}

/* --- looking --- */

static int run_stat(struct operation *operation, int root)
{
	struct stat st;
	cleanup_close int fd = operation_open(root, operation->path, O_PATH, &st);

	return fd < 0 ? fd : operation_show(operation, fd);
}

static int run_readlink(struct operation *operation, int root)
{
	struct stat st;
	cleanup_close int fd = operation_open(root, operation->path, O_PATH, &st);
	ssize_t size;

	if (fd < 0 || !S_ISLNK(st.st_mode))
		return fd < 0 ? fd : -EINVAL;
	size = readlinkat(fd, "", operation->answer, answer_limit(operation));
	if (size < 0)
		return -errno;
	operation->answer_size = (size_t)size;
	return 0;
}

static int run_read(struct operation *operation, int root)
{
	const struct volume_request *head = &operation->head;
	struct stat st;
	cleanup_close int fd = open_file(root, operation->path, O_RDONLY, &st);

	if (fd < 0 || head->count > VOLUME_DATA_MAX || head->offset > INT64_MAX - VOLUME_DATA_MAX)
		return fd < 0 ? fd : -EINVAL;
	while (operation->answer_size < head->count) {
		ssize_t size = pread(fd, operation->answer + operation->answer_size,
		                     head->count - operation->answer_size,
		                     (off_t)(head->offset + operation->answer_size));

		if (size < 0 && errno == EINTR)
			continue;
		if (size <= 0)
			return size < 0 ? -errno : 0;
		operation->answer_size += (size_t)size;
	}
	return 0;
}

/* Whether it was taken. */
static bool add_entry(struct operation *operation, size_t limit, const struct dirent64 *found)
{
	struct volume_entry entry = { .id = found->d_ino,
		                      .next = (uint64_t)found->d_off,
		                      .mode = (uint32_t)DTTOIF(found->d_type),
		                      .name_size = (uint32_t)strlen(found->d_name) };
	char *at;

	if (sizeof(entry) + entry.name_size > limit - operation->answer_size)
		return false;
	at = operation->answer + operation->answer_size;
	memcpy(at, &entry, sizeof(entry));
	memcpy(at + sizeof(entry), found->d_name, entry.name_size);
	operation->answer_size += sizeof(entry) + entry.name_size;
	return true;
}

/* Where one goes on is the file system's own word for it, which holds for any descriptor. */
static int run_readdir(struct operation *operation, int root)
{
	size_t limit = answer_limit(operation);
	struct stat st;
	cleanup_close int fd = operation_open(root, operation->path, O_RDONLY | O_DIRECTORY, &st);
	_Alignas(struct dirent64) char raw[16 * 1024];
	ssize_t size;

	if (fd < 0 || operation->head.offset > INT64_MAX)
		return fd < 0 ? fd : -EINVAL;
	if (operation->head.offset && lseek(fd, (off_t)operation->head.offset, SEEK_SET) < 0)
		return -errno;
	while ((size = getdents64(fd, raw, sizeof(raw))) > 0) {
		for (ssize_t at = 0; at < size;) {
			const struct dirent64 *found = (const void *)(raw + at);

			at += found->d_reclen;
			if (strcmp(found->d_name, ".") == 0 || strcmp(found->d_name, "..") == 0)
				continue;
			if (!add_entry(operation, limit, found))
				return operation->answer_size ? 0 : -EINVAL;
		}
	}
	return size < 0 ? -errno : 0;
}

static int run_space(struct operation *operation, int root)
{
	struct volume_space space = { .size = operation->size_max, .free = operation->room };
	struct statvfs host;

	if (fstatvfs(root, &host) < 0)
		return -errno;
	if (host.f_bavail < space.free / host.f_frsize)
		space.free = (uint64_t)host.f_bavail * host.f_frsize;
	memcpy(operation->answer, &space, sizeof(space));
	operation->answer_size = sizeof(space);
	return 0;
}

static int run_sync(struct operation *operation, int root)
{
	struct stat st;
	cleanup_close int fd = -1;

	if (!operation->path[0])
		return syncfs(root) < 0 ? -errno : 0;
	fd = operation_open(root, operation->path, O_RDONLY, &st);
	if (fd < 0)
		return fd;
	return fsync(fd) < 0 ? -errno : 0;
}

/* --- what a file has and is --- */

static int run_write(struct operation *operation, int root)
{
	const struct volume_request *head = &operation->head;
	struct stat st;
	cleanup_close int fd = open_file(root, operation->path, O_WRONLY, &st);
	uint64_t end;
	int ret;

	if (fd < 0 || head->data_size == 0)
		return fd < 0 ? fd : 0;
	if (head->offset > INT64_MAX - VOLUME_DATA_MAX)
		return -EFBIG;
	end = head->offset + head->data_size;
	ret = check_room(operation, &st, end > (uint64_t)st.st_size ? end : (uint64_t)st.st_size);
	if (ret < 0)
		return ret;
	ret = fd_pwrite_all(fd, operation->data, head->data_size, head->offset);
	account(operation, fd, &st);
	return ret;
}

static int set_size(struct operation *operation, int root)
{
	struct stat st;
	cleanup_close int fd = open_file(root, operation->path, O_WRONLY, &st);
	int ret = fd < 0 ? fd : check_room(operation, &st, operation->head.offset);

	if (ret < 0)
		return ret;
	if (ftruncate(fd, (off_t)operation->head.offset) < 0)
		ret = -errno;
	account(operation, fd, &st);
	return ret;
}

static struct timespec to_time(int64_t ns, bool valid)
{
	int64_t rest = ns % NS_PER_S;
	int64_t seconds = ns / NS_PER_S - (rest < 0);

	if (!valid)
		return (struct timespec){ .tv_nsec = UTIME_OMIT };
	return (struct timespec){ .tv_sec = seconds, .tv_nsec = rest < 0 ? rest + NS_PER_S : rest };
}

static int set_times(const struct volume_request *head, int fd)
{
	const struct timespec times[2] = { to_time(head->atime_ns, head->valid & VOLUME_VALID_ATIME),
		                           to_time(head->mtime_ns, head->valid & VOLUME_VALID_MTIME) };

	return utimensat(fd, "", times, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

static int run_set(struct operation *operation, int root)
{
	const struct volume_request *head = &operation->head;
	const struct tree_owner owner = { .has_uid = head->valid & VOLUME_VALID_UID,
		                          .has_gid = head->valid & VOLUME_VALID_GID,
		                          .has_mode = head->valid & VOLUME_VALID_MODE,
		                          .uid = head->uid,
		                          .gid = head->gid,
		                          .mode = head->mode & 07777 };
	struct stat st;
	cleanup_close int fd = operation_open(root, operation->path, O_PATH, &st);
	int ret = fd < 0 ? fd : 0;

	if (ret == 0 && head->valid >= VOLUME_VALID_MTIME << 1)
		ret = -EINVAL;
	if (ret == 0 && S_ISLNK(st.st_mode) && owner.has_mode)
		ret = -EOPNOTSUPP;
	if (ret == 0 && (head->valid & VOLUME_VALID_SIZE))
		ret = set_size(operation, root);
	/* A link has no owner that could be kept: to give it one is not worth a failure. */
	if (ret == 0 && !S_ISLNK(st.st_mode))
		ret = tree_write_owner(fd, &owner);
	if (ret == 0 && (head->valid & (VOLUME_VALID_ATIME | VOLUME_VALID_MTIME)))
		ret = set_times(head, fd);
	return ret < 0 ? ret : operation_show(operation, fd);
}

/* --- all of them --- */

static int run(struct operation *operation, int root)
{
	static int (*const runs[])(struct operation * operation, int root) = {
		[VOLUME_STAT] = run_stat,           [VOLUME_SET] = run_set,
		[VOLUME_READLINK] = run_readlink,   [VOLUME_SYMLINK] = operation_make,
		[VOLUME_MKDIR] = operation_make,    [VOLUME_CREATE] = operation_make,
		[VOLUME_UNLINK] = operation_remove, [VOLUME_RMDIR] = operation_remove,
		[VOLUME_RENAME] = operation_rename, [VOLUME_READ] = run_read,
		[VOLUME_WRITE] = run_write,         [VOLUME_READDIR] = run_readdir,
		[VOLUME_SPACE] = run_space,         [VOLUME_SYNC] = run_sync,
	};
	size_t limit = answer_limit(operation);
	int ret = operation_check_path(operation->path);

	if (ret < 0)
		return ret;
	if (limit && !(operation->answer = malloc(limit)))
		return -ENOMEM;
	if (operation->head.op >= ARRAY_SIZE(runs) || !runs[operation->head.op])
		return -ENOSYS;
	return runs[operation->head.op](operation, root);
}

void operation_run(struct operation *operation, int root)
{
	int ret = run(operation, root);

	operation->error = ret < 0 ? (uint32_t)-ret : 0;
}
