/* Unit tests of net: a real server and a real client on one loop, over TCP and unix sockets. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cmocka.h>

#include "base/base.h"
#include "net/net.h"

#define BIG (3 * 1024 * 1024)

struct fixture {
	uv_loop_t loop;
	struct http_server *server;
	struct http_client *client;
	struct http_endpoint endpoint;
	uv_timer_t watchdog;
	unsigned waiting; /* exchanges that will not be answered */
	unsigned aborted; /* those whose client went away */
};

/* --- the server under test --- */

static void echo_collected(struct http_exchange *exchange, const char *data, size_t size, void *context)
{
	(void)context;
	http_reply(exchange, 200, "text/plain", data, size);
}

static void stream_back(struct http_exchange *exchange, const char *data, size_t size, void *context)
{
	(void)context;
	http_reply_write(exchange, data, size);
	if (http_reply_pending(exchange) > STREAM_HIGH_WATER)
		http_request_pause(exchange);
}

static void stream_ended(struct http_exchange *exchange, void *context)
{
	(void)context;
	http_reply_end(exchange);
}

static void stream_drained(struct http_exchange *exchange, void *context)
{
	(void)context;
	http_request_resume(exchange);
}

static void count_abort(struct http_exchange *exchange, void *context)
{
	struct fixture *fixture = context;

	(void)exchange;
	fixture->aborted++;
	uv_stop(&fixture->loop);
}

static void discard_stream(struct stream *stream, int status, void *context)
{
	(void)stream;
	(void)status;
	(void)context;
}

static void echo_bytes(struct stream *stream, const char *data, size_t size, void *context)
{
	(void)context;
	(void)stream_write(stream, data, size);
}

static void echo_ended(struct stream *stream, void *context)
{
	(void)context;
	stream_close(stream);
}

static void upgrade(struct http_exchange *exchange)
{
	static const struct stream_events events = { .on_data = echo_bytes,
		                                     .on_end = echo_ended,
		                                     .on_close = discard_stream };
	static const char head[] =
	        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n";
	size_t rest_size;
	char *rest;
	struct stream *stream = http_exchange_take_stream(exchange, &rest, &rest_size);

	stream_set_events(stream, &events, NULL);
	(void)stream_write(stream, head, sizeof(head) - 1);
	(void)stream_write(stream, rest, rest_size);
	free(rest);
	stream_read_start(stream);
}

static void on_request(struct http_exchange *exchange, void *context)
{
	static const struct http_body_events streamed = { stream_back, stream_ended };
	const char *path = http_request_path(exchange);

	if (strcmp(path, "/collect") == 0) {
		http_request_collect(exchange, 1000, echo_collected, NULL);
	} else if (strcmp(path, "/stream") == 0) {
		http_reply_begin(exchange, 200, -1);
		http_reply_on_drain(exchange, stream_drained, NULL);
		http_request_stream(exchange, &streamed, NULL);
	} else if (strcmp(path, "/query") == 0) {
		const char *value = http_request_query(exchange, "k");

		http_reply(exchange, 200, "text/plain", value ? value : "(none)", value ? strlen(value) : 6);
	} else if (strcmp(path, "/chunks") == 0) {
		cleanup_buffer struct buffer large = BUFFER_INIT;

		assert_int_equal(buffer_reserve(&large, 20000), 0);
		memset(large.data, 'x', 20000);
		http_reply_begin(exchange, 200, -1);
		http_reply_write(exchange, "one", 3);
		http_reply_write(exchange, "and the second one", 18);
		http_reply_write(exchange, large.data, 20000);
		http_reply_write(exchange, "last", 4);
		http_reply_trailer(exchange, "X-Sum", "20025");
		http_reply_end(exchange);
	} else if (strcmp(path, "/torn") == 0) {
		http_reply_begin(exchange, 200, -1);
		http_reply_write(exchange, "half", 4);
		http_exchange_abort(exchange);
	} else if (strcmp(path, "/wait") == 0) {
		((struct fixture *)context)->waiting++;
		http_exchange_on_close(exchange, count_abort, context);
	} else if (strcmp(path, "/upgrade") == 0 && http_request_wants_upgrade(exchange)) {
		upgrade(exchange);
	} else {
		http_reply_error(exchange, 404, "no such path: %s", path);
	}
}

static void on_watchdog(uv_timer_t *timer)
{
	(void)timer;
	fail_msg("the loop waited for more than 120 s");
}

static int setup(void **state)
{
	static struct fixture fixture;
	struct http_server_options options = { .on_request = on_request, .context = &fixture };

	memset(&fixture, 0, sizeof(fixture));
	assert_int_equal(uv_loop_init(&fixture.loop), 0);
	fixture.server = http_server_new(&fixture.loop, &options);
	assert_int_equal(http_server_listen_tcp(fixture.server, "127.0.0.1", 0, NULL), 0);
	fixture.client = http_client_new(&fixture.loop, 4, 60000);
	(void)snprintf(fixture.endpoint.ip, sizeof(fixture.endpoint.ip), "127.0.0.1");
	fixture.endpoint.port = http_server_port(fixture.server);
	(void)uv_timer_init(&fixture.loop, &fixture.watchdog);
	(void)uv_timer_start(&fixture.watchdog, on_watchdog, 120000, 0);
	*state = &fixture;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *fixture = *state;

	http_client_free(fixture->client);
	http_server_free(fixture->server);
	uv_close((uv_handle_t *)&fixture->watchdog, NULL);
	(void)uv_run(&fixture->loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&fixture->loop), 0);
	return 0;
}

/* --- a plain blocking peer: bytes out, everything back --- */

struct raw {
	uv_work_t work;
	uint16_t port;
	const char *request;
	size_t request_size;
	bool whole;  /* not byte by byte */
	bool ends;   /* its side, behind the request */
	int problem; /* how the answer ended: 0, or an errno */
	struct buffer answer;
	uv_loop_t *loop;
};

static void raw_work(uv_work_t *work)
{
	struct raw *raw = work->data;
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(raw->port) };
	cleanup_close int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct timeval patience = { .tv_sec = 60 };
	char chunk[4096];
	ssize_t got;

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return;
	if (raw->whole)
		(void)send(fd, raw->request, raw->request_size, MSG_NOSIGNAL);
	for (size_t i = 0; i < raw->request_size && !raw->whole; i++) {
		/* Byte by byte: the parser must bear any split. */
		if (send(fd, raw->request + i, 1, MSG_NOSIGNAL) != 1)
			break;
	}
	if (raw->ends)
		(void)shutdown(fd, SHUT_WR);
	while ((got = recv(fd, chunk, sizeof(chunk), 0)) > 0)
		(void)buffer_append(&raw->answer, chunk, (size_t)got);
	raw->problem = got < 0 ? errno : 0;
}

static void raw_done(uv_work_t *work, int status)
{
	struct raw *raw = work->data;

	(void)status;
	uv_stop(raw->loop);
}

static void raw_talk(struct fixture *fixture, const char *request, bool ends, struct buffer *answer)
{
	struct raw raw = { .port = fixture->endpoint.port,
		           .request = request,
		           .request_size = strlen(request),
		           .ends = ends,
		           .loop = &fixture->loop };

	raw.work.data = &raw;
	(void)uv_queue_work(&fixture->loop, &raw.work, raw_work, raw_done);
	(void)uv_run(&fixture->loop, UV_RUN_DEFAULT);
	*answer = raw.answer;
	assert_non_null(answer->data);
}

static void raw_exchange(struct fixture *fixture, const char *request, struct buffer *answer)
{
	raw_talk(fixture, request, false, answer);
}

static void pipelined_requests_are_answered_in_order(void **state)
{
	cleanup_buffer struct buffer answer = BUFFER_INIT;
	const char *second;

	raw_exchange(
	        *state,
	        "POST /collect HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n"
	        "GET /query?a=1&k=t%20w+o HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
	        &answer);
	assert_non_null(strstr(answer.data, "one"));
	second = strstr(answer.data + 10, "HTTP/1.1 200");
	assert_non_null(second);
	assert_non_null(strstr(second, "t w o"));
}

/* However many leave at once. */
static void chunks_keep_their_frames(void **state)
{
	static const char begin[] = "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
	                            "3\r\none\r\n12\r\nand the second one\r\n4e20\r\nxxxx";
	static const char end[] = "xxxx\r\n4\r\nlast\r\n0\r\nX-Sum: 20025\r\n\r\n";
	cleanup_buffer struct buffer answer = BUFFER_INIT;

	raw_exchange(*state, "GET /chunks HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", &answer);
	assert_non_null(strstr(answer.data, begin));
	assert_true(answer.size > 20000 + sizeof(begin) + sizeof(end) - 10);
	assert_string_equal(answer.data + answer.size - (sizeof(end) - 1), end);
}

static void malformed_and_oversize_requests_are_refused(void **state)
{
	cleanup_buffer struct buffer bad = BUFFER_INIT;
	cleanup_buffer struct buffer large = BUFFER_INIT;
	cleanup_buffer struct buffer path = BUFFER_INIT;

	raw_exchange(*state, "NONSENSE\r\n\r\n", &bad);
	assert_ptr_equal(strstr(bad.data, "HTTP/1.1 400"), bad.data);
	raw_exchange(*state, "POST /collect HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n", &large);
	assert_ptr_equal(strstr(large.data, "HTTP/1.1 413"), large.data);
	raw_exchange(*state, "GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n", &path);
	assert_ptr_equal(strstr(path.data, "HTTP/1.1 400"), path.data);
}

/* The handler answers early and closes; what comes behind is no HTTP, and much of it is still on its way. */
static void an_early_answer_arrives_whatever_follows(void **state)
{
	static const char head[] = "POST /collect HTTP/1.1\r\nHost: x\r\nConnection: "
	                           "close\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n";
	static char request[512 * 1024];
	struct fixture *fixture = *state;
	struct raw raw = { .port = fixture->endpoint.port,
		           .request = request,
		           .request_size = sizeof(request),
		           .whole = true,
		           .loop = &fixture->loop };

	memset(request, 'x', sizeof(request));
	memcpy(request, head, sizeof(head) - 1);
	raw.work.data = &raw;
	(void)uv_queue_work(&fixture->loop, &raw.work, raw_work, raw_done);
	(void)uv_run(&fixture->loop, UV_RUN_DEFAULT);
	assert_non_null(raw.answer.data);
	assert_ptr_equal(strstr(raw.answer.data, "HTTP/1.1 413"), raw.answer.data);
	assert_null(strstr(raw.answer.data + 1, "HTTP/1.1"));
	assert_int_equal(raw.problem, 0);
	buffer_fini(&raw.answer);
}

static void an_upgrade_hands_the_connection_over(void **state)
{
	cleanup_buffer struct buffer answer = BUFFER_INIT;

	raw_talk(*state,
	         "GET /upgrade HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello",
	         true, &answer);
	assert_ptr_equal(strstr(answer.data, "HTTP/1.1 101"), answer.data);
	assert_string_equal(answer.data + answer.size - 5, "hello");
}

/* --- the client against the server --- */

struct seen {
	struct fixture *fixture;
	int status;
	size_t size;
	bool ended;
	enum http_call_error error;
	bool after_response;
	size_t to_send;
	unsigned pauses;
};

static void seen_response(struct http_call *call, int status, const struct http_header *headers, size_t count,
                          void *context)
{
	(void)call;
	(void)headers;
	(void)count;
	((struct seen *)context)->status = status;
}

static void seen_data(struct http_call *call, const char *data, size_t size, void *context)
{
	struct seen *seen = context;

	(void)data;
	seen->size += size;
	/* Stop and go on now and then, from inside the callback. */
	if (++seen->pauses % 7 == 0) {
		http_call_pause(call);
		http_call_resume(call);
	}
}

static void seen_end(struct http_call *call, void *context)
{
	struct seen *seen = context;

	(void)call;
	seen->ended = true;
	uv_stop(&seen->fixture->loop);
}

static void seen_error(struct http_call *call, enum http_call_error error, bool after_response, void *context)
{
	struct seen *seen = context;

	(void)call;
	seen->error = error;
	seen->after_response = after_response;
	uv_stop(&seen->fixture->loop);
}

static void send_more(struct http_call *call, void *context)
{
	static const char block[16384];
	struct seen *seen = context;

	while (seen->to_send && http_call_pending(call) < STREAM_HIGH_WATER) {
		size_t size = seen->to_send < sizeof(block) ? seen->to_send : sizeof(block);

		http_call_write(call, block, size);
		seen->to_send -= size;
	}
	if (!seen->to_send)
		http_call_end(call);
}

static const struct http_call_events seen_events = { seen_response, seen_data, seen_end,
	                                             seen_error,    send_more, NULL };

static struct seen call_and_wait(struct fixture *fixture, const char *method, const char *target, size_t body)
{
	struct seen seen = { .fixture = fixture, .to_send = body };
	struct http_call *call =
	        http_call_new(fixture->client, &fixture->endpoint, method, target, &seen_events, &seen);

	http_call_header(call, "Host", "test");
	http_call_begin(call, body ? -1 : 0);
	(void)uv_run(&fixture->loop, UV_RUN_DEFAULT);
	return seen;
}

static void large_bodies_stream_both_ways(void **state)
{
	struct seen seen = call_and_wait(*state, "POST", "/stream", BIG);

	assert_int_equal(seen.status, 200);
	assert_true(seen.ended);
	assert_int_equal(seen.size, BIG);
}

static void connections_are_kept(void **state)
{
	for (int i = 0; i < 50; i++) {
		struct seen seen = call_and_wait(*state, "GET", "/query?k=v", 0);

		assert_int_equal(seen.status, 200);
		assert_int_equal(seen.size, 1);
	}
}

/* --- an upstream that says what it is told to --- */

struct upstream {
	uv_work_t work;
	int listener;
	const char *answer;
	unsigned wanted; /* requests to be answered */
	unsigned connections;
	bool done;
};

/* Answer the requests, on as many connections as they come by. */
static void upstream_work(uv_work_t *work)
{
	struct upstream *upstream = work->data;
	struct timeval patience = { .tv_sec = 60 };
	unsigned answers = 0;

	(void)setsockopt(upstream->listener, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	while (answers < upstream->wanted) {
		cleanup_close int fd = accept(upstream->listener, NULL, NULL);
		char request[4096];

		if (fd < 0)
			return;
		upstream->connections++;
		while (answers < upstream->wanted && recv(fd, request, sizeof(request), 0) > 0) {
			(void)send(fd, upstream->answer, strlen(upstream->answer), MSG_NOSIGNAL);
			answers++;
		}
	}
}

static void upstream_done(uv_work_t *work, int status)
{
	(void)status;
	((struct upstream *)work->data)->done = true;
}

/* A socket on a port of its own that nobody listens on yet; calls go there. */
static int take_port(struct fixture *fixture)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	socklen_t size = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
	fixture->endpoint.port = ntohs(address.sin_port);
	return fd;
}

/* How many connections two requests take. */
static unsigned count_connections(struct fixture *fixture, const char *answer)
{
	uint16_t port = fixture->endpoint.port;
	cleanup_close int fd = take_port(fixture);
	struct upstream upstream = { .listener = fd, .answer = answer, .wanted = 2 };

	assert_int_equal(listen(fd, 4), 0);
	upstream.work.data = &upstream;
	(void)uv_queue_work(&fixture->loop, &upstream.work, upstream_work, upstream_done);
	for (int i = 0; i < 2; i++) {
		struct seen seen = call_and_wait(fixture, "GET", "/", 0);

		assert_int_equal(seen.status, 200);
		assert_int_equal(seen.size, 2);
	}
	fixture->endpoint.port = port;
	while (!upstream.done)
		(void)uv_run(&fixture->loop, UV_RUN_ONCE);
	return upstream.connections;
}

static void an_upstream_out_of_step_is_not_kept(void **state)
{
	assert_int_equal(count_connections(*state, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), 1);
	assert_int_equal(
	        count_connections(
	                *state, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
	        1);
	assert_int_equal(
	        count_connections(*state, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200"), 2);
}

static void a_torn_answer_is_an_error(void **state)
{
	struct seen seen = call_and_wait(*state, "GET", "/torn", 0);

	assert_false(seen.ended);
	assert_int_equal(seen.error, HTTP_CALL_BROKEN);
}

static void nobody_listening_is_told_apart(void **state)
{
	struct fixture *fixture = *state;
	struct http_endpoint endpoint = { .unix_path = "/nonexistent/socket" };
	struct seen seen = { .fixture = fixture };
	struct http_call *call = http_call_new(fixture->client, &endpoint, "GET", "/", &seen_events, &seen);

	http_call_begin(call, 0);
	assert_int_equal(seen.error, 0);
	(void)uv_run(&fixture->loop, UV_RUN_DEFAULT);
	assert_int_equal(seen.error, HTTP_CALL_UNREACHABLE);
}

static void listen_late(uv_timer_t *timer)
{
	struct upstream *upstream = timer->data;

	assert_int_equal(listen(upstream->listener, 4), 0);
	(void)uv_queue_work(timer->loop, &upstream->work, upstream_work, upstream_done);
	uv_close((uv_handle_t *)timer, NULL);
}

/* A server that is being started again is waited for, once, and no longer than was said. */
static void who_listens_late_is_waited_for(void **state)
{
	struct fixture *fixture = *state;
	uint16_t port = fixture->endpoint.port;
	cleanup_close int fd = take_port(fixture);
	struct upstream upstream = { .listener = fd,
		                     .answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		                     .wanted = 1 };
	struct seen seen = { .fixture = fixture };
	struct seen hasty = { .fixture = fixture };
	struct http_call *call =
	        http_call_new(fixture->client, &fixture->endpoint, "GET", "/", &seen_events, &seen);
	uv_timer_t timer;

	http_call_patience(call, 60000);
	http_call_begin(call, 0);
	call = http_call_new(fixture->client, &fixture->endpoint, "GET", "/", &seen_events, &hasty);
	http_call_patience(call, 60);
	http_call_begin(call, 0);
	upstream.work.data = &upstream;
	timer.data = &upstream;
	(void)uv_timer_init(&fixture->loop, &timer);
	while (!hasty.error)
		(void)uv_run(&fixture->loop, UV_RUN_ONCE);
	assert_int_equal(hasty.error, HTTP_CALL_UNREACHABLE);
	(void)uv_timer_start(&timer, listen_late, 100, 0);
	while (!upstream.done || !seen.ended)
		(void)uv_run(&fixture->loop, UV_RUN_ONCE);
	assert_int_equal(seen.status, 200);
	assert_int_equal(upstream.connections, 1);
	fixture->endpoint.port = port;
}

struct leaver {
	struct fixture *fixture;
	struct http_call *call;
};

/* As soon as the server has the request. */
static void cancel_later(uv_timer_t *timer)
{
	struct leaver *leaver = timer->data;

	if (!leaver->fixture->waiting)
		return;
	http_call_cancel(leaver->call);
	uv_close((uv_handle_t *)timer, NULL);
}

static void a_client_that_leaves_is_noticed(void **state)
{
	struct fixture *fixture = *state;
	struct seen seen = { .fixture = fixture };
	struct http_call *call =
	        http_call_new(fixture->client, &fixture->endpoint, "GET", "/wait", &seen_events, &seen);
	struct leaver leaver = { fixture, call };
	uv_timer_t timer;

	http_call_begin(call, 0);
	(void)uv_timer_init(&fixture->loop, &timer);
	timer.data = &leaver;
	(void)uv_timer_start(&timer, cancel_later, 10, 10);
	(void)uv_run(&fixture->loop, UV_RUN_DEFAULT);
	assert_int_equal(fixture->aborted, 1);
	assert_false(seen.ended);
}

static void a_slow_answer_times_out(void **state)
{
	struct fixture *fixture = *state;
	struct seen seen = { .fixture = fixture };
	struct http_call *call =
	        http_call_new(fixture->client, &fixture->endpoint, "GET", "/wait", &seen_events, &seen);

	http_call_timeout(call, 30);
	http_call_begin(call, 0);
	while (!seen.error)
		(void)uv_run(&fixture->loop, UV_RUN_DEFAULT);
	assert_int_equal(seen.error, HTTP_CALL_TIMEOUT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(pipelined_requests_are_answered_in_order, setup, teardown),
		cmocka_unit_test_setup_teardown(chunks_keep_their_frames, setup, teardown),
		cmocka_unit_test_setup_teardown(malformed_and_oversize_requests_are_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(an_early_answer_arrives_whatever_follows, setup, teardown),
		cmocka_unit_test_setup_teardown(an_upgrade_hands_the_connection_over, setup, teardown),
		cmocka_unit_test_setup_teardown(large_bodies_stream_both_ways, setup, teardown),
		cmocka_unit_test_setup_teardown(connections_are_kept, setup, teardown),
		cmocka_unit_test_setup_teardown(an_upstream_out_of_step_is_not_kept, setup, teardown),
		cmocka_unit_test_setup_teardown(a_torn_answer_is_an_error, setup, teardown),
		cmocka_unit_test_setup_teardown(nobody_listening_is_told_apart, setup, teardown),
		cmocka_unit_test_setup_teardown(who_listens_late_is_waited_for, setup, teardown),
		cmocka_unit_test_setup_teardown(a_client_that_leaves_is_noticed, setup, teardown),
		cmocka_unit_test_setup_teardown(a_slow_answer_times_out, setup, teardown),
	};

	return cmocka_run_group_tests_name("net", tests, NULL, NULL);
}
