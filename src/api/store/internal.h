/* What the files of this folder share. */
#pragma once

#include <sqlite3.h>

#include "api/store/store.h"

#define STORE_STATEMENTS 32 /* room for those that store.c keeps prepared */

struct store {
	sqlite3 *db;
	sqlite3_stmt *prepared[STORE_STATEMENTS];
};

/* -EIO, with what SQLite says in `err`. */
int store_fail(struct store *store, struct error *err, const char *what);

/*
 * Prepare a statement and bind its parameters by `types`, one letter each: 's' const char * (NULL: SQL's
 * null), 'i' int64_t, 'b' const void * and size_t. All are copied. NULL with `err`; else sqlite3_finalize()
 * it.
 */
sqlite3_stmt *store_query(struct store *store, struct error *err, const char *sql, const char *types, ...);

/* The same for what gives no rows: the number of rows that it changed, or -EIO with `err`. */
int store_execute(struct store *store, struct error *err, const char *sql, const char *types, ...);

/* What that gave, where it does not matter how many. */
static inline int store_any(int changed)
{
	return changed < 0 ? changed : 0;
}

/* The text of a column; a null is "". */
void store_column(sqlite3_stmt *query, int column, char *to, size_t size);
