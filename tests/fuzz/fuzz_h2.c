/*
 * Fuzz HTTP/2: hostile are the bytes of a client behind the preface, and where the network cuts them. The
 * first byte draws the cuts, the next four say what the handlers do with one request after the other, the
 * rest is what the client sends. Whatever comes, exchanges come and go in order, nothing leaks, and heads are
 * such that they can be passed on as HTTP/1.1.
 */
#include <errno.h>
#include <openssl/sha.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/base.h"
#include "fuzz.h"
#include "fuzz_server.h"
#include "net/http2.h"

#define MODES       4
#define BODY_LIMIT  64
#define PREFACE     "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#define PEERS       128
#define QUIT        'q'
#define MAGIC       "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
#define LARGE_REPLY 70000 /* more than a window */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum mode {
	MODE_REPLY,   /* at once, the body unread */
	MODE_COLLECT, /* up to BODY_LIMIT, then reply */
	MODE_ECHO,    /* piece by piece, with a trailer behind */
	MODE_PAUSE,   /* the body with a pause after every piece */
	MODE_ABORT,   /* at the first piece of the body, or at its end */
	MODE_NEVER,   /* read all, never answer */
	MODE_LARGE,   /* at once, and much */
	MODE_JOIN, /* grant a WebSocket, with a peer that says everything back until it hears QUIT; else reply
	            */
	MODE_COUNT,
};

struct session {
	const uint8_t *modes;
	unsigned requests;
	unsigned open;
};

struct request {
	struct session *session;
	struct http_exchange *exchange;
	enum mode mode;
	bool paused;
};

static struct request *requests[256]; /* those that are open; a server allows fewer */

static int peers[PEERS]; /* sockets of those that are joined; 0: none */

static void finish(struct request *request)
{
	http_exchange_on_close(request->exchange, NULL, NULL);
	request->session->open--;
	for (size_t i = 0; i < ARRAY_SIZE(requests); i++)
		if (requests[i] == request)
			requests[i] = NULL;
	free(request);
}

static void reply(struct request *request, size_t size)
{
	static const char body[LARGE_REPLY] = "answer";
	struct http_exchange *exchange = request->exchange;

	finish(request);
	http_reply_header(exchange, "X-Upper", "value");
	http_reply_header(exchange, "Connection", "close");
	http_reply(exchange, 200, "text/plain", body, size);
}

static void on_data(struct http_exchange *exchange, const char *data, size_t size, void *context)
{
	struct request *request = context;

	if (request->mode == MODE_ECHO) {
		http_reply_write(exchange, data, size);
	} else if (request->mode == MODE_PAUSE) {
		request->paused = true;
		http_request_pause(exchange);
	} else if (request->mode == MODE_ABORT) {
		finish(request);
		http_exchange_abort(exchange);
	}
}

static void on_end(struct http_exchange *exchange, void *context)
{
	struct request *request = context;
	size_t count;
	const struct http_header *trailers = http_request_trailers(exchange, &count);

	for (size_t i = 0; i < count; i++)
		if (strpbrk(trailers[i].name, "\r\n: ") || strpbrk(trailers[i].value, "\r\n"))
			abort();
	if (request->mode == MODE_ECHO) {
		finish(request);
		http_reply_trailer(exchange, "X-End", "yes");
		http_reply_end(exchange);
	} else if (request->mode == MODE_ABORT) {
		finish(request);
		http_exchange_abort(exchange);
	} else if (request->mode != MODE_NEVER) {
		reply(request, 6);
	}
}

static void on_collected(struct http_exchange *exchange, const char *data, size_t size, void *context)
{
	(void)context;
	if (data[size] || size > BODY_LIMIT)
		abort();
	http_reply(exchange, 200, NULL, data, size);
}

static void on_close(struct http_exchange *exchange, void *context)
{
	struct request *request = context;

	if (request->exchange != exchange)
		abort();
	finish(request);
}

/* It will be written as lines of HTTP/1.1. */
static void check_head(const struct http_exchange *exchange)
{
	const char *target = http_request_target(exchange);
	const struct http_header *headers;
	size_t count;

	headers = http_request_headers(exchange, &count);
	if (!http_request_method(exchange)[0] || strpbrk(http_request_method(exchange), "\r\n \t"))
		abort();
	if ((target[0] != '/' && strcmp(target, "*") != 0) || strpbrk(target, "\r\n \t"))
		abort();
	for (size_t i = 0; i < count; i++)
		if (!headers[i].name[0] || strpbrk(headers[i].name, "\r\n: ") ||
		    strpbrk(headers[i].value, "\r\n"))
			abort();
	if (http_request_wants_upgrade(exchange) &&
	    (strcmp(http_request_method(exchange), "GET") != 0 ||
	     strlen(http_request_header(exchange, "Upgrade")) != 9 || http_request_has_body(exchange)))
		abort();
}

/* --- what is joined --- */

static void on_parted(void *context)
{
	struct session *session = context;

	session->open--;
}

static void write_grant(struct buffer *to, const char *key)
{
	cleanup_buffer struct buffer text = BUFFER_INIT;
	unsigned char digest[SHA_DIGEST_LENGTH];

	(void)buffer_printf(&text, "%s" MAGIC, key);
	(void)SHA1((const unsigned char *)text.data, text.size, digest);
	(void)buffer_append_string(to, "HTTP/1.1 101 Switching Protocols\r\nX-More: a\r\nConnection: "
	                               "Upgrade\r\nSec-WebSocket-Accept: ");
	(void)base64_encode(to, digest, sizeof(digest));
	(void)buffer_append_string(to, "\r\n\r\n");
}

static bool join(struct session *session, struct http_exchange *exchange)
{
	const char *key = http_request_header(exchange, "Sec-WebSocket-Key");
	cleanup_buffer struct buffer head = BUFFER_INIT;
	struct http_joint joint = { .rest = "rest", .rest_size = 4, .done = on_parted, .context = session };
	int pair[2];
	size_t place = 0;

	while (place < PEERS && peers[place])
		place++;
	if (place == PEERS || !http_request_wants_upgrade(exchange))
		return false;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0)
		abort();
	write_grant(&head, key);
	joint.stream = stream_new_fd(http_exchange_loop(exchange), pair[0], NULL);
	joint.head = "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: no\r\n\r\n";
	joint.head_size = strlen(joint.head);
	if (!joint.stream || http_exchange_join(exchange, &joint) != -EPROTO)
		abort();
	joint.head = head.data;
	joint.head_size = head.size;
	session->open++;
	if (http_exchange_join(exchange, &joint) < 0)
		abort();
	peers[place] = pair[1];
	return true;
}

static void drop_peer(int *peer)
{
	close(*peer);
	*peer = 0;
}

static void turn_peers(void)
{
	char data[4096];

	for (size_t i = 0; i < PEERS; i++) {
		ssize_t got = peers[i] ? recv(peers[i], data, sizeof(data), 0) : -1;

		if (got > 0 && data[0] != QUIT)
			(void)send(peers[i], data, (size_t)got, MSG_NOSIGNAL);
		else if (got >= 0)
			drop_peer(&peers[i]);
	}
}

static void on_request(struct http_exchange *exchange, void *context)
{
	static const struct http_body_events events = { on_data, on_end };
	struct session *session = context;
	enum mode mode = session->modes[session->requests++ % MODES] % MODE_COUNT;
	struct request *request;

	check_head(exchange);
	if (mode == MODE_JOIN && join(session, exchange))
		return;
	if (mode == MODE_COLLECT) {
		http_request_collect(exchange, BODY_LIMIT, on_collected, NULL);
		return;
	}
	request = calloc(1, sizeof(*request));
	if (!request || session->open > 128)
		abort();
	*request = (struct request){ .session = session, .exchange = exchange, .mode = mode };
	session->open++;
	for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
		if (!requests[i]) {
			requests[i] = request;
			break;
		}
	}
	http_exchange_on_close(exchange, on_close, request);
	if (mode == MODE_REPLY || mode == MODE_LARGE || mode == MODE_JOIN) {
		reply(request, mode == MODE_LARGE ? LARGE_REPLY : 6);
		return;
	}
	if (mode == MODE_ECHO)
		http_reply_begin(exchange, 200, -1);
	http_request_stream(exchange, &events, request);
}

/* --- the client --- */

static void turn(uv_loop_t *loop, int client)
{
	char answer[4096];

	for (int i = 0; i < 2; i++)
		(void)uv_run(loop, UV_RUN_NOWAIT);
	turn_peers();
	for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
		if (requests[i] && requests[i]->paused) {
			requests[i]->paused = false;
			http_request_resume(requests[i]->exchange);
		}
	}
	while (recv(client, answer, sizeof(answer), MSG_DONTWAIT) > 0)
		;
}

/* Serve `data`, cut as `seed` says (0: whole). */
static void serve(const uint8_t *modes, const uint8_t *data, size_t size, uint32_t seed)
{
	struct session session = { .modes = modes };
	struct http_server_options options = { .on_request = on_request,
		                               .context = &session,
		                               .max_head_size = 1024 };
	struct http_server *server;
	uv_loop_t loop;
	int client;

	if (uv_loop_init(&loop) < 0)
		abort();
	server = http_server_new(&loop, &options);
	if (!server)
		abort();
	http2_enable(server);
	client = connect_to(server);
	turn(&loop, client);
	(void)!write(client, PREFACE, sizeof(PREFACE) - 1);
	while (size) {
		size_t piece = seed ? next_piece(&seed, size) : size;

		/* The server may have closed. */
		if (send(client, data, piece, MSG_NOSIGNAL) != (ssize_t)piece)
			break;
		turn(&loop, client);
		data += piece;
		size -= piece;
	}
	for (int i = 0; i < 20; i++)
		turn(&loop, client);
	close(client);
	(void)uv_run(&loop, UV_RUN_NOWAIT);
	http_server_free(server);
	/* What was for them may still be on its way. */
	for (size_t i = 0; i < PEERS; i++)
		if (peers[i])
			drop_peer(&peers[i]);
	(void)uv_run(&loop, UV_RUN_DEFAULT);
	if (session.open || uv_loop_close(&loop) < 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 1 + MODES)
		return 0;
	(void)signal(SIGPIPE, SIG_IGN); /* as every program here does */
	serve(data + 1, data + 1 + MODES, size - 1 - MODES, 0);
	serve(data + 1, data + 1 + MODES, size - 1 - MODES, data[0] + 1u);
	return 0;
}
