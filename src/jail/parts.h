/* The parts of a jail, in the order in which jail_build uses them. Private to jail/. */
#pragma once

#include "jail/jail.h"

/*
 * Remember that `name` in `directory` was made. 0, or -errno with `err`, with `name` removed again: it could
 * not be remembered.
 */
int made_add(struct jail_made *made, int directory, const char *name, bool is_directory, struct error *err);

/* cgroup.c: make and join the cgroup. */
int cgroup_join(const struct jail *jail, struct jail_made *made, struct error *err);

/* mounts.c: namespaces with private mounts; the root directory with all that is in it; to move into it. */
int mounts_unshare(const struct jail *jail, struct error *err);
/* Mount the directory `root` on itself; *ret, which the caller owns, is the directory in the new mount. */
int mounts_bind_root(const char *path, int root, int *ret, struct error *err);
int mounts_enter_root(int root, struct error *err);
int mounts_proc(int root, struct jail_made *made, struct error *err);
int mounts_bind(int root, const struct jail_bind *bind, struct jail_made *made, struct error *err);

/* root.c: make and fill the root directory. *ret_root is a descriptor of it, which the caller owns. */
int root_make(const struct jail *jail, struct jail_made *made, int *ret_root, struct error *err);

/*
 * Walk from `root` along `path` without following links, making directories of `mode` and owner that are
 * missing. *ret is an O_PATH descriptor of the last one, which the caller owns.
 */
struct root_owner {
	uid_t uid;
	gid_t gid;
	mode_t mode;
};
int root_make_directories(int root, const char *path, const struct root_owner *owner, struct jail_made *made,
                          int *ret, struct error *err);

/* limits.c */
int limits_set(const struct jail *jail, struct error *err);

/* privileges.c: become the user, without groups and capabilities. */
int privileges_drop(const struct jail *jail, struct error *err);
