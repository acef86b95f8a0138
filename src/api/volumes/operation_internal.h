/* What operation.c (files) and operation_names.c (their names) share. Private to them. */
#pragma once

#include <sys/stat.h>

#include "api/volumes/operation.h"
#include "api/volumes/tree_internal.h"

/* 0, -EINVAL or -ENAMETOOLONG: this is no way down. */
int operation_check_path(const char *path);

/* Open below `root`, over no symbolic link, *st being what it is. A descriptor or -errno. */
int operation_open(int root, const char *path, int flags, struct stat *st);

/* The directory that `path` (not "") is in, and its name there. A descriptor (O_PATH) or -errno. */
int operation_open_parent(int root, const char *path, const char **ret_name);

/* The attributes of what is open as `fd`, which may be O_PATH. 0 or -errno. */
int operation_show(struct operation *operation, int fd);

/* VOLUME_CREATE, _MKDIR, _SYMLINK; _UNLINK, _RMDIR; _RENAME. 0 or -errno. */
int operation_make(struct operation *operation, int root);
int operation_remove(struct operation *operation, int root);
int operation_rename(struct operation *operation, int root);
