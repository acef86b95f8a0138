/* The short form of a call: one JSON body out, one answer back, one callback. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "net/http_client.h"

#define MAX_ANSWER (16 * 1024 * 1024)

struct simple {
	http_simple_fn *done;
	void *context;
	struct buffer answer;
	int status;
	char target[192];
};

static void simple_finish(struct simple *simple, int status, const struct error *err)
{
	simple->done(status, simple->answer.data ? simple->answer.data : "", simple->answer.size, err,
	             simple->context);
	buffer_fini(&simple->answer);
	free(simple);
}

static void on_response(struct http_call *call, int status, const struct http_header *headers, size_t count,
                        void *context)
{
	struct simple *simple = context;

	(void)call;
	(void)headers;
	(void)count;
	simple->status = status;
}

static void on_data(struct http_call *call, const char *data, size_t size, void *context)
{
	struct simple *simple = context;
	struct error err;

	if (buffer_append(&simple->answer, data, size) == 0)
		return;
	http_call_cancel(call);
	buffer_clear(&simple->answer);
	error_set(&err, EMSGSIZE, "%s: the answer is larger than %d bytes", simple->target, MAX_ANSWER);
	simple_finish(simple, 0, &err);
}

static void on_end(struct http_call *call, void *context)
{
	struct simple *simple = context;

	(void)call;
	simple_finish(simple, simple->status, NULL);
}

static void on_error(struct http_call *call, enum http_call_error error, bool after_response, void *context)
{
	static const char *const texts[] = { "failed", "nobody listens", "the port is closed",
		                             "the connection broke", "no answer in time" };
	static const int codes[] = { EIO, ECONNREFUSED, ECONNREFUSED, EPIPE, ETIMEDOUT };
	struct simple *simple = context;
	struct error err;

	(void)call;
	(void)after_response;
	error_set(&err, codes[error], "%s: %s", simple->target, texts[error]);
	simple_finish(simple, 0, &err);
}

void http_call_simple_as(struct http_client *client, const struct http_endpoint *endpoint, const char *method,
                         const char *target, const char *body, unsigned timeout_ms, unsigned patience_ms,
                         const char *request_id, http_simple_fn *done, void *context)
{
	static const struct http_call_events events = {
		.on_response = on_response, .on_data = on_data, .on_end = on_end, .on_error = on_error
	};
	struct simple *simple = calloc(1, sizeof(*simple));
	struct http_call *call =
	        simple ? http_call_new(client, endpoint, method, target, &events, simple) : NULL;
	size_t size = body ? strlen(body) : 0;

	if (!call) {
		struct error err;

		free(simple);
		error_errno(&err, ENOMEM, "%s %s", method, target);
		done(0, "", 0, &err, context);
		return;
	}
	simple->done = done;
	simple->context = context;
	buffer_init(&simple->answer, MAX_ANSWER);
	(void)snprintf(simple->target, sizeof(simple->target), "%s %s", method, target);
	http_call_header(call, "Host", "localhost");
	if (request_id)
		http_call_header(call, "X-Request-Id", request_id);
	if (size)
		http_call_header(call, "Content-Type", "application/json");
	http_call_timeout(call, timeout_ms);
	http_call_patience(call, patience_ms);
	http_call_begin(call, (int64_t)size);
	if (size) {
		http_call_write(call, body, size);
		http_call_end(call);
	}
}

void http_call_simple(struct http_client *client, const struct http_endpoint *endpoint, const char *method,
                      const char *target, const char *body, unsigned timeout_ms, http_simple_fn *done,
                      void *context)
{
	http_call_simple_as(client, endpoint, method, target, body, timeout_ms, 0, NULL, done, context);
}
