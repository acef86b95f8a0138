#include "api/store/volumes.h"

#include <errno.h>
#include <stdio.h>

#include "api/store/database.h"

#define COLUMNS "id, team_id, name, token, created_at_ms"

/* Begin a statement with its text parameters. NULL with `err`. */
static sqlite3_stmt *prepare(struct store *store, const char *sql, const char *const *texts, int count,
                             struct error *err)
{
	sqlite3 *db = store_database(store);
	sqlite3_stmt *statement = NULL;

	if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) != SQLITE_OK) {
		error_set(err, EIO, "volumes: %s", sqlite3_errmsg(db));
		return NULL;
	}
	for (int i = 0; i < count; i++)
		(void)sqlite3_bind_text(statement, i + 1, texts[i], -1, SQLITE_STATIC);
	return statement;
}

/* What a step that should have ended or given a row says of its failure. */
static int finish(struct store *store, sqlite3_stmt *statement, int code, struct error *err)
{
	int ret = code == SQLITE_DONE || code == SQLITE_ROW
	                  ? 0
	                  : error_set(err, EIO, "volumes: %s", sqlite3_errmsg(store_database(store)));

	(void)sqlite3_finalize(statement);
	return ret;
}

static void copy(sqlite3_stmt *query, int column, char *to, size_t size)
{
	(void)snprintf(to, size, "%s", (const char *)sqlite3_column_text(query, column));
}

static void read_row(sqlite3_stmt *query, struct volume_record *volume)
{
	copy(query, 0, volume->id, sizeof(volume->id));
	copy(query, 1, volume->team_id, sizeof(volume->team_id));
	copy(query, 2, volume->name, sizeof(volume->name));
	copy(query, 3, volume->token, sizeof(volume->token));
	volume->created_at_ms = sqlite3_column_int64(query, 4);
}

int store_put_volume(struct store *store, const struct volume_record *volume, struct error *err)
{
	const char *const texts[] = { volume->id, volume->team_id, volume->name, volume->token };
	sqlite3_stmt *statement = prepare(
	        store, "INSERT INTO volumes (" COLUMNS ") VALUES (?1, ?2, ?3, ?4, ?5)", texts, 4, err);
	int code;

	if (!statement)
		return -EIO;
	(void)sqlite3_bind_int64(statement, 5, volume->created_at_ms);
	code = sqlite3_step(statement);
	if (code == SQLITE_CONSTRAINT) {
		(void)sqlite3_finalize(statement);
		return error_set(err, EEXIST, "Volume with name '%s' already exists", volume->name);
	}
	return finish(store, statement, code, err);
}

int store_find_volume(struct store *store, const char *id, struct volume_record *ret, struct error *err)
{
	sqlite3_stmt *query = prepare(store, "SELECT " COLUMNS " FROM volumes WHERE id = ?1", &id, 1, err);
	int code;

	if (!query)
		return -EIO;
	code = sqlite3_step(query);
	if (code == SQLITE_ROW)
		read_row(query, ret);
	if (finish(store, query, code, err) < 0)
		return -EIO;
	return code == SQLITE_ROW ? 0 : -ENOENT;
}

int store_delete_volume(struct store *store, const char *id, struct error *err)
{
	sqlite3_stmt *statement = prepare(store, "DELETE FROM volumes WHERE id = ?1", &id, 1, err);
	int code = statement ? sqlite3_step(statement) : SQLITE_ERROR;

	if (!statement || finish(store, statement, code, err) < 0)
		return -EIO;
	return sqlite3_changes(store_database(store)) ? 0 : -ENOENT;
}

int store_list_volumes(struct store *store, const char *team_id,
                       void (*take)(void *context, const struct volume_record *volume), void *context,
                       struct error *err)
{
	sqlite3_stmt *query = prepare(
	        store, "SELECT " COLUMNS " FROM volumes WHERE team_id = ?1 ORDER BY created_at_ms, id",
	        &team_id, 1, err);
	int code;

	if (!query)
		return -EIO;
	while ((code = sqlite3_step(query)) == SQLITE_ROW) {
		struct volume_record volume;

		read_row(query, &volume);
		take(context, &volume);
	}
	return finish(store, query, code, err);
}
