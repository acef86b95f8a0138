/*
 * Secrets of a team: named values that no answer gives back. A value is kept encrypted (AES-256-GCM, bound to
 * its team, secret and version), each change of it as a new version.
 */
#pragma once

#include <jansson.h>

#include "api/store/store.h"

#define SECRET_KEY_SIZE  32
#define SECRET_VALUE_MAX 65536 /* bytes */
#define SECRETS_MAX      1000  /* of a team */
#define SECRET_VERSIONS  20    /* kept of each */

struct secret {
	char id[40]; /* "sec_" and 20 characters */
	char team_id[64];
	char name[132];
	int64_t version;
	json_t *metadata; /* borrowed in what is given, owned in what is got: secret_fini() */
	int64_t created_at_ms;
	int64_t updated_at_ms;
};

void secret_fini(struct secret *secret);

/* Make one: team, name and metadata are the caller's to set. -EEXIST: the name is taken; -EDQUOT; -EIO. */
int store_create_secret(struct store *store, const unsigned char key[SECRET_KEY_SIZE], struct secret *secret,
                        const char *value, struct error *err);

/* A team's by id or name. 0, -ENOENT, -EIO. */
int store_find_secret(struct store *store, const char *team_id, const char *id_or_name, struct secret *ret,
                      struct error *err);

/* A new version of a value; `secret` as found, its metadata perhaps another one (then it owns neither). */
int store_update_secret(struct store *store, const unsigned char key[SECRET_KEY_SIZE], struct secret *secret,
                        const char *value, struct error *err);
int store_delete_secret(struct store *store, const struct secret *secret, struct error *err);

/* A team's, newest first: `limit` from `first` on. */
int store_list_secrets(struct store *store, const char *team_id, int64_t first, int64_t limit,
                       void (*take)(void *context, const struct secret *secret), void *context,
                       struct error *err);

/* The current value, for who puts it where it is needed. Appended to `value`. -EBADMSG: it was changed, or
 * made with another key. */
int store_secret_value(struct store *store, const unsigned char key[SECRET_KEY_SIZE],
                       const struct secret *secret, struct buffer *value, struct error *err);
