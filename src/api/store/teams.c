/* Teams, and the users who act for them. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "api/store/internal.h"
#include "api/store/keys.h"

#define TEAM_COLUMNS "id, name, created_at_ms, max_sandboxes, max_vcpus, max_memory_mib, max_disk_mib"

static void read_team(sqlite3_stmt *query, struct team *team)
{
	store_column(query, 0, team->id, sizeof(team->id));
	store_column(query, 1, team->name, sizeof(team->name));
	team->created_at_ms = sqlite3_column_int64(query, 2);
	team->limits = (struct limits){ .sandboxes = sqlite3_column_int64(query, 3),
		                        .vcpus = sqlite3_column_int64(query, 4),
		                        .memory_mib = sqlite3_column_int64(query, 5),
		                        .disk_mib = sqlite3_column_int64(query, 6) };
}

static int take_teams(struct store *store, sqlite3_stmt *query,
                      void (*take)(void *context, const struct team *team), void *context, struct error *err)
{
	int code = SQLITE_ERROR;

	while (query && (code = sqlite3_step(query)) == SQLITE_ROW) {
		struct team team = { 0 };

		read_team(query, &team);
		take(context, &team);
	}
	(void)sqlite3_finalize(query);
	return code == SQLITE_DONE ? 0 : store_fail(store, err, "list the teams");
}

int store_create_team(struct store *store, struct team *team, struct error *err)
{
	char user_id[40];
	int ret = store_begin(store, err);

	if (ret < 0)
		return ret;
	random_uuid(team->id);
	random_uuid(user_id);
	team->created_at_ms = time_wall_ms();
	ret = store_execute(store, err,
	                    "INSERT INTO teams (" TEAM_COLUMNS ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
	                    "ssiiiii", team->id, team->name, team->created_at_ms, team->limits.sandboxes,
	                    team->limits.vcpus, team->limits.memory_mib, team->limits.disk_mib);
	if (ret >= 0)
		ret = store_execute(store, err, "INSERT INTO users VALUES (?1, NULL)", "s", user_id);
	if (ret >= 0)
		ret = store_execute(store, err, "INSERT INTO members VALUES (?1, ?2, ?3)", "ssi", user_id,
		                    team->id, team->created_at_ms);
	return store_any(store_end(store, ret, err));
}

int store_find_team(struct store *store, const char *id, struct team *ret, struct error *err)
{
	sqlite3_stmt *query =
	        store_query(store, err, "SELECT " TEAM_COLUMNS " FROM teams WHERE id = ?1", "s", id);
	int code = query ? sqlite3_step(query) : SQLITE_ERROR;

	if (code == SQLITE_ROW)
		read_team(query, ret);
	(void)sqlite3_finalize(query);
	if (code == SQLITE_DONE)
		return error_set(err, ENOENT, "Team not found");
	return code == SQLITE_ROW ? 0 : store_fail(store, err, "look up the team");
}

int store_update_team(struct store *store, const struct team *team, struct error *err)
{
	int ret = store_execute(
	        store, err,
	        "UPDATE teams SET name = ?2, max_sandboxes = ?3, max_vcpus = ?4, max_memory_mib = ?5,"
	        " max_disk_mib = ?6 WHERE id = ?1",
	        "ssiiii", team->id, team->name, team->limits.sandboxes, team->limits.vcpus,
	        team->limits.memory_mib, team->limits.disk_mib);

	return ret == 0 ? error_set(err, ENOENT, "Team not found") : store_any(ret);
}

int store_list_teams(struct store *store, void (*take)(void *context, const struct team *team), void *context,
                     struct error *err)
{
	return take_teams(
	        store,
	        store_query(store, err, "SELECT " TEAM_COLUMNS " FROM teams ORDER BY created_at_ms, id", ""),
	        take, context, err);
}

/* --- users --- */

int store_team_user(struct store *store, const char *team_id, char user_id[40], struct error *err)
{
	sqlite3_stmt *query = store_query(
	        store, err,
	        "SELECT user_id FROM members WHERE team_id = ?1 ORDER BY since_ms, user_id LIMIT 1", "s",
	        team_id);
	int code = query ? sqlite3_step(query) : SQLITE_ERROR;

	if (code == SQLITE_ROW)
		store_column(query, 0, user_id, 40);
	(void)sqlite3_finalize(query);
	if (code == SQLITE_DONE)
		return error_set(err, ENOENT, "Team not found");
	return code == SQLITE_ROW ? 0 : store_fail(store, err, "look up the user");
}

int store_is_member(struct store *store, const char *user_id, const char *team_id, struct error *err)
{
	sqlite3_stmt *query =
	        store_query(store, err, "SELECT 1 FROM members WHERE user_id = ?1 AND team_id = ?2", "ss",
	                    user_id, team_id);
	int code = query ? sqlite3_step(query) : SQLITE_ERROR;

	(void)sqlite3_finalize(query);
	return code == SQLITE_ROW    ? 0
	       : code == SQLITE_DONE ? -ENOENT
	                             : store_fail(store, err, "look up the user");
}

int store_user_teams(struct store *store, const char *user_id,
                     void (*take)(void *context, const struct team *team), void *context, struct error *err)
{
	return take_teams(store,
	                  store_query(store, err,
	                              "SELECT " TEAM_COLUMNS
	                              " FROM teams JOIN members ON team_id = id WHERE user_id = ?1"
	                              " ORDER BY since_ms, id",
	                              "s", user_id),
	                  take, context, err);
}
