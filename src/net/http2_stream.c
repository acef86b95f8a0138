/* Streams of HTTP/2: a request's head and body become an exchange, its answer frames. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "net/http2_session.h"

#define FIELD_COST  32 /* beside its text: RFC 9113, 6.5.2 */
#define WEIGHT      4  /* a connection has many streams: each may queue less than it alone */
#define COMPACT     (STREAM_HIGH_WATER / WEIGHT) /* sent bytes that are kept before the rest is moved */
#define LENGTH_SIZE 24

static const struct http_carrier stream_carrier;

struct http2_stream *http2_stream_new(struct http2_session *session, int32_t id)
{
	struct http2_stream *stream = calloc(1, sizeof(*stream));

	if (!stream)
		return NULL;
	stream->session = session;
	stream->id = id;
	http_head_init(&stream->head, session->connection->server->options.max_head_size);
	http_head_init(&stream->trailers, session->connection->server->options.max_head_size);
	list_append(&session->streams, &stream->link);
	return stream;
}

void http2_stream_free(struct http2_stream *stream, bool torn)
{
	struct http2_session *session = stream->session;
	struct http_exchange *exchange = stream->exchange;

	list_remove(&stream->link);
	stream->exchange = NULL;
	http2_tunnel_free(stream, torn);
	if (exchange) {
		if (exchange->on_close)
			exchange->on_close(exchange, exchange->close_context);
		http_exchange_free(exchange);
	}
	if (stream->headed && --session->open == 0)
		http_connection_idle(session->connection);
	http_head_fini(&stream->head);
	http_head_fini(&stream->trailers);
	buffer_fini(&stream->cookies);
	buffer_fini(&stream->inbox);
	buffer_fini(&stream->outbox);
	buffer_fini(&stream->out_trailers);
	free(stream->method);
	free(stream->target);
	free(stream);
}

/* --- the request's head --- */

static int add_to(struct http_head *head, const char *name, size_t name_size, const char *value,
                  size_t value_size)
{
	int ret = http_head_field(head, name, name_size);

	return ret < 0 ? ret : http_head_value(head, value, value_size);
}

static int add_header(struct http2_stream *stream, const char *name, size_t name_size, const char *value,
                      size_t value_size)
{
	return add_to(&stream->head, name, name_size, value, value_size);
}

/* Too much of them tears the stream. */
int http2_stream_trailer(struct http2_stream *stream, const char *name, size_t name_size, const char *value,
                         size_t value_size)
{
	return add_to(&stream->trailers, name, name_size, value, value_size);
}

static bool is_name(const char *name, size_t size, const char *expected)
{
	return size == strlen(expected) && memcmp(name, expected, size) == 0;
}

static int copy_once(char **to, const char *value, size_t size)
{
	free(*to);
	*to = strndup(value, size);
	return *to ? 0 : -ENOMEM;
}

/* For HTTP/1.1 the crumbs of a cookie are one header (RFC 9113, 8.2.3). */
static int add_cookie(struct http2_stream *stream, const char *value, size_t size)
{
	if (stream->cookies.size && buffer_append(&stream->cookies, "; ", 2) < 0)
		return -ENOMEM;
	return buffer_append(&stream->cookies, value, size);
}

int http2_stream_field(struct http2_stream *stream, const char *name, size_t name_size, const char *value,
                       size_t value_size)
{
	size_t limit = stream->session->connection->server->options.max_head_size;
	int ret = 0;

	stream->head_size += name_size + value_size + FIELD_COST;
	if (stream->head_size > limit) {
		stream->refuse = 431;
		return 0;
	}
	if (is_name(name, name_size, ":method")) {
		ret = copy_once(&stream->method, value, value_size);
	} else if (is_name(name, name_size, ":path")) {
		ret = copy_once(&stream->target, value, value_size);
	} else if (is_name(name, name_size, ":authority")) {
		stream->has_host = true;
		ret = add_header(stream, "Host", 4, value, value_size);
	} else if (is_name(name, name_size, ":protocol")) {
		stream->websocket = true;
		if (!is_name(value, value_size, "websocket"))
			stream->refuse = 501;
	} else if (stream->websocket && is_name(name, name_size, "sec-websocket-key")) {
		ret = 0; /* has no meaning here */
	} else if (is_name(name, name_size, "cookie")) {
		ret = add_cookie(stream, value, value_size);
	} else if (name_size && name[0] != ':' && !(stream->has_host && is_name(name, name_size, "host"))) {
		ret = add_header(stream, name, name_size, value, value_size);
	}
	if (ret == -EMSGSIZE)
		stream->refuse = 431;
	return ret == -EMSGSIZE ? 0 : ret;
}

/* Both go into the first line of a request to a guest as they are. */
static bool first_line_is_good(const struct http2_stream *stream)
{
	const char *method = stream->method;
	const char *target = stream->target;

	if (!method || !target || strlen(method) > 15 ||
	    method[strspn(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-_")] || !method[0])
		return false;
	if (target[0] != '/' && !(strcmp(target, "*") == 0 && strcmp(method, "OPTIONS") == 0))
		return false;
	for (; *target; target++)
		if ((unsigned char)*target <= ' ' || *target == 0x7f)
			return false;
	return true;
}

/* --- the answer --- */

static nghttp2_nv field(const char *name, const char *value);
static size_t count_lines(const char *text);
static size_t split_headers(char *text, nghttp2_nv *fields);

/* The last of the body; trailers follow, if there are some. */
static void end_data(struct http2_stream *stream, uint32_t *flags)
{
	cleanup_free nghttp2_nv *fields = calloc(count_lines(stream->out_trailers.data) + 1, sizeof(*fields));
	size_t count = fields ? split_headers(stream->out_trailers.data, fields) : 0;

	*flags |= NGHTTP2_DATA_FLAG_EOF;
	if (count && nghttp2_submit_trailer(stream->session->nghttp2, stream->id, fields, count) == 0)
		*flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
}

static ssize_t give_data(nghttp2_session *nghttp2, int32_t id, uint8_t *to, size_t size, uint32_t *flags,
                         nghttp2_data_source *source, void *user)
{
	struct http2_stream *stream = source->ptr;
	size_t rest = stream->outbox.size - stream->out_sent;

	(void)nghttp2;
	(void)id;
	(void)user;
	if (!rest && !stream->out_ended) {
		stream->out_stalled = true;
		return NGHTTP2_ERR_DEFERRED;
	}
	if (size > rest)
		size = rest;
	if (size)
		memcpy(to, stream->outbox.data + stream->out_sent, size);
	stream->out_sent += size;
	if (stream->out_sent == stream->outbox.size) {
		buffer_clear(&stream->outbox);
		stream->out_sent = 0;
		stream->drained = true;
		if (stream->out_ended)
			end_data(stream, flags);
	} else if (stream->out_sent > COMPACT) {
		buffer_consume(&stream->outbox, stream->out_sent);
		stream->out_sent = 0;
	}
	return (ssize_t)size;
}

/*
 * A handler may be on the stack, with this exchange and with others: what it says leaves when it has
 * returned, as sending can end streams, and with them exchanges.
 */
static void flush_later(struct http2_session *session)
{
	if (!session->depth && session->connection)
		(void)http_connection_hold(session->connection);
}

void http2_stream_wake(struct http2_stream *stream)
{
	struct http2_session *session = stream->session;

	if (stream->out_stalled) {
		stream->out_stalled = false;
		(void)nghttp2_session_resume_data(session->nghttp2, stream->id);
	}
	flush_later(session);
}

static nghttp2_nv field(const char *name, const char *value)
{
	return (nghttp2_nv){ .name = (uint8_t *)(uintptr_t)name,
		             .value = (uint8_t *)(uintptr_t)value,
		             .namelen = strlen(name),
		             .valuelen = strlen(value) };
}

/* Meant for a connection of HTTP/1.1, and forbidden here (RFC 9113, 8.2.2). */
static bool is_forbidden(const char *name)
{
	static const char *const names[] = { "connection", "keep-alive", "proxy-connection",
		                             "transfer-encoding", "upgrade" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(name, names[i]) == 0)
			return true;
	return false;
}

/* Lines "name: value\r\n" as fields; `text` is cut up for it. Their number. */
static size_t split_headers(char *text, nghttp2_nv *fields)
{
	size_t count = 0;

	while (text && *text) {
		char *value = strstr(text, ": ");
		char *end = value ? strstr(value, "\r\n") : NULL;

		if (!end)
			break;
		*value = '\0';
		*end = '\0';
		for (char *at = text; *at; at++)
			*at = (char)tolower((unsigned char)*at);
		if (!is_forbidden(text))
			fields[count++] = field(text, value + 2);
		text = end + 2;
	}
	return count;
}

static size_t count_lines(const char *text)
{
	size_t count = 0;

	for (; text && (text = strchr(text, '\n')); text++)
		count++;
	return count;
}

void http2_stream_answer(struct http2_stream *stream, int status, char *headers, int64_t length, bool body)
{
	nghttp2_data_provider provider = { .source.ptr = stream, .read_callback = give_data };
	cleanup_free nghttp2_nv *fields = calloc(count_lines(headers) + 2, sizeof(*fields));
	char code[8];
	char size[LENGTH_SIZE];
	size_t count = 1;

	(void)snprintf(code, sizeof(code), "%d", status);
	(void)snprintf(size, sizeof(size), "%lld", (long long)length);
	if (fields) {
		fields[0] = field(":status", code);
		count += split_headers(headers, fields + 1);
		if (length >= 0)
			fields[count++] = field("content-length", size);
	}
	if (!fields || nghttp2_submit_response(stream->session->nghttp2, stream->id, fields, count,
	                                       body ? &provider : NULL) != 0)
		(void)nghttp2_submit_rst_stream(stream->session->nghttp2, NGHTTP2_FLAG_NONE, stream->id,
		                                NGHTTP2_INTERNAL_ERROR);
}

static void carrier_begin(struct http_exchange *exchange, int status, int64_t content_length)
{
	struct http2_stream *stream = exchange->carrier_data;
	bool told = status != 204 && status != 304 && status >= 200;

	/* It would say that the WebSocket is open. */
	if (stream->websocket && status / 100 == 2)
		status = 502;
	http2_stream_answer(stream, status, exchange->reply_headers.data, told ? content_length : -1,
	                    !exchange->reply_bodyless && content_length != 0);
	flush_later(stream->session);
}

static void carrier_write(struct http_exchange *exchange, const void *data, size_t size)
{
	struct http2_stream *stream = exchange->carrier_data;

	if (buffer_append(&stream->outbox, data, size) < 0)
		(void)nghttp2_submit_rst_stream(stream->session->nghttp2, NGHTTP2_FLAG_NONE, stream->id,
		                                NGHTTP2_INTERNAL_ERROR);
	http2_stream_wake(stream);
}

static void carrier_end(struct http_exchange *exchange)
{
	struct http2_stream *stream = exchange->carrier_data;

	stream->exchange = NULL;
	stream->out_ended = true;
	stream->out_trailers = exchange->reply_trailers;
	exchange->reply_trailers = (struct buffer)BUFFER_INIT;
	http_exchange_free(exchange);
	http2_stream_wake(stream);
}

static size_t carrier_pending(const struct http_exchange *exchange)
{
	const struct http2_stream *stream = exchange->carrier_data;

	return (stream->outbox.size - stream->out_sent) * WEIGHT;
}

bool http2_stream_is_full(const struct http2_stream *stream)
{
	return (stream->outbox.size - stream->out_sent) * WEIGHT > STREAM_HIGH_WATER;
}

static void carrier_abort(struct http_exchange *exchange)
{
	struct http2_stream *stream = exchange->carrier_data;

	stream->exchange = NULL;
	http_exchange_free(exchange);
	(void)nghttp2_submit_rst_stream(stream->session->nghttp2, NGHTTP2_FLAG_NONE, stream->id,
	                                NGHTTP2_INTERNAL_ERROR);
	flush_later(stream->session);
}

static void carrier_continue(struct http_exchange *exchange)
{
	struct http2_stream *stream = exchange->carrier_data;
	const nghttp2_nv status = field(":status", "100");

	if (stream->in_ended)
		return;
	(void)nghttp2_submit_headers(stream->session->nghttp2, NGHTTP2_FLAG_NONE, stream->id, NULL, &status,
	                             1, NULL);
	flush_later(stream->session);
}

/* --- the request's body --- */

/* Whether what comes is nobody's: there is no exchange any more, or one that takes a request for a WebSocket,
 * which has no body, for an ordinary one. */
static bool is_unread(const struct http2_stream *stream)
{
	return !stream->exchange || (stream->websocket && stream->exchange->body_wanted);
}

/* Give the exchange what it wants. The caller flushes. */
static void deliver(struct http2_stream *stream)
{
	struct http_exchange *exchange;

	while ((exchange = stream->exchange) && exchange->body_wanted && !exchange->body_paused) {
		cleanup_buffer struct buffer piece = stream->inbox;

		stream->inbox = (struct buffer)BUFFER_INIT;
		if (piece.size) {
			(void)nghttp2_session_consume_stream(stream->session->nghttp2, stream->id,
			                                     piece.size);
			if (exchange->body.on_data && !is_unread(stream))
				exchange->body.on_data(exchange, piece.data, piece.size,
				                       exchange->body_context);
			continue;
		}
		if ((stream->in_ended || stream->websocket) && !exchange->body_ended)
			http_exchange_body_ended(exchange);
		return;
	}
}

static void carrier_go_on(struct http_exchange *exchange)
{
	struct http2_stream *stream = exchange->carrier_data;
	struct http2_session *session = stream->session;

	session->depth++;
	deliver(stream);
	session->depth--;
	flush_later(session);
}

static const struct http_carrier stream_carrier = {
	.go_on = carrier_go_on,
	.send_continue = carrier_continue,
	.begin = carrier_begin,
	.write = carrier_write,
	.end = carrier_end,
	.pending = carrier_pending,
	.abort = carrier_abort,
	.join = http2_tunnel_join,
};

int http2_stream_data(struct http2_stream *stream, const char *data, size_t size)
{
	struct http_exchange *exchange = stream->exchange;

	if (stream->tunnel) {
		http2_tunnel_data(stream, data, size);
		return 0;
	}
	if (is_unread(stream)) {
		(void)nghttp2_session_consume_stream(stream->session->nghttp2, stream->id, size);
		return 0;
	}
	if (exchange->body_wanted && !exchange->body_paused && !stream->inbox.size) {
		(void)nghttp2_session_consume_stream(stream->session->nghttp2, stream->id, size);
		if (exchange->body.on_data)
			exchange->body.on_data(exchange, data, size, exchange->body_context);
		return 0;
	}
	/* The stream's window is all that can come. */
	return buffer_append(&stream->inbox, data, size);
}

void http2_stream_end(struct http2_stream *stream)
{
	stream->in_ended = true;
	if (stream->tunnel) {
		http2_tunnel_end(stream);
		return;
	}
	if (stream->exchange && stream->trailers.count && http_head_finish(&stream->trailers) == 0) {
		stream->exchange->trailers = stream->trailers;
		stream->trailers = (struct http_head){ 0 };
	}
	deliver(stream);
}

/* --- the exchange --- */

static void refuse(struct http2_stream *stream, int status, const char *message)
{
	char headers[] = "content-type: application/json\r\n";
	cleanup_free char *body = http_render_error(stream->session->connection->server, status, message);

	stream->out_ended = true;
	if (body)
		(void)buffer_append_string(&stream->outbox, body);
	http2_stream_answer(stream, status, headers, (int64_t)stream->outbox.size, stream->outbox.size > 0);
}

void http2_stream_begin(struct http2_stream *stream)
{
	struct connection *connection = stream->session->connection;
	struct http_exchange *exchange;
	const char *length;

	stream->headed = true;
	stream->session->open++;
	(void)uv_timer_stop(&connection->idle);
	if (!stream->refuse && stream->cookies.size &&
	    add_header(stream, "Cookie", 6, stream->cookies.data, stream->cookies.size) < 0)
		stream->refuse = 431;
	if (!stream->refuse && stream->websocket && http2_tunnel_ask(stream) < 0)
		stream->refuse = 431;
	if (stream->refuse) {
		refuse(stream, stream->refuse,
		       stream->refuse == 501 ? "no protocol but websocket can be connected to"
		                             : "the request head is too large");
		return;
	}
	if (!first_line_is_good(stream)) {
		refuse(stream, 400, "the request's method or target is malformed");
		return;
	}
	if (http_head_finish(&stream->head) < 0) {
		refuse(stream, 503, "out of memory");
		return;
	}
	exchange =
	        http_exchange_new(connection, &stream_carrier, stream->method, &stream->head, stream->target);
	stream->target = NULL;
	if (!exchange) {
		refuse(stream, 400, "the request target is malformed");
		return;
	}
	length = http_head_find(&exchange->head, "Content-Length");
	exchange->content_length = length ? strtoll(length, NULL, 10) : -1;
	exchange->has_body = !stream->in_ended && !stream->websocket;
	exchange->wants_upgrade = stream->websocket;
	exchange->carrier_data = stream;
	stream->exchange = exchange;
	connection->server->options.on_request(exchange, connection->server->options.context);
}
