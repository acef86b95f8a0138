/*
 * execution: one POST /execute: what is to be run, and the reply that its output is written to.
 *
 * Output is gathered for a few milliseconds before it is written, so that a short cell is answered by one
 * packet. While nothing is written for 5 s, a keepalive line is.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <uv.h>

#include "base/buffer.h"
#include "base/list.h"
#include "interpreter/message.h"
#include "interpreter/output.h"
#include "net/http_server.h"

struct execution;

/* Told to whoever runs the execution (the context). */
struct execution_events {
	/* The client went away. Called again every few seconds: an interrupt can meet a kernel that ignores
	 * it. */
	void (*on_gone)(struct execution *execution, void *context);
	/* Much output waits for the client, or no longer does. */
	void (*on_full)(struct execution *execution, bool full, void *context);
};

struct execution {
	struct list node;         /* in a context's queue */
	json_t *code;             /* a string */
	json_t *envs;             /* an object of strings, or NULL */
	char *token;              /* the agent's access token, or NULL */
	bool rehearsal;           /* leave no trace: no history, no environment is fetched for it */
	char id[JUPYTER_ID_SIZE]; /* of the request to the kernel, "" before it is sent */

	struct http_exchange *exchange; /* NULL when the client is gone or answered */
	struct execution_events events;
	void *context;
	struct buffer lines;
	uv_timer_t flush_timer;
	uv_timer_t keepalive_timer;
	int open_handles;
	bool replying;
	bool full;
};

/* Borrow `code` and `envs` (NULL = none), copy `token` (NULL = none). NULL when out of memory. */
struct execution *execution_new(struct http_exchange *exchange, json_t *code, json_t *envs,
                                const char *token);

void execution_set_events(struct execution *execution, const struct execution_events *events, void *context);

/* Begin the reply with nothing in it yet: the execution has to wait, and the client's clock starts with the
 * reply. */
void execution_begin(struct execution *execution);

/* Write what an iopub message of this execution means. Tells when it was the last. */
enum output_kind execution_publish(struct execution *execution, const struct jupyter_message *message);

/* Write an error item of our own. */
void execution_publish_error(struct execution *execution, const char *name, const char *value);

/* Write the last line, end the reply, and free. */
void execution_finish(struct execution *execution);
