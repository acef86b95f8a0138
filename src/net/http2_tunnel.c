/* Streams of HTTP/2 that a WebSocket goes through (RFC 8441), joined with a peer that speaks HTTP/1.1. */
#include <errno.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "base/encode.h"
#include "base/random.h"
#include "net/http2_session.h"

#define KEY_BYTES 16
#define MAGIC     "258EAFA5-E914-47DA-95CA-C5AB0DC85B11" /* RFC 6455, 1.3 */

struct http2_tunnel {
	struct stream *peer; /* NULL: gone */
	size_t unconsumed;   /* bytes of the client that the peer has not taken yet */
	stream_spliced_fn *done;
	void *context;
};

/* --- asking --- */

static int add_line(struct http2_stream *stream, const char *name, const char *value)
{
	int ret = http_head_field(&stream->head, name, strlen(name));

	return ret < 0 ? ret : http_head_value(&stream->head, value, strlen(value));
}

/* What proves that the peer has understood the key. */
static int expect_accept(struct http2_stream *stream, const char *key)
{
	cleanup_buffer struct buffer text = BUFFER_INIT;
	cleanup_buffer struct buffer accept = BUFFER_INIT;
	unsigned char digest[SHA_DIGEST_LENGTH];

	if (buffer_append_string(&text, key) < 0 || buffer_append_string(&text, MAGIC) < 0)
		return -ENOMEM;
	(void)SHA1((const unsigned char *)text.data, text.size, digest);
	if (base64_encode(&accept, digest, sizeof(digest)) < 0)
		return -ENOMEM;
	text_copy(stream->accept, sizeof(stream->accept), accept.data, accept.size);
	return 0;
}

int http2_tunnel_ask(struct http2_stream *stream)
{
	cleanup_buffer struct buffer key = BUFFER_INIT;
	unsigned char bytes[KEY_BYTES];
	char *method = strdup("GET");
	int ret;

	free(stream->method);
	stream->method = method;
	random_bytes(bytes, sizeof(bytes));
	ret = method ? base64_encode(&key, bytes, sizeof(bytes)) : -ENOMEM;
	if (ret == 0)
		ret = expect_accept(stream, key.data);
	if (ret == 0)
		ret = add_line(stream, "Connection", "Upgrade");
	if (ret == 0)
		ret = add_line(stream, "Upgrade", "websocket");
	if (ret == 0)
		ret = add_line(stream, "Sec-WebSocket-Key", key.data);
	return ret;
}

/* --- the peer's events --- */

static void tunnel_over(struct http2_tunnel *tunnel)
{
	stream_spliced_fn *done = tunnel->done;

	tunnel->done = NULL;
	if (done)
		done(tunnel->context);
}

static void consume(struct http2_stream *stream, size_t size)
{
	(void)nghttp2_session_consume_stream(stream->session->nghttp2, stream->id, size);
}

static void on_peer_data(struct stream *peer, const char *data, size_t size, void *context)
{
	struct http2_stream *stream = context;

	if (buffer_append(&stream->outbox, data, size) < 0) {
		(void)nghttp2_submit_rst_stream(stream->session->nghttp2, NGHTTP2_FLAG_NONE, stream->id,
		                                NGHTTP2_INTERNAL_ERROR);
		stream_read_stop(peer);
	}
	if (http2_stream_is_full(stream))
		stream_read_stop(peer);
	http2_stream_wake(stream);
}

static void on_peer_end(struct stream *peer, void *context)
{
	struct http2_stream *stream = context;

	(void)peer;
	stream->out_ended = true;
	http2_stream_wake(stream);
}

static void on_peer_drain(struct stream *peer, void *context)
{
	struct http2_stream *stream = context;
	size_t size = stream->tunnel->unconsumed;

	(void)peer;
	if (!size)
		return;
	stream->tunnel->unconsumed = 0;
	consume(stream, size);
	http2_stream_wake(stream);
}

/* It broke. What it had said to its end is still sent; else the client sees a torn stream. */
static void on_peer_close(struct stream *peer, int status, void *context)
{
	struct http2_stream *stream = context;

	(void)peer;
	(void)status;
	stream->tunnel->peer = NULL;
	if (!stream->out_ended)
		(void)nghttp2_submit_rst_stream(stream->session->nghttp2, NGHTTP2_FLAG_NONE, stream->id,
		                                NGHTTP2_CONNECT_ERROR);
	else if (stream->out_closed && !stream->in_ended)
		(void)nghttp2_submit_rst_stream(stream->session->nghttp2, NGHTTP2_FLAG_NONE, stream->id,
		                                NGHTTP2_NO_ERROR);
	tunnel_over(stream->tunnel);
	http2_stream_wake(stream);
}

/* --- the client's --- */

void http2_tunnel_data(struct http2_stream *stream, const char *data, size_t size)
{
	struct http2_tunnel *tunnel = stream->tunnel;

	if (tunnel->peer)
		(void)stream_write(tunnel->peer, data, size);
	if (tunnel->peer && stream_pending(tunnel->peer) > STREAM_HIGH_WATER)
		tunnel->unconsumed += size;
	else
		consume(stream, size);
}

void http2_tunnel_end(struct http2_stream *stream)
{
	if (stream->tunnel->peer)
		stream_shutdown(stream->tunnel->peer);
}

void http2_tunnel_drained(struct http2_stream *stream)
{
	if (stream->tunnel->peer && !stream->out_ended)
		stream_read_start(stream->tunnel->peer);
}

bool http2_tunnel_is_open(const struct http2_stream *stream)
{
	return stream->tunnel && stream->tunnel->peer;
}

void http2_tunnel_free(struct http2_stream *stream, bool torn)
{
	struct http2_tunnel *tunnel = stream->tunnel;

	stream->tunnel = NULL;
	if (!tunnel)
		return;
	if (tunnel->peer) {
		stream_set_events(tunnel->peer, NULL, NULL);
		if (torn)
			stream_close(tunnel->peer);
		else
			stream_close_after_writes(tunnel->peer);
	}
	tunnel_over(tunnel);
	free(tunnel);
}

/* --- joining --- */

/*
 * The headers of a 101 for an answer of HTTP/2: without the proof, which has no meaning there, and which is
 * found to be right here. 0, -EPROTO, -ENOMEM.
 */
static int take_headers(const char *head, const char *expected, struct buffer *to)
{
	static const char name[] = "sec-websocket-accept: ";
	const char *line = strstr(head, "\r\n");
	bool proved = false;
	size_t size;

	for (line = line ? line + 2 : ""; (size = strcspn(line, "\r\n")) > 0; line += size + 2) {
		if (strncmp(line + size, "\r\n", 2) != 0)
			break;
		if (strncasecmp(line, name, sizeof(name) - 1) != 0) {
			if (buffer_append(to, line, size + 2) < 0)
				return -ENOMEM;
			continue;
		}
		/* Of two one would be wrong. */
		if (proved || size != sizeof(name) - 1 + strlen(expected) ||
		    memcmp(line + sizeof(name) - 1, expected, strlen(expected)) != 0)
			return -EPROTO;
		proved = true;
	}
	return proved ? 0 : -EPROTO;
}

int http2_tunnel_join(struct http_exchange *exchange, const struct http_joint *joint)
{
	static const struct stream_events events = { on_peer_data, on_peer_end, on_peer_drain,
		                                     on_peer_close };
	struct http2_stream *stream = exchange->carrier_data;
	cleanup_buffer struct buffer headers = BUFFER_INIT;
	struct http2_tunnel *tunnel;
	int ret = take_headers(joint->head, stream->accept, &headers);

	if (ret < 0)
		return ret;
	tunnel = calloc(1, sizeof(*tunnel));
	if (!tunnel || buffer_append(&stream->outbox, joint->rest, joint->rest_size) < 0) {
		free(tunnel);
		return -ENOMEM;
	}
	*tunnel = (struct http2_tunnel){ .peer = joint->stream,
		                         .done = joint->done,
		                         .context = joint->context };
	stream->tunnel = tunnel;
	stream->exchange = NULL;
	http_exchange_free(exchange);
	http2_stream_answer(stream, 200, headers.data, -1, true);
	stream_set_events(joint->stream, &events, stream);
	if (stream->inbox.size)
		http2_tunnel_data(stream, stream->inbox.data, stream->inbox.size);
	buffer_fini(&stream->inbox);
	if (stream->in_ended)
		http2_tunnel_end(stream);
	stream_read_start(joint->stream);
	http2_stream_wake(stream);
	return 0;
}
