/* The tunnel: "CONNECT <tcp port>\n" on vsock 1025 becomes a connection to that port here, on 127.0.0.1 or
 * else ::1. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "envd/envd.h"

#define COMMAND_MAX 32 /* bytes */

struct tunnel {
	struct envd *envd;
	struct stream *client;
	struct stream *target; /* being connected */
	struct buffer head;    /* the command, and what came behind it */
	size_t head_used;      /* bytes of the command */
	uint16_t port;
	bool six; /* ::1 is being tried */
};

static void tunnel_free(struct tunnel *tunnel)
{
	buffer_fini(&tunnel->head);
	free(tunnel);
}

static void on_client_close(struct stream *stream, int status, void *context)
{
	struct tunnel *tunnel = context;

	(void)stream;
	(void)status;
	tunnel->client = NULL;
	if (tunnel->target)
		stream_close(tunnel->target); /* on_target comes with -ECANCELED */
	else
		tunnel_free(tunnel);
}

static const struct stream_events leaving_events = { .on_close = on_client_close };

static void refuse(struct tunnel *tunnel, const char *reason)
{
	char line[96];
	int size = snprintf(line, sizeof(line), "ERR %s\n", reason);

	stream_set_events(tunnel->client, &leaving_events, tunnel);
	(void)stream_write(tunnel->client, line, (size_t)size);
	stream_close_after_writes(tunnel->client);
}

static void connect_target(struct tunnel *tunnel);

static void on_target(struct stream *stream, int status, void *context)
{
	struct tunnel *tunnel = context;

	tunnel->target = NULL;
	if (!tunnel->client) {
		if (status == 0)
			stream_close(stream);
		tunnel_free(tunnel);
	} else if (status < 0 && !tunnel->six) {
		tunnel->six = true;
		connect_target(tunnel);
	} else if (status < 0) {
		refuse(tunnel, strerror(-status));
	} else {
		(void)stream_write(tunnel->client, "OK\n", 3);
		stream_splice(tunnel->client, stream, tunnel->head.data + tunnel->head_used,
		              tunnel->head.size - tunnel->head_used, NULL, NULL);
		tunnel_free(tunnel);
	}
}

static void connect_target(struct tunnel *tunnel)
{
	struct error err = { 0 };

	tunnel->target = stream_connect_tcp(tunnel->envd->loop, tunnel->six ? "::1" : "127.0.0.1",
	                                    tunnel->port, on_target, tunnel, &err);
	if (!tunnel->target)
		refuse(tunnel, "no memory");
}

static void on_command(struct stream *stream, const char *data, size_t size, void *context)
{
	struct tunnel *tunnel = context;
	unsigned port = 0;
	char *newline;
	int used = 0;

	if (buffer_append(&tunnel->head, data, size) < 0) {
		refuse(tunnel, "too much at once");
		return;
	}
	newline = memchr(tunnel->head.data, '\n', tunnel->head.size);
	if (!newline && tunnel->head.size < COMMAND_MAX)
		return;
	stream_read_stop(stream);
	if (newline)
		*newline = '\0';
	if (!newline || sscanf(tunnel->head.data, "CONNECT %5u%n", &port, &used) != 1 ||
	    tunnel->head.data + used != newline || port == 0 || port > UINT16_MAX) {
		refuse(tunnel, "expected CONNECT <port>");
		return;
	}
	tunnel->head_used = (size_t)(newline - tunnel->head.data) + 1;
	tunnel->port = (uint16_t)port;
	connect_target(tunnel);
}

static void on_early_end(struct stream *stream, void *context)
{
	(void)context;
	stream_close(stream);
}

static const struct stream_events command_events = {
	.on_data = on_command,
	.on_end = on_early_end,
	.on_close = on_client_close,
};

static void on_connection(uv_stream_t *listener, int status)
{
	struct error err = { 0 };
	struct stream *stream = status == 0 ? stream_accept(listener, &err) : NULL;
	struct tunnel *tunnel = stream ? calloc(1, sizeof(*tunnel)) : NULL;

	if (!tunnel) {
		if (stream)
			stream_close(stream);
		return;
	}
	tunnel->envd = listener->data;
	tunnel->client = stream;
	buffer_init(&tunnel->head, 1024 * 1024);
	stream_set_events(stream, &command_events, tunnel);
	stream_read_start(stream);
}

int tunnel_listen(struct envd *envd, int fd, struct error *err)
{
	uv_pipe_t *listener = calloc(1, sizeof(*listener));
	int ret = listener ? uv_pipe_init(envd->loop, listener, 0) : -ENOMEM;

	if (ret == 0)
		ret = uv_pipe_open(listener, fd);
	if (ret == 0) {
		listener->data = envd;
		ret = uv_listen((uv_stream_t *)listener, 128, on_connection);
	}
	/* Lives as long as the agent. */
	return ret < 0 ? error_errno(err, -ret, "listen for tunnels") : 0;
}
