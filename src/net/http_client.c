#include "net/http_client.h"

#include <http_parser.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/cleanup.h"
#include "base/list.h"
#include "net/http_message.h"

#define FIRST_WAIT_MS     50 /* between two tries where nobody listens */
#define LONGEST_WAIT_MS   400
#define BUCKETS           256
#define USUAL_HEAD        1000 /* bytes of most requests' heads */
#define MAX_RESPONSE_HEAD (256 * 1024)

struct http_client {
	uv_loop_t *loop;
	unsigned max_idle;
	unsigned idle_timeout_ms;
	struct list idle;             /* struct upstream, oldest first */
	struct list buckets[BUCKETS]; /* struct place, by endpoint */
};

/* An endpoint that has connections. */
struct place {
	struct list link;
	struct http_endpoint endpoint;
	struct list idle;     /* struct upstream, oldest first */
	unsigned idle_count;  /* of them */
	unsigned connections; /* idle and busy ones */
};

/* A connection to an upstream: either idle in the pool or carrying one call. */
struct upstream {
	struct http_client *client;
	struct place *place;
	struct stream *stream;
	struct list link;    /* of all that are idle */
	struct list same;    /* of those with the same endpoint */
	uint64_t idle_until; /* loop time, ms */
	struct http_call *call;
};

struct http_call {
	struct http_client *client;
	struct http_endpoint endpoint;
	const struct http_call_events *events;
	void *context;
	struct upstream *upstream;
	struct buffer request; /* the head, and body bytes until the connection stands */
	struct http_head head;
	struct http_head trailers;
	struct buffer request_trailers;
	struct buffer raw_head; /* the response head as to be passed on after a 101 */
	struct buffer backlog;  /* response bytes that wait for http_call_resume */
	http_parser parser;
	uv_timer_t timer;
	unsigned patience_ms; /* what is left for trying again where nobody listens */
	unsigned wait_ms;     /* before the last try */
	char method[16];
	bool timer_open;
	bool connecting;
	bool cancelled; /* while connecting: the connection is dropped when it comes */
	bool reused;    /* on a kept connection: may be tried again when it breaks before any answer */
	bool has_body;
	bool chunked;
	bool body_ended;
	bool responded;
	bool complete;
	bool paused;
	bool parsing;
	bool broken_later; /* the connection ended while paused: told after the backlog */
	bool over;
};

static void call_connect(struct http_call *call, bool allow_reuse);
static bool call_parse(struct http_call *call, const char *data, size_t size);

/* --- the pool --- */

static bool endpoint_equal(const struct http_endpoint *a, const struct http_endpoint *b)
{
	return a->vsock_port == b->vsock_port && a->tunnel_port == b->tunnel_port && a->port == b->port &&
	       strcmp(a->unix_path, b->unix_path) == 0 && strcmp(a->ip, b->ip) == 0;
}

/* FNV-1a. */
static struct list *bucket_of(struct http_client *client, const struct http_endpoint *endpoint)
{
	uint32_t hash =
	        2166136261u ^ endpoint->vsock_port ^ (uint32_t)endpoint->tunnel_port << 16 ^ endpoint->port;

	for (const char *at = endpoint->unix_path; *at; at++)
		hash = (hash ^ (unsigned char)*at) * 16777619u;
	for (const char *at = endpoint->ip; *at; at++)
		hash = (hash ^ (unsigned char)*at) * 16777619u;
	return &client->buckets[hash % BUCKETS];
}

static struct place *place_find(struct http_client *client, const struct http_endpoint *endpoint)
{
	list_for_each (node, bucket_of(client, endpoint)) {
		struct place *place = list_entry(node, struct place, link);

		if (endpoint_equal(&place->endpoint, endpoint))
			return place;
	}
	return NULL;
}

/* The place of one connection more. NULL: no memory. */
static struct place *place_ref(struct http_client *client, const struct http_endpoint *endpoint)
{
	struct place *place = place_find(client, endpoint);

	if (!place) {
		place = calloc(1, sizeof(*place));
		if (!place)
			return NULL;
		place->endpoint = *endpoint;
		list_init(&place->idle);
		list_append(bucket_of(client, endpoint), &place->link);
	}
	place->connections++;
	return place;
}

static void place_unref(struct place *place)
{
	if (--place->connections)
		return;
	list_remove(&place->link);
	free(place);
}

static void upstream_unlink(struct upstream *upstream)
{
	if (!list_empty(&upstream->link))
		upstream->place->idle_count--;
	list_remove(&upstream->link);
	list_remove(&upstream->same);
}

static void upstream_close(struct upstream *upstream)
{
	upstream_unlink(upstream);
	place_unref(upstream->place);
	if (upstream->stream) {
		stream_set_events(upstream->stream, NULL, NULL);
		stream_close(upstream->stream);
	}
	free(upstream);
}

/* Takes the stream. NULL: no memory. */
static struct upstream *upstream_new(struct http_client *client, const struct http_endpoint *endpoint,
                                     struct stream *stream)
{
	struct upstream *upstream = calloc(1, sizeof(*upstream));
	struct place *place = upstream ? place_ref(client, endpoint) : NULL;

	if (!place) {
		free(upstream);
		stream_close(stream);
		return NULL;
	}
	*upstream = (struct upstream){ .client = client, .place = place, .stream = stream };
	list_init(&upstream->link);
	list_init(&upstream->same);
	return upstream;
}

static void on_idle_data(struct stream *stream, const char *data, size_t size, void *context)
{
	(void)stream;
	(void)data;
	(void)size;
	upstream_close(context);
}

static void on_idle_end(struct stream *stream, void *context)
{
	(void)stream;
	upstream_close(context);
}

static void on_idle_close(struct stream *stream, int status, void *context)
{
	struct upstream *upstream = context;

	(void)stream;
	(void)status;
	upstream->stream = NULL;
	upstream_close(upstream);
}

/* Keep a connection for the next call to its endpoint, within the pool's bounds. */
static void upstream_keep(struct upstream *upstream)
{
	static const struct stream_events events = { .on_data = on_idle_data,
		                                     .on_end = on_idle_end,
		                                     .on_close = on_idle_close };
	struct http_client *client = upstream->client;
	uint64_t now = uv_now(client->loop);

	while (!list_empty(&client->idle)) {
		struct upstream *oldest = list_entry(client->idle.next, struct upstream, link);

		if (oldest->idle_until >= now)
			break;
		upstream_close(oldest);
	}
	if (upstream->place->idle_count >= client->max_idle) {
		upstream_close(upstream);
		return;
	}
	upstream->call = NULL;
	upstream->idle_until = now + client->idle_timeout_ms;
	list_append(&client->idle, &upstream->link);
	list_append(&upstream->place->idle, &upstream->same);
	upstream->place->idle_count++;
	stream_set_events(upstream->stream, &events, upstream);
	stream_read_start(upstream->stream);
}

/* The one that was used last: the others may go one day. It goes on being read, by whom it is given to at
 * once. */
static struct upstream *pool_take(struct http_client *client, const struct http_endpoint *endpoint)
{
	struct place *place = place_find(client, endpoint);
	struct upstream *upstream;

	if (!place || list_empty(&place->idle))
		return NULL;
	upstream = list_entry(place->idle.prev, struct upstream, same);
	if (upstream->idle_until < uv_now(client->loop))
		return NULL;
	upstream_unlink(upstream);
	return upstream;
}

struct http_client *http_client_new(uv_loop_t *loop, unsigned max_idle, unsigned idle_timeout_ms)
{
	struct http_client *client = calloc(1, sizeof(*client));

	if (!client)
		return NULL;
	*client = (struct http_client){ .loop = loop,
		                        .max_idle = max_idle,
		                        .idle_timeout_ms = idle_timeout_ms };
	list_init(&client->idle);
	for (size_t i = 0; i < BUCKETS; i++)
		list_init(&client->buckets[i]);
	return client;
}

void http_client_free(struct http_client *client)
{
	if (!client)
		return;
	list_for_each_safe (node, &client->idle)
		upstream_close(list_entry(node, struct upstream, link));
	/* Those of calls that are still under way go with these. */
	for (size_t i = 0; i < BUCKETS; i++)
		list_for_each_safe (node, &client->buckets[i])
			list_remove(node);
	free(client);
}

void http_client_forget(struct http_client *client, const char *unix_path)
{
	list_for_each_safe (node, &client->idle) {
		struct upstream *upstream = list_entry(node, struct upstream, link);

		if (strcmp(upstream->place->endpoint.unix_path, unix_path) == 0)
			upstream_close(upstream);
	}
}

/* --- the end of a call --- */

static void call_free(struct http_call *call)
{
	buffer_fini(&call->request);
	buffer_fini(&call->raw_head);
	buffer_fini(&call->backlog);
	buffer_fini(&call->request_trailers);
	http_head_fini(&call->head);
	http_head_fini(&call->trailers);
	free(call);
}

static void on_timer_closed(uv_handle_t *handle)
{
	call_free(handle->data);
}

/* Forget the call: from here on no callback is made. Memory goes when nobody on the stack uses it any more.
 */
static void call_release(struct http_call *call)
{
	call->over = true;
	if (call->parsing || call->connecting)
		return;
	if (call->timer_open) {
		call->timer_open = false;
		uv_close((uv_handle_t *)&call->timer, on_timer_closed);
	} else {
		call_free(call);
	}
}

static void call_drop_upstream(struct http_call *call)
{
	struct upstream *upstream = call->upstream;

	call->upstream = NULL;
	if (upstream)
		upstream_close(upstream);
}

static void call_fail(struct http_call *call, enum http_call_error error)
{
	bool responded = call->responded;

	if (call->over)
		return;
	call_drop_upstream(call);
	call->over = true;
	call->events->on_error(call, error, responded, call->context);
	call_release(call);
}

/* The connection ended. */
static void call_broken(struct http_call *call)
{
	if (call->reused && !call->responded && !call->has_body && call->parser.nread == 0) {
		call_drop_upstream(call);
		call->patience_ms = 0; /* it may have been done: not also by who comes after */
		call_connect(call, false);
		return;
	}
	if (!call->paused) {
		/* A body without a length ends with the connection: only the parser knows. */
		(void)call_parse(call, NULL, 0);
		return;
	}
	call->broken_later = true;
}

/* `rest` tells whether the upstream sent more than the answer: it is out of step, and nothing more is asked
 * of it. */
static void call_complete(struct http_call *call, bool rest)
{
	struct upstream *upstream = call->upstream;

	call->upstream = NULL;
	if (upstream) {
		if (!rest && http_should_keep_alive(&call->parser) && (!call->has_body || call->body_ended) &&
		    upstream->stream)
			upstream_keep(upstream);
		else
			upstream_close(upstream);
	}
	call->over = true;
	call->events->on_end(call, call->context);
}

/* --- parsing the response --- */

static int on_header_field(http_parser *parser, const char *data, size_t size)
{
	struct http_call *call = parser->data;

	return http_head_field(call->responded ? &call->trailers : &call->head, data, size) < 0;
}

static int on_header_value(http_parser *parser, const char *data, size_t size)
{
	struct http_call *call = parser->data;

	return http_head_value(call->responded ? &call->trailers : &call->head, data, size) < 0;
}

static int on_headers_complete(http_parser *parser)
{
	struct http_call *call = parser->data;

	if (http_head_finish(&call->head) < 0)
		return -1;
	if (parser->status_code == 101)
		return 2;
	if (parser->status_code < 200)
		return 0; /* interim: the real head follows */
	call->responded = true;
	if (call->timer_open)
		(void)uv_timer_stop(&call->timer);
	call->events->on_response(call, (int)parser->status_code, call->head.headers, call->head.count,
	                          call->context);
	return strcmp(call->method, "HEAD") == 0 ? 1 : 0;
}

static int on_body(http_parser *parser, const char *data, size_t size)
{
	struct http_call *call = parser->data;

	if (call->over)
		return 1;
	if (call->events->on_data)
		call->events->on_data(call, data, size, call->context);
	if (call->paused && !call->over)
		http_parser_pause(parser, 1);
	return 0;
}

static int on_message_begin(http_parser *parser)
{
	struct http_call *call = parser->data;

	http_head_fini(&call->head);
	http_head_init(&call->head, MAX_RESPONSE_HEAD);
	http_head_fini(&call->trailers);
	http_head_init(&call->trailers, MAX_RESPONSE_HEAD);
	return 0;
}

static int on_message_complete(http_parser *parser)
{
	struct http_call *call = parser->data;

	if (call->responded) {
		if (call->trailers.count && http_head_finish(&call->trailers) < 0)
			return -1;
		call->complete = true;
		http_parser_pause(parser, 1);
	}
	return 0;
}

static const http_parser_settings parser_settings = {
	.on_message_begin = on_message_begin,
	.on_header_field = on_header_field,
	.on_header_value = on_header_value,
	.on_headers_complete = on_headers_complete,
	.on_body = on_body,
	.on_message_complete = on_message_complete,
};

/* A 101: the connection belongs to the caller from here on. */
static void call_upgraded(struct http_call *call, const char *rest, size_t rest_size)
{
	struct upstream *upstream = call->upstream;
	struct stream *stream = upstream->stream;

	if (!call->events->on_upgrade) {
		call_fail(call, HTTP_CALL_BROKEN);
		return;
	}
	(void)buffer_printf(&call->raw_head, "HTTP/1.1 101 Switching Protocols\r\n");
	for (size_t i = 0; i < call->head.count; i++)
		http_append_header(&call->raw_head, call->head.headers[i].name, call->head.headers[i].value);
	(void)buffer_append_string(&call->raw_head, "\r\n");
	call->upstream = NULL;
	upstream->stream = NULL;
	upstream_close(upstream);
	stream_read_stop(stream);
	stream_set_events(stream, NULL, NULL);
	call->over = true;
	call->events->on_upgrade(call, stream, call->raw_head.data, call->raw_head.size, rest, rest_size,
	                         call->context);
}

/*
 * Run the parser over `data` (size 0: the connection ended). What a pause leaves goes to the backlog. False
 * when the call is over, and the pointer with it.
 */
static bool call_parse(struct http_call *call, const char *data, size_t size)
{
	http_parser *parser = &call->parser;
	size_t used;

	call->parsing = true;
	used = http_parser_execute(parser, &parser_settings, data, size);
	if (!call->over) {
		enum http_errno problem = HTTP_PARSER_ERRNO(parser);

		if (problem == HPE_PAUSED)
			http_parser_pause(parser, 0);
		if (call->complete)
			call_complete(call, used < size);
		else if (parser->upgrade && parser->status_code == 101)
			call_upgraded(call, data + used, size - used);
		else if ((problem != HPE_OK && problem != HPE_PAUSED) || size == 0)
			call_fail(call, HTTP_CALL_BROKEN);
		else if (used < size && buffer_append(&call->backlog, data + used, size - used) < 0)
			call_fail(call, HTTP_CALL_BROKEN);
	}
	call->parsing = false;
	if (!call->over)
		return true;
	call_release(call);
	return false;
}

/* --- stream events while a call is on --- */

static void on_call_data(struct stream *stream, const char *data, size_t size, void *context)
{
	struct upstream *upstream = context;
	struct http_call *call = upstream->call;

	if (call->paused) {
		/* Read before the stop took effect. */
		if (buffer_append(&call->backlog, data, size) < 0)
			call_fail(call, HTTP_CALL_BROKEN);
		return;
	}
	(void)stream;
	(void)call_parse(call, data, size);
}

static void on_call_end(struct stream *stream, void *context)
{
	struct upstream *upstream = context;

	(void)stream;
	call_broken(upstream->call);
}

static void on_call_drain(struct stream *stream, void *context)
{
	struct upstream *upstream = context;
	struct http_call *call = upstream->call;

	(void)stream;
	if (call->events->on_drain && call->has_body && !call->body_ended)
		call->events->on_drain(call, call->context);
}

static void on_call_close(struct stream *stream, int status, void *context)
{
	struct upstream *upstream = context;

	(void)stream;
	(void)status;
	upstream->stream = NULL;
	call_broken(upstream->call);
}

/* --- sending --- */

static void call_start(struct http_call *call, struct upstream *upstream)
{
	static const struct stream_events events = { .on_data = on_call_data,
		                                     .on_end = on_call_end,
		                                     .on_drain = on_call_drain,
		                                     .on_close = on_call_close };

	call->upstream = upstream;
	upstream->call = call;
	stream_set_events(upstream->stream, &events, upstream);
	(void)stream_write(upstream->stream, call->request.data, call->request.size);
	/* Only a call without a body is ever sent again. */
	if (call->has_body)
		buffer_fini(&call->request);
	if (!call->paused)
		stream_read_start(upstream->stream);
	if (call->has_body && !call->body_ended && call->events->on_drain &&
	    !stream_pending(upstream->stream))
		call->events->on_drain(call, call->context);
}

static void on_endpoint_connected(struct stream *stream, int status, void *context);

static void on_again_closed(uv_handle_t *handle)
{
	struct http_call *call = handle->data;

	free(handle);
	if (call->over) {
		call->connecting = false;
		call_release(call);
	} else {
		http_endpoint_connect(call->client->loop, &call->endpoint, on_endpoint_connected, call);
	}
}

static void on_again(uv_timer_t *timer)
{
	uv_close((uv_handle_t *)timer, on_again_closed);
}

/* Where nobody listens it is tried again after a while, if there is patience left; the call keeps being
 * `connecting`. Waits double. False: it is not. */
static bool call_connect_again(struct http_call *call)
{
	unsigned twice = call->wait_ms * 2;
	unsigned wait_ms = !twice ? FIRST_WAIT_MS : twice < LONGEST_WAIT_MS ? twice : LONGEST_WAIT_MS;
	uv_timer_t *timer;

	if (wait_ms > call->patience_ms)
		return false;
	timer = calloc(1, sizeof(*timer));
	if (!timer || uv_timer_init(call->client->loop, timer) < 0) {
		free(timer);
		return false;
	}
	timer->data = call;
	call->wait_ms = wait_ms;
	call->patience_ms -= wait_ms;
	(void)uv_timer_start(timer, on_again, wait_ms, 0);
	return true;
}

static void on_endpoint_connected(struct stream *stream, int status, void *context)
{
	struct http_call *call = context;
	struct upstream *upstream;

	if (!stream && status != HTTP_CALL_BROKEN && !call->over && call_connect_again(call))
		return;
	call->connecting = false;
	if (call->over) {
		if (stream)
			stream_close(stream);
		call_release(call);
		return;
	}
	upstream = stream ? upstream_new(call->client, &call->endpoint, stream) : NULL;
	if (upstream)
		call_start(call, upstream);
	else
		call_fail(call, stream ? HTTP_CALL_BROKEN : (enum http_call_error)status);
}

static void call_connect(struct http_call *call, bool allow_reuse)
{
	struct upstream *upstream = allow_reuse ? pool_take(call->client, &call->endpoint) : NULL;

	call->reused = upstream != NULL;
	if (upstream) {
		call_start(call, upstream);
		return;
	}
	call->connecting = true;
	http_endpoint_connect(call->client->loop, &call->endpoint, on_endpoint_connected, call);
}

struct http_call *http_call_new(struct http_client *client, const struct http_endpoint *endpoint,
                                const char *method, const char *target, const struct http_call_events *events,
                                void *context)
{
	struct http_call *call = malloc(sizeof(*call));

	if (!call)
		return NULL;
	*call = (struct http_call){
		.client = client, .endpoint = *endpoint, .events = events, .context = context
	};
	text_copy(call->method, sizeof(call->method), method, strlen(method));
	http_parser_init(&call->parser, HTTP_RESPONSE);
	call->parser.data = call;
	(void)buffer_reserve(&call->request, USUAL_HEAD);
	(void)buffer_append_string(&call->request, method);
	(void)buffer_append(&call->request, " ", 1);
	(void)buffer_append_string(&call->request, target);
	(void)buffer_append_string(&call->request, " HTTP/1.1\r\n");
	return call;
}

void http_call_header(struct http_call *call, const char *name, const char *value)
{
	http_append_header(&call->request, name, value);
}

void http_call_begin(struct http_call *call, int64_t content_length)
{
	call->has_body = content_length != 0;
	call->chunked = content_length < 0;
	if (call->chunked)
		(void)buffer_append_string(&call->request, "Transfer-Encoding: chunked\r\n");
	else if (content_length > 0 || strcmp(call->method, "POST") == 0 || strcmp(call->method, "PUT") == 0)
		(void)buffer_printf(&call->request, "Content-Length: %lld\r\n", (long long)content_length);
	(void)buffer_append_string(&call->request, "\r\n");
	call_connect(call, true);
}

static void call_send(struct http_call *call, const void *data, size_t size)
{
	if (call->upstream && call->upstream->stream)
		(void)stream_write(call->upstream->stream, data, size);
	else if (call->connecting && buffer_append(&call->request, data, size) < 0)
		call_fail(call, HTTP_CALL_BROKEN);
}

void http_call_write(struct http_call *call, const void *data, size_t size)
{
	cleanup_buffer struct buffer chunk = BUFFER_INIT;

	if (!size || call->over)
		return;
	if (!call->chunked) {
		call_send(call, data, size);
	} else if (http_append_chunk_size(&chunk, size) < 0 || buffer_append(&chunk, data, size) < 0 ||
	           buffer_append(&chunk, "\r\n", 2) < 0) {
		call_fail(call, HTTP_CALL_BROKEN);
	} else {
		call_send(call, chunk.data, chunk.size);
	}
}

void http_call_end(struct http_call *call)
{
	if (call->body_ended || call->over)
		return;
	call->body_ended = true;
	if (!call->chunked)
		return;
	if (buffer_append_string(&call->request_trailers, "\r\n") < 0) {
		call_fail(call, HTTP_CALL_BROKEN);
		return;
	}
	call_send(call, "0\r\n", 3);
	call_send(call, call->request_trailers.data, call->request_trailers.size);
}

void http_call_trailer(struct http_call *call, const char *name, const char *value)
{
	http_append_header(&call->request_trailers, name, value);
}

const struct http_header *http_call_trailers(const struct http_call *call, size_t *ret_count)
{
	*ret_count = call->trailers.headers ? call->trailers.count : 0;
	return call->trailers.headers;
}

size_t http_call_pending(const struct http_call *call)
{
	return call->upstream && call->upstream->stream ? stream_pending(call->upstream->stream)
	                                                : call->request.size;
}

void http_call_pause(struct http_call *call)
{
	call->paused = true;
	if (call->upstream && call->upstream->stream)
		stream_read_stop(call->upstream->stream);
}

void http_call_resume(struct http_call *call)
{
	cleanup_buffer struct buffer backlog = BUFFER_INIT;

	if (!call->paused || call->over)
		return;
	call->paused = false;
	/* Inside a callback of the parser, that simply goes on. */
	if (!call->parsing) {
		backlog = call->backlog;
		call->backlog = (struct buffer)BUFFER_INIT;
		if (backlog.size && !call_parse(call, backlog.data, backlog.size))
			return;
		if (call->paused)
			return;
	}
	if (call->broken_later && !call->parsing)
		(void)call_parse(call, NULL, 0);
	else if (call->upstream && call->upstream->stream)
		stream_read_start(call->upstream->stream);
}

static void on_timeout(uv_timer_t *timer)
{
	call_fail(timer->data, HTTP_CALL_TIMEOUT);
}

void http_call_timeout(struct http_call *call, unsigned milliseconds)
{
	if (!milliseconds || call->timer_open || uv_timer_init(call->client->loop, &call->timer) < 0)
		return;
	call->timer.data = call;
	call->timer_open = true;
	(void)uv_timer_start(&call->timer, on_timeout, milliseconds, 0);
}

void http_call_patience(struct http_call *call, unsigned milliseconds)
{
	call->patience_ms = milliseconds;
}

void http_call_cancel(struct http_call *call)
{
	if (call->over)
		return;
	call_drop_upstream(call);
	call_release(call);
}
