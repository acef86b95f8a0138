/* path: from what a client writes to an absolute path. */
#pragma once

#include "envd/user.h"

/*
 * "" is the default working directory or else the home; "~" and "~/x" are below the home; relative paths are
 * too; the result has no "." or ".." and no doubled slashes, symbolic links are left alone. 0, -EINVAL or
 * -ENAMETOOLONG with `err`.
 */
int path_resolve(const struct envd *envd, const struct user *user, const char *path, char resolved[4096],
                 struct error *err);

/* Make the missing parents of `path`, owned by the user. 0 or -errno with `err`. */
int path_make_parents(const char *path, const struct user *user, struct error *err);

/* Make directory `path` and its missing parents, owned by the user. -EEXIST when it is there already. */
int path_make_directories(const char *path, const struct user *user, struct error *err);
