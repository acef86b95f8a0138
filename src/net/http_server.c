/* Connections: listening, and from bytes to exchanges. */
#include "net/http_server.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/encode.h"
#include "net/http_connection.h"

#define DEFAULT_MAX_HEAD        (64 * 1024)
#define DEFAULT_MAX_CONNECTIONS 4096
#define DEFAULT_IDLE_TIMEOUT_MS 75000
#define LINGER_MS               30000       /* for a client to stop sending what nobody reads */
#define HELD_KEPT               4096        /* bytes of memory for answers that a connection keeps */
#define MAX_BACKLOG             (64 * 1024) /* bytes read ahead of what is wanted before reading stops */

struct listener {
	union {
		uv_handle_t handle;
		uv_stream_t stream;
		uv_tcp_t tcp;
		uv_pipe_t pipe;
	};
	struct http_server *server;
	struct list link;
	http_prepare_fn *prepare; /* NULL: nothing */
	void *prepare_context;
	int tag;
};

static void connection_unref(struct connection *connection)
{
	if (connection->stream || !connection->timer_closed)
		return;
	list_remove(&connection->link);
	list_remove(&connection->holding_link);
	buffer_fini(&connection->held);
	connection->server->connection_count--;
	if (connection->server->closing && list_empty(&connection->server->connections) &&
	    list_empty(&connection->server->listeners))
		free(connection->server);
	http_exchange_free(connection->exchange);
	http_head_fini(&connection->head);
	buffer_fini(&connection->target);
	buffer_fini(&connection->backlog);
	free(connection);
}

static void on_timer_closed(uv_handle_t *handle)
{
	struct connection *connection = handle->data;

	connection->timer_closed = true;
	connection_unref(connection);
}

void http_connection_detached(struct connection *connection)
{
	connection->stream = NULL;
	if (!uv_is_closing((uv_handle_t *)&connection->idle))
		uv_close((uv_handle_t *)&connection->idle, on_timer_closed);
	else
		connection_unref(connection);
}

static void on_stream_close(struct stream *stream, int status, void *context)
{
	struct connection *connection = context;
	struct http_exchange *exchange = connection->exchange;

	(void)stream;
	(void)status;
	if (connection->protocol)
		connection->protocol->closed(connection);
	if (exchange) {
		connection->exchange = NULL;
		if (exchange->on_close)
			exchange->on_close(exchange, exchange->close_context);
		http_exchange_free(exchange);
	}
	http_connection_detached(connection);
}

static void on_stream_end(struct stream *stream, void *context)
{
	/* A client that ends its side early takes no answer either: undici and curl close both at once. */
	(void)context;
	stream_close(stream);
}

/* Which protocol does the client speak? What it says first may come in pieces. */
static void connection_greet(struct connection *connection, const char *data, size_t size)
{
	const struct http_protocol *other = connection->server->protocol;
	size_t had = connection->backlog.size;
	size_t more = other && size < other->preface_size - had ? size
	              : other                                   ? other->preface_size - had
	                                                        : 0;
	cleanup_buffer struct buffer early = BUFFER_INIT;

	if (!other || memcmp(other->preface + had, data, more) != 0) {
		connection->greeted = true;
		http_connection_feed(connection, data, size);
		return;
	}
	if (buffer_append(&connection->backlog, data, size) < 0) {
		stream_close(connection->stream);
		return;
	}
	if (had + more < other->preface_size)
		return;
	connection->greeted = true;
	early = connection->backlog;
	connection->backlog = (struct buffer)BUFFER_INIT;
	if (other->begin(connection) < 0) {
		stream_close(connection->stream);
		return;
	}
	connection->protocol = other;
	other->data(connection, early.data, early.size);
}

static void on_stream_data(struct stream *stream, const char *data, size_t size, void *context)
{
	struct connection *connection = context;

	(void)stream;
	if (!connection->greeted)
		connection_greet(connection, data, size);
	else if (connection->protocol)
		connection->protocol->data(connection, data, size);
	else
		http_connection_feed(connection, data, size);
}

static void on_stream_drain(struct stream *stream, void *context)
{
	struct connection *connection = context;
	struct http_exchange *exchange = connection->exchange;

	(void)stream;
	if (connection->protocol)
		connection->protocol->drain(connection);
	else if (exchange && exchange->on_drain)
		exchange->on_drain(exchange, exchange->drain_context);
}

static const struct stream_events connection_events = { on_stream_data, on_stream_end, on_stream_drain,
	                                                on_stream_close };

static void on_lingered(uv_timer_t *timer)
{
	struct connection *connection = timer->data;

	if (connection->stream)
		stream_close(connection->stream);
}

void http_connection_finish(struct connection *connection)
{
	connection->closing = true;
	if (!connection->unread) {
		stream_close_after_writes(connection->stream);
		return;
	}
	/* Closing while the client still sends would reset the connection, and take the reply back that it
	 * has not read yet: what comes is thrown away until it has seen our end (RFC 9112, section 9.6). */
	stream_shutdown(connection->stream);
	stream_read_start(connection->stream);
	(void)uv_timer_start(&connection->idle, on_lingered, LINGER_MS, 0);
}

/* --- holding back --- */

void http_connection_release(struct connection *connection)
{
	struct buffer *held = &connection->held;

	list_remove(&connection->holding_link);
	if (held->size && connection->stream)
		(void)stream_write(connection->stream, held->data, held->size);
	/* The next answer will be much like this one. */
	if (held->capacity > HELD_KEPT)
		buffer_fini(held);
	else
		buffer_clear(held);
	if (connection->session)
		connection->protocol->drain(connection);
}

bool http_connection_hold(struct connection *connection)
{
	struct http_server *server = connection->server;

	if (server->closing)
		return false;
	list_remove(&connection->holding_link);
	list_append(&server->holding, &connection->holding_link);
	(void)uv_prepare_start(server->flusher, http_server_release);
	return true;
}

void http_server_release(uv_prepare_t *flusher)
{
	struct http_server *server = flusher->data;

	while (!list_empty(&server->holding))
		http_connection_release(list_entry(server->holding.next, struct connection, holding_link));
	(void)uv_prepare_stop(flusher);
}

static void on_flusher_closed(uv_handle_t *handle)
{
	free(handle);
}

/* --- idle time --- */

static void on_idle(uv_timer_t *timer)
{
	struct connection *connection = timer->data;

	if (connection->stream && connection->protocol)
		connection->protocol->idle(connection);
	else if (connection->stream && !connection->exchange)
		stream_close(connection->stream);
}

void http_connection_idle(struct connection *connection)
{
	(void)uv_timer_start(&connection->idle, on_idle, connection->server->options.idle_timeout_ms, 0);
}

/* --- refusing --- */

/* Answer a request that never became an exchange, and close. */
static void connection_refuse(struct connection *connection, int status, const char *message)
{
	cleanup_buffer struct buffer reply = BUFFER_INIT;
	cleanup_free char *body = http_render_error(connection->server, status, message);

	(void)buffer_printf(&reply,
	                    "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
	                    "Connection: close\r\n\r\n%s",
	                    status, http_reason(status), body ? strlen(body) : 0, body ? body : "");
	(void)stream_write(connection->stream, reply.data, reply.size);
	connection->unread = true;
	http_connection_finish(connection);
}

/* --- parser callbacks --- */

static int on_message_begin(http_parser *parser)
{
	struct connection *connection = parser->data;

	http_head_fini(&connection->head);
	http_head_init(&connection->head, connection->server->options.max_head_size);
	buffer_clear(&connection->target);
	connection->head_done = false;
	connection->message_done = false;
	connection->unread = true;
	connection->discarded = 0;
	(void)uv_timer_stop(&connection->idle);
	return 0;
}

/* The parser stops at a callback's non-zero; why is kept beside. */
static int head_result(struct connection *connection, int result)
{
	if (result < 0)
		connection->refuse_status = result == -EMSGSIZE ? 431 : 400;
	return result < 0;
}

static int on_url(http_parser *parser, const char *data, size_t size)
{
	struct connection *connection = parser->data;

	return head_result(connection, buffer_append(&connection->target, data, size));
}

static int on_header_field(http_parser *parser, const char *data, size_t size)
{
	struct connection *connection = parser->data;

	return head_result(connection, http_head_field(&connection->head, data, size));
}

static int on_header_value(http_parser *parser, const char *data, size_t size)
{
	struct connection *connection = parser->data;

	return head_result(connection, http_head_value(&connection->head, data, size));
}

static int on_headers_complete(http_parser *parser)
{
	struct connection *connection = parser->data;

	if (http_head_finish(&connection->head) < 0)
		return -1;
	connection->head_done = true;
	/* The handler runs outside of the parser: it may end the exchange at once. */
	http_parser_pause(parser, 1);
	return 0;
}

static void body_discard(struct connection *connection, size_t size)
{
	connection->discarded += size;
	if (connection->discarded > HTTP_MAX_DISCARD && !connection->closing)
		http_connection_finish(connection);
}

static int on_body(http_parser *parser, const char *data, size_t size)
{
	struct connection *connection = parser->data;
	struct http_exchange *exchange = connection->exchange;

	if (!exchange || !exchange->body.on_data)
		body_discard(connection, size);
	else
		exchange->body.on_data(exchange, data, size, exchange->body_context);
	if (connection->exchange && connection->exchange->body_paused)
		http_parser_pause(parser, 1);
	return 0;
}

static int on_message_complete(http_parser *parser)
{
	struct connection *connection = parser->data;

	/* The head is the exchange's by now: what has come since is trailers. */
	if (connection->exchange && connection->head.count) {
		if (http_head_finish(&connection->head) < 0)
			return -1;
		connection->exchange->trailers = connection->head;
		connection->head = (struct http_head){ 0 };
	}
	connection->message_done = true;
	connection->unread = false;
	http_parser_pause(parser, 1);
	return 0;
}

static const http_parser_settings parser_settings = {
	.on_message_begin = on_message_begin,
	.on_url = on_url,
	.on_header_field = on_header_field,
	.on_header_value = on_header_value,
	.on_headers_complete = on_headers_complete,
	.on_body = on_body,
	.on_message_complete = on_message_complete,
};

/* --- from bytes to exchanges --- */

static bool split_target(struct http_exchange *exchange)
{
	cleanup_buffer struct buffer path = BUFFER_INIT;
	const char *start = exchange->target;

	if (strncasecmp(start, "http://", 7) == 0) {
		start = strchr(start + 7, '/');
		if (!start)
			start = "/";
	}
	if (percent_decode(&path, start, strcspn(start, "?#"), 0) < 0)
		return false;
	exchange->path = buffer_take_string(&path);
	return exchange->path != NULL;
}

struct http_exchange *http_exchange_new(struct connection *connection, const struct http_carrier *carrier,
                                        const char *method, struct http_head *head, char *target)
{
	struct http_exchange *exchange = malloc(sizeof(*exchange));
	const char *expect;

	if (!exchange) {
		http_head_fini(head);
		free(target);
		return NULL;
	}
	*exchange = (struct http_exchange){
		.connection = connection, .carrier = carrier, .head = *head, .target = target
	};
	list_init(&exchange->query_values);
	*head = (struct http_head){ 0 };
	text_copy(exchange->method, sizeof(exchange->method), method, strlen(method));
	expect = http_head_find(&exchange->head, "Expect");
	exchange->expects_continue = expect && strcasecmp(expect, "100-continue") == 0;
	if (!exchange->target || !split_target(exchange)) {
		http_exchange_free(exchange);
		return NULL;
	}
	return exchange;
}

static struct http_exchange *exchange_new(struct connection *connection)
{
	http_parser *parser = &connection->parser;
	struct http_exchange *exchange = http_exchange_new(
	        connection, &http_connection_carrier, http_method_str((enum http_method)parser->method),
	        &connection->head, buffer_take_string(&connection->target));

	if (!exchange)
		return NULL;
	exchange->keep_alive = http_should_keep_alive(parser);
	exchange->content_length = (parser->flags & F_CONTENTLENGTH) ? (int64_t)parser->content_length : -1;
	exchange->has_body = exchange->content_length > 0 || (parser->flags & F_CHUNKED);
	/* With a body it is an ordinary request first; nobody here upgrades after one. */
	exchange->wants_upgrade =
	        parser->upgrade && !exchange->has_body && http_head_find(&exchange->head, "Upgrade");
	return exchange;
}

static void connection_dispatch(struct connection *connection)
{
	struct http_exchange *exchange = exchange_new(connection);

	connection->head_done = false;
	if (!exchange) {
		connection_refuse(connection, 400, "the request target is malformed");
		return;
	}
	connection->exchange = exchange;
	connection->unread = exchange->has_body;
	connection->server->options.on_request(exchange, connection->server->options.context);
}

/* Whether parsing must wait for the handler. */
static bool connection_blocked(const struct connection *connection)
{
	const struct http_exchange *exchange = connection->exchange;

	if (!exchange)
		return false;
	if (exchange->wants_upgrade)
		return true;
	if (connection->message_done)
		return true;
	return exchange->body_paused || !exchange->body_wanted;
}

/* Act on what the parser's last pause was for. False when the connection is over. */
static bool connection_advance(struct connection *connection)
{
	if (!connection->stream || connection->closing)
		return false;
	if (connection->head_done)
		connection_dispatch(connection);
	if (!connection->stream || connection->closing)
		return false;
	if (connection->message_done && connection->exchange && connection->exchange->body_wanted &&
	    !connection->exchange->body_ended && !connection->exchange->body_paused)
		http_exchange_body_ended(connection->exchange);
	return connection->stream && !connection->closing;
}

static void connection_parse_failed(struct connection *connection)
{
	struct http_exchange *exchange = connection->exchange;
	enum http_errno problem = HTTP_PARSER_ERRNO(&connection->parser);
	int status = connection->refuse_status ? connection->refuse_status : 400;

	if (problem ==
	    HPE_HEADER_OVERFLOW) /* the parser has a limit of its own, met when much comes at once */
		status = 431;
	if (exchange) {
		/* The body is malformed; the handler cannot be asked any more. */
		stream_close(connection->stream);
		return;
	}
	connection_refuse(connection, status,
	                  status == 431 ? "the request head is too large" : http_errno_description(problem));
}

/* Parse as much of `data` as the handler wants now; returns what was used, or `size` when the connection is
 * over. */
static size_t connection_parse(struct connection *connection, const char *data, size_t size)
{
	http_parser *parser = &connection->parser;
	size_t used = 0;

	for (;;) {
		connection->rest = data + used;
		connection->rest_size = size - used;
		if (!connection_advance(connection) || connection_blocked(connection) || used >= size)
			break;
		used += http_parser_execute(parser, &parser_settings, data + used, size - used);
		if (HTTP_PARSER_ERRNO(parser) == HPE_PAUSED) {
			http_parser_pause(parser, 0);
		} else if (HTTP_PARSER_ERRNO(parser) != HPE_OK) {
			/* One that has its last answer gets no other, which would break it off. */
			if (connection->stream && !connection->closing)
				connection_parse_failed(connection);
			return size;
		}
	}
	return connection->stream && !connection->closing ? used : size;
}

void http_connection_feed(struct connection *connection, const char *data, size_t size)
{
	size_t used;

	/* A handler that was called from below resumed reading: the loop there goes on by itself. */
	if (connection->feeding || connection->closing)
		return;
	connection->feeding = true;
	if (connection->backlog.size) {
		if (size && buffer_append(&connection->backlog, data, size) < 0) {
			stream_close(connection->stream);
		} else {
			used = connection_parse(connection, connection->backlog.data,
			                        connection->backlog.size);
			buffer_consume(&connection->backlog, used);
		}
	} else {
		/* A wait that is over brings no data, and an offset to no data is undefined. */
		used = connection_parse(connection, data ? data : "", size);
		if (used < size && buffer_append(&connection->backlog, data + used, size - used) < 0)
			stream_close(connection->stream);
	}
	connection->feeding = false;
	if (!connection->stream) {
		http_connection_detached(connection);
		return;
	}
	if (connection->closing)
		return;
	if (connection->backlog.size > MAX_BACKLOG)
		stream_read_stop(connection->stream);
	else
		stream_read_start(connection->stream);
}

/* --- listening --- */

static void connection_new(struct http_server *server, struct stream *stream, int tag)
{
	struct connection *connection = calloc(1, sizeof(*connection));

	if (!connection) {
		stream_close(stream);
		return;
	}
	connection->server = server;
	connection->stream = stream;
	connection->tag = tag;
	list_init(&connection->link);
	list_init(&connection->holding_link);
	list_append(&server->connections, &connection->link);
	server->connection_count++;
	http_parser_init(&connection->parser, HTTP_REQUEST);
	connection->parser.data = connection;
	buffer_init(&connection->target, server->options.max_head_size);
	(void)uv_timer_init(server->loop, &connection->idle);
	connection->idle.data = connection;
	stream_set_events(stream, &connection_events, connection);
	if (server->connection_count > server->options.max_connections && stream_is_secured(stream)) {
		/* Nothing can be said before the handshake. */
		stream_close(stream);
		return;
	}
	if (server->connection_count > server->options.max_connections) {
		connection_refuse(connection, 503, "too many open connections");
		return;
	}
	http_connection_idle(connection);
	stream_read_start(stream);
}

static void on_connection(uv_stream_t *uv, int status)
{
	struct listener *listener = uv->data;
	struct stream *stream = status < 0 ? NULL : stream_accept(uv, NULL);

	if (stream && listener->prepare && listener->prepare(stream, listener->prepare_context) < 0) {
		stream_set_events(stream, NULL, NULL);
		stream_close(stream);
		return;
	}
	if (stream)
		connection_new(listener->server, stream, listener->tag);
}

static void on_listener_closed(uv_handle_t *handle)
{
	struct listener *listener = handle->data;
	struct http_server *server = listener->server;

	list_remove(&listener->link);
	free(listener);
	if (server->closing && list_empty(&server->connections) && list_empty(&server->listeners))
		free(server);
}

static struct listener *listener_new(struct http_server *server, bool tcp, int tag, struct error *err)
{
	struct listener *listener = calloc(1, sizeof(*listener));

	if (!listener) {
		error_errno(err, ENOMEM, "listen");
		return NULL;
	}
	if (tcp)
		(void)uv_tcp_init(server->loop, &listener->tcp);
	else
		(void)uv_pipe_init(server->loop, &listener->pipe, 0);
	listener->handle.data = listener;
	listener->server = server;
	listener->tag = tag;
	list_init(&listener->link);
	list_append(&server->listeners, &listener->link);
	return listener;
}

static int listener_start(struct listener *listener, int bound, struct error *err, const char *where)
{
	int ret = bound < 0 ? bound : uv_listen(&listener->stream, 512, on_connection);

	if (ret < 0) {
		uv_close(&listener->handle, on_listener_closed);
		return error_errno(err, -ret, "listen on %s", where);
	}
	return 0;
}

int http_server_listen_prepared(struct http_server *server, const char *ip, uint16_t port,
                                http_prepare_fn *prepare, void *context, struct error *err)
{
	struct sockaddr_storage address = { 0 };
	int size = sizeof(address);
	struct listener *listener;
	char where[80];
	int ret;

	(void)snprintf(where, sizeof(where), "%s port %u", ip, port);
	if (uv_ip4_addr(ip, port, (struct sockaddr_in *)&address) < 0 &&
	    uv_ip6_addr(ip, port, (struct sockaddr_in6 *)&address) < 0)
		return error_set(err, EINVAL, "listen on '%s': not a numeric address", ip);
	listener = listener_new(server, true, 0, err);
	if (!listener)
		return -ENOMEM;
	listener->prepare = prepare;
	listener->prepare_context = context;
	ret = uv_tcp_bind(&listener->tcp, (struct sockaddr *)&address, 0);
	ret = listener_start(listener, ret, err, where);
	if (ret == 0 && uv_tcp_getsockname(&listener->tcp, (struct sockaddr *)&address, &size) == 0)
		server->port =
		        ntohs(address.ss_family == AF_INET ? ((struct sockaddr_in *)&address)->sin_port
		                                           : ((struct sockaddr_in6 *)&address)->sin6_port);
	return ret;
}

int http_server_listen_tcp(struct http_server *server, const char *ip, uint16_t port, struct error *err)
{
	return http_server_listen_prepared(server, ip, port, NULL, NULL, err);
}

int http_server_listen_unix(struct http_server *server, const char *path, unsigned mode, struct error *err)
{
	struct listener *listener;
	int ret;

	if (strlen(path) >= 108)
		return error_errno(err, ENAMETOOLONG, "listen on %s", path);
	listener = listener_new(server, false, 0, err);
	if (!listener)
		return -ENOMEM;
	ret = uv_pipe_bind(&listener->pipe, path);
	if (ret == 0 && chmod(path, (mode_t)mode) < 0)
		ret = -errno;
	return listener_start(listener, ret, err, path);
}

int http_server_listen_fd(struct http_server *server, int fd, int tag, struct error *err)
{
	struct listener *listener = listener_new(server, false, tag, err);
	int ret;

	if (!listener) {
		close(fd);
		return -ENOMEM;
	}
	ret = uv_pipe_open(&listener->pipe, fd);
	if (ret < 0)
		close(fd);
	return listener_start(listener, ret, err, "descriptor");
}

unsigned http_server_connections(const struct http_server *server)
{
	return server->connection_count;
}

uint16_t http_server_port(const struct http_server *server)
{
	return server->port;
}

struct http_server *http_server_new(uv_loop_t *loop, const struct http_server_options *options)
{
	struct http_server *server = calloc(1, sizeof(*server));

	if (!server)
		return NULL;
	server->flusher = malloc(sizeof(*server->flusher));
	if (!server->flusher || uv_prepare_init(loop, server->flusher) < 0) {
		free(server->flusher);
		free(server);
		return NULL;
	}
	server->flusher->data = server;
	uv_unref((uv_handle_t *)server->flusher);
	list_init(&server->holding);
	server->loop = loop;
	server->options = *options;
	if (!server->options.max_head_size)
		server->options.max_head_size = DEFAULT_MAX_HEAD;
	if (!server->options.max_connections)
		server->options.max_connections = DEFAULT_MAX_CONNECTIONS;
	if (!server->options.idle_timeout_ms)
		server->options.idle_timeout_ms = DEFAULT_IDLE_TIMEOUT_MS;
	list_init(&server->listeners);
	list_init(&server->connections);
	return server;
}

void http_server_free(struct http_server *server)
{
	if (!server)
		return;
	server->closing = true;
	http_server_release(server->flusher);
	uv_close((uv_handle_t *)server->flusher, on_flusher_closed);
	if (list_empty(&server->connections) && list_empty(&server->listeners)) {
		free(server);
		return;
	}
	list_for_each (node, &server->listeners) {
		struct listener *listener = list_entry(node, struct listener, link);

		if (!uv_is_closing(&listener->handle))
			uv_close(&listener->handle, on_listener_closed);
	}
	list_for_each (node, &server->connections) {
		struct connection *connection = list_entry(node, struct connection, link);

		if (connection->stream)
			stream_close(connection->stream);
	}
}
