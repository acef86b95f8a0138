/*
 * multipart: multipart/form-data (RFC 7578, RFC 2046 section 5.1) as a stream, in constant memory. Input is
 * hostile.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/buffer.h"
#include "base/error.h"

struct multipart;

/* Each returns 0 to go on, or a negative errno that ends the parsing. */
struct multipart_events {
	/* A part begins. `name` and `filename` ("" when absent) are valid during the call. */
	int (*on_part)(const char *name, const char *filename, void *context);
	int (*on_data)(const char *data, size_t size, void *context);
	int (*on_part_end)(void *context);
};

/* `content_type` is the request's header. NULL with `err` when it is no multipart/form-data with a boundary.
 */
struct multipart *multipart_new(const char *content_type, const struct multipart_events *events,
                                void *context, struct error *err);
void multipart_free(struct multipart *multipart);

/* 0, what a callback returned, or -EINVAL for what is no multipart. */
int multipart_feed(struct multipart *multipart, const char *data, size_t size);

/* Whether the closing boundary was seen. */
bool multipart_complete(const struct multipart *multipart);
