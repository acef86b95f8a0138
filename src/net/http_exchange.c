/* What a handler does with one exchange: read the request, take the body, write the reply. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "base/encode.h"
#include "base/json.h"
#include "net/http_connection.h"

#define FRAME_HEAD 200         /* bytes of a reply's head beside the handler's headers, and more */
#define COPY_MAX   (16 * 1024) /* bytes of a body that are rather copied than written apart from the head */

const char *http_reason(int status)
{
	return http_status_str((enum http_status)status);
}

static char *default_error(int status, const char *message)
{
	cleanup_json json_t *body = json_pack("{s:i,s:s}", "code", status, "message", message);

	return body ? json_dumps(body, JSON_COMPACT) : NULL;
}

char *http_render_error(const struct http_server *server, int status, const char *message)
{
	return server->options.render_error ? server->options.render_error(status, message)
	                                    : default_error(status, message);
}

void http_exchange_free(struct http_exchange *exchange)
{
	if (!exchange)
		return;
	if (exchange->on_end)
		exchange->on_end(exchange, exchange->reply_status, exchange->end_context);
	list_for_each_safe (node, &exchange->query_values)
		free(list_entry(node, struct query_value, link));
	http_head_fini(&exchange->head);
	buffer_fini(&exchange->collected);
	buffer_fini(&exchange->reply_headers);
	buffer_fini(&exchange->reply_trailers);
	http_head_fini(&exchange->trailers);
	free(exchange->target);
	free(exchange->path);
	free(exchange);
}

/* --- the request --- */

const char *http_request_method(const struct http_exchange *exchange)
{
	return exchange->method;
}

const char *http_request_target(const struct http_exchange *exchange)
{
	return exchange->target;
}

const char *http_request_path(const struct http_exchange *exchange)
{
	return exchange->path;
}

const char *http_request_header(const struct http_exchange *exchange, const char *name)
{
	return http_head_find(&exchange->head, name);
}

const struct http_header *http_request_headers(const struct http_exchange *exchange, size_t *ret_count)
{
	*ret_count = exchange->head.count;
	return exchange->head.headers;
}

/* Keep a decoded value as long as the exchange lives. */
static const char *query_keep(struct http_exchange *exchange, const char *text, size_t size)
{
	cleanup_buffer struct buffer decoded = BUFFER_INIT;
	struct query_value *value;

	if (percent_decode(&decoded, text, size, 1) < 0)
		return NULL;
	value = malloc(sizeof(*value) + decoded.size + 1);
	if (!value)
		return NULL;
	memcpy(value->text, decoded.data, decoded.size + 1);
	list_append(&exchange->query_values, &value->link);
	return value->text;
}

const char *http_request_query(struct http_exchange *exchange, const char *name)
{
	const char *at = strchr(exchange->target, '?');
	size_t length = strlen(name);

	while (at) {
		size_t size = strcspn(++at, "&#");
		size_t name_size = strcspn(at, "=&#");

		if (name_size == length && memcmp(at, name, length) == 0) {
			bool has_value = name_size < size;

			return query_keep(exchange, at + name_size + has_value, size - name_size - has_value);
		}
		at = at[size] == '&' ? at + size : NULL;
	}
	return NULL;
}

bool http_request_wants_upgrade(const struct http_exchange *exchange)
{
	return exchange->wants_upgrade;
}

bool http_request_has_body(const struct http_exchange *exchange)
{
	return exchange->has_body;
}

int64_t http_request_content_length(const struct http_exchange *exchange)
{
	return exchange->content_length;
}

int http_exchange_tag(const struct http_exchange *exchange)
{
	return exchange->connection->tag;
}

void http_exchange_set_data(struct http_exchange *exchange, void *data)
{
	exchange->data = data;
}

void *http_exchange_data(const struct http_exchange *exchange)
{
	return exchange->data;
}

uv_loop_t *http_exchange_loop(const struct http_exchange *exchange)
{
	return exchange->connection->server->loop;
}

/* --- the body --- */

void http_exchange_body_ended(struct http_exchange *exchange)
{
	exchange->body_ended = true;
	if (exchange->body.on_end)
		exchange->body.on_end(exchange, exchange->body_context);
}

static void connection_go_on(struct http_exchange *exchange)
{
	http_connection_feed(exchange->connection, NULL, 0);
}

static void connection_continue(struct http_exchange *exchange)
{
	static const char line[] = "HTTP/1.1 100 Continue\r\n\r\n";

	if (!exchange->connection->message_done)
		(void)stream_write(exchange->connection->stream, line, sizeof(line) - 1);
}

void http_request_stream(struct http_exchange *exchange, const struct http_body_events *events, void *context)
{
	exchange->body = *events;
	exchange->body_context = context;
	exchange->body_wanted = true;
	exchange->wants_upgrade = false; /* who reads on as HTTP declines one */
	if (exchange->expects_continue && !exchange->reply_begun)
		exchange->carrier->send_continue(exchange);
	exchange->expects_continue = false;
	exchange->carrier->go_on(exchange);
}

const struct http_header *http_request_trailers(const struct http_exchange *exchange, size_t *ret_count)
{
	*ret_count = exchange->trailers.headers ? exchange->trailers.count : 0;
	return exchange->trailers.headers;
}

void http_request_pause(struct http_exchange *exchange)
{
	exchange->body_paused = true;
}

void http_request_resume(struct http_exchange *exchange)
{
	if (!exchange->body_paused)
		return;
	exchange->body_paused = false;
	exchange->carrier->go_on(exchange);
}

static void collect_data(struct http_exchange *exchange, const char *data, size_t size, void *context)
{
	(void)context;
	if (buffer_append(&exchange->collected, data, size) < 0)
		http_reply_error(exchange, 413, "the request body is larger than %zu bytes",
		                 exchange->collected.limit);
}

static void collect_end(struct http_exchange *exchange, void *context)
{
	struct buffer *body = &exchange->collected;

	exchange->collect_done(exchange, body->data ? body->data : "", body->size, context);
}

void http_request_collect(struct http_exchange *exchange, size_t limit,
                          void (*done)(struct http_exchange *, const char *, size_t, void *), void *context)
{
	static const struct http_body_events events = { collect_data, collect_end };

	if (exchange->content_length > 0 && (uint64_t)exchange->content_length > limit) {
		http_reply_error(exchange, 413, "the request body is larger than %zu bytes", limit);
		return;
	}
	buffer_init(&exchange->collected, limit);
	exchange->collect_done = done;
	http_request_stream(exchange, &events, context);
}

/* --- the reply --- */

void http_reply_header(struct http_exchange *exchange, const char *name, const char *value)
{
	if (!exchange->reply_headers.data)
		(void)buffer_reserve(&exchange->reply_headers, FRAME_HEAD);
	http_append_header(&exchange->reply_headers, name, value);
}

/* On the way of every request: no format to be read, one piece of memory for all that leaves at once. */
static void head_write(struct http_exchange *exchange, int status, bool no_length, int64_t content_length)
{
	struct buffer *to = &exchange->connection->held;
	bool small = content_length > 0 && content_length <= COPY_MAX && !exchange->reply_bodyless;

	buffer_clear(to);
	(void)buffer_reserve(to, exchange->reply_headers.size + FRAME_HEAD +
	                                 (small ? (size_t)content_length : 0));
	(void)buffer_append_string(to, "HTTP/1.1 ");
	(void)buffer_append_number(to, (uint64_t)status);
	(void)buffer_append(to, " ", 1);
	(void)buffer_append_string(to, http_reason(status));
	(void)buffer_append(to, "\r\n", 2);
	(void)buffer_append(to, exchange->reply_headers.data, exchange->reply_headers.size);
	if (exchange->reply_chunked) {
		(void)buffer_append_string(to, "Transfer-Encoding: chunked\r\n");
	} else if (!no_length) {
		(void)buffer_append_string(to, "Content-Length: ");
		(void)buffer_append_number(to, content_length > 0 ? (uint64_t)content_length : 0);
		(void)buffer_append(to, "\r\n", 2);
	}
	(void)buffer_append_string(to, exchange->keep_alive ? "Connection: keep-alive\r\n\r\n"
	                                                    : "Connection: close\r\n\r\n");
}

static void connection_begin(struct http_exchange *exchange, int status, int64_t content_length)
{
	struct connection *connection = exchange->connection;
	bool empty_status = status == 204 || status == 304 || status < 200;

	exchange->reply_chunked = content_length < 0 && !empty_status;
	/* A body that nobody will read in time, or an upgrade that was declined: this connection ends here.
	 */
	if (exchange->wants_upgrade ||
	    (!connection->message_done && exchange->content_length > HTTP_MAX_DISCARD))
		exchange->keep_alive = false;
	head_write(exchange, status, empty_status, content_length);
	if (exchange->reply_bodyless || content_length == 0 || !http_connection_hold(connection))
		http_connection_release(connection);
}

/* What fits goes with the head, if that still waits. */
static void write_plain(struct connection *connection, const void *data, size_t size)
{
	bool copied = connection->held.size && size <= COPY_MAX &&
	              buffer_append(&connection->held, data, size) == 0;

	http_connection_release(connection);
	if (!copied)
		(void)stream_write(connection->stream, data, size);
}

/* One write per chunk, or for as many small ones as come in one turn of the loop, with the head before and
 * the end behind them. */
static void write_chunk(struct connection *connection, const void *data, size_t size)
{
	struct buffer *held = &connection->held;

	if (http_append_chunk_size(held, size) < 0 || buffer_append(held, data, size) < 0 ||
	    buffer_append(held, "\r\n", 2) < 0) {
		stream_close(connection->stream);
		return;
	}
	if (held->size > COPY_MAX || !http_connection_hold(connection))
		http_connection_release(connection);
}

static void connection_write(struct http_exchange *exchange, const void *data, size_t size)
{
	if (exchange->reply_chunked)
		write_chunk(exchange->connection, data, size);
	else
		write_plain(exchange->connection, data, size);
}

static void append_last_chunk(struct http_exchange *exchange)
{
	struct connection *connection = exchange->connection;
	const struct buffer *trailers = &exchange->reply_trailers;

	if (buffer_append_string(&connection->held, "0\r\n") < 0 ||
	    buffer_append(&connection->held, trailers->data, trailers->size) < 0 ||
	    buffer_append(&connection->held, "\r\n", 2) < 0)
		stream_close(connection->stream);
}

static void connection_end(struct http_exchange *exchange)
{
	struct connection *connection = exchange->connection;
	bool keep_alive = exchange->keep_alive;

	if (exchange->reply_chunked && !exchange->reply_bodyless)
		append_last_chunk(exchange);
	http_connection_release(connection);
	connection->exchange = NULL;
	http_exchange_free(exchange);
	if (!keep_alive) {
		http_connection_finish(connection);
		return;
	}
	http_connection_idle(connection);
	http_connection_feed(connection, NULL, 0);
}

void http_reply_trailer(struct http_exchange *exchange, const char *name, const char *value)
{
	http_append_header(&exchange->reply_trailers, name, value);
}

void http_reply_begin(struct http_exchange *exchange, int status, int64_t content_length)
{
	exchange->reply_begun = true;
	exchange->reply_status = status;
	exchange->reply_bodyless =
	        status == 204 || status == 304 || status < 200 || strcmp(exchange->method, "HEAD") == 0;
	exchange->carrier->begin(exchange, status, content_length);
}

void http_reply_write(struct http_exchange *exchange, const void *data, size_t size)
{
	if (size && !exchange->reply_bodyless)
		exchange->carrier->write(exchange, data, size);
}

void http_reply_end(struct http_exchange *exchange)
{
	exchange->carrier->end(exchange);
}

void http_reply(struct http_exchange *exchange, int status, const char *content_type, const void *data,
                size_t size)
{
	if (content_type)
		http_reply_header(exchange, "Content-Type", content_type);
	http_reply_begin(exchange, status, (int64_t)size);
	http_reply_write(exchange, data, size);
	http_reply_end(exchange);
}

void http_reply_json(struct http_exchange *exchange, int status, json_t *value)
{
	cleanup_free char *text = value ? json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;

	json_decref(value);
	if (!text) {
		http_reply_error(exchange, 500, "the answer could not be written as JSON");
		return;
	}
	http_reply(exchange, status, "application/json", text, strlen(text));
}

void http_reply_empty(struct http_exchange *exchange, int status)
{
	http_reply(exchange, status, NULL, NULL, 0);
}

void http_reply_error(struct http_exchange *exchange, int status, const char *format, ...)
{
	cleanup_free char *body = NULL;
	char message[1024];
	va_list args;

	va_start(args, format);
	(void)vsnprintf(message, sizeof(message), format, args);
	va_end(args);
	body = http_render_error(exchange->connection->server, status, message);
	http_reply(exchange, status, "application/json", body, body ? strlen(body) : 0);
}

static size_t connection_pending(const struct http_exchange *exchange)
{
	return stream_pending(exchange->connection->stream);
}

size_t http_reply_pending(const struct http_exchange *exchange)
{
	return exchange->carrier->pending(exchange);
}

void http_reply_on_drain(struct http_exchange *exchange, void (*on_drain)(struct http_exchange *, void *),
                         void *context)
{
	exchange->on_drain = on_drain;
	exchange->drain_context = context;
}

void http_exchange_on_close(struct http_exchange *exchange, void (*on_close)(struct http_exchange *, void *),
                            void *context)
{
	exchange->on_close = on_close;
	exchange->close_context = context;
}

void http_exchange_on_end(struct http_exchange *exchange, void (*on_end)(struct http_exchange *, int, void *),
                          void *context)
{
	exchange->on_end = on_end;
	exchange->end_context = context;
}

static void connection_abort(struct http_exchange *exchange)
{
	struct connection *connection = exchange->connection;

	http_connection_release(connection);
	connection->exchange = NULL;
	connection->closing = true;
	http_exchange_free(exchange);
	stream_close(connection->stream);
}

struct stream *http_exchange_take_stream(struct http_exchange *exchange, char **ret_rest,
                                         size_t *ret_rest_size)
{
	struct connection *connection = exchange->connection;
	struct stream *stream = connection->stream;

	cleanup_buffer struct buffer rest = BUFFER_INIT;
	const char *from = connection->feeding ? connection->rest : connection->backlog.data;
	size_t size = connection->feeding ? connection->rest_size : connection->backlog.size;

	/* The parser paused before the last line feed of the head. */
	if (size && *from == '\n')
		from++, size--;
	(void)buffer_append(&rest, from, size);
	*ret_rest_size = rest.size;
	*ret_rest = buffer_take_string(&rest);
	stream_read_stop(stream);
	stream_set_events(stream, NULL, NULL);
	connection->exchange = NULL;
	http_exchange_free(exchange);
	connection->stream = NULL;
	if (!connection->feeding)
		http_connection_detached(connection);
	return stream;
}

static int connection_join(struct http_exchange *exchange, const struct http_joint *joint)
{
	cleanup_free char *early = NULL;
	size_t early_size = 0;
	struct stream *client = http_exchange_take_stream(exchange, &early, &early_size);

	(void)stream_write(client, joint->head, joint->head_size);
	if (joint->rest_size)
		(void)stream_write(client, joint->rest, joint->rest_size);
	stream_splice(client, joint->stream, early, early_size, joint->done, joint->context);
	return 0;
}

const struct http_carrier http_connection_carrier = {
	.go_on = connection_go_on,
	.send_continue = connection_continue,
	.begin = connection_begin,
	.write = connection_write,
	.end = connection_end,
	.pending = connection_pending,
	.abort = connection_abort,
	.join = connection_join,
};

void http_exchange_abort(struct http_exchange *exchange)
{
	exchange->carrier->abort(exchange);
}

int http_exchange_join(struct http_exchange *exchange, const struct http_joint *joint)
{
	return exchange->wants_upgrade ? exchange->carrier->join(exchange, joint) : -EPROTO;
}
