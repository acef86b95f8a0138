/*
 * tree: the files of one volume below a directory, whatever a path says. Calls block; they are made on
 * threads of the pool and share nothing but the descriptors that they are given.
 *
 * A path has been through tree_normalize. No symbolic link is followed and nothing outside the directory can
 * be reached (openat2(2), RESOLVE_BENEATH). Who owns a file and with which mode is what clients said, kept in
 * the attribute user.atoll.owner: on the disk all belongs to the service, which must be able to read it.
 *
 * Errors are errnos: ENOENT, EEXIST, EISDIR, ENOTDIR, EINVAL, ENOSPC, EDQUOT, or what the system said.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"

#define TREE_PATH_MAX    3072
#define TREE_LIST_MAX    (32 * 1024 * 1024) /* bytes of a listing as JSON */
#define TREE_DEPTH_MAX   64                 /* of a listing */
#define TREE_ENTRY_BYTES 4096               /* what an entry costs besides its content */

/* What a client sets; what it does not is as before, or the default. */
struct tree_owner {
	bool has_uid;
	bool has_gid;
	bool has_mode;
	uint32_t uid;
	uint32_t gid;
	uint32_t mode;
};

/*
 * "/a//b/" becomes "a/b", the root "". Refused: "..", names longer than the kernel's, bytes that are no
 * UTF-8. 0 or -EINVAL.
 */
int tree_normalize(const char *text, char path[TREE_PATH_MAX], struct error *err);

/* What an entry with `size` bytes of content costs of the quota. */
uint64_t tree_cost(uint64_t size);

/* What all below `root` costs. */
int tree_measure(int root, uint64_t *ret, struct error *err);

/* Each appends JSON to `json`: an entry, or an array of them. */
int tree_stat(int root, const char *path, struct buffer *json, struct error *err);
int tree_list(int root, const char *path, unsigned depth, struct buffer *json, struct error *err);
int tree_set_owner(int root, const char *path, const struct tree_owner *owner, struct buffer *json,
                   struct error *err);

/* `room` is what may still be used; *ret_cost what was. With `force` the parents too, and an existing one is
 * no mistake. */
int tree_make_directory(int root, const char *path, const struct tree_owner *owner, bool force, uint64_t room,
                        uint64_t *ret_cost, struct buffer *json, struct error *err);

/* Remove it and all below it; *ret_freed is what that gives back, also when it fails in the middle. */
int tree_remove(int root, const char *path, uint64_t *ret_freed, struct error *err);

/* Before a file gets a hidden name (volume.h): there may be some from now on. 0 or -errno. */
int tree_note_hidden(int root);
bool tree_may_have_hidden(int root);

/* Remove them all; *ret_freed is what that gives back, also when it fails in the middle. */
int tree_remove_hidden(int root, uint64_t *ret_freed, struct error *err);

/* Open a file for reading. A descriptor or -errno. */
int tree_open(int root, const char *path, uint64_t *ret_size, struct error *err);

/* Whether a file may be written there: so that it is refused before its content is sent. */
int tree_may_put(int root, const char *path, bool force, struct error *err);

/*
 * The file `upload` in the directory `uploads`, open as `fd`, becomes `path`. *ret_freed is what the one
 * before had cost.
 */
int tree_put(int root, int uploads, const char *upload, int fd, const char *path,
             const struct tree_owner *owner, bool force, uint64_t *ret_freed, struct buffer *json,
             struct error *err);
