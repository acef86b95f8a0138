/*
 * Fuzz the Connect server: hostile are the body of a client's call, and how long the client stays. The first
 * byte says what is called and what the handler does; the rest is the body, and may begin with a line that is
 * a header's value. A stream that is answered must be well-formed envelopes, of which the last and only the
 * last says that it ends.
 */
#include <errno.h>
#include <http_parser.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/base.h"
#include "connect/connect.h"
#include "fuzz.h"

#define OPTION_STREAM   1  /* the streaming method, not the unary one */
#define OPTION_ENVELOPE 2  /* put the body into a good envelope */
#define OPTION_FAIL     4  /* the handler fails the call */
#define OPTION_LATER    8  /* the handler ends the call in a later turn */
#define OPTION_LEAVE    16 /* the client leaves before the end */
#define OPTION_ABORT    32 /* the handler breaks the connection */
#define OPTION_HEADERS  64 /* the body begins with a line that is another header's value */
#define OPTION_INPUT                                                                                         \
	128 /* the client's stream: the body is envelopes; the handler ends, pauses or fails at will */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct session {
	uint8_t options;
	uv_loop_t loop;
	struct http_server *server;
	struct connect_call *call; /* NULL: none, or over */
	json_t *request;
	int client;
	http_parser parser;
	bool envelopes; /* the answer is a stream */
	bool paused;    /* the handler takes no more for now */
	bool complete;
	struct buffer answer; /* its body */
};

/* --- the handlers --- */

static void end_call(struct session *session)
{
	struct connect_call *call = session->call;

	session->call = NULL;
	if (session->options & OPTION_ABORT)
		connect_abort(call);
	else if (session->options & OPTION_FAIL)
		connect_fail(call, session->options % 13, "cannot do '%s'",
		             json_string_value(json_object_get(session->request, "a")));
	else if (session->options & OPTION_STREAM)
		connect_end(call);
	else
		connect_reply(call, json_incref(session->request));
}

static void on_close(struct connect_call *call, void *data)
{
	struct session *session = data;

	if (session->call != call)
		abort();
	session->call = NULL;
}

static void handle(struct connect_call *call, const json_t *request, void *context)
{
	struct session *session = context;

	if (session->call || !json_is_object(request))
		abort();
	json_decref(session->request);
	session->request = json_deep_copy(request);
	session->call = call;
	connect_set_data(call, session);
	connect_on_close(call, on_close);
	if (session->options & OPTION_STREAM) {
		connect_keep_alive(call, json_pack("{s:{}}", "keepalive"));
		connect_send(call, json_incref(session->request));
	}
	if (!(session->options & OPTION_LATER))
		end_call(session);
}

/* A message of the client's stream: {"pause"}, {"fail"}, or the end of them. */
static void handle_input(struct connect_call *call, const json_t *request, void *context)
{
	struct session *session = context;

	if ((session->call && session->call != call) || (request && !json_is_object(request)))
		abort();
	session->call = call;
	connect_set_data(call, session);
	connect_on_close(call, on_close);
	if (!request) {
		session->call = NULL;
		session->paused = false;
		connect_finish(call, json_object());
	} else if (json_object_get(request, "fail")) {
		session->call = NULL;
		session->paused = false;
		connect_fail(call, CONNECT_INTERNAL, "as was asked for");
	} else if (json_object_get(request, "pause")) {
		if (session->paused)
			abort();
		session->paused = true;
		connect_pause(call);
	}
}

static const struct connect_method methods[] = {
	{ "/s.S/Input", CONNECT_CLIENT_STREAM, handle_input, NULL, NULL },
	{ "/s.S/Unary", CONNECT_UNARY, handle, NULL, NULL },
	{ "/s.S/Stream", CONNECT_SERVER_STREAM, handle, NULL, NULL },
	{ 0 },
};

static void on_request(struct http_exchange *exchange, void *context)
{
	if (!connect_serve(exchange, methods, context))
		http_reply_error(exchange, 404, "no such method");
}

/* --- the client --- */

static int on_answer_head(http_parser *parser)
{
	struct session *session = parser->data;

	session->envelopes =
	        (session->options & (OPTION_STREAM | OPTION_INPUT)) && parser->status_code == 200;
	return 0;
}

static int on_answer_body(http_parser *parser, const char *data, size_t size)
{
	struct session *session = parser->data;

	return buffer_append(&session->answer, data, size) < 0;
}

static int on_answer_end(http_parser *parser)
{
	((struct session *)parser->data)->complete = true;
	return 0;
}

static void turn(struct session *session)
{
	static const http_parser_settings settings = { .on_headers_complete = on_answer_head,
		                                       .on_body = on_answer_body,
		                                       .on_message_complete = on_answer_end };
	char answer[4096];
	ssize_t got;

	for (int i = 0; i < 3; i++)
		(void)uv_run(&session->loop, UV_RUN_NOWAIT);
	while ((got = recv(session->client, answer, sizeof(answer), MSG_DONTWAIT)) > 0)
		if (http_parser_execute(&session->parser, &settings, answer, (size_t)got) != (size_t)got)
			abort();
}

/* Every payload is JSON, and the end comes once. */
static void check_stream(const struct session *session)
{
	const char *data = session->answer.data;
	size_t left = session->answer.size;
	bool ended = false;

	while (left) {
		cleanup_json json_t *value = NULL;
		const char *payload;
		size_t size;

		if (ended || connect_parse_envelope(data, left, &payload, &size, NULL) < 0)
			abort();
		ended = data[0] & 2;
		if (json_parse_object(payload, size, &value, NULL) < 0)
			abort();
		left -= (size_t)(payload - data) + size;
		data = payload + size;
	}
	if (ended != session->complete)
		abort();
}

/* A server on a socket that the kernel names, and a connection to it. */
static void connect_to(struct session *session)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	socklen_t size = sizeof(address);
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	session->client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (listener < 0 || session->client < 0 ||
	    bind(listener, (struct sockaddr *)&address, sizeof(sa_family_t)) < 0 ||
	    getsockname(listener, (struct sockaddr *)&address, &size) < 0 ||
	    http_server_listen_fd(session->server, listener, 0, NULL) < 0 ||
	    connect(session->client, (struct sockaddr *)&address, size) < 0)
		abort();
}

/* The request: good, but for what the input says. */
static void make_request(const struct session *session, const uint8_t *data, size_t size, struct buffer *to)
{
	bool input = session->options & OPTION_INPUT;
	bool stream = input || (session->options & OPTION_STREAM);
	bool enveloped = stream && (session->options & OPTION_ENVELOPE);
	const uint8_t *line_end =
	        (session->options & OPTION_HEADERS) && size ? memchr(data, '\n', size) : NULL;
	size_t line = line_end ? (size_t)(line_end - data) : 0;

	/* One header, not more. */
	if (line && memchr(data, '\r', line))
		line_end = NULL;
	(void)buffer_printf(to, "POST /s.S/%s HTTP/1.1\r\nContent-Type: application/%sjson\r\n",
	                    input    ? "Input"
	                    : stream ? "Stream"
	                             : "Unary",
	                    stream ? "connect+" : "");
	if (line_end) {
		/* A deadline that passes would make the run depend on the clock. */
		(void)buffer_append_string(to, "Keepalive-Ping-Interval: ");
		(void)buffer_append(to, data, line);
		(void)buffer_append_string(to, "\r\n");
		data += line + 1;
		size -= line + 1;
	}
	(void)buffer_printf(to, "Content-Length: %zu\r\n\r\n", size + (enveloped ? 5 : 0));
	if (enveloped) {
		unsigned char head[5] = { 0, 0, 0, (unsigned char)(size >> 8), (unsigned char)size };

		(void)buffer_append(to, head, sizeof(head));
	}
	(void)buffer_append(to, data, size);
}

static void serve(struct session *session, const uint8_t *data, size_t size)
{
	struct http_server_options options = { .on_request = on_request, .context = session };
	cleanup_buffer struct buffer request = BUFFER_INIT;

	if (uv_loop_init(&session->loop) < 0)
		abort();
	session->server = http_server_new(&session->loop, &options);
	if (!session->server)
		abort();
	connect_to(session);
	http_parser_init(&session->parser, HTTP_RESPONSE);
	session->parser.data = session;
	make_request(session, data, size, &request);
	if (send(session->client, request.data, request.size, MSG_NOSIGNAL) != (ssize_t)request.size)
		abort();
	turn(session);
	if (session->options & OPTION_LEAVE)
		(void)shutdown(session->client, SHUT_WR);
	turn(session);
	for (int i = 0; i < 16 && session->call && session->paused; i++) {
		session->paused = false;
		connect_resume(session->call);
		turn(session);
	}
	if (session->call && !(session->options & OPTION_INPUT))
		end_call(session);
	else if (session->call)
		connect_abort(session->call), session->call = NULL;
	turn(session);
	if (session->envelopes)
		check_stream(session);
	http_server_free(session->server);
	(void)uv_run(&session->loop, UV_RUN_DEFAULT);
	if (session->call || uv_loop_close(&session->loop) < 0)
		abort();
	close(session->client);
	json_decref(session->request);
	buffer_fini(&session->answer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct session session = { 0 };
	const char *payload;
	size_t payload_size;
	struct error err;

	if (size == 0 || size > 0xffff)
		return 0;
	if (connect_parse_envelope((const char *)data + 1, size - 1, &payload, &payload_size, &err) == 0 &&
	    (payload != (const char *)data + 6 || payload_size > size - 6))
		abort();
	session.options = data[0];
	serve(&session, data + 1, size - 1);
	return 0;
}
