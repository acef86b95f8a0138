/*
 * volume: how the files of a mounted volume are asked for. The guest's agent, which is the file system that
 * the guest's kernel sees (FUSE), sends requests; atoll-api, which has the files, answers them. Opens the
 * folder.
 *
 * Requests name files by their paths and stand for themselves: whoever answers keeps nothing of one for the
 * next, so that a guest can be paused, copied and resumed, and atoll-api be started anew, between any two.
 * What got no answer is sent again, as VOLUME_AGAIN.
 *
 * A message is its head and then its parts, of the sizes that the head has, in the order that they are named
 * in. Numbers are little endian, as both sides are. Answers come in any order; `tag` tells which request is
 * answered.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define VOLUME_MOUNTS_MAX     16 /* in one sandbox */
#define VOLUME_ID_MAX         64 /* characters of a volume's id: letters, digits, '-', '_' */
#define VOLUME_MOUNT_PATH_MAX 1024
#define VOLUME_PORT           1100 /* vsock, in the guest: that of the first mount */

#define VOLUME_PATH_MAX       3072 /* bytes of a path below the volume; no zero byte, "" is the volume itself */
#define VOLUME_DATA_MAX       (128 * 1024) /* bytes that one message reads or writes */

/* A file that loses its name while a guest has it open gets another one in its directory: this and
 * hexadecimal digits. The size is that of all, with a zero behind it. */
#define VOLUME_HIDDEN_PREFIX ".atoll-hidden-"
#define VOLUME_HIDDEN_DIGITS 16
#define VOLUME_HIDDEN_SIZE   (sizeof(VOLUME_HIDDEN_PREFIX) + VOLUME_HIDDEN_DIGITS)

/* Whether it is such a name, of a file without its directories. */
bool volume_is_hidden(const char *name);

enum volume_op {
	VOLUME_STAT = 1, /* path -> attributes */
	VOLUME_SET,      /* path, `valid` and what it names -> attributes */
	VOLUME_READLINK, /* path -> data: the target */
	VOLUME_SYMLINK,  /* path, other: the target, uid, gid -> attributes */
	VOLUME_MKDIR,    /* path, mode, uid, gid -> attributes */
	VOLUME_CREATE,  /* path, mode, uid, gid -> attributes of an empty file; EEXIST when there is something
	                 */
	VOLUME_UNLINK,  /* path, of no directory */
	VOLUME_RMDIR,   /* path, of an empty directory */
	VOLUME_RENAME,  /* path, other: the new path, flags: VOLUME_NOREPLACE */
	VOLUME_READ,    /* path, offset, count -> data; fewer bytes only at the end */
	VOLUME_WRITE,   /* path, offset, data: all of it or an error; beyond the end, too */
	VOLUME_READDIR, /* path, offset: 0 or the last entry's `next`, count: bytes at most -> data: entries;
	                   none: the end */
	VOLUME_SPACE,   /* -> data: struct volume_space */
	VOLUME_SYNC,    /* path: what was written is on the disk; "": all */
};
#define VOLUME_OP_MAX VOLUME_SYNC

enum volume_flag {
	VOLUME_AGAIN = 1, /* an earlier one may have been done, its answer was lost */
	VOLUME_NOREPLACE = 2,
};

/* What VOLUME_SET sets. */
enum volume_valid {
	VOLUME_VALID_MODE = 1,
	VOLUME_VALID_UID = 2,
	VOLUME_VALID_GID = 4,
	VOLUME_VALID_SIZE = 8,
	VOLUME_VALID_ATIME = 16,
	VOLUME_VALID_MTIME = 32,
};

struct volume_request {
	uint32_t size; /* of the whole message, this head with it */
	uint32_t tag;
	uint16_t op;
	uint16_t flags;
	uint32_t valid;
	uint32_t mode; /* permission bits */
	uint32_t uid;
	uint32_t gid;
	uint32_t count;
	uint64_t offset;  /* VOLUME_SET: the size */
	int64_t atime_ns; /* since 1970 */
	int64_t mtime_ns;
	uint32_t data_size; /* the parts: path, other, data */
	uint16_t path_size;
	uint16_t other_size;
};

struct volume_attributes {
	uint64_t id; /* of the file within the volume, never 0 */
	uint64_t size;
	uint64_t blocks; /* of 512 bytes */
	int64_t atime_ns;
	int64_t mtime_ns;
	int64_t ctime_ns;
	uint32_t mode; /* as stat(2) has it: of a directory, a regular file or a symbolic link */
	uint32_t links;
	uint32_t uid;
	uint32_t gid;
};

struct volume_reply {
	uint32_t size; /* of the whole message */
	uint32_t tag;
	uint32_t error; /* an errno of Linux, 0: done */
	uint32_t data_size;
	struct volume_attributes attributes; /* zeros where the operation gives none */
};

/* In the data of VOLUME_READDIR, one after the other without padding; `name_size` bytes follow each. Neither
 * "." nor "..". */
struct volume_entry {
	uint64_t id;
	uint64_t next;
	uint32_t mode; /* its type alone matters */
	uint32_t name_size;
};

struct volume_space {
	uint64_t size; /* bytes */
	uint64_t free;
};

#define VOLUME_REQUEST_MAX (sizeof(struct volume_request) + 2 * VOLUME_PATH_MAX + VOLUME_DATA_MAX)
#define VOLUME_REPLY_MAX   (sizeof(struct volume_reply) + VOLUME_DATA_MAX)

/* The parts of a request, within the message. Not ended by zeros. */
struct volume_parts {
	const char *path;
	const char *other;
	const char *data;
};

/*
 * Look at what has arrived. The size of the message that is whole at its begin, 0: not whole yet, -EPROTO
 * with `err`: it is none, and nothing that follows can be read. *ret is a copy of the head, *ret_parts
 * (*ret_data) point into `bytes`.
 */
int volume_request_read(const void *bytes, size_t size, struct volume_request *ret,
                        struct volume_parts *ret_parts, struct error *err);
int volume_reply_read(const void *bytes, size_t size, struct volume_reply *ret, const char **ret_data,
                      struct error *err);

/*
 * The next entry of the data of a VOLUME_READDIR: bytes that it takes, 0 at the end, -EPROTO with `err` when
 * what is there is none (a name is "", ".", "..", longer than NAME_MAX, has a slash or a zero). *ret_name
 * points into `bytes`.
 */
int volume_entry_read(const void *bytes, size_t size, struct volume_entry *ret, const char **ret_name,
                      struct error *err);
