#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "base/base.h"
#include "connect/codec.h"

#define REQUEST_LIMIT     (16 * 1024 * 1024) /* bytes; input to a process comes in one message */
#define KEEPALIVE_DEFAULT 90                 /* seconds of silence */
#define FLAG_COMPRESSED   1
#define FLAG_END          2
#define ENVELOPE_HEADER   5

/* A timer outlives its call by a turn of the loop, while it closes. */
struct call_timer {
	uv_timer_t timer;
	struct connect_call *call;
};

struct connect_call {
	struct http_exchange *exchange;
	const struct connect_method *method;
	void *context;
	void *data;
	void (*on_close)(struct connect_call *call, void *data);
	void (*on_drain)(struct connect_call *call, void *data);
	void (*on_deadline)(struct connect_call *call, void *data);
	struct call_timer *deadline;
	struct call_timer *keepalive;
	json_t *keepalive_message;
	enum codec codec;
	bool begun; /* the head of the stream was sent */
	/* client streams */
	struct buffer received; /* not yet a whole message */
	bool paused;
	bool taking;   /* messages are being handed over */
	bool all;      /* the client has sent all */
	unsigned held; /* by who goes on after a handler, in which the call may end: then it is freed later */
	bool over;
};

/* --- life --- */

static void on_timer_closed(uv_handle_t *handle)
{
	free(handle->data);
}

static void timer_free(struct call_timer *timer)
{
	if (timer)
		uv_close((uv_handle_t *)&timer->timer, on_timer_closed);
}

static struct call_timer *timer_new(struct connect_call *call, uv_timer_cb callback, uint64_t after,
                                    uint64_t repeat)
{
	struct call_timer *timer = calloc(1, sizeof(*timer));

	if (!timer)
		return NULL;
	(void)uv_timer_init(http_exchange_loop(call->exchange), &timer->timer);
	timer->timer.data = timer;
	timer->call = call;
	(void)uv_timer_start(&timer->timer, callback, after, repeat);
	return timer;
}

static void call_free(struct connect_call *call)
{
	timer_free(call->deadline);
	timer_free(call->keepalive);
	json_decref(call->keepalive_message);
	buffer_fini(&call->received);
	call->over = true;
	if (!call->held)
		free(call);
}

/* After held++. False: the call has ended meanwhile, and its memory may be gone. */
static bool call_release(struct connect_call *call)
{
	bool over = call->over;

	if (--call->held == 0 && over)
		free(call);
	return !over;
}

static void on_gone(struct http_exchange *exchange, void *context)
{
	struct connect_call *call = context;

	(void)exchange;
	if (call->on_close)
		call->on_close(call, call->data);
	call_free(call);
}

/* --- sending --- */

/* One write, so that a message is one chunk. */
static void send_envelope(struct connect_call *call, unsigned char flags, const char *data, size_t size)
{
	unsigned char head[ENVELOPE_HEADER] = { flags, (unsigned char)(size >> 24),
		                                (unsigned char)(size >> 16), (unsigned char)(size >> 8),
		                                (unsigned char)size };
	cleanup_buffer struct buffer whole = BUFFER_INIT;

	if (!call->begun) {
		call->begun = true;
		http_reply_header(call->exchange, "Content-Type",
		                  codec_content_type(call->codec, call->method->kind));
		http_reply_begin(call->exchange, 200, -1);
	}
	if (buffer_append(&whole, head, sizeof(head)) == 0 && buffer_append(&whole, data, size) == 0)
		http_reply_write(call->exchange, whole.data, whole.size);
	if (call->keepalive)
		(void)uv_timer_again(&call->keepalive->timer);
}

static void send_message(struct connect_call *call, const json_t *message)
{
	cleanup_buffer struct buffer text = BUFFER_INIT;
	struct error err;

	if (codec_encode(call->codec, call->method->response, message, &text, &err) < 0)
		log_error("%s: a message is lost: %s", call->method->path, err.message);
	else
		send_envelope(call, 0, text.data ? text.data : "", text.size);
}

void connect_send(struct connect_call *call, json_t *message)
{
	send_message(call, message);
	json_decref(message);
}

/* The end of a stream is JSON, whatever its messages are. */
static void finish_stream(struct connect_call *call, json_t *end)
{
	struct http_exchange *exchange = call->exchange;
	cleanup_free char *text = end ? json_dumps(end, JSON_COMPACT) : NULL;

	json_decref(end);
	send_envelope(call, FLAG_END, text ? text : "{}", text ? strlen(text) : 2);
	call_free(call);
	http_exchange_on_close(exchange, NULL, NULL);
	http_reply_end(exchange);
}

void connect_end(struct connect_call *call)
{
	finish_stream(call, json_object());
}

void connect_reply(struct connect_call *call, json_t *message)
{
	struct http_exchange *exchange = call->exchange;
	const char *type = codec_content_type(call->codec, call->method->kind);
	cleanup_buffer struct buffer text = BUFFER_INIT;
	struct error err;

	/* (jansson gives no object for text that is no UTF-8.) */
	if (!message || codec_encode(call->codec, call->method->response, message, &text, &err) < 0) {
		json_decref(message);
		connect_fail(call, CONNECT_INTERNAL, "the answer cannot be encoded");
		return;
	}
	json_decref(message);
	call_free(call);
	http_exchange_on_close(exchange, NULL, NULL);
	http_reply(exchange, 200, type, text.data ? text.data : "", text.size);
}

void connect_finish(struct connect_call *call, json_t *message)
{
	connect_send(call, message);
	connect_end(call);
}

void connect_fail(struct connect_call *call, enum connect_code code, const char *format, ...)
{
	struct http_exchange *exchange = call->exchange;
	char message[ERROR_MESSAGE_SIZE];
	va_list arguments;
	json_t *error;

	va_start(arguments, format);
	(void)vsnprintf(message, sizeof(message), format, arguments);
	va_end(arguments);
	error = json_pack("{s:s,s:s}", "code", connect_code_name(code), "message", message);
	/* Text that is no UTF-8 (a path, say) cannot be said in JSON. */
	if (!error)
		error = json_pack("{s:s,s:s}", "code", connect_code_name(code), "message", "(unprintable)");
	if (call->method->kind != CONNECT_UNARY) {
		finish_stream(call, json_pack("{s:o}", "error", error));
		return;
	}
	call_free(call);
	http_exchange_on_close(exchange, NULL, NULL);
	http_reply_json(exchange, connect_code_status(code), error);
}

void connect_abort(struct connect_call *call)
{
	struct http_exchange *exchange = call->exchange;

	call_free(call);
	http_exchange_abort(exchange);
}

/* --- what a handler asks of a call --- */

const char *connect_header(const struct connect_call *call, const char *name)
{
	return http_request_header(call->exchange, name);
}

size_t connect_pending(const struct connect_call *call)
{
	return http_reply_pending(call->exchange);
}

static void on_drained(struct http_exchange *exchange, void *context)
{
	struct connect_call *call = context;

	(void)exchange;
	if (call->on_drain)
		call->on_drain(call, call->data);
}

void connect_on_drain(struct connect_call *call, void (*on_drain)(struct connect_call *call, void *data))
{
	call->on_drain = on_drain;
	http_reply_on_drain(call->exchange, on_drained, call);
}

void connect_set_data(struct connect_call *call, void *data)
{
	call->data = data;
}

void *connect_data(const struct connect_call *call)
{
	return call->data;
}

void connect_on_close(struct connect_call *call, void (*on_close)(struct connect_call *call, void *data))
{
	call->on_close = on_close;
}

/* End a call that the handler believes to go on. */
static void give_up(struct connect_call *call, enum connect_code code, const char *why)
{
	if (call->on_close)
		call->on_close(call, call->data);
	connect_fail(call, code, "%s", why);
}

static void on_deadline(uv_timer_t *handle)
{
	struct call_timer *timer = handle->data;
	struct connect_call *call = timer->call;

	if (call->on_deadline)
		call->on_deadline(call, call->data);
	else
		give_up(call, CONNECT_DEADLINE_EXCEEDED, "the deadline has passed");
}

void connect_on_deadline(struct connect_call *call, void (*on_passed)(struct connect_call *call, void *data))
{
	call->on_deadline = on_passed;
}

/* A header that is a whole number; 0 when it is absent or nonsense. */
static uint64_t header_number(const struct connect_call *call, const char *name)
{
	const char *text = connect_header(call, name);
	char *end;
	unsigned long long value;

	if (!text || *text < '0' || *text > '9')
		return 0;
	errno = 0;
	value = strtoull(text, &end, 10);
	return errno || *end ? 0 : value;
}

uint64_t connect_timeout(const struct connect_call *call)
{
	return header_number(call, "Connect-Timeout-Ms");
}

static void on_silence(uv_timer_t *handle)
{
	struct call_timer *timer = handle->data;

	send_message(timer->call, timer->call->keepalive_message);
}

void connect_keep_alive(struct connect_call *call, json_t *message)
{
	uint64_t seconds = header_number(call, "Keepalive-Ping-Interval");

	if (seconds == 0 || seconds > 3600)
		seconds = KEEPALIVE_DEFAULT;
	call->keepalive_message = message;
	call->keepalive = timer_new(call, on_silence, seconds * 1000, seconds * 1000);
}

/* --- beginning a call --- */

static struct connect_call *call_new(struct http_exchange *exchange, const struct connect_method *method)
{
	struct connect_call *call = calloc(1, sizeof(*call));
	uint64_t timeout;

	if (!call) {
		http_reply_error(exchange, 500, "out of memory");
		return NULL;
	}
	call->exchange = exchange;
	call->method = method;
	call->context = http_exchange_data(exchange);
	call->codec = codec_of_request(exchange, method);
	buffer_init(&call->received, REQUEST_LIMIT + ENVELOPE_HEADER);
	timeout = connect_timeout(call);
	if (timeout)
		call->deadline = timer_new(call, on_deadline, timeout, 0);
	http_exchange_on_close(exchange, on_gone, call);
	return call;
}

static void handle_message(struct connect_call *call, const char *data, size_t size)
{
	cleanup_json json_t *request = NULL;
	struct error err = { 0 };

	request = codec_decode(call->codec, call->method->request, data, size, &err);
	if (request)
		call->method->handle(call, request, call->context);
	else
		give_up(call, CONNECT_INVALID_ARGUMENT, err.message);
}

static void on_body(struct http_exchange *exchange, const char *data, size_t size, void *context)
{
	struct connect_call *call = call_new(exchange, context);
	struct error err = { 0 };

	if (!call)
		return;
	if (call->method->kind == CONNECT_SERVER_STREAM &&
	    connect_parse_envelope(data, size, &data, &size, &err) < 0)
		connect_fail(call, CONNECT_INVALID_ARGUMENT, "%s", err.message);
	else
		handle_message(call, data, size);
}

/* --- client streams --- */

/* Hand one message over, if there is a whole one. False when there is none, or the call has been ended. */
static bool take_message(struct connect_call *call)
{
	const unsigned char *bytes = (const unsigned char *)call->received.data;
	cleanup_free char *message = NULL;
	uint32_t size;

	if (call->received.size < ENVELOPE_HEADER)
		return false;
	size = (uint32_t)bytes[1] << 24 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 8 | bytes[4];
	if (bytes[0] & FLAG_COMPRESSED || size > REQUEST_LIMIT) {
		give_up(call, CONNECT_INVALID_ARGUMENT,
		        bytes[0] & FLAG_COMPRESSED ? "compressed messages are not supported"
		                                   : "a message is too large");
		return false;
	}
	if (call->received.size - ENVELOPE_HEADER < size)
		return false;
	/* The call, and its buffer, may be gone after this. */
	message = malloc((size_t)size + 1);
	if (!message) {
		give_up(call, CONNECT_RESOURCE_EXHAUSTED, "out of memory");
		return false;
	}
	memcpy(message, bytes + ENVELOPE_HEADER, size);
	buffer_consume(&call->received, ENVELOPE_HEADER + size);
	handle_message(call, message, size);
	return true;
}

/* Hand over what has come, as far as the handler takes it. The caller holds the call, which may end here. */
static void take_messages(struct connect_call *call)
{
	if (call->taking)
		return;
	call->taking = true;
	while (!call->over && !call->paused && take_message(call))
		continue;
	if (!call->over && !call->paused && call->all) {
		if (call->received.size)
			give_up(call, CONNECT_INVALID_ARGUMENT, "the stream ends inside a message");
		else
			call->method->handle(call, NULL, call->context);
	}
	call->taking = false;
}

static void on_stream_data(struct http_exchange *exchange, const char *data, size_t size, void *context)
{
	struct connect_call *call = context;

	(void)exchange;
	call->held++;
	/* Less than a message waits, or the handler paused in the middle of this: what fits one is enough. */
	while (size && !call->over) {
		size_t part = REQUEST_LIMIT + ENVELOPE_HEADER - call->received.size;

		if (part > size)
			part = size;
		if (part == 0 || buffer_append(&call->received, data, part) < 0) {
			give_up(call, CONNECT_RESOURCE_EXHAUSTED, "too much waits to be taken");
			break;
		}
		data += part;
		size -= part;
		take_messages(call);
	}
	(void)call_release(call);
}

static void on_stream_end(struct http_exchange *exchange, void *context)
{
	struct connect_call *call = context;

	(void)exchange;
	call->all = true;
	call->held++;
	take_messages(call);
	(void)call_release(call);
}

void connect_pause(struct connect_call *call)
{
	call->paused = true;
	http_request_pause(call->exchange);
}

void connect_resume(struct connect_call *call)
{
	struct http_exchange *exchange = call->exchange;

	if (!call->paused)
		return;
	call->paused = false;
	call->held++;
	take_messages(call);
	if (call_release(call) && !call->paused)
		http_request_resume(exchange);
}

static void begin_client_stream(struct http_exchange *exchange, const struct connect_method *method)
{
	static const struct http_body_events events = { on_stream_data, on_stream_end };
	struct connect_call *call = call_new(exchange, method);

	if (call)
		http_request_stream(exchange, &events, call);
}

bool connect_serve(struct http_exchange *exchange, const struct connect_method *methods, void *context)
{
	const char *path = http_request_path(exchange);

	while (methods->path && strcmp(methods->path, path) != 0)
		methods++;
	if (!methods->path)
		return false;
	if (strcmp(http_request_method(exchange), "POST") != 0) {
		http_reply_header(exchange, "Allow", "POST");
		http_reply_empty(exchange, 405);
		return true;
	}
	if (codec_of_request(exchange, methods) == CODEC_NONE) {
		http_reply_header(exchange, "Accept-Post", codec_accepted(methods));
		http_reply_empty(exchange, 415);
		return true;
	}
	http_exchange_set_data(exchange, context);
	if (methods->kind == CONNECT_CLIENT_STREAM)
		begin_client_stream(exchange, methods);
	else
		http_request_collect(exchange, REQUEST_LIMIT, on_body, (void *)(uintptr_t)methods);
	return true;
}
