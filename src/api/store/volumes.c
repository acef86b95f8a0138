#include "api/store/volumes.h"

#include <errno.h>
#include <stdio.h>

#include "api/store/internal.h"

#define COLUMNS "id, team_id, name, token, created_at_ms"

static void read_row(sqlite3_stmt *query, struct volume_record *volume)
{
	store_column(query, 0, volume->id, sizeof(volume->id));
	store_column(query, 1, volume->team_id, sizeof(volume->team_id));
	store_column(query, 2, volume->name, sizeof(volume->name));
	store_column(query, 3, volume->token, sizeof(volume->token));
	volume->created_at_ms = sqlite3_column_int64(query, 4);
}

int store_put_volume(struct store *store, const struct volume_record *volume, struct error *err)
{
	int ret = store_execute(store, err,
	                        "INSERT INTO volumes (" COLUMNS ") VALUES (?1, ?2, ?3, ?4, ?5)"
	                        " ON CONFLICT (team_id, name) DO NOTHING",
	                        "ssssi", volume->id, volume->team_id, volume->name, volume->token,
	                        volume->created_at_ms);

	if (ret < 0)
		return ret;
	return ret ? 0 : error_set(err, EEXIST, "Volume with name '%s' already exists", volume->name);
}

/* Takes `query`. */
static int find_one(struct store *store, sqlite3_stmt *query, struct volume_record *ret, struct error *err)
{
	int code = query ? sqlite3_step(query) : SQLITE_ERROR;
	int result = code == SQLITE_ROW ? 0 : -ENOENT;

	if (code == SQLITE_ROW)
		read_row(query, ret);
	else if (query && code != SQLITE_DONE)
		result = store_fail(store, err, "volumes");
	(void)sqlite3_finalize(query);
	return query ? result : -EIO;
}

int store_find_volume(struct store *store, const char *id, struct volume_record *ret, struct error *err)
{
	return find_one(store,
	                store_query(store, err, "SELECT " COLUMNS " FROM volumes WHERE id = ?1", "s", id),
	                ret, err);
}

int store_find_volume_named(struct store *store, const char *team_id, const char *name,
                            struct volume_record *ret, struct error *err)
{
	return find_one(store,
	                store_query(store, err,
	                            "SELECT " COLUMNS " FROM volumes WHERE team_id = ?1 AND name = ?2", "ss",
	                            team_id, name),
	                ret, err);
}

int store_delete_volume(struct store *store, const char *id, struct error *err)
{
	int ret = store_execute(store, err, "DELETE FROM volumes WHERE id = ?1", "s", id);

	return ret < 0 ? ret : ret ? 0 : -ENOENT;
}

int store_list_volumes(struct store *store, const char *team_id,
                       void (*take)(void *context, const struct volume_record *volume), void *context,
                       struct error *err)
{
	sqlite3_stmt *query = store_query(
	        store, err, "SELECT " COLUMNS " FROM volumes WHERE team_id = ?1 ORDER BY created_at_ms, id",
	        "s", team_id);
	int code;

	if (!query)
		return -EIO;
	while ((code = sqlite3_step(query)) == SQLITE_ROW) {
		struct volume_record volume;

		read_row(query, &volume);
		take(context, &volume);
	}
	code = code == SQLITE_DONE ? 0 : store_fail(store, err, "volumes");
	(void)sqlite3_finalize(query);
	return code;
}
