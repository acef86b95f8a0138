/* Unit tests of the store's keys, teams, secrets, templates and samples, and of the callers' limits. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "api/control.h"
#include "api/store/keys.h"
#include "api/store/secrets.h"
#include "api/store/settings.h"
#include "api/store/templates.h"
#include "store_fixture.h"

static int setup_with_key(void **state)
{
	struct fixture *fixture;

	setup(state);
	fixture = *state;
	assert_int_equal(store_ensure_key(fixture->store, "e2b_0123456789abcdef0123", NULL), 0);
	return 0;
}

static struct team make_team(struct store *store, const char *name)
{
	struct team team = { .limits = { 3, 4, 5, 6 } };
	struct error err = { 0 };

	(void)snprintf(team.name, sizeof(team.name), "%s", name);
	if (store_create_team(store, &team, &err) < 0)
		fail_msg("%s", err.message);
	return team;
}

static void take_key(void *context, const struct key *key)
{
	struct fixture *fixture = context;

	fixture->count++;
	(void)snprintf(fixture->last, sizeof(fixture->last), "%s", key->name);
}

/* --- keys --- */

static void a_key_is_its_teams(void **state)
{
	struct fixture *fixture = *state;
	struct store *store = fixture->store;
	struct team team = make_team(store, "one");
	struct team other = make_team(store, "two");
	char text[STORE_KEY_SIZE];
	struct key made;
	struct key found = { 0 };

	assert_int_equal(store_create_key(store, KEY_API, team.id, "", "first", text, &made, NULL), 0);
	assert_int_equal(strlen(text), 44);
	assert_int_equal(strncmp(text + 4, made.start, 2), 0);
	assert_string_equal(text + 40, made.end);
	assert_int_equal(store_find_key(store, KEY_API, text, &found), 0);
	assert_string_equal(found.team_id, team.id);
	assert_string_equal(found.id, made.id);
	assert_int_equal(found.last_used_at_ms, 0);
	assert_int_equal(store_note_use(store, KEY_API, made.id, 77, NULL), 0);
	assert_int_equal(store_find_key(store, KEY_API, text, &found), 0);
	assert_int_equal(found.last_used_at_ms, 77);
	assert_int_equal(store_rename_key(store, other.id, made.id, "stolen", NULL), -ENOENT);
	assert_int_equal(store_delete_key(store, KEY_API, other.id, made.id, NULL), -ENOENT);
	assert_int_equal(store_rename_key(store, team.id, made.id, "it's \"mine\"", NULL), 0);
	assert_int_equal(store_list_keys(store, team.id, take_key, fixture, NULL), 0);
	assert_int_equal(fixture->count, 1);
	assert_string_equal(fixture->last, "it's \"mine\"");
	assert_int_equal(store_delete_key(store, KEY_API, team.id, made.id, NULL), 0);
	assert_int_equal(store_find_key(store, KEY_API, text, &found), -ENOENT);
	text[10] = text[10] == '0' ? '1' : '0';
	assert_int_equal(store_find_key(store, KEY_API, text, &found), -ENOENT);
	assert_int_equal(store_find_key(store, KEY_API, "", &found), -ENOENT);
}

static void the_key_of_the_file_stays(void **state)
{
	struct fixture *fixture = *state;
	struct key key = { 0 };

	assert_int_equal(store_find_key(fixture->store, KEY_API, "e2b_0123456789abcdef0123", &key), 0);
	assert_true(key.service);
	assert_string_equal(key.start, "01");
	assert_string_equal(key.end, "0123");
	assert_int_equal(key.length, 20);
	assert_int_equal(store_delete_key(fixture->store, KEY_API, STORE_FIRST_TEAM, key.id, NULL), -EPERM);
	/* Another one takes its place, whatever it was called. */
	assert_int_equal(store_rename_key(fixture->store, STORE_FIRST_TEAM, key.id, "renamed", NULL), 0);
	assert_int_equal(store_ensure_key(fixture->store, "e2b_ff", NULL), 0);
	assert_int_equal(store_find_key(fixture->store, KEY_API, "e2b_0123456789abcdef0123", &key), -ENOENT);
	/* Of a short one nothing is shown. */
	assert_int_equal(store_find_key(fixture->store, KEY_API, "e2b_ff", &key), 0);
	assert_string_equal(key.start, "");
	assert_string_equal(key.end, "");
}

static void take_team(void *context, const struct team *team)
{
	struct fixture *fixture = context;

	fixture->count++;
	(void)snprintf(fixture->last, sizeof(fixture->last), "%s", team->name);
}

static void a_token_is_its_users(void **state)
{
	struct fixture *fixture = *state;
	struct store *store = fixture->store;
	struct team team = make_team(store, "one");
	struct team other = make_team(store, "two");
	char user[40];
	char stranger[40];
	char text[STORE_KEY_SIZE];
	struct key made;
	struct key found = { 0 };

	assert_int_equal(store_team_user(store, team.id, user, NULL), 0);
	assert_int_equal(store_team_user(store, other.id, stranger, NULL), 0);
	assert_string_not_equal(user, stranger);
	assert_int_equal(store_team_user(store, "nobody", user, NULL), -ENOENT);
	assert_int_equal(store_create_key(store, KEY_TOKEN, user, user, "laptop", text, &made, NULL), 0);
	assert_int_equal(strncmp(text, "sk_e2b_", 7), 0);
	assert_int_equal(store_find_key(store, KEY_TOKEN, text, &found), 0);
	assert_string_equal(found.user_id, user);
	assert_int_equal(store_find_key(store, KEY_API, text, &found), -ENOENT);
	assert_int_equal(store_is_member(store, user, team.id, NULL), 0);
	assert_int_equal(store_is_member(store, user, other.id, NULL), -ENOENT);
	assert_int_equal(store_user_teams(store, user, take_team, fixture, NULL), 0);
	assert_int_equal(fixture->count, 1);
	assert_string_equal(fixture->last, "one");
	assert_int_equal(store_delete_key(store, KEY_TOKEN, stranger, made.id, NULL), -ENOENT);
	assert_int_equal(store_delete_key(store, KEY_TOKEN, user, made.id, NULL), 0);
	assert_int_equal(store_find_key(store, KEY_TOKEN, text, &found), -ENOENT);
}

static void keys_are_not_without_number(void **state)
{
	struct fixture *fixture = *state;
	struct team team = make_team(fixture->store, "many");
	char text[STORE_KEY_SIZE];
	struct key key;

	execute(fixture->path,
	        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 999) INSERT INTO "
	        "api_keys (hash, team_id, name, created_at_ms, id) SELECT i, (SELECT id FROM teams WHERE "
	        "name ="
	        " 'many'), 'x', 1, i FROM n");
	assert_int_equal(store_create_key(fixture->store, KEY_API, team.id, "", "last", text, &key, NULL), 0);
	assert_int_equal(store_create_key(fixture->store, KEY_API, team.id, "", "over", text, &key, NULL),
	                 -EDQUOT);
	assert_int_equal(
	        store_create_key(fixture->store, KEY_API, STORE_FIRST_TEAM, "", "x", text, &key, NULL), 0);
	assert_int_equal(store_delete_key(fixture->store, KEY_API, team.id, "7", NULL), 0);
	assert_int_equal(store_create_key(fixture->store, KEY_API, team.id, "", "again", text, &key, NULL),
	                 0);
}

static void a_team_keeps_its_limits(void **state)
{
	struct fixture *fixture = *state;
	struct team team = make_team(fixture->store, "one");
	struct team found = { 0 };

	team.limits.vcpus = 0;
	assert_int_equal(store_update_team(fixture->store, &team, NULL), 0);
	reopen(fixture, fixture->path);
	assert_int_equal(store_find_team(fixture->store, team.id, &found, NULL), 0);
	assert_memory_equal(&found.limits, &team.limits, sizeof(found.limits));
	(void)snprintf(team.id, sizeof(team.id), "nobody");
	assert_int_equal(store_update_team(fixture->store, &team, NULL), -ENOENT);
	assert_int_equal(store_find_team(fixture->store, "nobody", &found, NULL), -ENOENT);
	assert_int_equal(store_list_teams(fixture->store, take_team, fixture, NULL), 0);
	assert_int_equal(fixture->count, 2);
}

/* A database of version 2 with the service's key and another team's. */
static void an_older_store_is_taken_over(void **state)
{
	struct fixture *fixture = *state;
	struct key key = { 0 };
	char path[80];

	(void)snprintf(path, sizeof(path), "%s/old", fixture->directory);
	execute(path,
	        "CREATE TABLE teams (id TEXT PRIMARY KEY, name TEXT NOT NULL) STRICT;"
	        "CREATE TABLE api_keys (hash TEXT PRIMARY KEY, team_id TEXT NOT NULL REFERENCES teams(id), "
	        "name "
	        "TEXT NOT NULL, created_at_ms INTEGER NOT NULL) STRICT;"
	        "CREATE TABLE sandboxes (id TEXT PRIMARY KEY, team_id TEXT NOT NULL, template_id TEXT NOT "
	        "NULL,"
	        " alias TEXT NOT NULL, access_token TEXT NOT NULL, vsock_path TEXT NOT NULL, metadata TEXT "
	        "NOT "
	        "NULL, started_at_ms INTEGER NOT NULL, end_at_ms INTEGER NOT NULL, vcpu_count INTEGER NOT "
	        "NULL,"
	        " memory_mib INTEGER NOT NULL, disk_mib INTEGER NOT NULL, running INTEGER NOT NULL, paused "
	        "INTEGER NOT NULL DEFAULT 0, auto_pause INTEGER NOT NULL DEFAULT 0, auto_resume INTEGER NOT "
	        "NULL"
	        " DEFAULT 0) STRICT;"
	        "CREATE TABLE snapshots (build_id TEXT PRIMARY KEY, id TEXT NOT NULL, team_id TEXT NOT NULL, "
	        "name TEXT NOT NULL, sandbox_id TEXT NOT NULL, created_at_ms INTEGER NOT NULL) STRICT;"
	        "INSERT INTO teams VALUES ('default', 'Default'), ('second', 'Second');"
	        /* SHA-256 of "e2b_77". */
	        "INSERT INTO api_keys VALUES "
	        "('a2e328b6155943ae6cbea35f0179f97f24f3ecf469476670c58b5b6938160099', 'second', 'first', 1),"
	        "('00', 'default', 'first', 1), ('01', 'default', 'mine', 1);"
	        "PRAGMA user_version = 2");
	reopen(fixture, path);
	assert_int_equal(store_ensure_key(fixture->store, "e2b_78", NULL), 0);
	assert_int_equal(store_find_key(fixture->store, KEY_API, "e2b_77", &key), 0);
	assert_string_equal(key.team_id, "second");
	assert_int_equal(strlen(key.id), 36);
	assert_false(key.service);
	/* The old one of the file is gone, the team's other one is not. */
	assert_int_equal(store_list_keys(fixture->store, STORE_FIRST_TEAM, take_key, fixture, NULL), 0);
	assert_int_equal(fixture->count, 2);
}

/* --- secrets --- */

static const unsigned char secrets_key[SECRET_KEY_SIZE] = "0123456789abcdef0123456789abcde";

static struct secret make_secret(const char *team, const char *name)
{
	struct secret secret = { .metadata = json_pack("{s:s}", "k", "v") };

	(void)snprintf(secret.team_id, sizeof(secret.team_id), "%s", team);
	(void)snprintf(secret.name, sizeof(secret.name), "%s", name);
	return secret;
}

static void a_secret_is_read_with_its_key_only(void **state)
{
	struct fixture *fixture = *state;
	struct secret secret = make_secret(STORE_FIRST_TEAM, "name");
	unsigned char wrong[SECRET_KEY_SIZE];
	cleanup_buffer struct buffer value = BUFFER_INIT;
	struct error err = { 0 };

	memcpy(wrong, secrets_key, sizeof(wrong));
	wrong[31] ^= 1;
	assert_int_equal(store_create_secret(fixture->store, secrets_key, &secret, "hidden", NULL), 0);
	assert_int_equal(store_secret_value(fixture->store, secrets_key, &secret, &value, NULL), 0);
	assert_string_equal(value.data, "hidden");
	buffer_clear(&value);
	assert_int_equal(store_secret_value(fixture->store, wrong, &secret, &value, &err), -EBADMSG);
	assert_int_equal(value.size, 0);
	assert_int_equal(store_update_secret(fixture->store, secrets_key, &secret, "", NULL), 0);
	assert_int_equal(secret.version, 2);
	assert_int_equal(store_secret_value(fixture->store, secrets_key, &secret, &value, NULL), 0);
	assert_int_equal(value.size, 0);
	secret_fini(&secret);
}

static void a_stored_secret_cannot_be_moved(void **state)
{
	struct fixture *fixture = *state;
	struct team team = make_team(fixture->store, "two");
	struct secret one = make_secret(STORE_FIRST_TEAM, "one");
	struct secret two = make_secret(team.id, "two");
	cleanup_buffer struct buffer value = BUFFER_INIT;
	static const char *const changes[] = {
		/* The other secret's value in its place; a part of it; nothing. */
		("UPDATE secret_versions SET value = (SELECT value FROM secret_versions v JOIN secrets s ON "
		 "s.id"
		 " = v.secret_id WHERE s.name = 'two') WHERE secret_id ="
		 " (SELECT id FROM secrets WHERE name = 'one')"),
		"UPDATE secret_versions SET value = cast(substr(value, 1, 30) || x'00' AS BLOB)",
		"UPDATE secret_versions SET value = substr(value, 1, length(value) - 1)",
		"UPDATE secret_versions SET value = substr(value, 1, 27)",
		"UPDATE secret_versions SET value = x''",
	};

	assert_int_equal(store_create_secret(fixture->store, secrets_key, &one, "first", NULL), 0);
	assert_int_equal(store_create_secret(fixture->store, secrets_key, &two, "other", NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
		execute(fixture->path, changes[i]);
		assert_int_equal(store_secret_value(fixture->store, secrets_key, &one, &value, NULL),
		                 -EBADMSG);
		assert_int_equal(value.size, 0);
	}
	secret_fini(&one);
	secret_fini(&two);
}

static void secrets_are_their_teams(void **state)
{
	struct fixture *fixture = *state;
	struct team team = make_team(fixture->store, "two");
	struct secret one = make_secret(STORE_FIRST_TEAM, "name");
	struct secret two = make_secret(team.id, "name");
	struct secret again = make_secret(team.id, "name");
	struct secret found = { 0 };

	assert_int_equal(store_create_secret(fixture->store, secrets_key, &one, "1", NULL), 0);
	assert_int_equal(store_create_secret(fixture->store, secrets_key, &two, "2", NULL), 0);
	assert_int_equal(store_create_secret(fixture->store, secrets_key, &again, "3", NULL), -EEXIST);
	assert_int_equal(store_find_secret(fixture->store, team.id, "name", &found, NULL), 0);
	assert_string_equal(found.id, two.id);
	secret_fini(&found);
	assert_int_equal(store_find_secret(fixture->store, team.id, one.id, &found, NULL), -ENOENT);
	assert_int_equal(store_delete_secret(fixture->store, &two, NULL), 0);
	assert_int_equal(store_find_secret(fixture->store, team.id, "name", &found, NULL), -ENOENT);
	assert_int_equal(store_find_secret(fixture->store, STORE_FIRST_TEAM, "name", &found, NULL), 0);
	secret_fini(&found);
	secret_fini(&one);
	secret_fini(&two);
	secret_fini(&again);
}

/* --- templates, settings, samples --- */

static void templates_have_owners(void **state)
{
	struct fixture *fixture = *state;
	struct team team = make_team(fixture->store, "two");
	struct template_row row = { 0 };

	assert_int_equal(store_get_template(fixture->store, "base", &row, NULL), 0);
	assert_string_equal(row.team_id, STORE_FIRST_TEAM);
	assert_true(row.public);
	assert_int_equal(store_note_spawn(fixture->store, "base", NULL), 0);
	assert_int_equal(store_note_spawn(fixture->store, "base", NULL), 0);
	assert_int_equal(store_put_template(fixture->store, "base", team.id, false, NULL), 0);
	assert_int_equal(store_get_template(fixture->store, "base", &row, NULL), 0);
	assert_string_equal(row.team_id, team.id);
	assert_false(row.public);
	assert_int_equal(row.spawn_count, 2);
	assert_true(row.last_spawned_at_ms > 0);
	assert_int_equal(store_forget_template(fixture->store, "base", NULL), 0);
	assert_int_equal(store_get_template(fixture->store, "base", &row, NULL), 0);
	assert_int_equal(row.spawn_count, 0);
}

static void take_sample(void *context, const struct sample *sample)
{
	struct fixture *fixture = context;

	fixture->count += (size_t)sample->concurrent;
}

static void samples_and_settings(void **state)
{
	struct fixture *fixture = *state;
	char value[16] = "as it was";

	assert_int_equal(store_get_setting(fixture->store, "x", value, sizeof(value), NULL), 0);
	assert_string_equal(value, "as it was");
	assert_int_equal(store_put_setting(fixture->store, "x", "1", NULL), 0);
	assert_int_equal(store_put_setting(fixture->store, "x", "2", NULL), 0);
	assert_int_equal(store_get_setting(fixture->store, "x", value, sizeof(value), NULL), 0);
	assert_string_equal(value, "2");
	for (int64_t at = 1; at <= 1000; at *= 10) {
		const struct sample sample = { at, at, 1, 30 };

		assert_int_equal(store_put_sample(fixture->store, "t", &sample, NULL), 0);
		assert_int_equal(store_put_sample(fixture->store, "u", &sample, NULL), 0);
	}
	assert_int_equal(store_list_samples(fixture->store, "t", 10, 100, take_sample, fixture, NULL), 0);
	assert_int_equal(fixture->count, 110);
	assert_int_equal(store_drop_samples(fixture->store, 100, NULL), 0);
	fixture->count = 0;
	assert_int_equal(store_list_samples(fixture->store, "t", 0, 5000, take_sample, fixture, NULL), 0);
	assert_int_equal(fixture->count, 1100);
}

/* --- how often --- */

static void callers_share_nothing(void **state)
{
	struct control control = { .rate = 1, .burst = 3 };
	struct api api = { .control = &control };
	struct control_allowance spent;
	struct control_allowance allowance;
	unsigned admitted;
	bool others;
	bool again;
	int64_t begin_us;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(control.callers); i++)
		list_init(&control.callers[i]);
	/* Until it is done in less time than fills the bucket by one. */
	do {
		control_forget_callers(&api);
		begin_us = time_monotonic_us();
		admitted = 0;
		for (unsigned i = 0; i < 10; i++)
			admitted += control_admit(&api, "aa-1", &spent);
		/* One of the same bucket, and of another. */
		others = control_admit(&api, "", &allowance) && control_admit(&api, "aa-2", &allowance);
		again = control_admit(&api, "aa-1", &(struct control_allowance){ 0 });
	} while (time_monotonic_us() - begin_us > 900000);
	assert_int_equal(admitted, 3);
	assert_int_equal(spent.limit, 3);
	assert_int_equal(spent.remaining, 0);
	assert_int_equal(spent.retry_s, 1);
	assert_in_range(spent.reset_s, 2, 3);
	assert_true(others);
	assert_int_equal(allowance.remaining, 2);
	assert_false(again);
	control.rate = 0;
	assert_true(control_admit(&api, "aa-1", &allowance));
	assert_int_equal(allowance.limit, 0);
	/* With a rate that fills all at once nobody is remembered but who asks. */
	control.rate = 1000000000;
	(void)usleep(1000);
	assert_true(control_admit(&api, "aa-3", &allowance));
	assert_ptr_equal(control.callers[0xaa].next->next, &control.callers[0xaa]);
	control_forget_callers(&api);
	assert_true(list_empty(&control.callers[0xaa]));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_key_is_its_teams, setup_with_key, teardown),
		cmocka_unit_test_setup_teardown(the_key_of_the_file_stays, setup_with_key, teardown),
		cmocka_unit_test_setup_teardown(a_token_is_its_users, setup_with_key, teardown),
		cmocka_unit_test_setup_teardown(keys_are_not_without_number, setup_with_key, teardown),
		cmocka_unit_test_setup_teardown(a_team_keeps_its_limits, setup_with_key, teardown),
		cmocka_unit_test_setup_teardown(an_older_store_is_taken_over, setup_with_key, teardown),
		cmocka_unit_test_setup_teardown(a_secret_is_read_with_its_key_only, setup_with_key, teardown),
		cmocka_unit_test_setup_teardown(a_stored_secret_cannot_be_moved, setup_with_key, teardown),
		cmocka_unit_test_setup_teardown(secrets_are_their_teams, setup_with_key, teardown),
		cmocka_unit_test_setup_teardown(templates_have_owners, setup_with_key, teardown),
		cmocka_unit_test_setup_teardown(samples_and_settings, setup_with_key, teardown),
		cmocka_unit_test(callers_share_nothing),
	};

	return cmocka_run_group_tests_name("api_keys", tests, NULL, NULL);
}
