/* Unit test of how the node looks at sandboxes: a stand-in agent behind a vsock socket, and the node API. */
#include <pthread.h>
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
#include <unistd.h>

#include <cmocka.h>

#include "node/history.h"
#include "node/observe.h"
#include "node/sandbox_internal.h"

#define PATIENCE_MS 60000

static const char metrics[] =
        "{\"cpu_count\":2,\"cpu_used_pct\":1.5,\"mem_total\":10,\"mem_used\":9,\"mem_cache\":1,"
        "\"disk_total\":7,\"disk_used\":6,\"log_seq\":2}";
static const char logs[] = "{\"last\":2,\"entries\":[{\"seq\":1,\"time_ms\":5,\"level\":\"debug\","
                           "\"message\":\"first\",\"fields\":{}},"
                           "{\"seq\":2,\"time_ms\":6,\"level\":\"info\",\"message\":\"second\",\"fields\":{"
                           "\"logger\":\"envd\"}}]}";

struct fixture {
	char directory[32];
	struct node node;
	struct sandbox sandbox;
	int listener;
	pthread_t agent;
	unsigned log_requests; /* written by the agent's thread */
	json_t *answer;
	int status;
};

/* --- the agent --- */

/* Read up to and with `end`. False: the connection is over. */
static bool read_until(int fd, const char *end, char text[1024])
{
	size_t used = 0;

	text[0] = '\0';
	while (!strstr(text, end)) {
		if (used == 1023 || read(fd, text + used, 1) != 1)
			return false;
		text[++used] = '\0';
	}
	return true;
}

static void serve(struct fixture *fixture, int fd)
{
	char text[1024];

	if (!read_until(fd, "\n", text) || strcmp(text, "CONNECT 1024\n") != 0)
		return;
	(void)!write(fd, "OK 1\n", 5);
	while (read_until(fd, "\r\n\r\n", text)) {
		bool wants_logs = strncmp(text, "GET /logs?after=0 ", 18) == 0;
		const char *body = wants_logs ? logs : metrics;

		fixture->log_requests += wants_logs;
		(void)dprintf(fd, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body);
	}
}

static void *run_agent(void *context)
{
	struct fixture *fixture = context;
	int fd;

	while ((fd = accept(fixture->listener, NULL, NULL)) >= 0) {
		serve(fixture, fd);
		close(fd);
	}
	return NULL;
}

/* --- the node --- */

static int setup(void **state)
{
	struct fixture *fixture = calloc(1, sizeof(*fixture));
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct sandbox *sandbox = &fixture->sandbox;
	char path[NODE_PATH_MAX];

	(void)snprintf(fixture->directory, sizeof(fixture->directory), "/tmp/atoll-observe-XXXXXX");
	assert_non_null(mkdtemp(fixture->directory));
	fixture->node = (struct node){ .loop = uv_default_loop(),
		                       .run = fixture->directory,
		                       .data = fixture->directory,
		                       .observe_ms = 200 };
	list_init(&fixture->node.sandboxes);
	list_init(&fixture->node.templates);
	fixture->node.client = http_client_new(fixture->node.loop, 2, 5000);
	sandbox->node = &fixture->node;
	sandbox->state = SANDBOX_RUNNING;
	(void)snprintf(sandbox->id, sizeof(sandbox->id), "iabc");
	(void)snprintf(sandbox->team_id, sizeof(sandbox->team_id), "team-1");
	(void)snprintf(sandbox->directory, sizeof(sandbox->directory), "%s/machine", fixture->directory);
	list_append(&fixture->node.sandboxes, &sandbox->link);
	sandbox_vsock_path(sandbox, path);
	(void)snprintf(address.sun_path, sizeof(address.sun_path), "%.100s", path);
	*strrchr(path, '/') = '\0';
	assert_int_equal(file_make_directories(path, 0700, NULL), 0);
	fixture->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fixture->listener, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(fixture->listener, 8), 0);
	assert_int_equal(pthread_create(&fixture->agent, NULL, run_agent, fixture), 0);
	*state = fixture;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *fixture = *state;

	/* Each has a loop when it was begun. */
	if (fixture->node.observing.loop)
		uv_close((uv_handle_t *)&fixture->node.observing, NULL);
	if (fixture->node.sweeping.loop)
		uv_close((uv_handle_t *)&fixture->node.sweeping, NULL);
	http_client_free(fixture->node.client);
	for (int i = 0; i < 10; i++)
		(void)uv_run(fixture->node.loop, UV_RUN_NOWAIT);
	(void)shutdown(fixture->listener, SHUT_RDWR);
	(void)pthread_join(fixture->agent, NULL);
	close(fixture->listener);
	history_close(fixture->sandbox.history);
	assert_int_equal(file_remove_tree(fixture->directory, NULL), 0);
	json_decref(fixture->answer);
	free(fixture);
	return 0;
}

static void run_until(struct fixture *fixture, bool (*done)(const struct fixture *fixture))
{
	int64_t end_us = time_monotonic_us() + PATIENCE_MS * 1000;

	while (!done(fixture) && time_monotonic_us() < end_us)
		(void)uv_run(fixture->node.loop, UV_RUN_ONCE);
	assert_true(done(fixture));
}

static bool has_looked(const struct fixture *fixture)
{
	const struct history *history = fixture->sandbox.history;

	return history && usage_last(history->usage) && history->log.seq == 2 && !fixture->sandbox.observed;
}

static bool none_is_asked(const struct fixture *fixture)
{
	return !fixture->sandbox.pending;
}

static bool is_answered(const struct fixture *fixture)
{
	return fixture->status != -1;
}

static void on_answer(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct fixture *fixture = context;

	(void)err;
	fixture->status = status;
	json_decref(fixture->answer);
	fixture->answer = json_loadb(data, size, 0, NULL);
}

/* Ask the node API. */
static void ask(struct fixture *fixture, const char *target)
{
	struct http_endpoint endpoint = { 0 };

	(void)snprintf(endpoint.unix_path, sizeof(endpoint.unix_path), "%s/node.sock", fixture->directory);
	fixture->status = -1;
	http_call_simple(fixture->node.client, &endpoint, "GET", target, NULL, PATIENCE_MS, on_answer,
	                 fixture);
	run_until(fixture, is_answered);
}

static void sandboxes_are_looked_at(void **state)
{
	struct fixture *fixture = *state;
	struct http_server_options options = { .on_request = node_route, .context = &fixture->node };
	struct http_server *server = http_server_new(fixture->node.loop, &options);
	char path[64];
	unsigned fetched;

	(void)snprintf(path, sizeof(path), "%s/node.sock", fixture->directory);
	assert_int_equal(http_server_listen_unix(server, path, 0600, NULL), 0);
	ask(fixture, "/v1/metrics?sandbox_ids=iabc");
	assert_int_equal(json_object_size(fixture->answer), 0);
	ask(fixture, "/v1/sandboxes/iabc/logs");
	assert_int_equal(fixture->status, 404);
	observe_start(&fixture->node);
	run_until(fixture, has_looked);
	/* More than once where an answer was too late. */
	fetched = fixture->log_requests;
	assert_true(fetched >= 1);
	ask(fixture, "/v1/metrics?sandbox_ids=inone,iabc,..");
	assert_int_equal(json_object_size(fixture->answer), 1);
	assert_int_equal(
	        json_integer_value(json_object_get(json_object_get(fixture->answer, "iabc"), "mem_used")), 9);
	ask(fixture, "/v1/sandboxes/iabc/metrics?start_s=0");
	assert_true(json_array_size(fixture->answer) >= 1);
	ask(fixture, "/v1/sandboxes/iabc/metrics?start_s=x");
	assert_int_equal(fixture->status, 400);
	ask(fixture, "/v1/sandboxes/inone/metrics");
	assert_int_equal(fixture->status, 404);
	ask(fixture, "/v1/sandboxes/iabc/logs?direction=backward&search=sec&level=info");
	assert_int_equal(fixture->status, 200);
	assert_string_equal(json_string_value(json_object_get(fixture->answer, "team_id")), "team-1");
	assert_int_equal(json_array_size(json_object_get(fixture->answer, "logs")), 1);
	/* Of one that has ended; of nonsense. */
	fixture->sandbox.state = SANDBOX_ENDING;
	ask(fixture, "/v1/sandboxes/iabc/logs");
	assert_int_equal(json_array_size(json_object_get(fixture->answer, "logs")), 2);
	ask(fixture, "/v1/sandboxes/..%2f..%2fetc/logs");
	assert_int_equal(fixture->status, 404);
	ask(fixture, "/v1/sandboxes/iabc/logs?level=loud");
	assert_int_equal(fixture->status, 400);
	ask(fixture, "/v1/figures");
	assert_int_equal(json_integer_value(json_object_get(fixture->answer, "creates_total")), 0);
	/* Logs that have come are not fetched again, and no answer is missing. */
	run_until(fixture, none_is_asked);
	assert_int_equal(fixture->log_requests, fetched);
	http_server_free(server);
}

/* Whoever is on the way to a pause is left alone. */
static void busy_ones_are_left_alone(void **state)
{
	struct fixture *fixture = *state;
	int64_t end_us = time_monotonic_us() + 500000;

	fixture->sandbox.state = SANDBOX_PAUSING;
	observe_start(&fixture->node);
	while (time_monotonic_us() < end_us)
		(void)uv_run(fixture->node.loop, UV_RUN_ONCE);
	assert_null(fixture->sandbox.history);
}

static void old_history_goes(void **state)
{
	struct fixture *fixture = *state;
	char path[NODE_PATH_MAX];

	for (int i = 0; i < 2; i++) {
		char command[400];

		(void)snprintf(path, sizeof(path), "%s/history/%s", fixture->directory, i ? "iold" : "iabc");
		assert_int_equal(file_make_directories(path, 0700, NULL), 0);
		(void)snprintf(command, sizeof(command), "touch -d '2 days ago' %.200s", path);
		assert_int_equal(system(command), 0);
	}
	history_start(&fixture->node);
	assert_int_equal(access(path, F_OK), -1);
	(void)snprintf(path, sizeof(path), "%s/history/iabc", fixture->directory);
	assert_int_equal(access(path, F_OK), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(sandboxes_are_looked_at, setup, teardown),
		cmocka_unit_test_setup_teardown(busy_ones_are_left_alone, setup, teardown),
		cmocka_unit_test_setup_teardown(old_history_goes, setup, teardown),
	};

	(void)signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
