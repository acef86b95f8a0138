#include "api/store/store.h"

#include <errno.h>
#include <nettle/sha2.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/store/internal.h"
#include "api/store/keys.h"

/* One per version; never changed once released, only added to. */
static const char *const migrations[] = {
	"CREATE TABLE teams (id TEXT PRIMARY KEY, name TEXT NOT NULL) STRICT;"
	"CREATE TABLE api_keys (hash TEXT PRIMARY KEY, team_id TEXT NOT NULL REFERENCES teams(id), name TEXT "
	"NOT NULL,"
	" created_at_ms INTEGER NOT NULL) STRICT;"
	"CREATE TABLE sandboxes (id TEXT PRIMARY KEY, team_id TEXT NOT NULL, template_id TEXT NOT NULL, "
	"alias TEXT NOT NULL,"
	" access_token TEXT NOT NULL, vsock_path TEXT NOT NULL, metadata TEXT NOT NULL, started_at_ms "
	"INTEGER NOT NULL,"
	" end_at_ms INTEGER NOT NULL, vcpu_count INTEGER NOT NULL, memory_mib INTEGER NOT NULL, disk_mib "
	"INTEGER NOT NULL,"
	" running INTEGER NOT NULL) STRICT;",
	("ALTER TABLE sandboxes ADD COLUMN paused INTEGER NOT NULL DEFAULT 0;"
	 "ALTER TABLE sandboxes ADD COLUMN auto_pause INTEGER NOT NULL DEFAULT 0;"
	 "ALTER TABLE sandboxes ADD COLUMN auto_resume INTEGER NOT NULL DEFAULT 0;"
	 "CREATE TABLE snapshots (build_id TEXT PRIMARY KEY, id TEXT NOT NULL, team_id TEXT NOT NULL, name "
	 "TEXT NOT "
	 "NULL, sandbox_id TEXT NOT NULL, created_at_ms INTEGER NOT NULL) STRICT;"),
	/* Several teams, their users, keys, secrets and templates. */
	("ALTER TABLE teams ADD COLUMN created_at_ms INTEGER NOT NULL DEFAULT 0;"
	 "ALTER TABLE teams ADD COLUMN max_sandboxes INTEGER NOT NULL DEFAULT 0;"
	 "ALTER TABLE teams ADD COLUMN max_vcpus INTEGER NOT NULL DEFAULT 0;"
	 "ALTER TABLE teams ADD COLUMN max_memory_mib INTEGER NOT NULL DEFAULT 0;"
	 "ALTER TABLE teams ADD COLUMN max_disk_mib INTEGER NOT NULL DEFAULT 0;"
	 "ALTER TABLE api_keys ADD COLUMN id TEXT NOT NULL DEFAULT '';"
	 "ALTER TABLE api_keys ADD COLUMN created_by TEXT;"
	 "ALTER TABLE api_keys ADD COLUMN mask_start TEXT NOT NULL DEFAULT '';"
	 "ALTER TABLE api_keys ADD COLUMN mask_end TEXT NOT NULL DEFAULT '';"
	 "ALTER TABLE api_keys ADD COLUMN value_length INTEGER NOT NULL DEFAULT 40;"
	 "ALTER TABLE api_keys ADD COLUMN last_used_at_ms INTEGER NOT NULL DEFAULT 0;"
	 "ALTER TABLE api_keys ADD COLUMN service INTEGER NOT NULL DEFAULT 0;"
	 "UPDATE api_keys SET service = (team_id = 'default' AND name = 'first'), id = lower("
	 "hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-a' ||"
	 " substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)));"
	 "CREATE UNIQUE INDEX api_keys_id ON api_keys (id);"
	 "CREATE INDEX api_keys_team ON api_keys (team_id);"
	 "CREATE TABLE users (id TEXT PRIMARY KEY, email TEXT) STRICT;"
	 "CREATE TABLE members (user_id TEXT NOT NULL REFERENCES users(id), team_id TEXT NOT NULL REFERENCES"
	 " teams(id), since_ms INTEGER NOT NULL, PRIMARY KEY (user_id, team_id)) STRICT;"
	 "CREATE TABLE access_tokens (hash TEXT PRIMARY KEY, id TEXT NOT NULL UNIQUE, user_id TEXT NOT NULL"
	 " REFERENCES users(id), name TEXT NOT NULL, mask_start TEXT NOT NULL, mask_end TEXT NOT NULL,"
	 " value_length INTEGER NOT NULL, created_at_ms INTEGER NOT NULL, last_used_at_ms INTEGER NOT NULL)"
	 " STRICT;"
	 "CREATE TABLE secrets (id TEXT PRIMARY KEY, team_id TEXT NOT NULL REFERENCES teams(id), name TEXT "
	 "NOT"
	 " NULL, metadata TEXT NOT NULL, version INTEGER NOT NULL, created_at_ms INTEGER NOT NULL,"
	 " updated_at_ms INTEGER NOT NULL, UNIQUE (team_id, name)) STRICT;"
	 "CREATE TABLE secret_versions (secret_id TEXT NOT NULL REFERENCES secrets(id) ON DELETE CASCADE,"
	 " version INTEGER NOT NULL, value BLOB NOT NULL, created_at_ms INTEGER NOT NULL, PRIMARY KEY"
	 " (secret_id, version)) STRICT;"
	 "CREATE TABLE templates (id TEXT PRIMARY KEY, team_id TEXT NOT NULL REFERENCES teams(id), public"
	 " INTEGER NOT NULL, spawn_count INTEGER NOT NULL, last_spawned_at_ms INTEGER NOT NULL, updated_at_ms"
	 " INTEGER NOT NULL) STRICT;"
	 "CREATE TABLE team_samples (team_id TEXT NOT NULL, at_ms INTEGER NOT NULL, concurrent INTEGER NOT"
	 " NULL, started INTEGER NOT NULL, seconds REAL NOT NULL, PRIMARY KEY (team_id, at_ms)) STRICT,"
	 " WITHOUT ROWID;"
	 "CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;"),
	/* Volumes; what a sandbox's network was asked to be, as JSON. */
	("CREATE TABLE volumes (id TEXT PRIMARY KEY, team_id TEXT NOT NULL, name TEXT NOT NULL, token TEXT "
	 "NOT "
	 "NULL, created_at_ms INTEGER NOT NULL, UNIQUE (team_id, name)) STRICT;"
	 "CREATE TABLE networks (sandbox_id TEXT PRIMARY KEY, setting TEXT NOT NULL) STRICT;"
	 "CREATE TRIGGER networks_end AFTER DELETE ON sandboxes BEGIN DELETE FROM networks WHERE sandbox_id ="
	 " OLD.id; END;"),
	/* How traffic reaches a sandbox, as JSON: see ingress_write(). */
	"ALTER TABLE sandboxes ADD COLUMN ingress TEXT NOT NULL DEFAULT '{}';",
	/* A snapshot whose files the node may have or not. */
	"ALTER TABLE snapshots ADD COLUMN settled INTEGER NOT NULL DEFAULT 1;",
	/* The volumes that it has mounted, as JSON. */
	"ALTER TABLE sandboxes ADD COLUMN mounts TEXT NOT NULL DEFAULT '[]';",
};

/* In the order in which they are bound and read. */
#define SANDBOX_COLUMNS                                                                                      \
	"id, team_id, template_id, alias, access_token, vsock_path, metadata, ingress, mounts, "             \
	"started_at_ms, "                                                                                    \
	"end_at_ms, vcpu_count, memory_mib, disk_mib, running, paused, auto_pause, auto_resume"

enum statement {
	TEAM_OF_KEY,
	TEAM_NAME,
	PUT_SANDBOX,
	DELETE_SANDBOX,
	STATEMENTS,
};

static const char *const statements[] = {
	[TEAM_OF_KEY] = "SELECT team_id FROM api_keys WHERE hash = ?1",
	[TEAM_NAME] = "SELECT name FROM teams WHERE id = ?1",
	[PUT_SANDBOX] =
	        "INSERT INTO sandboxes (" SANDBOX_COLUMNS ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, "
	        "?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)"
	        " ON CONFLICT (id) DO UPDATE SET vsock_path = excluded.vsock_path, end_at_ms = "
	        "excluded.end_at_ms,"
	        " started_at_ms = excluded.started_at_ms, vcpu_count = excluded.vcpu_count,"
	        " memory_mib = excluded.memory_mib, disk_mib = excluded.disk_mib, running = excluded.running,"
	        " paused = excluded.paused, auto_pause = excluded.auto_pause, auto_resume = "
	        "excluded.auto_resume, ingress = excluded.ingress",
	[DELETE_SANDBOX] = "DELETE FROM sandboxes WHERE id = ?1",
};

_Static_assert((int)STATEMENTS <= STORE_STATEMENTS, "there must be room for all statements");

/* --- opening --- */

static int migrate(struct store *store, struct error *err)
{
	sqlite3_stmt *query = NULL;
	int version = 0;
	int latest = (int)ARRAY_SIZE(migrations);

	if (sqlite3_prepare_v2(store->db, "PRAGMA user_version", -1, &query, NULL) == SQLITE_OK &&
	    sqlite3_step(query) == SQLITE_ROW)
		version = sqlite3_column_int(query, 0);
	(void)sqlite3_finalize(query);
	if (version > latest)
		return error_set(err, EINVAL, "the database has version %d; this program knows %d", version,
		                 latest);
	for (; version < latest; version++) {
		char done[64];

		(void)snprintf(done, sizeof(done), "PRAGMA user_version = %d; COMMIT", version + 1);
		if (sqlite3_exec(store->db, "BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK ||
		    sqlite3_exec(store->db, migrations[version], NULL, NULL, NULL) != SQLITE_OK ||
		    sqlite3_exec(store->db, done, NULL, NULL, NULL) != SQLITE_OK)
			return store_fail(store, err, "bring the database up to date");
	}
	return 0;
}

struct store *store_open(const char *path, struct error *err)
{
	struct store *store = calloc(1, sizeof(*store));
	int ret = -EIO;

	if (!store) {
		error_errno(err, ENOMEM, "open %s", path);
		return NULL;
	}
	/* FULL: what was promised to a client stays also when the host dies, whose sandboxes the node keeps.
	 */
	if (sqlite3_open(path, &store->db) != SQLITE_OK ||
	    sqlite3_exec(store->db,
	                 "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON",
	                 NULL, NULL, NULL) != SQLITE_OK)
		store_fail(store, err, path);
	else
		ret = migrate(store, err);
	for (int i = 0; ret == 0 && i < STATEMENTS; i++)
		if (sqlite3_prepare_v3(store->db, statements[i], -1, SQLITE_PREPARE_PERSISTENT,
		                       &store->prepared[i], NULL) != SQLITE_OK)
			ret = store_fail(store, err, "prepare a statement");
	if (ret < 0) {
		store_close(store);
		return NULL;
	}
	return store;
}

void store_close(struct store *store)
{
	if (!store)
		return;
	for (int i = 0; i < STATEMENTS; i++)
		(void)sqlite3_finalize(store->prepared[i]);
	(void)sqlite3_close(store->db);
	free(store);
}

/* --- keys and teams --- */

void store_hash(const char *key, char hash[STORE_HASH_SIZE])
{
	unsigned char digest[SHA256_DIGEST_SIZE];
	struct sha256_ctx sha;

	sha256_init(&sha);
	sha256_update(&sha, strlen(key), (const uint8_t *)key);
	sha256_digest(&sha, sizeof(digest), digest);
	for (size_t i = 0; i < sizeof(digest); i++)
		(void)snprintf(hash + 2 * i, 3, "%02x", digest[i]);
}

int store_ensure_key(struct store *store, const char *key, struct error *err)
{
	char hash[STORE_HASH_SIZE];
	const char *digits = strncmp(key, "e2b_", 4) == 0 ? key + 4 : key;
	size_t length = strlen(digits);
	char start[8] = "";
	const char *end = "";
	char user_id[40];
	char id[40];
	char *sql;
	int code;

	/* A short one would be shown whole. */
	if (length >= 16) {
		(void)snprintf(start, sizeof(start), "%.2s", digits);
		end = digits + length - 4;
	}
	random_uuid(user_id);
	random_uuid(id);
	store_hash(key, hash);
	sql = sqlite3_mprintf(
	        "BEGIN IMMEDIATE;"
	        "INSERT OR IGNORE INTO teams (id, name) VALUES ('" STORE_FIRST_TEAM "', 'Default');"
	        "INSERT OR IGNORE INTO users SELECT %Q, NULL WHERE NOT EXISTS (SELECT 1 FROM members WHERE "
	        "team_id = '" STORE_FIRST_TEAM "');"
	        "INSERT OR IGNORE INTO members SELECT id, '" STORE_FIRST_TEAM "', 0 FROM users WHERE id = %Q;"
	        "DELETE FROM api_keys WHERE service AND hash <> %Q;"
	        "INSERT INTO api_keys (hash, team_id, name, created_at_ms, id, mask_start, mask_end, "
	        "value_length, service) VALUES (%Q, '" STORE_FIRST_TEAM "', 'first', %lld, %Q, %Q, %Q, %d, 1)"
	        " ON CONFLICT (hash) DO UPDATE SET mask_start = excluded.mask_start, mask_end = "
	        "excluded.mask_end, value_length = excluded.value_length, service = 1, team_id = "
	        "excluded.team_id; COMMIT",
	        user_id, user_id, hash, hash, (long long)time_wall_ms(), id, start, end, (int)length);
	code = sql ? sqlite3_exec(store->db, sql, NULL, NULL, NULL) : SQLITE_NOMEM;
	sqlite3_free(sql);
	if (code == SQLITE_OK)
		return 0;
	store_fail(store, err, "store the key");
	(void)sqlite3_exec(store->db, "ROLLBACK", NULL, NULL, NULL); /* when none is open: no matter */
	return -EIO;
}

/* The one text that a statement with one text parameter yields. */
static int select_text(struct store *store, enum statement which, const char *parameter, char *text,
                       size_t size)
{
	sqlite3_stmt *statement = store->prepared[which];
	int ret = -EIO;
	int code;

	(void)sqlite3_bind_text(statement, 1, parameter, -1, SQLITE_STATIC);
	code = sqlite3_step(statement);
	if (code == SQLITE_ROW) {
		(void)snprintf(text, size, "%s", (const char *)sqlite3_column_text(statement, 0));
		ret = 0;
	} else if (code == SQLITE_DONE) {
		ret = -ENOENT;
	}
	(void)sqlite3_reset(statement);
	return ret;
}

int store_team_of_key(struct store *store, const char *key, char team_id[64])
{
	char hash[STORE_HASH_SIZE];

	store_hash(key, hash);
	return select_text(store, TEAM_OF_KEY, hash, team_id, 64);
}

int store_team_name(struct store *store, const char *team_id, char name[128])
{
	return select_text(store, TEAM_NAME, team_id, name, 128);
}

/* --- sandboxes --- */

/* To be freed; NULL: no memory. */
static char *ingress_write(const struct record *record)
{
	cleanup_json json_t *json = json_object();

	if (record->traffic_token[0])
		(void)json_object_set_new(json, "traffic_token", json_string(record->traffic_token));
	if (record->mask_host[0])
		(void)json_object_set_new(json, "mask_host", json_string(record->mask_host));
	if (record->resume_timeout)
		(void)json_object_set_new(json, "resume_timeout", json_integer(record->resume_timeout));
	return json_dumps(json, JSON_COMPACT);
}

static void ingress_read(struct record *record, const char *text)
{
	cleanup_json json_t *json = json_loads(text, 0, NULL);
	const char *token = json_string_value(json_object_get(json, "traffic_token"));
	const char *host = json_string_value(json_object_get(json, "mask_host"));

	(void)snprintf(record->traffic_token, sizeof(record->traffic_token), "%s", token ? token : "");
	(void)snprintf(record->mask_host, sizeof(record->mask_host), "%s", host ? host : "");
	record->resume_timeout = json_integer_value(json_object_get(json, "resume_timeout"));
}

static void mounts_load(struct record *record, const char *text)
{
	cleanup_json json_t *mounts = json_loads(text, 0, NULL);

	if (json_array_size(mounts))
		record->volume_mounts = json_incref(mounts);
}

int store_put_sandbox(struct store *store, const struct record *record, struct error *err)
{
	sqlite3_stmt *statement = store->prepared[PUT_SANDBOX];
	bool is_paused = record->state == RECORD_PAUSED || record->state == RECORD_RESUMING;
	cleanup_free char *metadata = json_dumps(record->metadata, JSON_COMPACT);
	cleanup_free char *ingress = ingress_write(record);
	cleanup_free char *mounts =
	        record->volume_mounts ? json_dumps(record->volume_mounts, JSON_COMPACT) : NULL;
	const char *const texts[] = { record->id,
		                      record->team_id,
		                      record->template_id,
		                      record->alias,
		                      record->access_token,
		                      record->vsock_path,
		                      metadata,
		                      ingress,
		                      mounts ? mounts : "[]" };
	const int64_t numbers[] = {
		record->started_at_ms, record->end_at_ms,          record->vcpu_count, record->memory_mib,
		record->disk_mib,      record_has_machine(record), is_paused,          record->auto_pause,
		record->auto_resume
	};
	int index = 1;
	int code;

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
		(void)sqlite3_bind_text(statement, index++, texts[i], -1, SQLITE_STATIC);
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		(void)sqlite3_bind_int64(statement, index++, numbers[i]);
	code = sqlite3_step(statement);
	(void)sqlite3_reset(statement);
	(void)sqlite3_clear_bindings(statement);
	return code == SQLITE_DONE ? 0 : store_fail(store, err, "store the sandbox");
}

int store_delete_sandbox(struct store *store, const char *id, struct error *err)
{
	sqlite3_stmt *statement = store->prepared[DELETE_SANDBOX];
	int code;

	(void)sqlite3_bind_text(statement, 1, id, -1, SQLITE_STATIC);
	code = sqlite3_step(statement);
	(void)sqlite3_reset(statement);
	return code == SQLITE_DONE ? 0 : store_fail(store, err, "forget the sandbox");
}

static struct record *read_row(sqlite3_stmt *query)
{
	struct record *record = calloc(1, sizeof(*record));

	if (!record)
		return NULL;
	store_column(query, 0, record->id, sizeof(record->id));
	store_column(query, 1, record->team_id, sizeof(record->team_id));
	store_column(query, 2, record->template_id, sizeof(record->template_id));
	store_column(query, 3, record->alias, sizeof(record->alias));
	store_column(query, 4, record->access_token, sizeof(record->access_token));
	store_column(query, 5, record->vsock_path, sizeof(record->vsock_path));
	record->metadata = json_loads((const char *)sqlite3_column_text(query, 6), 0, NULL);
	if (!json_is_object(record->metadata)) {
		json_decref(record->metadata);
		record->metadata = json_object();
	}
	ingress_read(record, (const char *)sqlite3_column_text(query, 7));
	mounts_load(record, (const char *)sqlite3_column_text(query, 8));
	record->started_at_ms = sqlite3_column_int64(query, 9);
	record->end_at_ms = sqlite3_column_int64(query, 10);
	record->vcpu_count = sqlite3_column_int(query, 11);
	record->memory_mib = sqlite3_column_int(query, 12);
	record->disk_mib = sqlite3_column_int(query, 13);
	record_load_state(record, sqlite3_column_int(query, 14), sqlite3_column_int(query, 15));
	record->auto_pause = sqlite3_column_int(query, 16);
	record->auto_resume = sqlite3_column_int(query, 17);
	return record;
}

int store_load_sandboxes(struct store *store, void (*take)(void *context, struct record *record),
                         void *context, struct error *err)
{
	sqlite3_stmt *query = NULL;
	int code =
	        sqlite3_prepare_v2(store->db, "SELECT " SANDBOX_COLUMNS " FROM sandboxes", -1, &query, NULL);

	while (code == SQLITE_OK || code == SQLITE_ROW) {
		struct record *record;

		code = sqlite3_step(query);
		if (code != SQLITE_ROW)
			break;
		record = read_row(query);
		if (!record)
			code = SQLITE_NOMEM;
		else
			take(context, record);
	}
	(void)sqlite3_finalize(query);
	return code == SQLITE_DONE ? 0 : store_fail(store, err, "load the sandboxes");
}
