/* Unit tests of what is kept of sandboxes: the agent's records, the node's samples and logs. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base.h"
#include "envd/records.h"
#include "node/guest_log.h"
#include "node/usage.h"

#define DAY INT64_C(86400)

static char directory[32];
static char path[64];

static int setup(void **state)
{
	(void)state;
	(void)snprintf(directory, sizeof(directory), "/tmp/atoll-history-XXXXXX");
	assert_non_null(mkdtemp(directory));
	(void)snprintf(path, sizeof(path), "%s/file", directory);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	return file_remove_tree(directory, NULL);
}

/* --- usage --- */

static struct usage_sample sample_at(int64_t time_s)
{
	return (struct usage_sample){ .time_s = time_s, .cpu_used_percent = 12.34f, .cpu_count = 2 };
}

static size_t count_between(const struct usage *usage, int64_t start_s, int64_t end_s)
{
	cleanup_json json_t *list = usage_list(usage, start_s, end_s);

	return json_array_size(list);
}

static void usage_is_thinned_out(void **state)
{
	struct usage *usage = usage_new(path);
	const int64_t begin = 1700000000 / 60 * 60;
	int64_t now;

	(void)state;
	assert_null(usage_last(usage));
	for (now = begin; now < begin + 3 * DAY; now += 5) {
		struct usage_sample sample = sample_at(now);

		usage_add(usage, &sample);
	}
	now -= 5;
	assert_int_equal(usage_last(usage)->time_s, now);
	assert_int_equal(count_between(usage, now - 899, now), 180);
	/* One a minute before that, for a day. */
	assert_int_equal(count_between(usage, now - 7200, now - 3601), 60);
	assert_in_range(count_between(usage, 0, now - 900), 1420, 1440);
	assert_int_equal(count_between(usage, 0, now - DAY - 1), 0);
	assert_int_equal(count_between(usage, now + 1, INT64_MAX), 0);
	usage_free(usage);
}

static void usage_outlives_the_daemon(void **state)
{
	struct usage *usage = usage_new(path);
	const int64_t begin = 1700000000 / 60 * 60;
	struct usage_sample sample;
	struct stat st;
	FILE *file;

	(void)state;
	for (int64_t now = begin; now < begin + 600; now += 5) {
		sample = sample_at(now);
		usage_add(usage, &sample);
	}
	usage_free(usage);
	/* A part of a sample, as a crash leaves it. */
	file = fopen(path, "ae");
	assert_non_null(file);
	assert_int_equal(fwrite("abc", 1, 3, file), 3);
	assert_int_equal(fclose(file), 0);
	usage = usage_new(path);
	assert_int_equal(count_between(usage, 0, INT64_MAX), 10);
	/* The clock was set back: nothing out of order. */
	sample = sample_at(begin);
	usage_add(usage, &sample);
	assert_int_equal(count_between(usage, 0, INT64_MAX), 10);
	sample = sample_at(begin + 700);
	usage_add(usage, &sample);
	assert_int_equal(count_between(usage, 0, INT64_MAX), 11);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size % (off_t)sizeof(sample), 0);
	usage_free(usage);
	usage = usage_new(path);
	assert_int_equal(count_between(usage, 0, INT64_MAX), 11);
	usage_free(usage);
}

static void usage_of_hostile_guests(void **state)
{
	static const char good[] = "{\"cpu_count\":2,\"cpu_used_pct\":3.5,\"mem_total\":10,\"mem_used\":9,"
	                           "\"mem_cache\":1,\"disk_total\":7,\"disk_used\":6}";
	static const char *const bad[] = {
		"{}",
		"{\"cpu_count\":0,\"cpu_used_pct\":1,\"mem_total\":1,\"mem_used\":1,\"mem_cache\":1,\"disk_"
		"total\":1,\"disk_used\":1}",
		"{\"cpu_count\":1,\"cpu_used_pct\":-1,\"mem_total\":1,\"mem_used\":1,\"mem_cache\":1,\"disk_"
		"total\":1,\"disk_used\":1}",
		"{\"cpu_count\":1,\"cpu_used_pct\":1e300,\"mem_total\":1,\"mem_used\":1,\"mem_cache\":1,"
		"\"disk_total\":1,\"disk_used\":1}",
		"{\"cpu_count\":1,\"cpu_used_pct\":\"x\",\"mem_total\":1,\"mem_used\":1,\"mem_cache\":1,"
		"\"disk_total\":1,\"disk_used\":1}",
		"{\"cpu_count\":1,\"cpu_used_pct\":1,\"mem_total\":-1,\"mem_used\":1,\"mem_cache\":1,\"disk_"
		"total\":1,\"disk_used\":1}",
		"{\"cpu_count\":1,\"cpu_used_pct\":1,\"mem_total\":9223372036854775807,\"mem_used\":1,\"mem_"
		"cache\":1,\"disk_total\":1,\"disk_used\":1}",
	};
	json_t *json = json_loads(good, 0, NULL);
	struct usage_sample sample;

	(void)state;
	assert_int_equal(usage_parse(json, 5, &sample, NULL), 0);
	assert_int_equal(sample.memory_used, 9);
	assert_int_equal(sample.time_s, 5);
	json_decref(json);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		json = json_loads(bad[i], 0, NULL);
		assert_non_null(json);
		assert_true(usage_parse(json, 5, &sample, NULL) < 0);
		json_decref(json);
	}
	assert_true(usage_parse(NULL, 5, &sample, NULL) < 0);
}

/* --- the agent's records, and the node's log of them --- */

static int take(struct guest_log *log, struct records *records, size_t limit, int64_t now_ms)
{
	cleanup_buffer struct buffer text = BUFFER_INIT;
	cleanup_json json_t *answer = NULL;

	assert_int_equal(records_take(records, log->seq, limit, &text), 0);
	answer = json_loadb(text.data, text.size, 0, NULL);
	assert_non_null(answer);
	return guest_log_take(log, answer, now_ms, NULL);
}

static void add(struct records *records, enum record_level level, const char *message)
{
	records_add(records, level, message, json_pack("{s:s}", "key", "value"));
}

static size_t count_found(const struct guest_log_query *query, const char *first)
{
	cleanup_json json_t *list = guest_log_read(path, query);
	const char *message = json_string_value(json_object_get(json_array_get(list, 0), "message"));

	if (first)
		assert_string_equal(message, first);
	return json_array_size(list);
}

/* What a guest says is no entry is left out; the rest of its answer is taken. */
static void logs_that_are_none(void **state)
{
	static const char text[] =
	        "{\"last\":6,\"entries\":[{\"seq\":1,\"level\":\"info\",\"message\":\"m\",\"fields\":\"x\"},"
	        "{\"seq\":2,\"level\":\"info\",\"message\":\"m\",\"fields\":[\"x\"]},"
	        "{\"seq\":3,\"level\":\"info\",\"message\":\"m\",\"fields\":{\"x\":1}},"
	        "{\"seq\":4,\"level\":\"loud\",\"message\":\"m\"},{\"seq\":5,\"level\":\"info\",\"message\":"
	        "5},"
	        "{\"seq\":6,\"level\":\"info\",\"message\":\"good\"}]}";
	cleanup_json json_t *answer = json_loads(text, 0, NULL);
	struct guest_log_query query = { .limit = 10 };
	struct guest_log log;

	(void)state;
	guest_log_open(&log, path);
	assert_int_equal(guest_log_take(&log, answer, 5, NULL), 0);
	assert_int_equal(count_found(&query, "good"), 1);
}

static void logs_arrive(void **state)
{
	struct records *records = records_new();
	struct guest_log log;
	struct guest_log_query query = { .limit = 10 };
	int64_t now_ms = time_wall_ms() + 1000;

	(void)state;
	guest_log_open(&log, path);
	assert_int_equal(take(&log, records, 65536, now_ms), 0);
	assert_int_equal(count_found(&query, NULL), 0);
	add(records, RECORD_DEBUG, "one");
	add(records, RECORD_INFO, "two words");
	add(records, RECORD_ERROR, "three");
	assert_int_equal(take(&log, records, 65536, now_ms), 0);
	assert_int_equal(take(&log, records, 65536, now_ms), 0);
	assert_int_equal(log.seq, 3);
	assert_int_equal(count_found(&query, "one"), 3);
	query.level = GUEST_LOG_INFO;
	assert_int_equal(count_found(&query, "two words"), 2);
	query.search = "o w";
	assert_int_equal(count_found(&query, "two words"), 1);
	query = (struct guest_log_query){ .limit = 2, .backward = true, .cursor_ms = INT64_MAX };
	assert_int_equal(count_found(&query, "three"), 2);
	query.cursor_ms = 1;
	assert_int_equal(count_found(&query, NULL), 0);
	query = (struct guest_log_query){ .limit = 10, .cursor_ms = now_ms + 1 };
	assert_int_equal(count_found(&query, NULL), 0);
	/* Another life of the node goes on where this one was; of the agent, begins anew. */
	guest_log_open(&log, path);
	assert_int_equal(log.seq, 3);
	records_free(records);
	records = records_new();
	add(records, RECORD_INFO, "anew");
	assert_int_equal(take(&log, records, 65536, now_ms), 0);
	query = (struct guest_log_query){ .limit = 10, .backward = true, .cursor_ms = INT64_MAX };
	assert_int_equal(count_found(&query, "anew"), 4);
	records_free(records);
}

static void logs_in_parts(void **state)
{
	struct records *records = records_new();
	struct guest_log_query query = { .limit = 1000 };
	struct guest_log log;
	char message[64];
	unsigned parts = 0;

	(void)state;
	guest_log_open(&log, path);
	for (int i = 0; i < 500; i++) {
		(void)snprintf(message, sizeof(message), "message %d", i);
		add(records, RECORD_INFO, message);
	}
	while (take(&log, records, 4096, INT64_MAX) == 1)
		parts++;
	assert_in_range(parts, 5, 50);
	assert_int_equal(count_found(&query, "message 0"), 500);
	records_free(records);
}

static void records_are_bounded(void **state)
{
	struct records *records = records_new();
	cleanup_buffer struct buffer text = BUFFER_INIT;
	cleanup_buffer struct buffer big = BUFFER_INIT;
	cleanup_json json_t *answer = NULL;
	json_t *entries;

	(void)state;
	/* Cut before the character that does not fit. */
	for (int i = 0; i < 3000; i++)
		assert_int_equal(buffer_append_string(&big, i ? "ä" : "a"), 0);
	for (int i = 0; i < 2000; i++)
		add(records, RECORD_INFO, big.data);
	records_add(records, RECORD_INFO, "\xff\xfe", json_object());
	assert_int_equal(records_last(records), 2000);
	assert_int_equal(records_take(records, 0, SIZE_MAX, &text), 0);
	assert_true(text.size < RECORDS_MAX + 4096);
	answer = json_loadb(text.data, text.size, 0, NULL);
	entries = json_object_get(answer, "entries");
	assert_in_range(json_array_size(entries), 50, 200);
	assert_int_equal(json_string_length(json_object_get(json_array_get(entries, 0), "message")), 4095);
	records_clear(records);
	buffer_clear(&text);
	assert_int_equal(records_take(records, 0, SIZE_MAX, &text), 0);
	assert_string_equal(text.data, "{\"last\":2000,\"entries\":[]}");
	records_free(records);
}

static void logs_are_bounded(void **state)
{
	struct guest_log_query query = { .limit = UINT32_MAX };
	struct guest_log log;
	char before[80];
	struct stat st;

	(void)state;
	guest_log_open(&log, path);
	for (int i = 1; i < 3000; i++) {
		json_t *entries = json_array();
		cleanup_json json_t *answer = NULL;
		char message[4001];

		memset(message, 'm', 4000);
		message[4000] = '\0';
		(void)json_array_append_new(entries, json_pack("{s:i,s:I,s:s,s:s,s:{}}", "seq", i, "time_ms",
		                                               (json_int_t)i, "level", "info", "message",
		                                               message, "fields"));
		answer = json_pack("{s:i,s:o}", "last", i, "entries", entries);
		assert_int_equal(guest_log_take(&log, answer, INT64_MAX, NULL), 0);
	}
	(void)snprintf(before, sizeof(before), "%s.1", path);
	assert_int_equal(stat(before, &st), 0);
	assert_in_range(st.st_size, GUEST_LOG_FILE_MAX, GUEST_LOG_FILE_MAX + 65536);
	assert_true(stat(path, &st) < 0 || st.st_size <= GUEST_LOG_FILE_MAX + 65536);
	assert_in_range(count_found(&query, NULL), 500, 1100);
}

static void logs_of_hostile_guests(void **state)
{
	static const char *const answers[] = {
		"{}",
		"{\"last\":-1,\"entries\":[]}",
		"{\"last\":\"x\",\"entries\":[]}",
		"{\"last\":1,\"entries\":{}}",
	};
	static const char mixed[] =
	        "{\"last\":9,\"entries\":[7,null,{},{\"seq\":1,\"level\":\"loud\",\"message\":\"m\"},"
	        "{\"seq\":2,\"level\":\"info\",\"message\":7},{\"seq\":3,\"level\":\"info\",\"message\":"
	        "\"m\",\"fields\":{\"a\":1}},"
	        "{\"seq\":4,\"time_ms\":99999999999999,\"level\":\"info\",\"message\":\"line\\nbreak\"},"
	        "{\"seq\":4,\"level\":\"info\",\"message\":\"again\"},"
	        "{\"seq\":5,\"time_ms\":-5,\"level\":\"warn\",\"message\":\"before\",\"fields\":{}}]}";
	struct guest_log_query query = { .limit = 10 };
	struct guest_log log;
	json_t *json;

	(void)state;
	guest_log_open(&log, path);
	for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
		json = json_loads(answers[i], 0, NULL);
		assert_true(guest_log_take(&log, json, 1000, NULL) < 0);
		json_decref(json);
	}
	json = json_loads(mixed, 0, NULL);
	assert_true(guest_log_take(&log, json, 1000, NULL) >= 0);
	json_decref(json);
	assert_int_equal(log.seq, 5);
	assert_int_equal(log.time_ms, 1000);
	assert_int_equal(count_found(&query, "line\nbreak"), 2);
	assert_int_equal(guest_log_level("info"), GUEST_LOG_INFO);
	assert_int_equal(guest_log_level("INFO"), -1);
	assert_int_equal(guest_log_level(NULL), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(usage_is_thinned_out, setup, teardown),
		cmocka_unit_test_setup_teardown(usage_outlives_the_daemon, setup, teardown),
		cmocka_unit_test_setup_teardown(usage_of_hostile_guests, setup, teardown),
		cmocka_unit_test_setup_teardown(logs_that_are_none, setup, teardown),
		cmocka_unit_test_setup_teardown(logs_arrive, setup, teardown),
		cmocka_unit_test_setup_teardown(logs_in_parts, setup, teardown),
		cmocka_unit_test_setup_teardown(records_are_bounded, setup, teardown),
		cmocka_unit_test_setup_teardown(logs_are_bounded, setup, teardown),
		cmocka_unit_test_setup_teardown(logs_of_hostile_guests, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
