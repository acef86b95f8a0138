/* Statements that are not run often enough to be kept prepared. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "api/store/internal.h"

int store_fail(struct store *store, struct error *err, const char *what)
{
	return error_set(err, EIO, "%s: %s", what, sqlite3_errmsg(store->db));
}

static int bind_all(sqlite3_stmt *query, const char *types, va_list arguments)
{
	int code = SQLITE_OK;

	for (int i = 1; types[i - 1] && code == SQLITE_OK; i++) {
		if (types[i - 1] == 's') {
			code = sqlite3_bind_text(query, i, va_arg(arguments, const char *), -1,
			                         SQLITE_TRANSIENT);
		} else if (types[i - 1] == 'i') {
			code = sqlite3_bind_int64(query, i, va_arg(arguments, int64_t));
		} else {
			const void *data = va_arg(arguments, const void *);

			code = sqlite3_bind_blob64(query, i, data, va_arg(arguments, size_t),
			                           SQLITE_TRANSIENT);
		}
	}
	return code;
}

static sqlite3_stmt *query_list(struct store *store, struct error *err, const char *sql, const char *types,
                                va_list arguments)
{
	sqlite3_stmt *query = NULL;

	if (sqlite3_prepare_v2(store->db, sql, -1, &query, NULL) == SQLITE_OK &&
	    bind_all(query, types, arguments) == SQLITE_OK)
		return query;
	(void)store_fail(store, err, "the store");
	(void)sqlite3_finalize(query);
	return NULL;
}

sqlite3_stmt *store_query(struct store *store, struct error *err, const char *sql, const char *types, ...)
{
	sqlite3_stmt *query;
	va_list arguments;

	va_start(arguments, types);
	query = query_list(store, err, sql, types, arguments);
	va_end(arguments);
	return query;
}

int store_execute(struct store *store, struct error *err, const char *sql, const char *types, ...)
{
	sqlite3_stmt *query;
	va_list arguments;
	int code;

	va_start(arguments, types);
	query = query_list(store, err, sql, types, arguments);
	va_end(arguments);
	if (!query)
		return -EIO;
	code = sqlite3_step(query);
	(void)sqlite3_finalize(query);
	return code == SQLITE_DONE ? sqlite3_changes(store->db) : store_fail(store, err, "the store");
}

int store_begin(struct store *store, struct error *err)
{
	if (sqlite3_exec(store->db, "BEGIN IMMEDIATE", NULL, NULL, NULL) == SQLITE_OK)
		return 0;
	return store_fail(store, err, "the store");
}

int store_end(struct store *store, int ret, struct error *err)
{
	if (ret >= 0 && sqlite3_exec(store->db, "COMMIT", NULL, NULL, NULL) != SQLITE_OK)
		ret = store_fail(store, err, "the store");
	if (ret < 0)
		(void)sqlite3_exec(store->db, "ROLLBACK", NULL, NULL, NULL);
	return ret;
}

void store_column(sqlite3_stmt *query, int column, char *to, size_t size)
{
	const char *text = (const char *)sqlite3_column_text(query, column);

	(void)snprintf(to, size, "%s", text ? text : "");
}
