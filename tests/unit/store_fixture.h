/* A store in a directory of its own, for tests of the control plane: made by the setup, removed by the
 * teardown. */
#pragma once

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>

#include "api/store/store.h"

struct fixture {
	char directory[32];
	char path[64];
	struct store *store;
	/* What a test has been told of. */
	struct list loaded; /* struct record, by `all` */
	size_t count;
	char last[128];
};

static inline int setup(void **state)
{
	struct fixture *fixture = calloc(1, sizeof(*fixture));

	(void)snprintf(fixture->directory, sizeof(fixture->directory), "/tmp/atoll-api-XXXXXX");
	assert_non_null(mkdtemp(fixture->directory));
	(void)snprintf(fixture->path, sizeof(fixture->path), "%s/db", fixture->directory);
	list_init(&fixture->loaded);
	fixture->store = store_open(fixture->path, NULL);
	assert_non_null(fixture->store);
	*state = fixture;
	return 0;
}

static inline void forget_loaded(struct fixture *fixture)
{
	list_for_each_safe (node, &fixture->loaded) {
		list_remove(node);
		record_free(list_entry(node, struct record, all));
	}
	fixture->count = 0;
}

static inline int teardown(void **state)
{
	struct fixture *fixture = *state;

	forget_loaded(fixture);
	store_close(fixture->store);
	assert_int_equal(file_remove_tree(fixture->directory, NULL), 0);
	free(fixture);
	return 0;
}

/* Close it, and open the database at `path`, which may be another one. */
static inline void reopen(struct fixture *fixture, const char *path)
{
	struct error err = { 0 };

	store_close(fixture->store);
	fixture->store = store_open(path, &err);
	if (!fixture->store)
		fail_msg("%s", err.message);
}

/* Run SQL over a connection of our own. */
static inline void execute(const char *path, const char *sql)
{
	sqlite3 *db = NULL;

	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
		fail_msg("%s: %s", sql, sqlite3_errmsg(db));
	assert_int_equal(sqlite3_close(db), SQLITE_OK);
}
