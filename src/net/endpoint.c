/* Connecting to an endpoint: the socket, then the monitor's vsock handshake, then the agent's tunnel
 * handshake. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/http_client.h"

#define HANDSHAKE_LINE_MAX 64 /* "OK <n>\n", "ERR <reason>\n" */

enum handshake {
	HANDSHAKE_VSOCK,  /* waits for the monitor's OK */
	HANDSHAKE_TUNNEL, /* waits for the agent's OK */
	HANDSHAKE_DONE,
};

struct connecting {
	struct http_endpoint endpoint;
	void (*on_connect)(struct stream *stream, int status, void *context);
	void *context;
	enum handshake waits_for;
	char line[HANDSHAKE_LINE_MAX];
	size_t line_size;
	uv_timer_t failure; /* tells of a failure that was known at once */
};

static void connecting_finish(struct connecting *connecting, struct stream *stream, int status)
{
	void (*on_connect)(struct stream *, int, void *) = connecting->on_connect;
	void *context = connecting->context;

	free(connecting);
	on_connect(stream, status, context);
}

static void connecting_fail(struct connecting *connecting, struct stream *stream, int status)
{
	stream_set_events(stream, NULL, NULL);
	stream_close(stream);
	connecting_finish(connecting, NULL, status);
}

static void handshake_send(struct connecting *connecting, struct stream *stream)
{
	char line[HANDSHAKE_LINE_MAX];
	unsigned port = connecting->waits_for == HANDSHAKE_VSOCK ? connecting->endpoint.vsock_port
	                                                         : connecting->endpoint.tunnel_port;
	int size = snprintf(line, sizeof(line), "CONNECT %u\n", port);

	connecting->line_size = 0;
	(void)stream_write(stream, line, (size_t)size);
}

/* A whole answer line came. True when the handshake goes on or is done. */
static bool handshake_accept(struct connecting *connecting, struct stream *stream)
{
	if (strncmp(connecting->line, "OK", 2) != 0)
		return false;
	if (connecting->waits_for == HANDSHAKE_VSOCK && connecting->endpoint.tunnel_port) {
		connecting->waits_for = HANDSHAKE_TUNNEL;
		handshake_send(connecting, stream);
	} else {
		connecting->waits_for = HANDSHAKE_DONE;
	}
	return true;
}

static void on_handshake_data(struct stream *stream, const char *data, size_t size, void *context)
{
	struct connecting *connecting = context;

	for (size_t i = 0; i < size; i++) {
		/* Neither side speaks before it is spoken to, so nothing follows the last line. */
		if (connecting->waits_for == HANDSHAKE_DONE ||
		    connecting->line_size + 1 >= HANDSHAKE_LINE_MAX) {
			connecting_fail(connecting, stream, HTTP_CALL_BROKEN);
			return;
		}
		connecting->line[connecting->line_size++] = data[i];
		if (data[i] != '\n')
			continue;
		connecting->line[connecting->line_size - 1] = '\0';
		if (!handshake_accept(connecting, stream)) {
			connecting_fail(connecting, stream, HTTP_CALL_REFUSED);
			return;
		}
	}
	if (connecting->waits_for != HANDSHAKE_DONE)
		return;
	stream_read_stop(stream);
	stream_set_events(stream, NULL, NULL);
	connecting_finish(connecting, stream, 0);
}

/* The monitor closes a connection that the guest refuses. */
static void on_handshake_end(struct stream *stream, void *context)
{
	connecting_fail(context, stream, HTTP_CALL_REFUSED);
}

static void on_handshake_close(struct stream *stream, int status, void *context)
{
	(void)stream;
	(void)status;
	connecting_finish(context, NULL, HTTP_CALL_REFUSED);
}

static void on_socket_connected(struct stream *stream, int status, void *context)
{
	static const struct stream_events events = { .on_data = on_handshake_data,
		                                     .on_end = on_handshake_end,
		                                     .on_close = on_handshake_close };
	struct connecting *connecting = context;

	if (status < 0) {
		connecting_finish(connecting, NULL, HTTP_CALL_UNREACHABLE);
		return;
	}
	if (!connecting->endpoint.vsock_port) {
		connecting_finish(connecting, stream, 0);
		return;
	}
	stream_set_events(stream, &events, connecting);
	handshake_send(connecting, stream);
	stream_read_start(stream);
}

static void on_failure_told(uv_handle_t *handle)
{
	connecting_finish(handle->data, NULL, HTTP_CALL_UNREACHABLE);
}

static void on_failure_due(uv_timer_t *timer)
{
	uv_close((uv_handle_t *)timer, on_failure_told);
}

void http_endpoint_connect(uv_loop_t *loop, const struct http_endpoint *endpoint,
                           void (*on_connect)(struct stream *stream, int status, void *context),
                           void *context)
{
	struct connecting *connecting = calloc(1, sizeof(*connecting));
	struct stream *stream;

	if (!connecting)
		abort(); /* nobody could be told */
	connecting->endpoint = *endpoint;
	connecting->on_connect = on_connect;
	connecting->context = context;
	if (endpoint->unix_path[0])
		stream =
		        stream_connect_unix(loop, endpoint->unix_path, on_socket_connected, connecting, NULL);
	else
		stream = stream_connect_tcp(loop, endpoint->ip, endpoint->port, on_socket_connected,
		                            connecting, NULL);
	if (stream)
		return;
	/* Callers may rely on being called from the loop, never from inside this function. */
	(void)uv_timer_init(loop, &connecting->failure);
	connecting->failure.data = connecting;
	(void)uv_timer_start(&connecting->failure, on_failure_due, 0, 0);
}
