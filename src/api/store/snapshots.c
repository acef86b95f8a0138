#include "api/store/snapshots.h"

#include <errno.h>

#include "api/store/internal.h"

#define COLUMNS "build_id, id, team_id, name, sandbox_id, created_at_ms"

int store_put_snapshot(struct store *store, const struct snapshot *snapshot, struct error *err)
{
	return store_any(store_execute(
	        store, err, "INSERT INTO snapshots (" COLUMNS ", settled) VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0)",
	        "sssssi", snapshot->build_id, snapshot->id, snapshot->team_id, snapshot->name,
	        snapshot->sandbox_id, snapshot->created_at_ms));
}

int store_settle_snapshot(struct store *store, const char *build_id, bool settled, struct error *err)
{
	return store_any(store_execute(store, err, "UPDATE snapshots SET settled = ?2 WHERE build_id = ?1",
	                               "si", build_id, (int64_t)settled));
}

int store_delete_snapshot(struct store *store, const char *build_id, struct error *err)
{
	return store_any(
	        store_execute(store, err, "DELETE FROM snapshots WHERE build_id = ?1", "s", build_id));
}

static void read_row(sqlite3_stmt *query, struct snapshot *snapshot)
{
	store_column(query, 0, snapshot->build_id, sizeof(snapshot->build_id));
	store_column(query, 1, snapshot->id, sizeof(snapshot->id));
	store_column(query, 2, snapshot->team_id, sizeof(snapshot->team_id));
	store_column(query, 3, snapshot->name, sizeof(snapshot->name));
	store_column(query, 4, snapshot->sandbox_id, sizeof(snapshot->sandbox_id));
	snapshot->created_at_ms = sqlite3_column_int64(query, 5);
}

int store_list_snapshots(struct store *store, const char *team_id,
                         bool (*take)(void *context, const struct snapshot *snapshot), void *context,
                         struct error *err)
{
	sqlite3_stmt *query =
	        store_query(store, err,
	                    "SELECT " COLUMNS " FROM snapshots WHERE settled = (?1 IS NOT NULL) AND"
	                    " (?1 IS NULL OR team_id = ?1) ORDER BY created_at_ms DESC, build_id",
	                    "s", team_id);
	int code;

	if (!query)
		return -EIO;
	while ((code = sqlite3_step(query)) == SQLITE_ROW) {
		struct snapshot snapshot;

		read_row(query, &snapshot);
		if (!take(context, &snapshot))
			break;
	}
	code = code == SQLITE_DONE || code == SQLITE_ROW ? 0 : store_fail(store, err, "list the snapshots");
	(void)sqlite3_finalize(query);
	return code;
}

int store_find_snapshot(struct store *store, const char *team_id, const char *name, char build_id[40])
{
	struct error err = { 0 };
	sqlite3_stmt *query = store_query(
	        store, &err,
	        "SELECT build_id, team_id = ?1 FROM snapshots WHERE settled AND ((team_id = ?1 AND (name = "
	        "?2 OR"
	        " id = ?2)) OR build_id = ?2) ORDER BY team_id = ?1 DESC, created_at_ms DESC LIMIT 1",
	        "ss", team_id, name);
	int code = query ? sqlite3_step(query) : SQLITE_ERROR;
	int ret = code == SQLITE_DONE ? -ENOENT : -EIO;

	if (code == SQLITE_ROW) {
		store_column(query, 0, build_id, 40);
		ret = sqlite3_column_int(query, 1) ? 0 : -EACCES;
	}
	(void)sqlite3_finalize(query);
	return ret;
}
