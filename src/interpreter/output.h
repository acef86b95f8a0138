/*
 * output: what a kernel publishes, as the lines of JSON that the SDK reads (E2B code interpreter, /execute).
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buffer.h"
#include "interpreter/message.h"

/* What a message meant for the execution that it belongs to. */
enum output_kind {
	OUTPUT_NONE,  /* nothing for the client */
	OUTPUT_LINES, /* lines were appended */
	OUTPUT_IDLE,  /* the kernel is done with this execution */
};

/*
 * Append the lines for an iopub message: number_of_executions, stdout, stderr, result, error. `wall_ns` is
 * the timestamp for printed text, in nanoseconds since 1970. 0 or a negative errno; *ret_kind is set when 0.
 */
int output_append_message(struct buffer *lines, const struct jupyter_message *message, int64_t wall_ns,
                          enum output_kind *ret_kind);

/* {"type":"result", ...} for a MIME bundle; a representation that is not known goes below "extra". */
json_t *output_result(const json_t *bundle, bool is_main_result);

/* {"type":"error", ...} of our own making, keepalive, and the last line. */
int output_append_error(struct buffer *lines, const char *name, const char *value);
int output_append_keepalive(struct buffer *lines);
int output_append_end(struct buffer *lines);
