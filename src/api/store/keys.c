#include "api/store/keys.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "api/store/internal.h"

#define KEY_PREFIX   "e2b_"
#define TOKEN_PREFIX "sk_e2b_"
#define KEY_BYTES    20 /* of both: hex digits follow the prefix, twice as many */
#define SHOWN_START  2
#define SHOWN_END    4

/* The text, and all of the key but whose it is. */
static void make_key(const char *prefix, const char *name, char text[STORE_KEY_SIZE], struct key *key)
{
	char digits[2 * KEY_BYTES + 1];

	random_hex(digits, KEY_BYTES);
	(void)snprintf(text, STORE_KEY_SIZE, "%s%s", prefix, digits);
	*key = (struct key){ .length = 2 * KEY_BYTES, .created_at_ms = time_wall_ms() };
	random_uuid(key->id);
	(void)snprintf(key->name, sizeof(key->name), "%s", name);
	(void)snprintf(key->start, sizeof(key->start), "%.*s", SHOWN_START, digits);
	(void)snprintf(key->end, sizeof(key->end), "%s", digits + sizeof(digits) - 1 - SHOWN_END);
}

static void read_key(sqlite3_stmt *query, struct key *key)
{
	store_column(query, 0, key->id, sizeof(key->id));
	store_column(query, 1, key->team_id, sizeof(key->team_id));
	store_column(query, 2, key->user_id, sizeof(key->user_id));
	store_column(query, 3, key->name, sizeof(key->name));
	store_column(query, 4, key->start, sizeof(key->start));
	store_column(query, 5, key->end, sizeof(key->end));
	key->length = sqlite3_column_int64(query, 6);
	key->created_at_ms = sqlite3_column_int64(query, 7);
	key->last_used_at_ms = sqlite3_column_int64(query, 8);
	key->service = sqlite3_column_int(query, 9);
}

static int find(struct store *store, const char *sql, const char *text, struct key *ret)
{
	char hash[STORE_HASH_SIZE];
	sqlite3_stmt *query;
	int code;

	store_hash(text, hash);
	query = store_query(store, NULL, sql, "s", hash);
	code = query ? sqlite3_step(query) : SQLITE_ERROR;
	if (code == SQLITE_ROW)
		read_key(query, ret);
	(void)sqlite3_finalize(query);
	return code == SQLITE_ROW ? 0 : code == SQLITE_DONE ? -ENOENT : -EIO;
}

/* Room for one more? `sql` counts. */
static int check_room(struct store *store, const char *sql, const char *owner, const char *what,
                      struct error *err)
{
	sqlite3_stmt *query = store_query(store, err, sql, "s", owner);
	int code = query ? sqlite3_step(query) : SQLITE_ERROR;
	int64_t count = code == SQLITE_ROW ? sqlite3_column_int64(query, 0) : 0;

	(void)sqlite3_finalize(query);
	if (code != SQLITE_ROW)
		return store_fail(store, err, "count the keys");
	return count < STORE_KEYS_MAX ? 0
	                              : error_set(err, EDQUOT, "there may be %d %s", STORE_KEYS_MAX, what);
}

/* --- API keys --- */

#define KEY_COLUMNS                                                                                          \
	"id, team_id, created_by, name, mask_start, mask_end, value_length, created_at_ms, "                 \
	"last_used_at_ms, "                                                                                  \
	"service"

int store_create_key(struct store *store, const char *team_id, const char *user_id, const char *name,
                     char text[STORE_KEY_SIZE], struct key *ret, struct error *err)
{
	char hash[STORE_HASH_SIZE];
	int room = check_room(store, "SELECT count(*) FROM api_keys WHERE team_id = ?1", team_id,
	                      "API keys of a team", err);

	if (room < 0)
		return room;
	make_key(KEY_PREFIX, name, text, ret);
	(void)snprintf(ret->team_id, sizeof(ret->team_id), "%s", team_id);
	(void)snprintf(ret->user_id, sizeof(ret->user_id), "%s", user_id);
	store_hash(text, hash);
	return store_execute(store, err,
	                     "INSERT INTO api_keys (hash, " KEY_COLUMNS
	                     ") VALUES (?1, ?2, ?3, nullif(?4, ''), ?5, ?6, ?7, ?8, ?9, 0, 0)",
	                     "sssssssii", hash, ret->id, team_id, user_id, name, ret->start, ret->end,
	                     ret->length, ret->created_at_ms) < 0
	               ? -EIO
	               : 0;
}

int store_find_key(struct store *store, const char *text, struct key *ret)
{
	return find(store, "SELECT " KEY_COLUMNS " FROM api_keys WHERE hash = ?1", text, ret);
}

int store_list_keys(struct store *store, const char *team_id,
                    void (*take)(void *context, const struct key *key), void *context, struct error *err)
{
	sqlite3_stmt *query = store_query(store, err,
	                                  "SELECT " KEY_COLUMNS
	                                  " FROM api_keys WHERE team_id = ?1 ORDER BY created_at_ms, id",
	                                  "s", team_id);
	int code = SQLITE_ERROR;

	while (query && (code = sqlite3_step(query)) == SQLITE_ROW) {
		struct key key = { 0 };

		read_key(query, &key);
		take(context, &key);
	}
	(void)sqlite3_finalize(query);
	return code == SQLITE_DONE ? 0 : store_fail(store, err, "list the keys");
}

static int one(int changed)
{
	return changed < 0 ? changed : changed == 0 ? -ENOENT : 0;
}

int store_rename_key(struct store *store, const char *team_id, const char *id, const char *name,
                     struct error *err)
{
	return one(store_execute(store, err, "UPDATE api_keys SET name = ?3 WHERE team_id = ?1 AND id = ?2",
	                         "sss", team_id, id, name));
}

int store_delete_key(struct store *store, const char *team_id, const char *id, struct error *err)
{
	sqlite3_stmt *query;
	bool service;
	int ret = one(store_execute(store, err,
	                            "DELETE FROM api_keys WHERE team_id = ?1 AND id = ?2 AND service = 0",
	                            "ss", team_id, id));

	if (ret != -ENOENT)
		return ret;
	query = store_query(store, err, "SELECT 1 FROM api_keys WHERE team_id = ?1 AND id = ?2", "ss",
	                    team_id, id);
	service = query && sqlite3_step(query) == SQLITE_ROW;
	(void)sqlite3_finalize(query);
	return service ? -EPERM : ret;
}

/* --- access tokens --- */

int store_create_token(struct store *store, const char *user_id, const char *name, char text[STORE_KEY_SIZE],
                       struct key *ret, struct error *err)
{
	char hash[STORE_HASH_SIZE];
	int room = check_room(store, "SELECT count(*) FROM access_tokens WHERE user_id = ?1", user_id,
	                      "access tokens of a user", err);

	if (room < 0)
		return room;
	make_key(TOKEN_PREFIX, name, text, ret);
	(void)snprintf(ret->user_id, sizeof(ret->user_id), "%s", user_id);
	store_hash(text, hash);
	return store_execute(store, err,
	                     "INSERT INTO access_tokens VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0)",
	                     "ssssssii", hash, ret->id, user_id, name, ret->start, ret->end, ret->length,
	                     ret->created_at_ms) < 0
	               ? -EIO
	               : 0;
}

int store_find_token(struct store *store, const char *text, struct key *ret)
{
	return find(store,
	            "SELECT id, '', user_id, name, mask_start, mask_end, value_length, created_at_ms,"
	            " last_used_at_ms, 0 FROM access_tokens WHERE hash = ?1",
	            text, ret);
}

int store_delete_token(struct store *store, const char *user_id, const char *id, struct error *err)
{
	return one(store_execute(store, err, "DELETE FROM access_tokens WHERE user_id = ?1 AND id = ?2", "ss",
	                         user_id, id));
}

int store_note_use(struct store *store, const char *id, int64_t at_ms, struct error *err)
{
	int ret = store_execute(store, err, "UPDATE api_keys SET last_used_at_ms = ?2 WHERE id = ?1", "si",
	                        id, at_ms);

	if (ret == 0)
		ret = store_execute(store, err, "UPDATE access_tokens SET last_used_at_ms = ?2 WHERE id = ?1",
		                    "si", id, at_ms);
	return ret < 0 ? ret : 0;
}
