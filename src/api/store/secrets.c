#include "api/store/secrets.h"

#include <errno.h>
#include <nettle/gcm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/store/internal.h"

#define NONCE   GCM_IV_SIZE
#define TAG     GCM_DIGEST_SIZE
#define COLUMNS "id, team_id, name, version, metadata, created_at_ms, updated_at_ms"

_Static_assert(SECRET_KEY_SIZE == AES256_KEY_SIZE, "the key is AES-256's");

/* --- a value at rest: nonce, what is encrypted, tag --- */

/* What it belongs to is authenticated with it: a row put elsewhere is no value there. */
static void set_up(struct gcm_aes256_ctx *gcm, const unsigned char *key, const unsigned char *nonce,
                   const struct secret *secret)
{
	char bound[192];
	int size = snprintf(bound, sizeof(bound), "%s|%s|%lld", secret->team_id, secret->id,
	                    (long long)secret->version);

	gcm_aes256_set_key(gcm, key);
	gcm_aes256_set_iv(gcm, NONCE, nonce);
	gcm_aes256_update(gcm, (size_t)size, (const uint8_t *)bound);
}

/* `sealed` has room for NONCE and TAG beside the value. */
static void seal(const unsigned char *key, const struct secret *secret, const char *value, size_t size,
                 unsigned char *sealed)
{
	struct gcm_aes256_ctx gcm;

	random_bytes(sealed, NONCE);
	set_up(&gcm, key, sealed, secret);
	gcm_aes256_encrypt(&gcm, size, sealed + NONCE, (const uint8_t *)value);
	gcm_aes256_digest(&gcm, TAG, sealed + NONCE + size);
	explicit_bzero(&gcm, sizeof(gcm));
}

static int open_sealed(const unsigned char *key, const struct secret *secret, const unsigned char *sealed,
                       size_t size, struct buffer *value, struct error *err)
{
	struct gcm_aes256_ctx gcm;
	unsigned char tag[TAG];
	unsigned char wrong = 0;
	int ret;

	if (size < NONCE + TAG)
		return error_set(err, EBADMSG, "the stored value of secret '%s' is broken", secret->name);
	size -= NONCE + TAG;
	ret = buffer_reserve(value, size + 1);
	if (ret < 0)
		return error_errno(err, -ret, "read secret '%s'", secret->name);
	set_up(&gcm, key, sealed, secret);
	gcm_aes256_decrypt(&gcm, size, (uint8_t *)value->data + value->size, sealed + NONCE);
	gcm_aes256_digest(&gcm, TAG, tag);
	explicit_bzero(&gcm, sizeof(gcm));
	for (size_t i = 0; i < TAG; i++)
		wrong |= (unsigned char)(tag[i] ^ sealed[NONCE + size + i]);
	if (wrong) {
		explicit_bzero(value->data + value->size, size);
		value->data[value->size] = '\0';
		return error_set(err, EBADMSG,
		                 "the stored value of secret '%s' was changed, or made with another key",
		                 secret->name);
	}
	value->size += size;
	value->data[value->size] = '\0';
	return 0;
}

static int put_version(struct store *store, const unsigned char *key, const struct secret *secret,
                       const char *value, struct error *err)
{
	size_t size = strlen(value);
	cleanup_free unsigned char *sealed = malloc(NONCE + size + TAG);

	if (!sealed)
		return error_errno(err, ENOMEM, "store the secret");
	seal(key, secret, value, size, sealed);
	return store_execute(store, err, "INSERT INTO secret_versions VALUES (?1, ?2, ?3, ?4)", "sibi",
	                     secret->id, secret->version, (const void *)sealed, NONCE + size + TAG,
	                     secret->updated_at_ms);
}

/* --- rows --- */

void secret_fini(struct secret *secret)
{
	json_decref(secret->metadata);
	secret->metadata = NULL;
}

static void read_secret(sqlite3_stmt *query, struct secret *secret)
{
	const char *metadata = (const char *)sqlite3_column_text(query, 4);

	store_column(query, 0, secret->id, sizeof(secret->id));
	store_column(query, 1, secret->team_id, sizeof(secret->team_id));
	store_column(query, 2, secret->name, sizeof(secret->name));
	secret->version = sqlite3_column_int64(query, 3);
	secret->metadata = metadata ? json_loads(metadata, 0, NULL) : NULL;
	if (!json_is_object(secret->metadata)) {
		json_decref(secret->metadata);
		secret->metadata = json_object();
	}
	secret->created_at_ms = sqlite3_column_int64(query, 5);
	secret->updated_at_ms = sqlite3_column_int64(query, 6);
}

int store_find_secret(struct store *store, const char *team_id, const char *id_or_name, struct secret *ret,
                      struct error *err)
{
	sqlite3_stmt *query = store_query(
	        store, err, "SELECT " COLUMNS " FROM secrets WHERE team_id = ?1 AND (id = ?2 OR name = ?2)",
	        "ss", team_id, id_or_name);
	int code = query ? sqlite3_step(query) : SQLITE_ERROR;

	if (code == SQLITE_ROW)
		read_secret(query, ret);
	(void)sqlite3_finalize(query);
	if (code == SQLITE_DONE)
		return error_set(err, ENOENT, "Secret not found");
	return code == SQLITE_ROW ? 0 : store_fail(store, err, "look up the secret");
}

/* How many rows have this team, or this team and name. */
static int64_t count(struct store *store, const char *team_id, const char *name, struct error *err)
{
	sqlite3_stmt *query = store_query(
	        store, err, "SELECT count(*) FROM secrets WHERE team_id = ?1 AND (?2 IS NULL OR name = ?2)",
	        "ss", team_id, name);
	int64_t rows = query && sqlite3_step(query) == SQLITE_ROW ? sqlite3_column_int64(query, 0)
	                                                          : store_fail(store, err, "count secrets");

	(void)sqlite3_finalize(query);
	return rows;
}

static int insert(struct store *store, const unsigned char *key, struct secret *secret, const char *value,
                  struct error *err)
{
	cleanup_free char *metadata = json_dumps(secret->metadata, JSON_COMPACT);
	int64_t taken = count(store, secret->team_id, secret->name, err);
	int64_t rows = count(store, secret->team_id, NULL, err);
	int ret;

	if (taken < 0 || rows < 0)
		return -EIO;
	if (taken > 0)
		return error_set(err, EEXIST, "there is a secret '%s' already", secret->name);
	if (rows >= SECRETS_MAX)
		return error_set(err, EDQUOT, "a team may have %d secrets", SECRETS_MAX);
	ret = store_execute(store, err,
	                    "INSERT INTO secrets (" COLUMNS ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
	                    "sssisii", secret->id, secret->team_id, secret->name, secret->version, metadata,
	                    secret->created_at_ms, secret->updated_at_ms);
	return ret < 0 ? ret : put_version(store, key, secret, value, err);
}

int store_create_secret(struct store *store, const unsigned char key[SECRET_KEY_SIZE], struct secret *secret,
                        const char *value, struct error *err)
{
	int ret = store_begin(store, err);

	if (ret < 0)
		return ret;
	(void)snprintf(secret->id, sizeof(secret->id), "sec_");
	random_id(secret->id + 4, 20);
	secret->version = 1;
	secret->created_at_ms = secret->updated_at_ms = time_wall_ms();
	return store_any(store_end(store, insert(store, key, secret, value, err), err));
}

int store_update_secret(struct store *store, const unsigned char key[SECRET_KEY_SIZE], struct secret *secret,
                        const char *value, struct error *err)
{
	cleanup_free char *metadata = json_dumps(secret->metadata, JSON_COMPACT);
	int ret = store_begin(store, err);

	if (ret < 0)
		return ret;
	secret->version++;
	secret->updated_at_ms = time_wall_ms();
	ret = store_execute(
	        store, err,
	        "UPDATE secrets SET version = ?2, metadata = ?3, updated_at_ms = ?4 WHERE id = ?1", "sisi",
	        secret->id, secret->version, metadata, secret->updated_at_ms);
	if (ret >= 0)
		ret = put_version(store, key, secret, value, err);
	if (ret >= 0)
		ret = store_execute(store, err,
		                    "DELETE FROM secret_versions WHERE secret_id = ?1 AND version <= ?2",
		                    "si", secret->id, secret->version - SECRET_VERSIONS);
	return store_any(store_end(store, ret, err));
}

int store_delete_secret(struct store *store, const struct secret *secret, struct error *err)
{
	return store_any(store_execute(store, err, "DELETE FROM secrets WHERE id = ?1", "s", secret->id));
}

int store_list_secrets(struct store *store, const char *team_id, int64_t first, int64_t limit,
                       void (*take)(void *context, const struct secret *secret), void *context,
                       struct error *err)
{
	sqlite3_stmt *query = store_query(store, err,
	                                  "SELECT " COLUMNS " FROM secrets WHERE team_id = ?1 ORDER BY"
	                                  " created_at_ms DESC, id LIMIT ?3 OFFSET ?2",
	                                  "sii", team_id, first, limit);
	int code = SQLITE_ERROR;

	while (query && (code = sqlite3_step(query)) == SQLITE_ROW) {
		struct secret secret = { 0 };

		read_secret(query, &secret);
		take(context, &secret);
		secret_fini(&secret);
	}
	(void)sqlite3_finalize(query);
	return code == SQLITE_DONE ? 0 : store_fail(store, err, "list the secrets");
}

int store_secret_value(struct store *store, const unsigned char key[SECRET_KEY_SIZE],
                       const struct secret *secret, struct buffer *value, struct error *err)
{
	sqlite3_stmt *query = store_query(
	        store, err, "SELECT value FROM secret_versions WHERE secret_id = ?1 AND version = ?2", "si",
	        secret->id, secret->version);
	int code = query ? sqlite3_step(query) : SQLITE_ERROR;
	int ret;

	if (code == SQLITE_ROW)
		ret = open_sealed(key, secret, sqlite3_column_blob(query, 0),
		                  (size_t)sqlite3_column_bytes(query, 0), value, err);
	else if (code == SQLITE_DONE)
		ret = error_set(err, ENOENT, "secret '%s' has no value of version %lld", secret->name,
		                (long long)secret->version);
	else
		ret = store_fail(store, err, "read the secret");
	(void)sqlite3_finalize(query);
	return ret;
}
