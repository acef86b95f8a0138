/* Unit tests of what the agent's /files makes of requests: codings, conditions, packed bodies. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "envd/condition.h"
#include "envd/encoding.h"
#include "envd/gzip.h"

/* --- codings --- */

static void test_content_encodings(void **state)
{
	(void)state;
	assert_int_equal(encoding_of_content(NULL), ENCODING_IDENTITY);
	assert_int_equal(encoding_of_content(""), ENCODING_IDENTITY);
	assert_int_equal(encoding_of_content(" Identity "), ENCODING_IDENTITY);
	assert_int_equal(encoding_of_content("GZIP;q=1"), ENCODING_GZIP);
	assert_int_equal(encoding_of_content("x-gzip"), ENCODING_GZIP);
	assert_int_equal(encoding_of_content("gzi"), ENCODING_NONE);
	assert_int_equal(encoding_of_content("gzip, gzip"), ENCODING_NONE);
	assert_int_equal(encoding_of_content("br"), ENCODING_NONE);
}

static void test_accepted_encodings(void **state)
{
	static const struct {
		const char *header;
		enum encoding encoding;
		bool identity;
	} cases[] = {
		{ NULL, ENCODING_IDENTITY, true },
		{ "", ENCODING_IDENTITY, true },
		{ "gzip", ENCODING_GZIP, true },
		{ "deflate, GZip ;q=0.8", ENCODING_GZIP, true },
		{ "br", ENCODING_IDENTITY, true },
		{ "*", ENCODING_IDENTITY, true },
		{ "gzip;q=0", ENCODING_IDENTITY, true },
		{ "gzip;q=0.2,identity;q=0.5", ENCODING_IDENTITY, true },
		{ "gzip;q=0.5,identity;q=0.2", ENCODING_GZIP, true },
		{ "identity;q=0", ENCODING_NONE, false },
		{ "identity;q=0,*", ENCODING_GZIP, false },
		{ "*;q=0", ENCODING_NONE, false },
		{ "*;q=0, gzip", ENCODING_GZIP, false },
		{ "*;q=0, identity", ENCODING_IDENTITY, true },
		{ "gzip;q=0, identity;q=0, *", ENCODING_NONE, false },
		{ ",;,;;q=,gzip;", ENCODING_GZIP, true },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		bool identity;

		print_message("%s\n", cases[i].header ? cases[i].header : "(none)");
		assert_int_equal(encoding_accepted(cases[i].header, &identity), cases[i].encoding);
		assert_int_equal(identity, cases[i].identity);
	}
}

/* --- conditions --- */

static void test_dates(void **state)
{
	struct stat st = { .st_mtim = { .tv_sec = 784111777 } };
	char date[CONDITION_DATE_SIZE];

	(void)state;
	condition_date(&st, date);
	assert_string_equal(date, "Sun, 06 Nov 1994 08:49:37 GMT");
	assert_int_equal(condition_parse_date(date), 784111777);
	assert_int_equal(condition_parse_date("Sun, 06 Nov 1994 08:49:37 GMT+1"), -1);
	assert_int_equal(condition_parse_date("Sun, 06 Nov 1994 08:49:37"), -1);
	assert_int_equal(condition_parse_date("Sun, 06 Foo 1994 08:49:37 GMT"), -1);
	assert_int_equal(condition_parse_date("Sun, -6 Nov 1994 08:49:37 GMT"), -1);
	assert_int_equal(condition_parse_date("Sun, 06 Nov 1994 24:49:37 GMT"), -1);
	assert_int_equal(condition_parse_date(""), -1);
}

static int check(const struct stat *st, struct condition condition)
{
	return condition_check(&condition, st);
}

static void test_conditions(void **state)
{
	struct stat st = { .st_size = 10, .st_mtim = { .tv_sec = 784111777, .tv_nsec = 5 } };
	static const char before[] = "Sun, 06 Nov 1994 08:49:36 GMT";
	static const char same[] = "Sun, 06 Nov 1994 08:49:37 GMT";
	char etag[CONDITION_ETAG_SIZE];
	char list[CONDITION_ETAG_SIZE * 2];

	(void)state;
	condition_etag(&st, etag);
	(void)snprintf(list, sizeof(list), "\"a,b\" , W/%s", etag);
	assert_int_equal(check(&st, (struct condition){ 0 }), 0);
	assert_int_equal(check(&st, (struct condition){ .if_none_match = etag }), 304);
	assert_int_equal(check(&st, (struct condition){ .if_none_match = list }), 304);
	assert_int_equal(check(&st, (struct condition){ .if_none_match = "*" }), 304);
	assert_int_equal(check(&st, (struct condition){ .if_none_match = "\"x\"" }), 0);
	assert_int_equal(check(&st, (struct condition){ .if_none_match = "\"x" }), 0);
	assert_int_equal(check(&st, (struct condition){ .if_none_match = "x" }), 0);
	assert_int_equal(check(&st, (struct condition){ .if_match = list }), 412);
	assert_int_equal(check(&st, (struct condition){ .if_match = etag }), 0);
	assert_int_equal(check(&st, (struct condition){ .if_match = "*" }), 0);
	assert_int_equal(check(&st, (struct condition){ .if_modified_since = same }), 304);
	assert_int_equal(check(&st, (struct condition){ .if_modified_since = before }), 0);
	assert_int_equal(check(&st, (struct condition){ .if_modified_since = "yesterday" }), 0);
	assert_int_equal(check(&st, (struct condition){ .if_unmodified_since = before }), 412);
	assert_int_equal(check(&st, (struct condition){ .if_unmodified_since = same }), 0);
	/* The tag counts more than the date. */
	assert_int_equal(
	        check(&st, (struct condition){ .if_none_match = "\"x\"", .if_modified_since = same }), 0);
	assert_true(condition_allows_range(&(struct condition){ .if_range = etag }, &st));
	assert_true(condition_allows_range(&(struct condition){ .if_range = same }, &st));
	assert_false(condition_allows_range(&(struct condition){ .if_range = before }, &st));
	assert_false(condition_allows_range(&(struct condition){ .if_range = "\"x\"" }, &st));
	assert_true(condition_allows_range(&(struct condition){ 0 }, &st));
}

/* --- gzip --- */

struct taken {
	struct buffer bytes;
	size_t largest;
	int fail_after; /* calls; 0: never */
};

static int take(const char *data, size_t size, void *context)
{
	struct taken *taken = context;

	if (size > taken->largest)
		taken->largest = size;
	if (taken->fail_after && --taken->fail_after == 0)
		return -ENOSPC;
	return buffer_append(&taken->bytes, data, size);
}

static void pack(const char *data, size_t size, struct buffer *to)
{
	struct gzip_writer *writer = gzip_writer_new();

	assert_non_null(writer);
	assert_int_equal(gzip_writer_feed(writer, data, size, false, to), 0);
	assert_int_equal(gzip_writer_feed(writer, NULL, 0, true, to), 0);
	gzip_writer_free(writer);
}

/* Unpack in pieces of `piece` bytes. */
static int unpack(const struct buffer *packed, size_t piece, struct taken *taken, bool *complete)
{
	struct gzip_reader *reader = gzip_reader_new(take, taken);
	int ret = 0;

	assert_non_null(reader);
	for (size_t at = 0; ret == 0 && at < packed->size; at += piece)
		ret = gzip_reader_feed(reader, packed->data + at,
		                       packed->size - at < piece ? packed->size - at : piece);
	*complete = gzip_reader_complete(reader);
	gzip_reader_free(reader);
	return ret;
}

static void test_gzip_both_ways(void **state)
{
	static const size_t sizes[] = { 0, 1, 65535, 65536, 65537, 1000000 };
	static const size_t pieces[] = { 1, 7, 65536, 1 << 24 };
	char *data = malloc(1000000);

	(void)state;
	for (size_t i = 0; i < 1000000; i++)
		data[i] = (char)(i * i >> 7);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		cleanup_buffer struct buffer packed = BUFFER_INIT;

		pack(data, sizes[i], &packed);
		for (size_t j = 0; j < sizeof(pieces) / sizeof(pieces[0]); j++) {
			struct taken taken = { 0 };
			bool complete;

			assert_int_equal(unpack(&packed, pieces[j], &taken, &complete), 0);
			assert_true(complete);
			assert_int_equal(taken.bytes.size, sizes[i]);
			if (sizes[i])
				assert_memory_equal(taken.bytes.data, data, sizes[i]);
			buffer_fini(&taken.bytes);
		}
	}
	free(data);
}

static void test_gzip_members(void **state)
{
	cleanup_buffer struct buffer packed = BUFFER_INIT;
	struct taken taken = { 0 };
	bool complete;

	(void)state;
	pack("one", 3, &packed);
	pack("two", 3, &packed);
	assert_int_equal(unpack(&packed, 5, &taken, &complete), 0);
	assert_true(complete);
	assert_int_equal(taken.bytes.size, 6);
	assert_memory_equal(taken.bytes.data, "onetwo", 6);
	packed.size--;
	assert_int_equal(unpack(&packed, 5, &taken, &complete), 0);
	assert_false(complete);
	buffer_fini(&taken.bytes);
}

static void test_gzip_refuses(void **state)
{
	cleanup_buffer struct buffer packed = BUFFER_INIT;
	struct taken taken = { 0 };
	bool complete;

	(void)state;
	(void)buffer_append(&packed, "plain text", 10);
	assert_int_equal(unpack(&packed, 10, &taken, &complete), -EINVAL);
	assert_false(complete);
	buffer_clear(&packed);
	pack("text", 4, &packed);
	packed.data[packed.size - 5] ^= 1; /* the checksum */
	assert_int_equal(unpack(&packed, 100, &taken, &complete), -EINVAL);
	buffer_fini(&taken.bytes);
}

/* A bomb comes in pieces that fit the memory, and the taker can end it. */
static void test_gzip_bomb(void **state)
{
	cleanup_buffer struct buffer packed = BUFFER_INIT;
	struct gzip_writer *writer = gzip_writer_new();
	struct taken taken = { .fail_after = 5 };
	char *zeros = calloc(1, 1 << 20);
	bool complete;

	(void)state;
	for (int i = 0; i < 64; i++)
		assert_int_equal(gzip_writer_feed(writer, zeros, 1 << 20, i == 63, &packed), 0);
	assert_int_equal(unpack(&packed, 1 << 24, &taken, &complete), -ENOSPC);
	assert_true(taken.largest <= 65536);
	assert_true(taken.bytes.size <= 5 * 65536);
	gzip_writer_free(writer);
	buffer_fini(&taken.bytes);
	free(zeros);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_content_encodings),
		cmocka_unit_test(test_accepted_encodings),
		cmocka_unit_test(test_dates),
		cmocka_unit_test(test_conditions),
		cmocka_unit_test(test_gzip_both_ways),
		cmocka_unit_test(test_gzip_members),
		cmocka_unit_test(test_gzip_refuses),
		cmocka_unit_test(test_gzip_bomb),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
