/*
 * store: what must survive a restart of the control plane, in SQLite. Opens the folder.
 *
 * Keys are kept as SHA-256 only. Calls are short and made on the loop's thread.
 */
#pragma once

#include "api/registry.h"

#define STORE_HASH_SIZE 65 /* SHA-256 in hex, and the NUL */

/* What is kept of a secret that clients show: its SHA-256. */
void store_hash(const char *text, char hash[STORE_HASH_SIZE]);

/* Open or make the database. NULL with `err`. */
struct store *store_open(const char *path, struct error *err);
void store_close(struct store *store);

/* Make this the service's own key: it belongs to the first team, and the one that was it before is valid no
 * more. 0 or -EIO with `err`. */
int store_ensure_key(struct store *store, const char *key, struct error *err);

/* The team that a key belongs to. 0, -ENOENT for no such key, -EIO. */
int store_team_of_key(struct store *store, const char *key, char team_id[64]);

/* A team's name. 0, -ENOENT. */
int store_team_name(struct store *store, const char *team_id, char name[128]);

/* Write a sandbox, new or changed; remove one; read all. */
int store_put_sandbox(struct store *store, const struct record *record, struct error *err);
int store_delete_sandbox(struct store *store, const char *id, struct error *err);
int store_load_sandboxes(struct store *store, void (*take)(void *context, struct record *record),
                         void *context, struct error *err);

/* A sandbox as it was: a template that a client has named, or not. */
struct snapshot {
	char build_id[40]; /* what the node calls it */
	char id[64];       /* what clients call it, without its tag */
	char team_id[64];
	char name[128]; /* "": none */
	char sandbox_id[128];
	int64_t created_at_ms;
};

int store_put_snapshot(struct store *store, const struct snapshot *snapshot, struct error *err);
int store_delete_snapshot(struct store *store, const char *build_id, struct error *err);

/* A team's, newest first, until `take` gives false. */
int store_list_snapshots(struct store *store, const char *team_id,
                         bool (*take)(void *context, const struct snapshot *snapshot), void *context,
                         struct error *err);

/*
 * The build that a team means by a snapshot's name or id, or by the build's own. 0; -ENOENT when it is none
 * of a snapshot; -EACCES when it is another team's; -EIO.
 */
int store_find_snapshot(struct store *store, const char *team_id, const char *name, char build_id[40]);
