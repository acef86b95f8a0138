#include "api/store/keys.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "api/store/internal.h"

#define KEY_BYTES   20 /* of both: hex digits follow the prefix, twice as many */
#define SHOWN_START 2
#define SHOWN_END   4

#define KEY_COLUMNS                                                                                          \
	"id, team_id, created_by, name, mask_start, mask_end, value_length, created_at_ms, "                 \
	"last_used_at_ms, "                                                                                  \
	"service"

/* What is the same of both is done by the same functions, with these. Parameters: the owner is ?1 where one
 * is looked for, ?2 is its id. */
static const struct {
	const char *prefix;
	const char *many; /* as a message calls them, with their owner */
	const char *count;
	const char *insert; /* ?1 hash, id, owner, user, name, ?6 start, end, length, created at */
	const char *find;   /* KEY_COLUMNS by ?1, the hash */
	const char *remove;
	const char *kept; /* finds one that is not to be removed; NULL: there is none */
	const char *use;  /* ?1 the id, ?2 when */
} kinds[] = {
	[KEY_API] = {
		"e2b_",
		"API keys of a team",
		"SELECT count(*) FROM api_keys WHERE team_id = ?1",
		"INSERT INTO api_keys (hash, " KEY_COLUMNS
		") VALUES (?1, ?2, ?3, nullif(?4, ''), ?5, ?6, ?7, ?8, ?9, 0, 0)",
		"SELECT " KEY_COLUMNS " FROM api_keys WHERE hash = ?1",
		"DELETE FROM api_keys WHERE team_id = ?1 AND id = ?2 AND service = 0",
		"SELECT 1 FROM api_keys WHERE team_id = ?1 AND id = ?2",
		"UPDATE api_keys SET last_used_at_ms = ?2 WHERE id = ?1",
	},
	[KEY_TOKEN] = {
		"sk_e2b_",
		"access tokens of a user",
		"SELECT count(*) FROM access_tokens WHERE user_id = ?1",
		"INSERT INTO access_tokens VALUES (?1, ?2, ?4, ?5, ?6, ?7, ?8, ?9, 0)",
		"SELECT id, '', user_id, name, mask_start, mask_end, value_length, created_at_ms,"
		" last_used_at_ms, 0 FROM access_tokens WHERE hash = ?1",
		"DELETE FROM access_tokens WHERE user_id = ?1 AND id = ?2",
		NULL,
		"UPDATE access_tokens SET last_used_at_ms = ?2 WHERE id = ?1",
	},
};

const char *store_key_prefix(enum key_kind kind)
{
	return kinds[kind].prefix;
}

/* The text, and all of the key but whose it is. */
static void make_key(enum key_kind kind, const char *name, char text[STORE_KEY_SIZE], struct key *key)
{
	char digits[2 * KEY_BYTES + 1];

	random_hex(digits, KEY_BYTES);
	(void)snprintf(text, STORE_KEY_SIZE, "%s%s", kinds[kind].prefix, digits);
	*key = (struct key){ .kind = kind, .length = 2 * KEY_BYTES, .created_at_ms = time_wall_ms() };
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

/* Room for one more? */
static int check_room(struct store *store, enum key_kind kind, const char *owner, struct error *err)
{
	sqlite3_stmt *query = store_query(store, err, kinds[kind].count, "s", owner);
	int code = query ? sqlite3_step(query) : SQLITE_ERROR;
	int64_t count = code == SQLITE_ROW ? sqlite3_column_int64(query, 0) : 0;

	(void)sqlite3_finalize(query);
	if (code != SQLITE_ROW)
		return store_fail(store, err, "count the keys");
	return count < STORE_KEYS_MAX
	               ? 0
	               : error_set(err, EDQUOT, "there may be %d %s", STORE_KEYS_MAX, kinds[kind].many);
}

int store_create_key(struct store *store, enum key_kind kind, const char *owner, const char *user_id,
                     const char *name, char text[STORE_KEY_SIZE], struct key *ret, struct error *err)
{
	char hash[STORE_HASH_SIZE];
	int code = check_room(store, kind, owner, err);

	if (code < 0)
		return code;
	make_key(kind, name, text, ret);
	if (kind == KEY_API)
		(void)snprintf(ret->team_id, sizeof(ret->team_id), "%s", owner);
	(void)snprintf(ret->user_id, sizeof(ret->user_id), "%s", user_id);
	store_hash(text, hash);
	return store_any(store_execute(store, err, kinds[kind].insert, "sssssssii", hash, ret->id, owner,
	                               user_id, name, ret->start, ret->end, ret->length, ret->created_at_ms));
}

int store_find_key(struct store *store, enum key_kind kind, const char *text, struct key *ret)
{
	char hash[STORE_HASH_SIZE];
	sqlite3_stmt *query;
	int code;

	store_hash(text, hash);
	query = store_query(store, NULL, kinds[kind].find, "s", hash);
	code = query ? sqlite3_step(query) : SQLITE_ERROR;
	if (code == SQLITE_ROW)
		read_key(query, ret);
	(void)sqlite3_finalize(query);
	ret->kind = kind;
	return code == SQLITE_ROW ? 0 : code == SQLITE_DONE ? -ENOENT : -EIO;
}

static int one(int changed)
{
	return changed < 0 ? changed : changed == 0 ? -ENOENT : 0;
}

int store_delete_key(struct store *store, enum key_kind kind, const char *owner, const char *id,
                     struct error *err)
{
	sqlite3_stmt *query;
	bool kept;
	int ret = one(store_execute(store, err, kinds[kind].remove, "ss", owner, id));

	if (ret != -ENOENT || !kinds[kind].kept)
		return ret;
	query = store_query(store, err, kinds[kind].kept, "ss", owner, id);
	kept = query && sqlite3_step(query) == SQLITE_ROW;
	(void)sqlite3_finalize(query);
	return kept ? -EPERM : ret;
}

int store_note_use(struct store *store, enum key_kind kind, const char *id, int64_t at_ms, struct error *err)
{
	return store_any(store_execute(store, err, kinds[kind].use, "si", id, at_ms));
}

/* --- API keys alone --- */

int store_list_keys(struct store *store, const char *team_id,
                    void (*take)(void *context, const struct key *key), void *context, struct error *err)
{
	sqlite3_stmt *query = store_query(store, err,
	                                  "SELECT " KEY_COLUMNS
	                                  " FROM api_keys WHERE team_id = ?1 ORDER BY created_at_ms, id",
	                                  "s", team_id);
	int code = SQLITE_ERROR;

	while (query && (code = sqlite3_step(query)) == SQLITE_ROW) {
		struct key key = { .kind = KEY_API };

		read_key(query, &key);
		take(context, &key);
	}
	(void)sqlite3_finalize(query);
	return code == SQLITE_DONE ? 0 : store_fail(store, err, "list the keys");
}

int store_rename_key(struct store *store, const char *team_id, const char *id, const char *name,
                     struct error *err)
{
	return one(store_execute(store, err, "UPDATE api_keys SET name = ?3 WHERE team_id = ?1 AND id = ?2",
	                         "sss", team_id, id, name));
}
