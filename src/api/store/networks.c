#include "api/store/networks.h"

#include <errno.h>
#include <string.h>

#include "api/store/internal.h"

int store_put_network(struct store *store, const char *sandbox_id, const char *setting, struct error *err)
{
	return store_any(store_execute(store, err, "INSERT OR REPLACE INTO networks VALUES (?1, ?2)", "ss",
	                               sandbox_id, setting));
}

int store_get_network(struct store *store, const char *sandbox_id, char **ret, struct error *err)
{
	sqlite3_stmt *query = store_query(store, err, "SELECT setting FROM networks WHERE sandbox_id = ?1",
	                                  "s", sandbox_id);
	int code = query ? sqlite3_step(query) : SQLITE_ERROR;
	int result = -ENOENT;

	if (code == SQLITE_ROW) {
		*ret = strdup((const char *)sqlite3_column_text(query, 0));
		result = *ret ? 0 : -ENOMEM;
	} else if (query && code != SQLITE_DONE) {
		result = store_fail(store, err, "a network's setting");
	}
	(void)sqlite3_finalize(query);
	return query ? result : -EIO;
}
