/*
 * Fuzz uploads as forms: hostile are the Content-Type with its boundary, the body, and where the network
 * cuts it. The first byte draws the cuts, the first line is the Content-Type, the rest is the body. A body
 * that comes in pieces must give the same parts as one that comes whole.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "envd/multipart.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct outcome {
	struct buffer log; /* the events, however the data was cut */
	unsigned parts_open;
	int result;
	bool complete;
};

static void note(struct outcome *outcome, const void *data, size_t size)
{
	if (buffer_append(&outcome->log, data, size) < 0)
		abort();
}

static int on_part(const char *name, const char *filename, void *context)
{
	struct outcome *outcome = context;

	if (outcome->parts_open++)
		abort();
	note(outcome, "P", 1);
	note(outcome, name, strlen(name) + 1);
	note(outcome, filename, strlen(filename) + 1);
	/* As a handler that does not like the part. */
	return strcmp(name, "refused") == 0 ? -EPERM : 0;
}

static int on_data(const char *data, size_t size, void *context)
{
	struct outcome *outcome = context;

	if (outcome->parts_open != 1 || size == 0)
		abort();
	note(outcome, data, size);
	return 0;
}

static int on_part_end(void *context)
{
	struct outcome *outcome = context;

	if (outcome->parts_open-- != 1)
		abort();
	note(outcome, "E", 1);
	return 0;
}

static const struct multipart_events events = { on_part, on_data, on_part_end };

/* Parse `body` in pieces (`seed` 0: whole). False when the Content-Type is refused. */
static bool parse(const char *type, const uint8_t *body, size_t size, uint32_t seed, struct outcome *outcome)
{
	struct error err;
	struct multipart *multipart = multipart_new(type, &events, outcome, &err);

	if (!multipart)
		return false;
	while (size && outcome->result == 0) {
		size_t piece = seed ? next_piece(&seed, size) : size;
		/* Exactly as long as it is, for ASan. */
		char *copy = malloc(piece);

		if (!copy)
			abort();
		memcpy(copy, body, piece);
		outcome->result = multipart_feed(multipart, copy, piece);
		free(copy);
		body += piece;
		size -= piece;
	}
	outcome->complete = multipart_complete(multipart);
	multipart_free(multipart);
	return true;
}

/* Data that is still held back, at the end of a body that is cut short, may differ; the log then begins
 * alike.
 */
static void compare(const struct outcome *whole, const struct outcome *pieces)
{
	size_t size = whole->log.size < pieces->log.size ? whole->log.size : pieces->log.size;

	if (whole->result != pieces->result || whole->complete != pieces->complete)
		abort();
	if ((whole->complete && whole->log.size != pieces->log.size) ||
	    (size && memcmp(whole->log.data, pieces->log.data, size) != 0))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = { data, size };
	uint32_t seed = take(&input, 1) + 1;
	const uint8_t *line_end = input.size ? memchr(input.data, '\n', input.size) : NULL;
	struct outcome whole = { 0 };
	struct outcome pieces = { 0 };
	char *type;
	size_t rest;

	if (!line_end)
		return 0;
	type = strndup((const char *)input.data, (size_t)(line_end - input.data));
	rest = (size_t)(input.data + input.size - line_end) - 1;
	if (!type)
		abort();
	if (parse(type, line_end + 1, rest, 0, &whole)) {
		if (!parse(type, line_end + 1, rest, seed, &pieces))
			abort();
		compare(&whole, &pieces);
	}
	buffer_fini(&whole.log);
	buffer_fini(&pieces.log);
	free(type);
	return 0;
}
