/* What the files of the tree share: path.c (ways), entry.c (what an entry is), tree.c (changes), operation.c
 * (what guests ask for), tidy.c (hidden names). Private to them. */
#pragma once

#include <dirent.h>
#include <sys/stat.h>

#include "api/volumes/tree.h"

/* Open below `root`, over no symbolic link. A descriptor or -errno. */
int tree_openat(int root, const char *path, int flags);

/* The directory that `path` (not "") is in, and its name there. A descriptor or -errno with `err`. */
int tree_open_parent(int root, const char *path, const char **ret_name, struct error *err);

/* Read the directory that is open as `fd`, which is taken, also on failure. NULL with errno. */
DIR *tree_read(int fd);

/* Its next entry but "." and "..". NULL: there are no more. */
struct dirent *tree_next(DIR *stream);

/* Fill `err`, in the clients' words. -code. */
int tree_fail(struct error *err, int code, const char *path);

/* Who owns the entry that is open as `fd`, which may be O_PATH, and its mode: what a client said, else the
 * default for its type. */
void tree_read_owner(int fd, mode_t type, struct tree_owner *owner);

/* Note who owns the entry that is open as `fd`, which may be O_PATH. 0 or -errno. */
int tree_write_owner(int fd, const struct tree_owner *owner);

/* Append the entry that is open as `fd` (O_PATH) as JSON. 0 or -errno. */
int tree_write_entry(int fd, const char *path, struct buffer *json);

/* What an entry costs. */
uint64_t tree_cost_of(const struct stat *st);
