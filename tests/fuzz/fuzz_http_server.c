/*
 * Fuzz the HTTP server: hostile are the bytes of a client and where the network cuts them. The first byte
 * draws the cuts, the next four say what the handlers do with one request after the other, the rest is what
 * the client sends. The same must be understood however it is cut, and the answers must be HTTP: none after
 * one that closes the connection.
 */
#include <errno.h>
#include <http_parser.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/base.h"
#include "fuzz.h"
#include "fuzz_server.h"

#define MODES        4
#define REQUESTS_MAX 64 /* whose method is remembered */
#define BODY_LIMIT   64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum mode {
	MODE_REPLY,   /* at once, the body unread */
	MODE_COLLECT, /* up to BODY_LIMIT, then reply */
	MODE_ECHO,    /* chunk by chunk */
	MODE_PAUSE,   /* the body with a pause after every piece */
	MODE_EARLY,   /* reply at the first piece of the body */
	MODE_TAKE,    /* the stream, if an upgrade is wanted */
	MODE_ABORT,   /* at the first piece of the body */
	MODE_NEVER,   /* read all, never answer */
	MODE_COUNT,
};

struct session {
	const uint8_t *modes;
	struct buffer log; /* the requests as handlers saw them */
	struct http_exchange *open;
	bool paused;
	bool is_head[REQUESTS_MAX]; /* the answer has no body */
	unsigned requests;
	/* the client's side */
	http_parser parser;
	unsigned answers;
	bool last; /* an answer closed the connection */
	bool torn; /* the connection was taken away or aborted */
};

static void note(struct session *session, const void *data, size_t size)
{
	if (buffer_append(&session->log, data, size) < 0)
		abort();
}

static void reply(struct http_exchange *exchange, struct session *session)
{
	session->open = NULL;
	http_exchange_on_close(exchange, NULL, NULL);
	http_reply(exchange, 200, "text/plain", "answer", 6);
}

static enum mode mode_of(const struct session *session)
{
	return session->modes[(session->requests - 1) % MODES] % MODE_COUNT;
}

static void on_data(struct http_exchange *exchange, const char *data, size_t size, void *context)
{
	struct session *session = context;

	/* How much an early answer has seen depends on the cuts. */
	if (mode_of(session) != MODE_EARLY)
		note(session, data, size);
	switch (mode_of(session)) {
	case MODE_ECHO:
		http_reply_write(exchange, data, size);
		break;
	case MODE_PAUSE:
		session->paused = true;
		http_request_pause(exchange);
		break;
	case MODE_EARLY:
		reply(exchange, session);
		break;
	case MODE_ABORT:
		session->torn = true;
		session->open = NULL;
		http_exchange_abort(exchange);
		break;
	default:
		break;
	}
}

static void on_end(struct http_exchange *exchange, void *context)
{
	struct session *session = context;

	note(session, "E", 1);
	if (mode_of(session) == MODE_ECHO) {
		session->open = NULL;
		http_reply_end(exchange);
	} else if (mode_of(session) != MODE_NEVER) {
		reply(exchange, session);
	}
}

static void on_collected(struct http_exchange *exchange, const char *data, size_t size, void *context)
{
	struct session *session = context;

	note(session, data, size);
	if (data[size] || size > BODY_LIMIT)
		abort();
	reply(exchange, session);
}

static void on_close(struct http_exchange *exchange, void *context)
{
	struct session *session = context;

	(void)exchange;
	session->open = NULL;
	session->paused = false;
}

static void note_request(struct session *session, struct http_exchange *exchange)
{
	const struct http_header *headers;
	const char *value = http_request_query(exchange, "name");
	size_t count;

	headers = http_request_headers(exchange, &count);
	note(session, "R", 1);
	note(session, http_request_method(exchange), strlen(http_request_method(exchange)) + 1);
	note(session, http_request_target(exchange), strlen(http_request_target(exchange)) + 1);
	note(session, http_request_path(exchange), strlen(http_request_path(exchange)) + 1);
	for (size_t i = 0; i < count; i++) {
		note(session, headers[i].name, strlen(headers[i].name) + 1);
		note(session, headers[i].value, strlen(headers[i].value) + 1);
	}
	if (value)
		note(session, value, strlen(value) + 1);
}

static void take_stream(struct session *session, struct http_exchange *exchange)
{
	char *rest;
	size_t size;
	struct stream *stream = http_exchange_take_stream(exchange, &rest, &size);

	session->torn = true;
	session->open = NULL;
	free(rest);
	stream_close(stream);
}

static void on_request(struct http_exchange *exchange, void *context)
{
	static const struct http_body_events events = { on_data, on_end };
	struct session *session = context;

	if (session->open)
		abort();
	if (session->requests < REQUESTS_MAX)
		session->is_head[session->requests] = strcmp(http_request_method(exchange), "HEAD") == 0;
	session->requests++;
	session->open = exchange;
	session->paused = false;
	http_exchange_on_close(exchange, on_close, session);
	note_request(session, exchange);
	if (mode_of(session) == MODE_REPLY) {
		reply(exchange, session);
	} else if (mode_of(session) == MODE_TAKE && http_request_wants_upgrade(exchange)) {
		take_stream(session, exchange);
	} else if (mode_of(session) == MODE_COLLECT) {
		/* It may be refused, without a call. */
		session->open = NULL;
		http_exchange_on_close(exchange, NULL, NULL);
		http_request_collect(exchange, BODY_LIMIT, on_collected, session);
	} else {
		if (mode_of(session) == MODE_ECHO)
			http_reply_begin(exchange, 200, -1);
		http_request_stream(exchange, &events, session);
	}
}

/* --- the client --- */

static int on_answer_head(http_parser *parser)
{
	struct session *session = parser->data;

	return parser->status_code >= 200 && session->answers < REQUESTS_MAX &&
	       session->answers < session->requests && session->is_head[session->answers];
}

static int on_answer_end(http_parser *parser)
{
	struct session *session = parser->data;

	if (parser->status_code < 200)
		return 0;
	session->answers++;
	session->last = !http_should_keep_alive(parser);
	/* One more than requests: what was no request is refused. */
	if (session->answers > session->requests + 1)
		abort();
	return 0;
}

static void check_answers(struct session *session, const char *data, size_t size)
{
	static const http_parser_settings settings = { .on_headers_complete = on_answer_head,
		                                       .on_message_complete = on_answer_end };

	/* Byte by byte, so that the end of one answer is seen before the next. */
	for (size_t i = 0; i < size && session->answers < REQUESTS_MAX; i++) {
		if (session->last || http_parser_execute(&session->parser, &settings, data + i, 1) != 1)
			abort();
	}
}

static void turn(struct session *session, uv_loop_t *loop, int client)
{
	char answer[4096];
	ssize_t got;

	for (int i = 0; i < 3; i++) {
		(void)uv_run(loop, UV_RUN_NOWAIT);
		if (session->open && session->paused) {
			session->paused = false;
			http_request_resume(session->open);
		}
	}
	while ((got = recv(client, answer, sizeof(answer), MSG_DONTWAIT)) > 0)
		check_answers(session, answer, (size_t)got);
}

/* Serve `data`, cut as `seed` says (0: whole). */
static void serve(struct session *session, const uint8_t *data, size_t size, uint32_t seed)
{
	struct http_server_options options = { .on_request = on_request,
		                               .context = session,
		                               .max_head_size = 1024 };
	struct http_server *server;
	uv_loop_t loop;
	int client;

	if (uv_loop_init(&loop) < 0)
		abort();
	server = http_server_new(&loop, &options);
	if (!server)
		abort();
	client = connect_to(server);
	http_parser_init(&session->parser, HTTP_RESPONSE);
	session->parser.data = session;
	turn(session, &loop, client);
	while (size) {
		size_t piece = seed ? next_piece(&seed, size) : size;

		/* The server may have closed. */
		if (send(client, data, piece, MSG_NOSIGNAL) != (ssize_t)piece)
			break;
		turn(session, &loop, client);
		data += piece;
		size -= piece;
	}
	/* Pauses take a turn for every piece of a body. */
	for (int i = 0; i < 100 && session->open && session->paused; i++)
		turn(session, &loop, client);
	close(client);
	(void)uv_run(&loop, UV_RUN_NOWAIT);
	http_server_free(server);
	(void)uv_run(&loop, UV_RUN_DEFAULT);
	if (session->open || uv_loop_close(&loop) < 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct session whole = { .modes = data + 1 };
	struct session pieces = { .modes = data + 1 };

	if (size < 1 + MODES)
		return 0;
	serve(&whole, data + 1 + MODES, size - 1 - MODES, 0);
	serve(&pieces, data + 1 + MODES, size - 1 - MODES, data[0] + 1u);
	if (!whole.torn && (whole.log.size != pieces.log.size ||
	                    (whole.log.size && memcmp(whole.log.data, pieces.log.data, whole.log.size) != 0)))
		abort();
	buffer_fini(&whole.log);
	buffer_fini(&pieces.log);
	return 0;
}
