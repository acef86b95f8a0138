/* Unit tests of the control plane's pieces: the store and what is kept in it, the states of a sandbox, and
 * how the edge reads hosts. */
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
#include "store_fixture.h"

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
	record_load_state(record, true, false);
	record->end_at_ms++;
	assert_int_equal(registry_update(registry, record, NULL), 0);
	registry_remove(registry, registry_find(registry, "i2"));
	assert_null(registry_find(registry, "i2"));
	registry_free(registry);
	reopen(fixture, fixture->path);
	registry = registry_new(fixture->store, NULL);
	record = registry_find(registry, "i1");
	assert_non_null(record);
	assert_int_equal(record->state, RECORD_RUNNING);
	assert_int_equal(record->end_at_ms, 5000000000001);
	assert_int_equal(record->memory_mib, 512);
	assert_string_equal(json_string_value(json_object_get(record->metadata, "user")), "a'b\"c");
	assert_null(registry_find(registry, "i2"));
	registry_free(registry);
}

/* --- the state of a sandbox --- */

enum event {
	NOTHING,
	TOLD_RUNNING,
	TOLD_PAUSED,
	PAUSE_ASKED,
	PAUSE_DONE,
	PAUSE_REFUSED,
	RESUME_ASKED,
	RESUME_DONE,
	RESUME_REFUSED,
	EVENTS,
};

/* False: nothing is under way that this could be the answer to, or the state refuses the question. */
static bool happen(struct record *record, enum event event)
{
	cleanup_json json_t *told = json_pack("{s:s,s:I,s:I,s:s}", "vsock_path", "/v", "started_at_ms",
	                                      (json_int_t)1, "end_at_ms", (json_int_t)record->end_at_ms,
	                                      "state", event == TOLD_PAUSED ? "paused" : "running");

	if (event == NOTHING)
		return true;
	if (event == TOLD_RUNNING || event == TOLD_PAUSED)
		return record_take(record, told);
	if (event == PAUSE_ASKED)
		return record_begin_pause(record);
	if (event == RESUME_ASKED)
		return record_begin_resume(record);
	if (event == PAUSE_DONE || event == PAUSE_REFUSED)
		record_end_pause(record, event == PAUSE_DONE);
	else if (record->resumes == 0)
		return false;
	else
		record_end_resume(record, event == RESUME_DONE);
	return true;
}

static void a_sandbox_moves_from_state_to_state(void **state)
{
	static const struct {
		enum event events[5];
		enum record_state end;
	} all[] = {
		{ { TOLD_RUNNING }, RECORD_RUNNING },
		{ { TOLD_PAUSED }, RECORD_PAUSED },
		{ { TOLD_RUNNING, PAUSE_ASKED, TOLD_RUNNING }, RECORD_PAUSING },
		{ { TOLD_RUNNING, PAUSE_ASKED, PAUSE_DONE }, RECORD_PAUSED },
		{ { TOLD_RUNNING, PAUSE_ASKED, PAUSE_REFUSED }, RECORD_RUNNING },
		{ { TOLD_RUNNING, PAUSE_ASKED, RESUME_ASKED, PAUSE_DONE }, RECORD_RESUMING },
		{ { TOLD_RUNNING, PAUSE_ASKED, RESUME_ASKED, PAUSE_DONE, RESUME_DONE }, RECORD_RUNNING },
		{ { TOLD_RUNNING, PAUSE_ASKED, RESUME_ASKED, RESUME_DONE, PAUSE_DONE }, RECORD_RUNNING },
		{ { TOLD_RUNNING, PAUSE_ASKED, RESUME_ASKED, RESUME_REFUSED, PAUSE_DONE }, RECORD_PAUSED },
		{ { TOLD_PAUSED, RESUME_ASKED, TOLD_PAUSED, TOLD_RUNNING }, RECORD_RESUMING },
		{ { TOLD_PAUSED, RESUME_ASKED, RESUME_REFUSED }, RECORD_PAUSED },
		/* One of two answers is none to the other. */
		{ { TOLD_PAUSED, RESUME_ASKED, RESUME_ASKED, RESUME_REFUSED }, RECORD_RESUMING },
		{ { TOLD_PAUSED, RESUME_ASKED, RESUME_ASKED, RESUME_REFUSED, RESUME_DONE }, RECORD_RUNNING },
		{ { TOLD_PAUSED, RESUME_ASKED, RESUME_ASKED, RESUME_DONE, RESUME_REFUSED }, RECORD_RUNNING },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		struct record record = { .end_at_ms = INT64_MAX };

		assert_int_equal(record.state, RECORD_CREATING);
		assert_false(record_begin_pause(&record));
		assert_false(record_begin_resume(&record));
		for (size_t j = 0; j < ARRAY_SIZE(all[i].events) && all[i].events[j] != NOTHING; j++)
			assert_true(happen(&record, all[i].events[j]));
		assert_string_equal(record_state_name(record.state), record_state_name(all[i].end));
	}
}

/* Whatever comes in whatever order, no move is made that the table does not have: it would abort. */
static void no_order_of_answers_breaks_a_state(void **state)
{
	uint32_t seed = 1;

	(void)state;
	for (unsigned round = 0; round < 200; round++) {
		struct record record = { .end_at_ms = round % 2 ? INT64_MAX : 1, .auto_pause = round % 3 };

		for (unsigned i = 0; i < 200; i++) {
			seed = seed * 1664525u + 1013904223u;
			(void)happen(&record, (enum event)((seed >> 16) % EVENTS));
			assert_false(record_is_running(&record) && record_is_paused(&record));
			assert_true(record.resumes > 0 ||
			            (record.state != RECORD_RESUMING && record.state != RECORD_TURNING));
		}
	}
}

static void what_is_under_way_takes_room(void **state)
{
	struct record record = { .end_at_ms = INT64_MAX };

	(void)state;
	assert_true(record_takes_room(&record) && record_takes_disk(&record));
	assert_false(record_is_running(&record) || record_is_paused(&record));
	(void)happen(&record, TOLD_PAUSED);
	assert_false(record_takes_room(&record));
	assert_true(record_takes_disk(&record) && record_is_asleep(&record));
	(void)happen(&record, RESUME_ASKED);
	assert_true(record_takes_room(&record) && record_is_paused(&record));
	(void)happen(&record, RESUME_DONE);
	assert_true(record_takes_room(&record) && !record_is_asleep(&record));
	(void)happen(&record, PAUSE_ASKED);
	assert_true(record_takes_room(&record) && record_is_asleep(&record) && record_is_running(&record));
	/* Over: it is about to be killed, or paused. */
	record.end_at_ms = 1;
	assert_false(record_takes_room(&record) || record_takes_disk(&record));
	record.auto_pause = true;
	assert_false(record_takes_room(&record));
	assert_true(record_takes_disk(&record) && record_is_paused(&record));
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
		cmocka_unit_test(a_sandbox_moves_from_state_to_state),
		cmocka_unit_test(no_order_of_answers_breaks_a_state),
		cmocka_unit_test(what_is_under_way_takes_room),
		cmocka_unit_test(hosts_name_port_and_sandbox),
	};

	return cmocka_run_group_tests_name("api", tests, NULL, NULL);
}
