/*
 * Fuzz the HTTP client: hostile is what an upstream answers (a program in a sandbox does), and where the
 * network cuts it. The first byte draws the cuts, the second says what is asked and what is done with the
 * answer, the rest is what the upstream says: up to a 0xff byte to the first request, behind it to the next.
 * The same must be understood however it is cut, and every request must end, in one way only.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/base.h"
#include "fuzz.h"
#include "net/http_client.h"

#define OPTION_METHOD  3 /* GET, HEAD, POST with a body, GET */
#define OPTION_PAUSE   4 /* after every piece of the answer */
#define OPTION_CANCEL  8 /* at the first piece */
#define OPTION_UPGRADE 16
#define OPTION_VSOCK   32 /* by way of a monitor's and an agent's handshake */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct session {
	uint8_t options;
	uv_loop_t loop;
	struct http_client *client;
	struct http_call *call; /* NULL: over */
	bool paused;
	int upstream; /* our end of the connection */
	struct buffer log;
};

static char directory[] = "/tmp/atoll-fuzz-XXXXXX";
static struct sockaddr_un address = { .sun_family = AF_UNIX };
static int listener = -1;

static void remove_files(void)
{
	(void)unlink(address.sun_path);
	(void)rmdir(directory);
}

static void make_listener(void)
{
	if (listener >= 0)
		return;
	if (!mkdtemp(directory))
		abort();
	(void)snprintf(address.sun_path, sizeof(address.sun_path), "%s/s", directory);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	(void)atexit(remove_files);
	if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(listener, 8) < 0)
		abort();
}

/* --- the one that asks --- */

static void note(struct session *session, const void *data, size_t size)
{
	if (buffer_append(&session->log, data, size) < 0)
		abort();
}

static void over(struct session *session, struct http_call *call, char how)
{
	if (session->call != call)
		abort();
	session->call = NULL;
	session->paused = false;
	note(session, &how, 1);
}

static void on_response(struct http_call *call, int status, const struct http_header *headers, size_t count,
                        void *context)
{
	struct session *session = context;

	if (session->call != call || status < 200)
		abort();
	note(session, &status, sizeof(status));
	for (size_t i = 0; i < count; i++) {
		note(session, headers[i].name, strlen(headers[i].name) + 1);
		note(session, headers[i].value, strlen(headers[i].value) + 1);
	}
}

static void on_data(struct http_call *call, const char *data, size_t size, void *context)
{
	struct session *session = context;

	if (session->call != call || size == 0)
		abort();
	if (session->options & OPTION_CANCEL) {
		over(session, call, 'C');
		http_call_cancel(call);
		return;
	}
	note(session, data, size);
	if (session->options & OPTION_PAUSE) {
		session->paused = true;
		http_call_pause(call);
	}
}

static void on_end(struct http_call *call, void *context)
{
	over(context, call, 'E');
}

static void on_error(struct http_call *call, enum http_call_error error, bool after_response, void *context)
{
	struct session *session = context;
	char how = (char)('0' + (int)error + 10 * after_response);

	over(session, call, how);
}

static void on_upgrade(struct http_call *call, struct stream *stream, const char *head, size_t head_size,
                       const char *rest, size_t rest_size, void *context)
{
	struct session *session = context;

	/* Where the rest comes depends on the cuts; it is read to its end here. */
	for (size_t i = 0; i < rest_size; i++)
		if (rest[i] == '\0')
			break;
	note(session, head, head_size);
	over(session, call, 'U');
	stream_close(stream);
}

static const struct http_call_events plain_events = {
	.on_response = on_response,
	.on_data = on_data,
	.on_end = on_end,
	.on_error = on_error,
};

static const struct http_call_events upgrade_events = {
	.on_response = on_response,
	.on_data = on_data,
	.on_end = on_end,
	.on_error = on_error,
	.on_upgrade = on_upgrade,
};

static void ask(struct session *session)
{
	static const char *const methods[] = { "GET", "HEAD", "POST", "GET" };
	const struct http_call_events *events =
	        session->options & OPTION_UPGRADE ? &upgrade_events : &plain_events;
	const char *method = methods[session->options & OPTION_METHOD];
	struct http_endpoint endpoint = { 0 };
	struct http_call *call;

	memcpy(endpoint.unix_path, address.sun_path, sizeof(endpoint.unix_path));
	if (session->options & OPTION_VSOCK) {
		endpoint.vsock_port = 1;
		endpoint.tunnel_port = 2;
	}
	call = http_call_new(session->client, &endpoint, method, "/", events, session);
	if (!call)
		abort();
	session->call = call;
	http_call_header(call, "Host", "h");
	http_call_begin(call, strcmp(method, "POST") == 0 ? 4 : 0);
	if (strcmp(method, "POST") == 0) {
		http_call_write(call, "body", 4);
		http_call_end(call);
	}
}

/* --- the upstream --- */

static void turn(struct session *session)
{
	char request[4096];

	for (int i = 0; i < 3; i++) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

		if (fd >= 0) {
			if (session->upstream >= 0)
				close(session->upstream);
			session->upstream = fd;
		}
		(void)uv_run(&session->loop, UV_RUN_NOWAIT);
		if (session->paused) {
			session->paused = false;
			http_call_resume(session->call);
		}
	}
	while (session->upstream >= 0 && recv(session->upstream, request, sizeof(request), MSG_DONTWAIT) > 0)
		continue;
}

static void answer(struct session *session, const uint8_t *data, size_t size, uint32_t *seed)
{
	ask(session);
	turn(session);
	while (size) {
		size_t piece = *seed ? next_piece(seed, size) : size;

		/* The client may have closed. */
		if (session->upstream < 0 ||
		    send(session->upstream, data, piece, MSG_NOSIGNAL) != (ssize_t)piece)
			break;
		turn(session);
		data += piece;
		size -= piece;
	}
	/* A pause takes a turn for every piece of a body. */
	for (int i = 0; i < 4096 && session->paused; i++)
		turn(session);
	/* An answer without an end has one here; what the client tries again ends likewise. */
	for (int i = 0; i < 4096 && session->call; i++) {
		if (session->upstream >= 0)
			close(session->upstream);
		session->upstream = -1;
		turn(session);
	}
	if (session->call)
		abort();
}

/* Two requests; `seed` 0: answered in one piece each. */
static void converse(struct session *session, const uint8_t *data, size_t size, uint32_t seed)
{
	const uint8_t *end = size ? memchr(data, 0xff, size) : NULL;
	size_t first = end ? (size_t)(end - data) : size;

	session->upstream = -1;
	if (uv_loop_init(&session->loop) < 0)
		abort();
	session->client = http_client_new(&session->loop, 1, 1000000);
	if (!session->client)
		abort();
	answer(session, data, first, &seed);
	if (end)
		answer(session, end + 1, size - first - 1, &seed);
	http_client_free(session->client);
	(void)uv_run(&session->loop, UV_RUN_DEFAULT);
	if (uv_loop_close(&session->loop) < 0)
		abort();
	if (session->upstream >= 0)
		close(session->upstream);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct session whole = { 0 };
	struct session pieces = { 0 };

	if (size < 2)
		return 0;
	make_listener();
	whole.options = pieces.options = data[1];
	converse(&whole, data + 2, size - 2, 0);
	converse(&pieces, data + 2, size - 2, data[0] + 1u);
	/* What follows a handshake too early is refused, and that depends on the cuts. */
	if (!(data[1] & OPTION_VSOCK) &&
	    (whole.log.size != pieces.log.size ||
	     (whole.log.size && memcmp(whole.log.data, pieces.log.data, whole.log.size) != 0)))
		abort();
	buffer_fini(&whole.log);
	buffer_fini(&pieces.log);
	return 0;
}
