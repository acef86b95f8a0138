#include "api/store/networks.h"

#include <errno.h>
#include <string.h>

#include "api/store/database.h"

static int fail(struct store *store, struct error *err)
{
	return error_set(err, EIO, "a network's setting: %s", sqlite3_errmsg(store_database(store)));
}

int store_put_network(struct store *store, const char *sandbox_id, const char *setting, struct error *err)
{
	sqlite3_stmt *statement = NULL;
	int code =
	        sqlite3_prepare_v2(store_database(store), "INSERT OR REPLACE INTO networks VALUES (?1, ?2)",
	                           -1, &statement, NULL);

	if (code == SQLITE_OK) {
		(void)sqlite3_bind_text(statement, 1, sandbox_id, -1, SQLITE_STATIC);
		(void)sqlite3_bind_text(statement, 2, setting, -1, SQLITE_STATIC);
		code = sqlite3_step(statement);
	}
	code = code == SQLITE_DONE ? 0 : fail(store, err);
	(void)sqlite3_finalize(statement);
	return code;
}

int store_get_network(struct store *store, const char *sandbox_id, char **ret, struct error *err)
{
	sqlite3_stmt *query = NULL;
	int code = sqlite3_prepare_v2(store_database(store),
	                              "SELECT setting FROM networks WHERE sandbox_id = ?1", -1, &query, NULL);

	if (code == SQLITE_OK) {
		(void)sqlite3_bind_text(query, 1, sandbox_id, -1, SQLITE_STATIC);
		code = sqlite3_step(query);
	}
	if (code == SQLITE_ROW)
		*ret = strdup((const char *)sqlite3_column_text(query, 0));
	code = code == SQLITE_ROW ? (*ret ? 0 : -ENOMEM) : code == SQLITE_DONE ? -ENOENT : fail(store, err);
	(void)sqlite3_finalize(query);
	return code;
}
