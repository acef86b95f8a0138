/*
 * records: what the agent tells of its work to whoever looks after the sandbox: requests of clients, programs
 * that begin and end. They wait in memory, the oldest going when they are more than RECORDS_MAX, until the
 * node fetches them.
 */
#pragma once

#include "envd/envd.h"

#define RECORDS_MAX (512 * 1024) /* bytes */

enum record_level {
	RECORD_DEBUG,
	RECORD_INFO,
	RECORD_WARN,
	RECORD_ERROR,
};

struct records;

/* NULL: no memory. */
struct records *records_new(void);
void records_free(struct records *records);

/* Add one; `fields` (taken) are texts. When there is no memory for it, it is lost. */
void records_add(struct records *records, enum record_level level, const char *message, json_t *fields);

/* Text for a field, cut where it is too long for one. New reference. */
json_t *records_text(const char *text);

/* The number of the last one: they are numbered from 1. */
int64_t records_last(const struct records *records);

/* Forget all: this is another sandbox now. */
void records_clear(struct records *records);

/* Those after number `after`, at most about `limit` bytes: {"last","entries":[...]}, see docs/interfaces.md.
 * What is up to `after` has arrived and is forgotten. 0 or -ENOMEM. */
int records_take(struct records *records, int64_t after, size_t limit, struct buffer *to);

/* GET /logs?after=N. */
void records_handle(struct envd *envd, struct http_exchange *exchange);
