/*
 * Fuzz what the agent reads of requests for files: bodies that say they are gzip, codings and conditions. The
 * first byte says what the rest is. A body must give the same whether it comes in pieces or whole, in pieces
 * that fit the memory, and at most what deflate can make of it.
 */
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "envd/condition.h"
#include "envd/encoding.h"
#include "envd/gzip.h"
#include "fuzz.h"

#define RATIO 1040 /* bytes that one byte of deflate can become, and some more */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct taken {
	uint64_t size;
	uint64_t sum;
};

static int take_piece(const char *data, size_t size, void *context)
{
	struct taken *taken = context;

	if (size == 0 || size > 65536)
		abort();
	taken->size += size;
	for (size_t i = 0; i < size; i++)
		taken->sum = taken->sum * 31 + (unsigned char)data[i];
	return 0;
}

/* Feed it, whole or in pieces. What feeding returned. */
static int unpack(const uint8_t *data, size_t size, uint32_t seed, struct taken *taken, bool *complete)
{
	struct gzip_reader *reader = gzip_reader_new(take_piece, taken);
	int ret = 0;

	if (!reader)
		abort();
	while (ret == 0 && size) {
		size_t piece = seed ? next_piece(&seed, size) : size;

		ret = gzip_reader_feed(reader, (const char *)data, piece);
		data += piece;
		size -= piece;
	}
	*complete = gzip_reader_complete(reader);
	gzip_reader_free(reader);
	return ret;
}

static void fuzz_gzip(const uint8_t *data, size_t size)
{
	struct taken whole = { 0 };
	struct taken pieces = { 0 };
	bool complete[2];
	int ret = unpack(data, size, 0, &whole, &complete[0]);

	if (ret != unpack(data, size, 1, &pieces, &complete[1]) || complete[0] != complete[1])
		abort();
	if (ret == 0 && (whole.size != pieces.size || whole.sum != pieces.sum))
		abort();
	if (whole.size > (uint64_t)size * RATIO)
		abort();
}

/* Lines: codings and conditions. */
static void fuzz_headers(char *text)
{
	struct stat st = { .st_size = 10, .st_mtim = { .tv_sec = 784111777, .tv_nsec = 5 } };
	struct condition condition = { 0 };
	const char **const fields[] = { &condition.if_match, &condition.if_none_match,
		                        &condition.if_modified_since, &condition.if_unmodified_since,
		                        &condition.if_range };
	bool identity;
	enum encoding encoding;

	for (size_t i = 0; i < ARRAY_SIZE(fields) && text; i++)
		*fields[i] = strsep(&text, "\n");
	(void)condition_check(&condition, &st);
	(void)condition_allows_range(&condition, &st);
	encoding = encoding_accepted(condition.if_match, &identity);
	if (encoding == ENCODING_IDENTITY && !identity)
		abort();
	(void)encoding_of_content(condition.if_match);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	if (data[0] & 1) {
		fuzz_gzip(data + 1, size - 1);
	} else {
		char *text = strndup((const char *)data + 1, size - 1);

		if (!text)
			abort();
		fuzz_headers(text);
		free(text);
	}
	return 0;
}
