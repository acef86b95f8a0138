/* filesystem: what the parts of the service filesystem.Filesystem share. */
#pragma once

#include "envd/user.h"

/* A request's user and one path of it, resolved. False: the call has been ended. */
bool filesystem_read_path(struct envd *envd, struct connect_call *call, const json_t *request,
                          const char *key, struct user *user, char path[4096]);

/* The code that tells a client of a failed system call. */
enum connect_code filesystem_code(int code);
