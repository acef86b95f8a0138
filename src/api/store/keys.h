/*
 * Keys, teams and users. A team owns everything; a user is somebody who may act for teams. An API key is a
 * team's, an access token is a user's. Of both only a SHA-256 is kept, and so much of the text that its owner
 * knows it again.
 */
#pragma once

#include "api/store/store.h"

#define STORE_FIRST_TEAM                                                                                     \
	"default"           /* of the key in the key file, and of templates that the host's owner built */
#define STORE_KEYS_MAX 1000 /* of a team, and tokens of a user */
#define STORE_KEY_SIZE 64   /* for the text of a key or a token */

enum key_kind {
	KEY_API,   /* an API key: a team owns it */
	KEY_TOKEN, /* an access token: a user does */
};

struct key {
	enum key_kind kind;
	char id[40];
	char team_id[64]; /* an API key's */
	char user_id[40]; /* a token's; of an API key who made it, or "" */
	char name[128];
	char start[8]; /* of what follows the prefix; both "": not known */
	char end[8];
	int64_t length;
	int64_t created_at_ms;
	int64_t last_used_at_ms; /* 0: never */
	bool service;            /* the one in the key file */
};

struct limits {
	int64_t sandboxes; /* that run at a time; 0 = no limit, here and below */
	int64_t vcpus;     /* of these */
	int64_t memory_mib;
	int64_t disk_mib; /* of the paused ones too */
};

struct team {
	char id[64];
	char name[128];
	int64_t created_at_ms;
	struct limits limits;
};

/* --- API keys and access tokens: each -ENOENT for what is not the owner's --- */

/* What its text begins with. */
const char *store_key_prefix(enum key_kind kind);

/* Make one; `text` gets it, for the only time. `user_id` makes it ("": nobody): a token's is its owner. 0;
 * -EDQUOT when there are too many, -EIO, with `err`. */
int store_create_key(struct store *store, enum key_kind kind, const char *owner, const char *user_id,
                     const char *name, char text[STORE_KEY_SIZE], struct key *ret, struct error *err);

/* Whose it is. 0, -ENOENT, -EIO. */
int store_find_key(struct store *store, enum key_kind kind, const char *text, struct key *ret);

/* -EPERM for the service's own, which the key file would bring back. */
int store_delete_key(struct store *store, enum key_kind kind, const char *owner, const char *id,
                     struct error *err);

/* It was used. */
int store_note_use(struct store *store, enum key_kind kind, const char *id, int64_t at_ms, struct error *err);

/* --- API keys alone --- */

/* A team's, oldest first. */
int store_list_keys(struct store *store, const char *team_id,
                    void (*take)(void *context, const struct key *key), void *context, struct error *err);
int store_rename_key(struct store *store, const char *team_id, const char *id, const char *name,
                     struct error *err);

/* --- teams and users --- */

/* Make a team with a user of its own. Its name is the caller's to set, and its limits. */
int store_create_team(struct store *store, struct team *team, struct error *err);
int store_find_team(struct store *store, const char *id, struct team *ret, struct error *err);
int store_update_team(struct store *store, const struct team *team, struct error *err);
int store_list_teams(struct store *store, void (*take)(void *context, const struct team *team), void *context,
                     struct error *err);

/* The team's first user. 0, -ENOENT, -EIO. */
int store_team_user(struct store *store, const char *team_id, char user_id[40], struct error *err);
int store_is_member(struct store *store, const char *user_id, const char *team_id, struct error *err);

/* The teams that a user acts for; the default one is the first. */
int store_user_teams(struct store *store, const char *user_id,
                     void (*take)(void *context, const struct team *team), void *context, struct error *err);
