/*
 * guest_log: what a sandbox's agent has logged, in a file of bounded size that outlives the sandbox.
 *
 * The file has one JSON object a line: {"seq","time_ms","level","message","fields"}. Beyond
 * GUEST_LOG_FILE_MAX bytes it becomes "<path>.1", in place of the one before: between one and two times as
 * much is kept.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#define GUEST_LOG_FILE_MAX (2 * 1024 * 1024)

enum guest_log_level {
	GUEST_LOG_DEBUG,
	GUEST_LOG_INFO,
	GUEST_LOG_WARN,
	GUEST_LOG_ERROR,
};

/* The level of a name; -1: none has it. */
int guest_log_level(const char *name);

struct guest_log {
	char path[256];
	int64_t seq;     /* the agent's number of the last entry that was taken */
	int64_t time_ms; /* and its time */
};

/* Go on where the file ends. */
void guest_log_open(struct guest_log *log, const char *path);

/*
 * Take the agent's answer to GET /logs, heard at `now_ms`: {"last","entries":[...]}. It comes from the guest:
 * entries that are none are left out, times that were not yet are now. 1: there is more to ask for; 0;
 * or -errno with `err`.
 */
int guest_log_take(struct guest_log *log, const json_t *answer, int64_t now_ms, struct error *err);

struct guest_log_query {
	int64_t cursor_ms; /* forward: from this time on; backward: up to it */
	bool backward;     /* newest first */
	unsigned offset;   /* so many of those wanted are passed over */
	unsigned limit;
	enum guest_log_level level; /* and above */
	const char *search;         /* in the message; NULL: any */
};

/* What a file holds of it; one of a build (builder.h) has such lines as well. New reference: an array. It is
 * empty when there is no file. */
json_t *guest_log_read(const char *path, const struct guest_log_query *query);
