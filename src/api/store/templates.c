#include "api/store/templates.h"

#include <errno.h>
#include <stdio.h>

#include "api/store/internal.h"
#include "api/store/keys.h"

int store_get_template(struct store *store, const char *name, struct template_row *ret, struct error *err)
{
	sqlite3_stmt *query = store_query(store, err,
	                                  "SELECT team_id, public, spawn_count, last_spawned_at_ms,"
	                                  " updated_at_ms FROM templates WHERE id = ?1",
	                                  "s", name);
	int code = query ? sqlite3_step(query) : SQLITE_ERROR;

	*ret = (struct template_row){ .team_id = STORE_FIRST_TEAM, .public = true };
	if (code == SQLITE_ROW) {
		store_column(query, 0, ret->team_id, sizeof(ret->team_id));
		ret->public = sqlite3_column_int(query, 1);
		ret->spawn_count = sqlite3_column_int64(query, 2);
		ret->last_spawned_at_ms = sqlite3_column_int64(query, 3);
		ret->updated_at_ms = sqlite3_column_int64(query, 4);
	}
	(void)sqlite3_finalize(query);
	return code == SQLITE_ROW || code == SQLITE_DONE ? 0 : store_fail(store, err, "look up the template");
}

int store_put_template(struct store *store, const char *name, const char *team_id, bool public,
                       struct error *err)
{
	return store_any(
	        store_execute(store, err,
	                      "INSERT INTO templates VALUES (?1, ?2, ?3, 0, 0, ?4) ON CONFLICT (id) DO"
	                      " UPDATE SET team_id = excluded.team_id, public = excluded.public,"
	                      " updated_at_ms = excluded.updated_at_ms",
	                      "ssii", name, team_id, (int64_t) public, time_wall_ms()));
}

int store_note_spawn(struct store *store, const char *name, struct error *err)
{
	return store_any(store_execute(store, err,
	                               "INSERT INTO templates VALUES (?1, '" STORE_FIRST_TEAM
	                               "', 1, 1, ?2, 0) ON"
	                               " CONFLICT (id) DO UPDATE SET spawn_count = spawn_count + 1,"
	                               " last_spawned_at_ms = excluded.last_spawned_at_ms",
	                               "si", name, time_wall_ms()));
}

int store_forget_template(struct store *store, const char *name, struct error *err)
{
	return store_any(store_execute(store, err, "DELETE FROM templates WHERE id = ?1", "s", name));
}
