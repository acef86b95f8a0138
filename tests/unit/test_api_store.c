/* Unit tests of the store: what survives, what is refused, and what a failure leaves behind. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "api/store/networks.h"
#include "api/store/store.h"
#include "api/store/volumes.h"
#include "store_fixture.h"

#define KEY         "e2b_00ff"
#define OTHER_KEY   "e2b_00fe"
#define OLD_VERSION "PRAGMA user_version = 3" /* the one before volumes */

static void take(void *context, struct record *record)
{
	struct fixture *fixture = context;

	list_append(&fixture->loaded, &record->all);
	fixture->count++;
}

static size_t load(struct fixture *fixture)
{
	struct error err = { 0 };

	forget_loaded(fixture);
	if (store_load_sandboxes(fixture->store, take, fixture, &err) < 0)
		fail_msg("%s", err.message);
	return fixture->count;
}

static const struct record *find(const struct fixture *fixture, const char *id)
{
	list_for_each (node, &fixture->loaded) {
		const struct record *record = list_entry(node, struct record, all);

		if (strcmp(record->id, id) == 0)
			return record;
	}
	return NULL;
}

static struct record make(const char *id)
{
	struct record record = { .metadata = json_pack("{s:s}", "user", "a'b\"c"),
		                 .started_at_ms = 1700000000000,
		                 .end_at_ms = 1700000300000,
		                 .vcpu_count = 2,
		                 .memory_mib = 512,
		                 .disk_mib = 1024 };

	(void)snprintf(record.id, sizeof(record.id), "%s", id);
	(void)snprintf(record.team_id, sizeof(record.team_id), "default");
	(void)snprintf(record.template_id, sizeof(record.template_id), "base");
	(void)snprintf(record.alias, sizeof(record.alias), "base");
	return record;
}

/* Store a sandbox of this id. 0 or -errno. */
static int put(struct fixture *fixture, const char *id, struct error *err)
{
	struct record record = make(id);
	int ret = store_put_sandbox(fixture->store, &record, err);

	json_decref(record.metadata);
	return ret;
}

/* --- opening --- */

static void a_new_store_is_empty(void **state)
{
	struct fixture *fixture = *state;
	char text[128];

	assert_int_equal(load(fixture), 0);
	assert_int_equal(store_team_of_key(fixture->store, KEY, text), -ENOENT);
	assert_int_equal(store_team_of_key(fixture->store, "", text), -ENOENT);
	assert_int_equal(store_team_name(fixture->store, "default", text), -ENOENT);
}

static void opening_refuses_what_it_does_not_know(void **state)
{
	struct fixture *fixture = *state;
	struct error err = { 0 };
	char path[96];
	FILE *file;

	execute(fixture->path, "PRAGMA user_version = 999");
	assert_null(store_open(fixture->path, &err));
	assert_non_null(strstr(err.message, "version 999"));

	(void)snprintf(path, sizeof(path), "%s/garbage", fixture->directory);
	file = fopen(path, "w");
	assert_non_null(file);
	for (int i = 0; i < 1000; i++)
		(void)fputs("this is no database\n", file);
	assert_int_equal(fclose(file), 0);
	err = (struct error){ 0 };
	assert_null(store_open(path, &err));
	assert_non_null(strstr(err.message, path));

	(void)snprintf(path, sizeof(path), "%s/missing/db", fixture->directory);
	err = (struct error){ 0 };
	assert_null(store_open(path, &err));
	assert_non_null(strstr(err.message, path));
	assert_null(store_open(path, NULL));
}

/* A migration that fails half-way leaves nothing of itself. */
static void opening_is_all_or_nothing(void **state)
{
	struct fixture *fixture = *state;
	struct error err = { 0 };

	store_close(fixture->store);
	fixture->store = NULL;
	assert_int_equal(unlink(fixture->path), 0);
	execute(fixture->path, "CREATE TABLE sandboxes (mine)");
	assert_null(store_open(fixture->path, &err));
	assert_int_equal(err.code, EIO);
	execute(fixture->path,
	        "CREATE TABLE teams (would_be_there INTEGER); DROP TABLE teams; DROP TABLE sandboxes");
	fixture->store = store_open(fixture->path, &err);
	assert_non_null(fixture->store);
	assert_int_equal(load(fixture), 0);
}

/* --- keys and teams --- */

static void a_replaced_key_is_valid_no_more(void **state)
{
	struct fixture *fixture = *state;
	char team[64] = "";
	char name[128] = "";

	assert_int_equal(store_ensure_key(fixture->store, KEY, NULL), 0);
	assert_int_equal(store_ensure_key(fixture->store, OTHER_KEY, NULL), 0);
	assert_int_equal(store_team_of_key(fixture->store, KEY, team), -ENOENT);
	assert_int_equal(store_team_of_key(fixture->store, OTHER_KEY, team), 0);
	assert_string_equal(team, "default");
	assert_int_equal(store_team_name(fixture->store, team, name), 0);
	assert_string_equal(name, "Default");
	reopen(fixture, fixture->path);
	assert_int_equal(store_ensure_key(fixture->store, KEY, NULL), 0);
	assert_int_equal(store_team_of_key(fixture->store, KEY, team), 0);
	assert_int_equal(store_team_of_key(fixture->store, OTHER_KEY, team), -ENOENT);
}

static void other_keys_stay(void **state)
{
	struct fixture *fixture = *state;
	char team[64] = "";

	assert_int_equal(store_ensure_key(fixture->store, KEY, NULL), 0);
	/* SHA-256 of "e2b_77". */
	execute(fixture->path,
	        "INSERT INTO teams (id, name) VALUES ('second', 'Second');"
	        "INSERT INTO api_keys (hash, team_id, name, created_at_ms) VALUES "
	        "('a2e328b6155943ae6cbea35f0179f97f24f3ecf469476670c58b5b6938160099', 'second', 'first', 1)");
	assert_int_equal(store_ensure_key(fixture->store, OTHER_KEY, NULL), 0);
	assert_int_equal(store_team_of_key(fixture->store, "e2b_77", team), 0);
	assert_string_equal(team, "second");
}

/* --- sandboxes --- */

static void fill(char *text, size_t size, char letter)
{
	memset(text, letter, size - 1);
	text[size - 1] = '\0';
}

static void all_of_a_sandbox_comes_back(void **state)
{
	struct fixture *fixture = *state;
	struct record record = { .started_at_ms = INT64_MIN,
		                 .end_at_ms = INT64_MAX,
		                 .vcpu_count = INT32_MAX,
		                 .memory_mib = INT32_MIN,
		                 .disk_mib = 7,
		                 .state = RECORD_RUNNING };
	const struct record *back;

	fill(record.id, sizeof(record.id), 'i');
	fill(record.team_id, sizeof(record.team_id), '\'');
	fill(record.template_id, sizeof(record.template_id), '"');
	fill(record.alias, sizeof(record.alias), '%');
	fill(record.access_token, sizeof(record.access_token), 't');
	fill(record.vsock_path, sizeof(record.vsock_path), '/');
	record.metadata = json_pack("{s:s,s:s}", "\u00e4 ; DROP TABLE sandboxes", "\U0001f3dd", "", "");
	record.volume_mounts = json_pack("[{s:s,s:s,s:s}]", "volume_id", "v", "name", "n", "path", "/a'b");
	assert_non_null(record.metadata);
	assert_non_null(record.volume_mounts);
	assert_int_equal(store_put_sandbox(fixture->store, &record, NULL), 0);
	reopen(fixture, fixture->path);
	assert_int_equal(load(fixture), 1);
	back = find(fixture, record.id);
	assert_non_null(back);
	assert_string_equal(back->team_id, record.team_id);
	assert_string_equal(back->template_id, record.template_id);
	assert_string_equal(back->alias, record.alias);
	assert_string_equal(back->access_token, record.access_token);
	assert_string_equal(back->vsock_path, record.vsock_path);
	assert_true(json_equal(back->metadata, record.metadata));
	assert_true(json_equal(back->volume_mounts, record.volume_mounts));
	assert_true(back->started_at_ms == INT64_MIN && back->end_at_ms == INT64_MAX);
	assert_int_equal(back->vcpu_count, INT32_MAX);
	assert_int_equal(back->memory_mib, INT32_MIN);
	assert_int_equal(back->disk_mib, 7);
	assert_int_equal(back->state, RECORD_RUNNING);
	json_decref(record.volume_mounts);
	json_decref(record.metadata);
}

/* Whose a sandbox is, and its token, never change. */
static void a_change_keeps_what_a_sandbox_is(void **state)
{
	struct fixture *fixture = *state;
	struct record record = make("i1");
	const struct record *back;

	(void)snprintf(record.access_token, sizeof(record.access_token), "token");
	assert_int_equal(store_put_sandbox(fixture->store, &record, NULL), 0);
	(void)snprintf(record.team_id, sizeof(record.team_id), "another");
	(void)snprintf(record.access_token, sizeof(record.access_token), "another");
	(void)snprintf(record.vsock_path, sizeof(record.vsock_path), "/run/v.sock");
	record.end_at_ms = 42;
	record.state = RECORD_RUNNING;
	assert_int_equal(store_put_sandbox(fixture->store, &record, NULL), 0);
	json_decref(record.metadata);
	assert_int_equal(load(fixture), 1);
	back = find(fixture, "i1");
	assert_string_equal(back->team_id, "default");
	assert_string_equal(back->access_token, "token");
	assert_string_equal(back->vsock_path, "/run/v.sock");
	assert_int_equal(back->end_at_ms, 42);
	assert_int_equal(back->state, RECORD_RUNNING);
}

static void deleting_forgets_that_one(void **state)
{
	struct fixture *fixture = *state;

	assert_int_equal(put(fixture, "i1", NULL), 0);
	assert_int_equal(put(fixture, "i2", NULL), 0);
	assert_int_equal(store_delete_sandbox(fixture->store, "i1", NULL), 0);
	assert_int_equal(store_delete_sandbox(fixture->store, "i1", NULL), 0);
	assert_int_equal(store_delete_sandbox(fixture->store, "' OR 1 = 1 --", NULL), 0);
	reopen(fixture, fixture->path);
	assert_int_equal(load(fixture), 1);
	assert_non_null(find(fixture, "i2"));
	assert_int_equal(put(fixture, "i1", NULL), 0);
	assert_int_equal(load(fixture), 2);
}

static void damaged_metadata_costs_no_sandbox(void **state)
{
	struct fixture *fixture = *state;

	assert_int_equal(put(fixture, "i1", NULL), 0);
	execute(fixture->path, "UPDATE sandboxes SET metadata = '{\"user\":'");
	assert_int_equal(load(fixture), 1);
	assert_int_equal(json_object_size(find(fixture, "i1")->metadata), 0);
	assert_true(json_is_object(find(fixture, "i1")->metadata));
	execute(fixture->path, "UPDATE sandboxes SET metadata = '[1]'");
	assert_int_equal(load(fixture), 1);
	assert_true(json_is_object(find(fixture, "i1")->metadata));
}

/* --- failures --- */

/* Put sandboxes until killed, telling of each one that the store has taken. */
static _Noreturn void write_until_killed(const char *path, int tell)
{
	struct fixture fixture = { .store = store_open(path, NULL) };

	for (int i = 0;; i++) {
		char id[32];

		(void)snprintf(id, sizeof(id), "i%d", i);
		if (!fixture.store || put(&fixture, id, NULL) < 0 || write(tell, &i, sizeof(i)) < 0)
			_exit(1);
	}
}

static void what_was_taken_survives_sigkill(void **state)
{
	struct fixture *fixture = *state;
	int ends[2];
	int last = -1;
	pid_t child;

	store_close(fixture->store);
	fixture->store = NULL;
	assert_int_equal(pipe(ends), 0);
	child = fork();
	assert_true(child >= 0);
	if (child == 0)
		write_until_killed(fixture->path, ends[1]);
	assert_int_equal(close(ends[1]), 0);
	while (last < 200)
		assert_int_equal(read(ends[0], &last, sizeof(last)), sizeof(last));
	assert_int_equal(kill(child, SIGKILL), 0);
	while (read(ends[0], &last, sizeof(last)) == sizeof(last))
		;
	assert_int_equal(waitpid(child, NULL, 0), child);
	assert_int_equal(close(ends[0]), 0);
	reopen(fixture, fixture->path);
	assert_true(load(fixture) >= (size_t)last + 1);
	for (int i = 0; i <= last; i++) {
		char id[32];

		(void)snprintf(id, sizeof(id), "i%d", i);
		assert_non_null(find(fixture, id));
	}
}

static void a_locked_database_is_said_to_be(void **state)
{
	struct fixture *fixture = *state;
	struct error err = { 0 };
	sqlite3 *db = NULL;
	char team[64] = "";

	assert_int_equal(store_ensure_key(fixture->store, KEY, NULL), 0);
	assert_int_equal(sqlite3_open(fixture->path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(put(fixture, "i1", &err), -EIO);
	assert_non_null(strstr(err.message, "locked"));
	assert_int_equal(store_delete_sandbox(fixture->store, "i1", NULL), -EIO);
	assert_int_equal(store_ensure_key(fixture->store, OTHER_KEY, NULL), -EIO);
	assert_int_equal(store_team_of_key(fixture->store, KEY, team), 0);
	assert_int_equal(sqlite3_exec(db, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_close(db), SQLITE_OK);
	assert_int_equal(put(fixture, "i1", &err), 0);
	assert_int_equal(load(fixture), 1);
}

/* The disk is full, or nearly so: each size at which a write may fail. */
static void a_full_disk_loses_nothing(void **state)
{
	struct fixture *fixture = *state;
	struct rlimit before;
	struct stat wal;
	char path[80];
	int failures = 0;

	(void)signal(SIGXFSZ, SIG_IGN);
	(void)snprintf(path, sizeof(path), "%s-wal", fixture->path);
	assert_int_equal(store_ensure_key(fixture->store, KEY, NULL), 0);
	assert_int_equal(put(fixture, "i1", NULL), 0);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
	for (rlim_t room = 0; room < 20000; room += 1000) {
		struct error err = { 0 };
		struct rlimit limit = before;
		int stored;
		int rotated;

		assert_int_equal(stat(path, &wal), 0);
		limit.rlim_cur = (rlim_t)wal.st_size + room;
		assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
		stored = put(fixture, "i2", &err);
		rotated = store_ensure_key(fixture->store, OTHER_KEY, NULL);
		assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
		assert_true(stored == 0 || (stored == -EIO && err.message[0]));
		failures += stored < 0;
		reopen(fixture, fixture->path);
		assert_int_equal(load(fixture), stored == 0 ? 2 : 1);
		assert_non_null(find(fixture, "i1"));
		assert_int_equal(store_team_of_key(fixture->store, KEY, (char[64]){ 0 }),
		                 rotated == 0 ? -ENOENT : 0);
		assert_int_equal(store_delete_sandbox(fixture->store, "i2", NULL), 0);
		assert_int_equal(store_ensure_key(fixture->store, KEY, NULL), 0);
	}
	assert_true(failures > 0 && failures < 20);
}

/* --- volumes and networks --- */

static void count_volume(void *context, const struct volume_record *volume)
{
	(void)volume;
	++*(size_t *)context;
}

static void volumes_are_kept(void **state)
{
	struct fixture *fixture = *state;
	struct volume_record volume = {
		.id = "v-1", .team_id = "team", .name = "data", .token = "vol_1", .created_at_ms = 7
	};
	struct volume_record found = { 0 };
	struct error err = { 0 };
	size_t count = 0;

	assert_int_equal(store_put_volume(fixture->store, &volume, NULL), 0);
	(void)snprintf(volume.id, sizeof(volume.id), "v-2");
	assert_int_equal(store_put_volume(fixture->store, &volume, &err), -EEXIST);
	assert_non_null(strstr(err.message, "data"));
	(void)snprintf(volume.team_id, sizeof(volume.team_id), "other");
	assert_int_equal(store_put_volume(fixture->store, &volume, NULL), 0);
	reopen(fixture, fixture->path);
	assert_int_equal(store_find_volume(fixture->store, "v-1", &found, NULL), 0);
	assert_string_equal(found.token, "vol_1");
	assert_string_equal(found.team_id, "team");
	assert_int_equal(found.created_at_ms, 7);
	assert_int_equal(store_find_volume(fixture->store, "' OR 1 = 1 --", &found, NULL), -ENOENT);
	assert_int_equal(store_find_volume_named(fixture->store, "other", "data", &found, NULL), 0);
	assert_string_equal(found.team_id, "other");
	assert_int_equal(store_find_volume_named(fixture->store, "third", "data", &found, NULL), -ENOENT);
	assert_int_equal(store_list_volumes(fixture->store, "team", count_volume, &count, NULL), 0);
	assert_int_equal(count, 1);
	assert_int_equal(store_delete_volume(fixture->store, "v-1", NULL), 0);
	assert_int_equal(store_delete_volume(fixture->store, "v-1", NULL), -ENOENT);
	execute(fixture->path, "DROP TABLE volumes; "
	                       "ALTER TABLE sandboxes DROP COLUMN ingress");
	assert_int_equal(store_find_volume(fixture->store, "v-2", &found, &err), -EIO);
	assert_int_equal(store_put_volume(fixture->store, &volume, &err), -EIO);
	assert_int_equal(store_delete_volume(fixture->store, "v-2", &err), -EIO);
	assert_int_equal(store_list_volumes(fixture->store, "team", count_volume, &count, &err), -EIO);
}

static const char one_sandbox[] =
        "INSERT INTO sandboxes (id, team_id, template_id, alias, access_token, vsock_path,"
        " metadata, started_at_ms, end_at_ms, vcpu_count, memory_mib, disk_mib, running)"
        " VALUES ('s', 't', '', '', '', '', '{}', 1, 2, 3, 4, 5, 1)";

static void networks_go_with_sandboxes(void **state)
{
	struct fixture *fixture = *state;
	char *text = NULL;

	execute(fixture->path, one_sandbox);
	assert_int_equal(store_get_network(fixture->store, "s", &text, NULL), -ENOENT);
	assert_int_equal(store_put_network(fixture->store, "s", "{}", NULL), 0);
	assert_int_equal(store_put_network(fixture->store, "s", "{\"a\":1}", NULL), 0);
	assert_int_equal(store_get_network(fixture->store, "s", &text, NULL), 0);
	assert_string_equal(text, "{\"a\":1}");
	free(text);
	assert_int_equal(store_delete_sandbox(fixture->store, "s", NULL), 0);
	assert_int_equal(store_get_network(fixture->store, "s", &text, NULL), -ENOENT);
	execute(fixture->path, "DROP TABLE networks");
	assert_int_equal(store_get_network(fixture->store, "s", &text, NULL), -EIO);
	assert_int_equal(store_put_network(fixture->store, "s", "{}", NULL), -EIO);
}

/* A database as the version before volumes left it. */
static void volumes_come_to_an_old_database(void **state)
{
	struct fixture *fixture = *state;
	struct volume_record volume = { .id = "v", .team_id = "t", .name = "n", .token = "k" };

	execute(fixture->path, one_sandbox);
	store_close(fixture->store);
	fixture->store = NULL;
	execute(fixture->path, "DROP TRIGGER networks_end; DROP TABLE networks; DROP TABLE volumes; "
	                       "ALTER TABLE sandboxes DROP COLUMN mounts; ALTER TABLE sandboxes DROP COLUMN "
	                       "ingress; ALTER TABLE snapshots DROP COLUMN settled");
	execute(fixture->path, OLD_VERSION);
	reopen(fixture, fixture->path);
	assert_int_equal(store_put_volume(fixture->store, &volume, NULL), 0);
	assert_int_equal(store_put_network(fixture->store, "s", "{}", NULL), 0);
	assert_int_equal(store_delete_sandbox(fixture->store, "s", NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_new_store_is_empty, setup, teardown),
		cmocka_unit_test_setup_teardown(opening_refuses_what_it_does_not_know, setup, teardown),
		cmocka_unit_test_setup_teardown(opening_is_all_or_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(a_replaced_key_is_valid_no_more, setup, teardown),
		cmocka_unit_test_setup_teardown(other_keys_stay, setup, teardown),
		cmocka_unit_test_setup_teardown(all_of_a_sandbox_comes_back, setup, teardown),
		cmocka_unit_test_setup_teardown(a_change_keeps_what_a_sandbox_is, setup, teardown),
		cmocka_unit_test_setup_teardown(deleting_forgets_that_one, setup, teardown),
		cmocka_unit_test_setup_teardown(damaged_metadata_costs_no_sandbox, setup, teardown),
		cmocka_unit_test_setup_teardown(what_was_taken_survives_sigkill, setup, teardown),
		cmocka_unit_test_setup_teardown(a_locked_database_is_said_to_be, setup, teardown),
		cmocka_unit_test_setup_teardown(a_full_disk_loses_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(volumes_are_kept, setup, teardown),
		cmocka_unit_test_setup_teardown(networks_go_with_sandboxes, setup, teardown),
		cmocka_unit_test_setup_teardown(volumes_come_to_an_old_database, setup, teardown),
	};

	return cmocka_run_group_tests_name("api_store", tests, NULL, NULL);
}
