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

/*
 * Several changes that take effect together or not at all, and wait for the disk once. Every call of this
 * folder may stand between, but those that make one of their own: of teams, users and secrets. `store_end`
 * gives `ret` back, or why it failed.
 */
int store_begin(struct store *store, struct error *err);
int store_end(struct store *store, int ret, struct error *err);

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
