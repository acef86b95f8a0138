/* Unit tests of base: buffers, encodings, times, errors, JSON reading, files, logs. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base.h"

static void buffer_grows_and_keeps_its_limit(void **state)
{
	cleanup_buffer struct buffer buffer;

	(void)state;
	buffer_init(&buffer, 10);
	assert_int_equal(buffer_append_string(&buffer, "hello"), 0);
	assert_int_equal(buffer_printf(&buffer, "%d", 12345), 0);
	assert_int_equal(buffer_append(&buffer, "x", 1), -EMSGSIZE);
	assert_string_equal(buffer.data, "hello12345");
	buffer_consume(&buffer, 5);
	assert_string_equal(buffer.data, "12345");
	buffer_consume(&buffer, 100);
	assert_int_equal(buffer.size, 0);
}

static void numbers_and_cut_texts_are_written_whole(void **state)
{
	cleanup_buffer struct buffer buffer;
	char text[4] = "xyz";

	(void)state;
	buffer_init(&buffer, 22);
	assert_int_equal(buffer_append_number(&buffer, 0), 0);
	assert_int_equal(buffer_append_number(&buffer, UINT64_MAX), 0);
	assert_string_equal(buffer.data, "018446744073709551615");
	assert_int_equal(buffer_append_number(&buffer, 10), -EMSGSIZE);
	assert_int_equal(buffer_append_number(&buffer, 7), 0);
	assert_string_equal(buffer.data, "0184467440737095516157");
	text_copy(text, sizeof(text), "abcdef", 6);
	assert_string_equal(text, "abc");
	text_copy(text, sizeof(text), "abcdef", 2);
	assert_string_equal(text, "ab");
}

static void base64_round_trips_and_refuses_garbage(void **state)
{
	static const char *const pairs[][2] = {
		{ "", "" }, { "f", "Zg==" }, { "fo", "Zm8=" }, { "foo", "Zm9v" }, { "foobar", "Zm9vYmFy" }
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
		cleanup_buffer struct buffer text = BUFFER_INIT;
		cleanup_buffer struct buffer back = BUFFER_INIT;

		assert_int_equal(base64_encode(&text, pairs[i][0], strlen(pairs[i][0])), 0);
		assert_string_equal(text.data, pairs[i][1]);
		assert_int_equal(base64_decode(&back, text.data, text.size), 0);
		assert_string_equal(back.data, pairs[i][0]);
	}
	cleanup_buffer struct buffer bad = BUFFER_INIT;
	assert_int_equal(base64_decode(&bad, "a*bc", 4), -EINVAL);
	assert_int_equal(base64_decode(&bad, "abcde", 5), -EINVAL);
}

static void percent_decoding_refuses_cut_and_nul(void **state)
{
	cleanup_buffer struct buffer text = BUFFER_INIT;

	(void)state;
	assert_int_equal(percent_decode(&text, "a%20b+c", 7, 1), 0);
	assert_string_equal(text.data, "a b c");
	assert_int_equal(percent_decode(&text, "%4", 2, 0), -EINVAL);
	assert_int_equal(percent_decode(&text, "%00", 3, 0), -EINVAL);
	buffer_clear(&text);
	assert_int_equal(percent_encode(&text, "a b/ü"), 0);
	assert_string_equal(text.data, "a%20b%2F%C3%BC");
}

static void times_round_trip(void **state)
{
	char text[TIME_RFC3339_SIZE];
	int64_t nanoseconds;

	(void)state;
	assert_string_equal(time_format_rfc3339(1767225600123, text), "2026-01-01T00:00:00.123Z");
	assert_int_equal(time_parse_rfc3339(text, &nanoseconds), 0);
	assert_int_equal(nanoseconds, 1767225600123000000);
	assert_int_equal(time_parse_rfc3339("2026-01-01T01:00:00+01:00", &nanoseconds), 0);
	assert_int_equal(nanoseconds, 1767225600000000000);
	assert_int_equal(time_parse_rfc3339("yesterday", &nanoseconds), -EINVAL);
	assert_int_equal(time_parse_rfc3339("2026-01-01T00:00:00", &nanoseconds), -EINVAL);
}

static void errors_carry_context(void **state)
{
	struct error err;

	(void)state;
	assert_int_equal(error_errno(&err, ENOENT, "open %s", "/x"), -ENOENT);
	assert_int_equal(error_wrap(&err, "load template %s", "base"), -ENOENT);
	assert_string_equal(err.message, "load template base: open /x: No such file or directory");
	assert_int_equal(error_set(NULL, 0, "nothing"), -EIO);
}

static void json_readers_name_the_field(void **state)
{
	static const char text[] = "{\"n\":5,\"s\":\"x\",\"b\":true,\"z\":null,\"m\":{\"k\":1}}";
	cleanup_json json_t *object = NULL;
	struct error err;
	const char *s = "default";
	int64_t n = 0;
	json_t *map = NULL;

	(void)state;
	assert_int_equal(json_parse_object(text, strlen(text), &object, &err), 0);
	assert_int_equal(json_read_integer(object, "n", JSON_REQUIRED, 0, 10, &n, &err), 0);
	assert_int_equal(n, 5);
	assert_int_equal(json_read_integer(object, "n", JSON_REQUIRED, 6, 10, &n, &err), -ERANGE);
	assert_string_equal(err.message, "field 'n' must be between 6 and 10");
	assert_int_equal(json_read_string(object, "z", JSON_OPTIONAL, &s, &err), 0);
	assert_string_equal(s, "default");
	assert_int_equal(json_read_string(object, "z", JSON_REQUIRED, &s, &err), -EINVAL);
	assert_int_equal(json_read_string_map(object, "m", JSON_REQUIRED, &map, &err), -EINVAL);
	assert_string_equal(err.message, "field 'm.k' must be a string");
	json_t *bad = NULL;
	assert_int_equal(json_parse_object("{\"a\":", 5, &bad, &err), -EINVAL);
}

static void files_are_replaced_whole(void **state)
{
	char directory[] = "/tmp/atoll-test-XXXXXX";
	char path[128];
	cleanup_buffer struct buffer content = BUFFER_INIT;
	struct error err;

	(void)state;
	assert_non_null(mkdtemp(directory));
	(void)snprintf(path, sizeof(path), "%s/a/b", directory);
	assert_int_equal(file_make_directories(path, 0755, &err), 0);
	(void)snprintf(path, sizeof(path), "%s/a/b/file", directory);
	assert_int_equal(file_write_atomic(path, "one", 3, 0600, &err), 0);
	assert_int_equal(file_write_atomic(path, "two!", 4, 0600, &err), 0);
	assert_int_equal(file_read(path, &content, &err), 0);
	assert_string_equal(content.data, "two!");
	assert_int_equal(file_remove_tree(directory, &err), 0);
	assert_int_equal(file_read(path, &content, &err), -ENOENT);
	assert_int_equal(file_remove_tree(directory, &err), 0);
}

/* What a process that died left goes; what only looks like it stays. */
static void halves_of_writes_go(void **state)
{
	static const char *const stay[] = { "file", "file.new.12", ".new.x", ".file.new.12.json", ".file" };
	static const char *const go[] = { ".file.new.12", ".other.new.4194304" };
	char directory[] = "/tmp/atoll-test-XXXXXX";
	char path[128];
	struct error err;

	(void)state;
	assert_non_null(mkdtemp(directory));
	for (size_t i = 0; i < ARRAY_SIZE(stay) + ARRAY_SIZE(go); i++) {
		(void)snprintf(path, sizeof(path), "%s/%s", directory,
		               i < ARRAY_SIZE(stay) ? stay[i] : go[i - ARRAY_SIZE(stay)]);
		assert_int_equal(file_write_atomic(path, "", 0, 0600, &err), 0);
	}
	file_remove_temporaries(directory);
	for (size_t i = 0; i < ARRAY_SIZE(stay); i++) {
		(void)snprintf(path, sizeof(path), "%s/%s", directory, stay[i]);
		assert_int_equal(access(path, F_OK), 0);
	}
	for (size_t i = 0; i < ARRAY_SIZE(go); i++) {
		(void)snprintf(path, sizeof(path), "%s/%s", directory, go[i]);
		assert_int_equal(access(path, F_OK), -1);
	}
	file_remove_temporaries("/tmp/atoll-test-which-is-not-there");
	assert_int_equal(file_remove_tree(directory, &err), 0);
}

static void logs_are_rotated(void **state)
{
	char directory[] = "/tmp/atoll-log-XXXXXX";
	char path[64];
	char aside[64];
	cleanup_buffer struct buffer content = BUFFER_INIT;
	int ends[2];
	int fd;

	(void)state;
	assert_non_null(mkdtemp(directory));
	(void)snprintf(path, sizeof(path), "%s/log", directory);
	(void)snprintf(aside, sizeof(aside), "%s/log.1", directory);
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
	assert_int_equal(fd_write_all(fd, "first\n", 6), 0);
	assert_int_equal(log_rotate(fd, 6), 0);
	assert_int_equal(access(aside, F_OK), -1);
	assert_int_equal(fd_write_all(fd, "second\n", 7), 0);
	assert_int_equal(log_rotate(fd, 6), 0);
	assert_int_equal(fd_write_all(fd, "third\n", 6), 0);
	assert_int_equal(file_read(aside, &content, NULL), 0);
	assert_string_equal(content.data, "first\nsecond\n");
	buffer_consume(&content, content.size);
	assert_int_equal(file_read(path, &content, NULL), 0);
	assert_string_equal(content.data, "third\n");
	/* What is no file is left alone. */
	assert_int_equal(pipe(ends), 0);
	assert_int_equal(log_rotate(ends[1], 0), 0);
	close(ends[0]);
	close(ends[1]);
	close(fd);
	assert_int_equal(log_rotate(fd, 0), -EBADF);
	assert_int_equal(file_remove_tree(directory, NULL), 0);
}

static void ids_have_their_form(void **state)
{
	char id[20];
	char hex[41];

	(void)state;
	random_id(id, 19);
	assert_int_equal(strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789"), 19);
	random_hex(hex, 20);
	assert_int_equal(strspn(hex, "0123456789abcdef"), 40);
	assert_true(secret_equal("same", "same"));
	assert_false(secret_equal("same", "sane"));
	assert_false(secret_equal("same", "samer"));
}

static void checksums_are_those_of_the_standard(void **state)
{
	unsigned char zeros[32] = { 0 };

	(void)state;
	/* RFC 3720 B.4, and the customary check value. */
	assert_int_equal(crc32c(0, zeros, sizeof(zeros)), 0x8a9136aa);
	assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
	assert_int_equal(crc32c(crc32c(0, "1234", 4), "56789", 5), 0xe3069283);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(checksums_are_those_of_the_standard),
		cmocka_unit_test(buffer_grows_and_keeps_its_limit),
		cmocka_unit_test(numbers_and_cut_texts_are_written_whole),
		cmocka_unit_test(base64_round_trips_and_refuses_garbage),
		cmocka_unit_test(percent_decoding_refuses_cut_and_nul),
		cmocka_unit_test(times_round_trip),
		cmocka_unit_test(errors_carry_context),
		cmocka_unit_test(json_readers_name_the_field),
		cmocka_unit_test(files_are_replaced_whole),
		cmocka_unit_test(halves_of_writes_go),
		cmocka_unit_test(logs_are_rotated),
		cmocka_unit_test(ids_have_their_form),
	};

	return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
