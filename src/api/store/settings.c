#include "api/store/settings.h"

#include <errno.h>

#include "api/store/internal.h"

int store_get_setting(struct store *store, const char *name, char *value, size_t size, struct error *err)
{
	sqlite3_stmt *query =
	        store_query(store, err, "SELECT value FROM settings WHERE name = ?1", "s", name);
	int code = query ? sqlite3_step(query) : SQLITE_ERROR;

	if (code == SQLITE_ROW)
		store_column(query, 0, value, size);
	(void)sqlite3_finalize(query);
	return code == SQLITE_ROW || code == SQLITE_DONE ? 0 : store_fail(store, err, "read a setting");
}

int store_put_setting(struct store *store, const char *name, const char *value, struct error *err)
{
	return store_any(
	        store_execute(store, err,
	                      "INSERT INTO settings VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value ="
	                      " excluded.value",
	                      "ss", name, value));
}

int store_put_sample(struct store *store, const char *team_id, const struct sample *sample, struct error *err)
{
	/* Milliseconds: no loss, and one kind of parameter less. */
	return store_any(store_execute(
	        store, err, "INSERT OR REPLACE INTO team_samples VALUES (?1, ?2, ?3, ?4, ?5 / 1000.0)",
	        "siiii", team_id, sample->at_ms, sample->concurrent, sample->started,
	        (int64_t)(sample->seconds * 1000)));
}

int store_list_samples(struct store *store, const char *team_id, int64_t from_ms, int64_t to_ms,
                       void (*take)(void *context, const struct sample *sample), void *context,
                       struct error *err)
{
	sqlite3_stmt *query = store_query(store, err,
	                                  "SELECT at_ms, concurrent, started, seconds FROM team_samples WHERE"
	                                  " team_id = ?1 AND at_ms BETWEEN ?2 AND ?3 ORDER BY at_ms",
	                                  "sii", team_id, from_ms, to_ms);
	int code = SQLITE_ERROR;

	while (query && (code = sqlite3_step(query)) == SQLITE_ROW) {
		const struct sample sample = { sqlite3_column_int64(query, 0), sqlite3_column_int64(query, 1),
			                       sqlite3_column_int64(query, 2),
			                       sqlite3_column_double(query, 3) };

		take(context, &sample);
	}
	(void)sqlite3_finalize(query);
	return code == SQLITE_DONE ? 0 : store_fail(store, err, "read the metrics");
}

int store_drop_samples(struct store *store, int64_t before_ms, struct error *err)
{
	return store_any(
	        store_execute(store, err, "DELETE FROM team_samples WHERE at_ms < ?1", "i", before_ms));
}

int store_any_secret(struct store *store, bool *ret, struct error *err)
{
	sqlite3_stmt *query = store_query(store, err, "SELECT 1 FROM secrets LIMIT 1", "");
	int code = query ? sqlite3_step(query) : SQLITE_ERROR;

	*ret = code == SQLITE_ROW;
	(void)sqlite3_finalize(query);
	return code == SQLITE_ROW || code == SQLITE_DONE ? 0 : store_fail(store, err, "look for secrets");
}
