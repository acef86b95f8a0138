#include "interpreter/execution.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"

enum {
	EXECUTION_FLUSH_MS = 5,
	EXECUTION_FLUSH_SIZE = 64 * 1024,
	EXECUTION_KEEPALIVE_MS = 5000,
	EXECUTION_PENDING_MAX = 4 * 1024 * 1024,
};

static const char CONTENT_TYPE[] = "application/x-ndjson";

static void execution_on_drain(struct http_exchange *exchange, void *context)
{
	struct execution *execution = context;

	(void)exchange;
	if (!execution->full)
		return;
	execution->full = false;
	execution->events.on_full(execution, false, execution->context);
}

void execution_begin(struct execution *execution)
{
	if (execution->replying || !execution->exchange)
		return;
	execution->replying = true;
	http_reply_header(execution->exchange, "Content-Type", CONTENT_TYPE);
	http_reply_begin(execution->exchange, 200, -1);
	http_reply_on_drain(execution->exchange, execution_on_drain, execution);
}

static void execution_flush(struct execution *execution)
{
	uv_timer_stop(&execution->flush_timer);
	if (execution->lines.size == 0)
		return;
	if (execution->exchange) {
		execution_begin(execution);
		http_reply_write(execution->exchange, execution->lines.data, execution->lines.size);
		uv_timer_again(&execution->keepalive_timer);
	}
	buffer_clear(&execution->lines);
	if (execution->exchange && !execution->full &&
	    http_reply_pending(execution->exchange) > EXECUTION_PENDING_MAX) {
		execution->full = true;
		execution->events.on_full(execution, true, execution->context);
	}
}

static void execution_on_flush_timer(uv_timer_t *timer)
{
	execution_flush(timer->data);
}

static void execution_on_keepalive(uv_timer_t *timer)
{
	struct execution *execution = timer->data;

	if (!execution->exchange)
		execution->events.on_gone(execution, execution->context);
	else if (output_append_keepalive(&execution->lines) == 0)
		execution_flush(execution);
}

static void execution_flush_soon(struct execution *execution)
{
	if (execution->lines.size >= EXECUTION_FLUSH_SIZE)
		execution_flush(execution);
	else if (!uv_is_active((uv_handle_t *)&execution->flush_timer))
		uv_timer_start(&execution->flush_timer, execution_on_flush_timer, EXECUTION_FLUSH_MS, 0);
}

static void execution_on_exchange_close(struct http_exchange *exchange, void *context)
{
	struct execution *execution = context;

	(void)exchange;
	execution->exchange = NULL;
	if (execution->full) {
		execution->full = false;
		execution->events.on_full(execution, false, execution->context);
	}
	execution->events.on_gone(execution, execution->context);
}

struct execution *execution_new(struct http_exchange *exchange, json_t *code, json_t *envs, const char *token)
{
	uv_loop_t *loop = http_exchange_loop(exchange);
	struct execution *execution = calloc(1, sizeof(*execution));

	if (!execution)
		return NULL;
	if (token) {
		execution->token = strdup(token);
		if (!execution->token) {
			free(execution);
			return NULL;
		}
	}
	list_init(&execution->node);
	execution->exchange = exchange;
	execution->code = json_incref(code);
	execution->envs = json_incref(envs);
	uv_timer_init(loop, &execution->flush_timer);
	uv_timer_init(loop, &execution->keepalive_timer);
	execution->flush_timer.data = execution;
	execution->keepalive_timer.data = execution;
	execution->open_handles = 2;
	return execution;
}

void execution_set_events(struct execution *execution, const struct execution_events *events, void *context)
{
	execution->events = *events;
	execution->context = context;
	http_exchange_on_close(execution->exchange, execution_on_exchange_close, execution);
	uv_timer_start(&execution->keepalive_timer, execution_on_keepalive, EXECUTION_KEEPALIVE_MS,
	               EXECUTION_KEEPALIVE_MS);
}

enum output_kind execution_publish(struct execution *execution, const struct jupyter_message *message)
{
	enum output_kind kind = OUTPUT_NONE;

	if (output_append_message(&execution->lines, message, time_wall_ms() * 1000000, &kind) < 0)
		log_error("out of memory for a line of output");
	if (kind == OUTPUT_LINES)
		execution_flush_soon(execution);
	return kind;
}

void execution_publish_error(struct execution *execution, const char *name, const char *value)
{
	if (output_append_error(&execution->lines, name, value) == 0)
		execution_flush_soon(execution);
}

static void execution_on_closed(uv_handle_t *handle)
{
	struct execution *execution = handle->data;

	if (--execution->open_handles > 0)
		return;
	buffer_fini(&execution->lines);
	json_decref(execution->code);
	json_decref(execution->envs);
	free(execution->token);
	free(execution);
}

static void execution_reply_end(struct execution *execution)
{
	struct http_exchange *exchange = TAKE_PTR(execution->exchange);
	struct buffer *lines = &execution->lines;

	if (!exchange)
		return;
	if (output_append_end(lines) < 0) {
		http_exchange_abort(exchange);
	} else if (!execution->replying) {
		http_reply(exchange, 200, CONTENT_TYPE, lines->data, lines->size);
	} else {
		http_reply_write(exchange, lines->data, lines->size);
		http_reply_end(exchange);
	}
}

void execution_finish(struct execution *execution)
{
	list_remove(&execution->node);
	execution_reply_end(execution);
	uv_close((uv_handle_t *)&execution->flush_timer, execution_on_closed);
	uv_close((uv_handle_t *)&execution->keepalive_timer, execution_on_closed);
}
