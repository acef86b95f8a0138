/* Unit test of the states of a sandbox: the moves, what is seen of each, and answers that come too late. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "node/journal.h"
#include "node/sandbox_internal.h"

#define STATES (SANDBOX_GONE + 1)

struct fixture {
	char directory[32];
	struct node node;
	struct sandbox sandbox;
};

static int setup(void **state)
{
	struct fixture *fixture = calloc(1, sizeof(*fixture));
	struct sandbox *sandbox = &fixture->sandbox;
	char path[NODE_PATH_MAX];

	(void)snprintf(fixture->directory, sizeof(fixture->directory), "/tmp/atoll-sandbox-XXXXXX");
	assert_non_null(mkdtemp(fixture->directory));
	fixture->node = (struct node){ .loop = uv_default_loop(),
		                       .run = fixture->directory,
		                       .data = fixture->directory };
	list_init(&fixture->node.sandboxes);
	list_init(&fixture->node.templates);
	fixture->node.client = http_client_new(fixture->node.loop, 2, 5000);
	sandbox->node = &fixture->node;
	list_init(&sandbox->killers);
	list_append(&fixture->node.sandboxes, &sandbox->link);
	assert_int_equal(uv_timer_init(fixture->node.loop, &sandbox->deadline), 0);
	sandbox->metadata = json_object();
	sandbox->env_vars = json_object();
	(void)snprintf(sandbox->id, sizeof(sandbox->id), "iabc");
	(void)snprintf(sandbox->directory, sizeof(sandbox->directory), "%s/machine", fixture->directory);
	assert_int_equal(file_make_directories(sandbox->directory, 0700, NULL), 0);
	(void)snprintf(path, sizeof(path), "%s/sandboxes/iabc", fixture->directory);
	assert_int_equal(file_make_directories(path, 0700, NULL), 0);
	(void)snprintf(path, sizeof(path), "%s/paused", fixture->directory);
	assert_int_equal(file_make_directories(path, 0700, NULL), 0);
	*state = fixture;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *fixture = *state;

	uv_close((uv_handle_t *)&fixture->sandbox.deadline, NULL);
	http_client_free(fixture->node.client);
	(void)uv_run(fixture->node.loop, UV_RUN_NOWAIT);
	json_decref(fixture->sandbox.metadata);
	json_decref(fixture->sandbox.env_vars);
	(void)file_remove_tree(fixture->directory, NULL);
	free(fixture);
	return 0;
}

/* --- the table --- */

/* In a process of its own: what may not be ends it. */
static bool may_move(enum sandbox_state from, enum sandbox_state to)
{
	struct sandbox sandbox = { .id = "i", .state = from };
	int status = 0;
	pid_t pid = fork();

	if (pid == 0) {
		(void)!freopen("/dev/null", "w", stderr);
		sandbox_move(&sandbox, to);
		_exit(sandbox.state == to ? 0 : 1);
	}
	assert_true(pid > 0 && waitpid(pid, &status, 0) == pid);
	if (WIFSIGNALED(status))
		assert_int_equal(WTERMSIG(status), SIGABRT);
	else
		assert_int_equal(status, 0);
	return !WIFSIGNALED(status);
}

static void the_end_is_the_end(void **state)
{
	(void)state;
	for (enum sandbox_state to = 0; to < STATES; to++) {
		assert_false(may_move(SANDBOX_GONE, to));
		assert_int_equal(may_move(SANDBOX_ENDING, to), to == SANDBOX_GONE);
		assert_int_equal(may_move(SANDBOX_DISCARDED, to), to == SANDBOX_GONE);
	}
}

static void a_pause_that_counts_is_given_up_by_a_start_alone(void **state)
{
	(void)state;
	for (enum sandbox_state from = 0; from < STATES; from++) {
		const struct sandbox before = { .state = from };

		for (enum sandbox_state to = 0; to < STATES; to++) {
			const struct sandbox after = { .state = to };

			if (sandbox_is_paused(&before) && sandbox_is_running(&after) && may_move(from, to))
				assert_int_equal(from, SANDBOX_RESUMING);
			if (sandbox_is_running(&before) && sandbox_is_paused(&after) && may_move(from, to))
				assert_int_equal(from, SANDBOX_PAUSING);
		}
	}
}

static void what_is_nobodys_is_not_seen(void **state)
{
	(void)state;
	for (enum sandbox_state each = 0; each < STATES; each++) {
		const struct sandbox sandbox = { .state = each };

		assert_int_equal(sandbox_is_known(&sandbox),
		                 sandbox_is_running(&sandbox) != sandbox_is_paused(&sandbox));
		if (sandbox_is_spare(&sandbox) || sandbox_is_over(&sandbox))
			assert_false(sandbox_is_known(&sandbox));
	}
}

/* --- the journal --- */

/* After a crash it is told who it is, unless the journal says that it was. */
static void journals_are_taken_up(void **state)
{
	static const struct {
		enum sandbox_state written;
		enum sandbox_state read;
	} cases[] = {
		{ SANDBOX_STARTING, SANDBOX_STARTING }, { SANDBOX_REHEARSING, SANDBOX_STARTING },
		{ SANDBOX_RUNNING, SANDBOX_RUNNING },   { SANDBOX_COPYING, SANDBOX_RUNNING },
		{ SANDBOX_PAUSING, SANDBOX_RUNNING },   { SANDBOX_RESUMING, SANDBOX_WAKING },
		{ SANDBOX_WAKING, SANDBOX_WAKING },
	};
	struct fixture *fixture = *state;
	struct sandbox *sandbox = &fixture->sandbox;

	assert_int_equal(journal_write_pause(sandbox, NULL), 0);
	for (size_t i = 0; i <= ARRAY_SIZE(cases); i++) {
		struct sandbox read = { .node = &fixture->node, .state = SANDBOX_GONE };
		uint64_t start_time;
		pid_t pid;
		uid_t uid;

		if (i < ARRAY_SIZE(cases)) {
			assert_int_equal(journal_write(sandbox, cases[i].written, sandbox->directory, NULL),
			                 0);
			assert_int_equal(
			        journal_read(&read, sandbox->directory, &pid, &start_time, &uid, NULL), 0);
			assert_int_equal(read.state, cases[i].read);
		} else {
			assert_int_equal(journal_read_pause(&read, "iabc", NULL), 0);
			assert_int_equal(read.state, SANDBOX_PAUSED);
		}
		json_decref(read.metadata);
		json_decref(read.env_vars);
	}
}

/* The end of one whose agent has not been told who it is is moved: the journal does not say that it was. */
static void a_new_end_does_not_tell_of_more(void **state)
{
	struct fixture *fixture = *state;
	struct sandbox *sandbox = &fixture->sandbox;
	cleanup_json json_t *journal = NULL;
	char path[NODE_PATH_MAX + 32];

	sandbox->state = SANDBOX_WAKING;
	assert_int_equal(sandbox_set_end(sandbox, INT64_C(4000000000000), NULL), 0);
	(void)snprintf(path, sizeof(path), "%s/journal.json", sandbox->directory);
	journal = json_load_file(path, 0, NULL);
	assert_string_equal(json_string_value(json_object_get(journal, "state")), "resuming");
	assert_int_equal(json_integer_value(json_object_get(journal, "end_at_ms")), 4000000000000);
}

/* --- answers that come too late --- */

static int listen_as_monitor(struct monitor *monitor)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char path[NODE_PATH_MAX];

	(void)snprintf(path, sizeof(path), "%.200s/root" MONITOR_RUN, monitor->directory);
	assert_int_equal(file_make_directories(path, 0700, NULL), 0);
	(void)snprintf(address.sun_path, sizeof(address.sun_path), "%.80s/api.sock", path);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(fd, 8), 0);
	return fd;
}

/* Its monitor is seen to have ended before the load that it was asked for fails. */
static void end_while_loading(struct fixture *fixture, bool started_anew)
{
	struct sandbox *sandbox = &fixture->sandbox;
	struct monitor *monitor = calloc(1, sizeof(*monitor));
	int listener;
	int fd;

	sandbox->state = SANDBOX_RESUMING;
	sandbox->monitor = monitor;
	*monitor = (struct monitor){ .node = &fixture->node, .pidfd = -1 };
	(void)snprintf(monitor->directory, sizeof(monitor->directory), "%s", sandbox->directory);
	listener = listen_as_monitor(monitor);
	assert_int_equal(journal_write_pause(sandbox, NULL), 0);
	sandbox_start_load(sandbox, json_object());
	(void)uv_run(fixture->node.loop, UV_RUN_NOWAIT);
	fd = accept(listener, NULL, NULL);
	assert_true(fd >= 0);
	sandbox_rest(sandbox);
	assert_int_equal(sandbox->state, SANDBOX_PAUSED);
	assert_null(sandbox->monitor);
	if (started_anew)
		sandbox_move(sandbox, SANDBOX_RESUMING);
	assert_int_equal(sandbox->pending, 1);
	close(fd);
	close(listener);
	while (sandbox->pending)
		(void)uv_run(fixture->node.loop, UV_RUN_ONCE);
	assert_int_equal(sandbox->state, started_anew ? SANDBOX_RESUMING : SANDBOX_PAUSED);
}

static void a_load_that_fails_late_leaves_it_paused(void **state)
{
	struct fixture *fixture = *state;
	char path[NODE_PATH_MAX];

	end_while_loading(fixture, false);
	assert_ptr_equal(sandbox_find(&fixture->node, "iabc"), &fixture->sandbox);
	(void)snprintf(path, sizeof(path), "%s/paused/iabc", fixture->directory);
	assert_int_equal(access(path, F_OK), 0);
}

static void a_load_that_fails_late_leaves_the_next_alone(void **state)
{
	end_while_loading(*state, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_end_is_the_end),
		cmocka_unit_test(a_pause_that_counts_is_given_up_by_a_start_alone),
		cmocka_unit_test(what_is_nobodys_is_not_seen),
		cmocka_unit_test_setup_teardown(journals_are_taken_up, setup, teardown),
		cmocka_unit_test_setup_teardown(a_new_end_does_not_tell_of_more, setup, teardown),
		cmocka_unit_test_setup_teardown(a_load_that_fails_late_leaves_it_paused, setup, teardown),
		cmocka_unit_test_setup_teardown(a_load_that_fails_late_leaves_the_next_alone, setup,
		                                teardown),
	};

	(void)signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
