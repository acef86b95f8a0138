#include "node/usage.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"

#define FINE_SECONDS   (15 * 60)
#define COARSE_SECONDS (24 * 3600)
#define COARSE_STEP    60
#define FINE_MAX       900 /* one a second */
#define COARSE_MAX     (COARSE_SECONDS / COARSE_STEP)
#define FILE_MAX       (4 * COARSE_MAX * (off_t)sizeof(struct usage_sample))
#define BYTES_MAX      (INT64_C(1) << 50)

/* Oldest first from `first` on. It grows until it has `limit`; only then does it go round. */
struct ring {
	struct usage_sample *samples;
	size_t first;
	size_t count;
	size_t capacity;
	size_t limit;
};

struct usage {
	struct ring fine;
	struct ring coarse;
	int64_t stored_s; /* the last one in the file */
	char path[256];
};

static struct usage_sample *ring_at(const struct ring *ring, size_t index)
{
	return &ring->samples[(ring->first + index) % ring->capacity];
}

static void ring_drop_first(struct ring *ring)
{
	ring->first = (ring->first + 1) % ring->capacity;
	ring->count--;
}

static void ring_add(struct ring *ring, const struct usage_sample *sample)
{
	if (ring->count == ring->limit)
		ring_drop_first(ring);
	if (ring->count == ring->capacity) {
		size_t capacity = ring->capacity ? 2 * ring->capacity : 16;
		struct usage_sample *samples;

		if (capacity > ring->limit)
			capacity = ring->limit;
		samples = calloc(capacity, sizeof(*samples));
		if (!samples)
			return;
		for (size_t i = 0; i < ring->count; i++)
			samples[i] = *ring_at(ring, i);
		free(ring->samples);
		ring->samples = samples;
		ring->capacity = capacity;
		ring->first = 0;
	}
	ring->samples[(ring->first + ring->count++) % ring->capacity] = *sample;
}

/* --- the file: samples behind one another, for this machine only --- */

static void load(struct usage *usage)
{
	cleanup_close int fd = open(usage->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	int64_t after_s = 0;
	struct usage_sample sample;

	while (fd >= 0 && fd_read_all(fd, &sample, sizeof(sample)) == 0) {
		if (sample.time_s <= after_s)
			continue;
		after_s = sample.time_s;
		ring_add(&usage->coarse, &sample);
	}
	usage->stored_s = after_s;
}

/* A part of a sample at its end, left by a crash, is cut off: what follows would be read askew. */
static void store(struct usage *usage, const struct usage_sample *sample)
{
	cleanup_close int fd = open(usage->path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0640);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return;
	if (st.st_size > FILE_MAX) {
		/* What is dropped is older than a day; the ring has what is not. */
		if (ftruncate(fd, 0) < 0)
			return;
		for (size_t i = 0; i < usage->coarse.count; i++)
			(void)fd_write_all(fd, ring_at(&usage->coarse, i), sizeof(*sample));
	} else if (st.st_size % (off_t)sizeof(*sample) != 0 &&
	           ftruncate(fd, st.st_size - st.st_size % (off_t)sizeof(*sample)) < 0) {
		return;
	}
	if (fd_write_all(fd, sample, sizeof(*sample)) == 0)
		usage->stored_s = sample->time_s;
}

/* --- adding --- */

struct usage *usage_new(const char *path)
{
	struct usage *usage = calloc(1, sizeof(*usage));

	if (!usage)
		return NULL;
	usage->fine.limit = FINE_MAX;
	usage->coarse.limit = COARSE_MAX;
	(void)snprintf(usage->path, sizeof(usage->path), "%s", path);
	load(usage);
	return usage;
}

void usage_free(struct usage *usage)
{
	if (!usage)
		return;
	free(usage->fine.samples);
	free(usage->coarse.samples);
	free(usage);
}

/* A number of bytes in the guest's answer. */
static int read_bytes(const json_t *answer, const char *key, uint64_t *ret, struct error *err)
{
	int64_t value = 0;
	int status = json_read_integer(answer, key, JSON_REQUIRED, 0, BYTES_MAX, &value, err);

	*ret = (uint64_t)value;
	return status;
}

int usage_parse(const json_t *answer, int64_t now_s, struct usage_sample *ret, struct error *err)
{
	const json_t *percent = json_object_get(answer, "cpu_used_pct");
	double share = json_is_number(percent) ? json_number_value(percent) : -1;
	int64_t count = 0;
	int status = json_read_integer(answer, "cpu_count", JSON_REQUIRED, 1, 1024, &count, err);

	*ret = (struct usage_sample){ .time_s = now_s, .cpu_count = (uint32_t)count };
	if (status == 0 && !(share >= 0 && share <= 100 * 1024))
		status = error_set(err, EINVAL, "cpu_used_pct is no share");
	ret->cpu_used_percent = status == 0 ? (float)share : 0;
	if (status == 0)
		status = read_bytes(answer, "mem_total", &ret->memory_total, err);
	if (status == 0)
		status = read_bytes(answer, "mem_used", &ret->memory_used, err);
	if (status == 0)
		status = read_bytes(answer, "mem_cache", &ret->memory_cache, err);
	if (status == 0)
		status = read_bytes(answer, "disk_total", &ret->disk_total, err);
	if (status == 0)
		status = read_bytes(answer, "disk_used", &ret->disk_used, err);
	return status;
}

/* What grows old moves to the coarse ring, the first of each minute. */
static void age(struct usage *usage, int64_t now_s)
{
	struct ring *fine = &usage->fine;
	struct ring *coarse = &usage->coarse;

	while (fine->count &&
	       (fine->count == fine->limit || ring_at(fine, 0)->time_s <= now_s - FINE_SECONDS)) {
		const struct usage_sample *sample = ring_at(fine, 0);
		const struct usage_sample *last = coarse->count ? ring_at(coarse, coarse->count - 1) : NULL;

		if (!last || sample->time_s / COARSE_STEP > last->time_s / COARSE_STEP)
			ring_add(coarse, sample);
		ring_drop_first(fine);
	}
	while (coarse->count && ring_at(coarse, 0)->time_s <= now_s - COARSE_SECONDS)
		ring_drop_first(coarse);
}

void usage_add(struct usage *usage, const struct usage_sample *sample)
{
	const struct usage_sample *last = usage_last(usage);

	/* The clock was set back: wait until it is where it was. */
	if (last && sample->time_s <= last->time_s)
		return;
	age(usage, sample->time_s);
	ring_add(&usage->fine, sample);
	if (sample->time_s / COARSE_STEP > usage->stored_s / COARSE_STEP)
		store(usage, sample);
}

/* --- reading --- */

const struct usage_sample *usage_last(const struct usage *usage)
{
	if (usage->fine.count)
		return ring_at(&usage->fine, usage->fine.count - 1);
	return usage->coarse.count ? ring_at(&usage->coarse, usage->coarse.count - 1) : NULL;
}

json_t *usage_json(const struct usage_sample *sample)
{
	/* Two decimals: a float's nearest would show many. */
	double share = (double)(int64_t)((double)sample->cpu_used_percent * 100 + 0.5) / 100;

	return json_pack("{s:I,s:i,s:f,s:I,s:I,s:I,s:I,s:I}", "time_s", (json_int_t)sample->time_s,
	                 "cpu_count", (int)sample->cpu_count, "cpu_used_pct", share, "mem_total",
	                 (json_int_t)sample->memory_total, "mem_used", (json_int_t)sample->memory_used,
	                 "mem_cache", (json_int_t)sample->memory_cache, "disk_total",
	                 (json_int_t)sample->disk_total, "disk_used", (json_int_t)sample->disk_used);
}

static void list_ring(const struct ring *ring, int64_t start_s, int64_t end_s, json_t *list)
{
	for (size_t i = 0; i < ring->count; i++) {
		const struct usage_sample *sample = ring_at(ring, i);

		if (sample->time_s >= start_s && sample->time_s <= end_s)
			(void)json_array_append_new(list, usage_json(sample));
	}
}

json_t *usage_list(const struct usage *usage, int64_t start_s, int64_t end_s)
{
	json_t *list = json_array();

	list_ring(&usage->coarse, start_s, end_s, list);
	list_ring(&usage->fine, start_s, end_s, list);
	return list;
}
