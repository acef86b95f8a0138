/*
 * usage: what one sandbox used of its machine over time.
 *
 * Samples are kept at the rate at which they come for a quarter of an hour, and one a minute for a day. The
 * latter are also in a file, so that they outlive the daemon; what is finer than that does not.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct usage_sample {
	int64_t time_s; /* since 1970 */
	float cpu_used_percent;
	uint32_t cpu_count;
	uint64_t memory_total; /* all in bytes */
	uint64_t memory_used;
	uint64_t memory_cache;
	uint64_t disk_total;
	uint64_t disk_used;
};

struct usage;

/* `path`: the file of it, which may hold what an earlier life left. NULL: no memory. */
struct usage *usage_new(const char *path);
void usage_free(struct usage *usage);

/* Take an agent's answer to GET /metrics, heard at `now_s`. It comes from the guest: -EINVAL or -ERANGE when
 * it makes no sense. A sample that is not after the one before is not added. */
int usage_parse(const json_t *answer, int64_t now_s, struct usage_sample *ret, struct error *err);
void usage_add(struct usage *usage, const struct usage_sample *sample);

/* The last one; NULL: there is none. */
const struct usage_sample *usage_last(const struct usage *usage);

/* All from `start_s` to `end_s`, both included, oldest first. New reference: an array of objects. */
json_t *usage_list(const struct usage *usage, int64_t start_s, int64_t end_s);

/* One as the node API shows it. New reference. */
json_t *usage_json(const struct usage_sample *sample);
