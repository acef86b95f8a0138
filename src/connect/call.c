#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <uv.h>

#include "base/base.h"
#include "connect/connect.h"

#define REQUEST_LIMIT     (16 * 1024 * 1024) /* bytes; input to a process comes in one message */
#define KEEPALIVE_DEFAULT 90                 /* seconds of silence */
#define FLAG_END          2

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
	bool begun; /* the head of the stream was sent */
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
	free(call);
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

static void send_envelope(struct connect_call *call, unsigned char flags, json_t *message)
{
	cleanup_free char *text = message ? json_dumps(message, JSON_COMPACT) : NULL;
	size_t size = text ? strlen(text) : 0;
	unsigned char head[5] = { flags, (unsigned char)(size >> 24), (unsigned char)(size >> 16),
		                  (unsigned char)(size >> 8), (unsigned char)size };
	cleanup_buffer struct buffer whole = BUFFER_INIT;

	json_decref(message);
	if (!call->begun) {
		call->begun = true;
		http_reply_header(call->exchange, "Content-Type", "application/connect+json");
		http_reply_begin(call->exchange, 200, -1);
	}
	/* One write, so that a message is one chunk. */
	if (buffer_append(&whole, head, sizeof(head)) == 0 && buffer_append(&whole, text, size) == 0)
		http_reply_write(call->exchange, whole.data, whole.size);
	if (call->keepalive)
		(void)uv_timer_again(&call->keepalive->timer);
}

void connect_send(struct connect_call *call, json_t *message)
{
	send_envelope(call, 0, message);
}

static void finish_stream(struct connect_call *call, json_t *end)
{
	struct http_exchange *exchange = call->exchange;

	send_envelope(call, FLAG_END, end);
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

	call_free(call);
	http_exchange_on_close(exchange, NULL, NULL);
	http_reply_json(exchange, 200, message);
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
	if (call->method->streaming) {
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

static void on_deadline(uv_timer_t *handle)
{
	struct call_timer *timer = handle->data;
	struct connect_call *call = timer->call;

	if (call->on_deadline)
		call->on_deadline(call, call->data);
	else
		connect_fail(call, CONNECT_DEADLINE_EXCEEDED, "the deadline has passed");
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

	send_envelope(timer->call, 0, json_incref(timer->call->keepalive_message));
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

static void begin(struct connect_call *call, const char *data, size_t size)
{
	cleanup_json json_t *request = NULL;
	uint64_t timeout = connect_timeout(call);
	struct error err = { 0 };
	int ret = 0;

	http_exchange_on_close(call->exchange, on_gone, call);
	if (call->method->streaming)
		ret = connect_parse_envelope(data, size, &data, &size, &err);
	if (ret == 0)
		ret = json_parse_object(size ? data : "{}", size ? size : 2, &request, &err);
	if (ret < 0) {
		connect_fail(call, CONNECT_INVALID_ARGUMENT, "%s", err.message);
		return;
	}
	if (timeout)
		call->deadline = timer_new(call, on_deadline, timeout, 0);
	call->method->handle(call, request, call->context);
}

static void on_body(struct http_exchange *exchange, const char *data, size_t size, void *context)
{
	struct connect_call *call = calloc(1, sizeof(*call));

	if (!call) {
		http_reply_error(exchange, 500, "out of memory");
		return;
	}
	call->exchange = exchange;
	call->method = context;
	call->context = http_exchange_data(exchange);
	begin(call, data, size);
}

static bool content_type_is(const struct http_exchange *exchange, const char *wanted)
{
	const char *type = http_request_header(exchange, "Content-Type");
	size_t size = strlen(wanted);

	return type && strncasecmp(type, wanted, size) == 0 && (type[size] == '\0' || type[size] == ';');
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
	if (!content_type_is(exchange,
	                     methods->streaming ? "application/connect+json" : "application/json")) {
		http_reply_header(exchange, "Accept-Post",
		                  methods->streaming ? "application/connect+json" : "application/json");
		http_reply_empty(exchange, 415);
		return true;
	}
	http_exchange_set_data(exchange, context);
	http_request_collect(exchange, REQUEST_LIMIT, on_body, (void *)(uintptr_t)methods);
	return true;
}
