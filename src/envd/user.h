/* user: who a request acts for. Read from /etc/passwd and /etc/group directly: the agent is static, without
 * NSS. */
#pragma once

#include <sys/types.h>

#include "envd/envd.h"

#define USER_GROUPS_MAX 64

struct user {
	char name[64];
	char home[256];
	uid_t uid;
	gid_t gid;
	gid_t groups[USER_GROUPS_MAX];
	int group_count;
};

/* Find a user by name. 0, or -ENOENT with `err`. */
int user_lookup(const char *name, struct user *user, struct error *err);

/*
 * The user named by a request's Authorization (Basic, with any password; may be NULL) or, without one, the
 * default user.
 */
int user_of_request(const struct envd *envd, const char *authorization, struct user *user, struct error *err);

/* As above for a Connect call; on failure the call has been ended and -EACCES comes back. */
int user_of_call(const struct envd *envd, struct connect_call *call, struct user *user);

/* Names of ids, or the number as text. Return `name`. */
const char *user_name(uid_t uid, char name[64]);
const char *group_name(gid_t gid, char name[64]);
