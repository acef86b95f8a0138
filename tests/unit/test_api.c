/* Unit tests of the control plane's pieces: the store and what is kept in it, and how the edge reads hosts.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "api/edge/edge.h"
#include "api/store/store.h"

struct fixture {
	char directory[32];
	char path[64];
	struct store *store;
};

static int setup(void **state)
{
	struct fixture *fixture = calloc(1, sizeof(*fixture));

	(void)snprintf(fixture->directory, sizeof(fixture->directory), "/tmp/atoll-api-XXXXXX");
	assert_non_null(mkdtemp(fixture->directory));
	(void)snprintf(fixture->path, sizeof(fixture->path), "%s/db", fixture->directory);
	fixture->store = store_open(fixture->path, NULL);
	assert_non_null(fixture->store);
	*state = fixture;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *fixture = *state;

	store_close(fixture->store);
	assert_int_equal(file_remove_tree(fixture->directory, NULL), 0);
	free(fixture);
	return 0;
}

static void keys_belong_to_a_team_and_are_not_kept(void **state)
{
	struct fixture *fixture = *state;
	cleanup_buffer struct buffer file = BUFFER_INIT;
	char team[64] = "";
	char name[128];

	assert_int_equal(store_team_of_key(fixture->store, "e2b_00ff", team), -ENOENT);
	assert_int_equal(store_ensure_key(fixture->store, "e2b_00ff", NULL), 0);
	assert_int_equal(store_ensure_key(fixture->store, "e2b_00ff", NULL), 0);
	assert_int_equal(store_team_of_key(fixture->store, "e2b_00ff", team), 0);
	assert_string_equal(team, "default");
	assert_int_equal(store_team_name(fixture->store, team, name), 0);
	assert_int_equal(store_team_of_key(fixture->store, "e2b_00fe", team), -ENOENT);
	assert_int_equal(store_team_of_key(fixture->store, "' OR 1 = 1 --", team), -ENOENT);
	store_close(fixture->store);
	assert_int_equal(file_read(fixture->path, &file, NULL), 0);
	assert_null(memmem(file.data, file.size, "e2b_00ff", 8));
	fixture->store = store_open(fixture->path, NULL);
	assert_int_equal(store_team_of_key(fixture->store, "e2b_00ff", team), 0);
}

static struct record *make_record(const char *id)
{
	struct record *record = calloc(1, sizeof(*record));

	(void)snprintf(record->id, sizeof(record->id), "%s", id);
	(void)snprintf(record->team_id, sizeof(record->team_id), "default");
	record->metadata = json_pack("{s:s}", "user", "a'b\"c");
	record->end_at_ms = 5000000000000;
	record->memory_mib = 512;
	return record;
}

static void sandboxes_survive_a_restart(void **state)
{
	struct fixture *fixture = *state;
	struct registry *registry = registry_new(fixture->store, NULL);
	struct record *record = make_record("i1");

	assert_int_equal(registry_add(registry, record, NULL), 0);
	assert_int_equal(registry_add(registry, make_record("i2"), NULL), 0);
	record->running = true;
	record->end_at_ms++;
	assert_int_equal(registry_update(registry, record, NULL), 0);
	registry_remove(registry, registry_find(registry, "i2"));
	assert_null(registry_find(registry, "i2"));
	registry_free(registry);
	store_close(fixture->store);

	fixture->store = store_open(fixture->path, NULL);
	registry = registry_new(fixture->store, NULL);
	record = registry_find(registry, "i1");
	assert_non_null(record);
	assert_true(record->running);
	assert_int_equal(record->end_at_ms, 5000000000001);
	assert_int_equal(record->memory_mib, 512);
	assert_string_equal(json_string_value(json_object_get(record->metadata, "user")), "a'b\"c");
	assert_null(registry_find(registry, "i2"));
	registry_free(registry);
}

static void hosts_name_port_and_sandbox(void **state)
{
	static const char *const bad[] = { "example.com", "3000-.x",    "-i1.x",     "0-i1.x",
		                           "70000-i1.x",  "3000-i1",    "3000-I1.x", "3000.i1",
		                           "127.0.0.1",   "3000 -i1.x", "" };
	unsigned port;
	char id[64];

	(void)state;
	assert_true(edge_parse_host("3000-i1abc.atoll.example:8080", &port, id));
	assert_int_equal(port, 3000);
	assert_string_equal(id, "i1abc");
	assert_true(edge_parse_host("49983-i1abc-client.x", &port, id));
	assert_string_equal(id, "i1abc");
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_false(edge_parse_host(bad[i], &port, id));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(keys_belong_to_a_team_and_are_not_kept, setup, teardown),
		cmocka_unit_test_setup_teardown(sandboxes_survive_a_restart, setup, teardown),
		cmocka_unit_test(hosts_name_port_and_sandbox),
	};

	return cmocka_run_group_tests_name("api", tests, NULL, NULL);
}
