#include "envd/records.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_MAX   4096 /* bytes of a field */
#define ANSWER_MAX (256 * 1024)

struct record {
	struct list link;
	int64_t seq;
	size_t size;
	char text[]; /* JSON */
};

struct records {
	struct list all; /* oldest first */
	size_t size;
	int64_t last;
};

struct records *records_new(void)
{
	struct records *records = calloc(1, sizeof(*records));

	if (records)
		list_init(&records->all);
	return records;
}

static void drop_first(struct records *records)
{
	struct record *record = list_entry(records->all.next, struct record, link);

	records->size -= sizeof(*record) + record->size;
	list_remove(&record->link);
	free(record);
}

void records_clear(struct records *records)
{
	while (!list_empty(&records->all))
		drop_first(records);
}

void records_free(struct records *records)
{
	if (!records)
		return;
	records_clear(records);
	free(records);
}

json_t *records_text(const char *text)
{
	size_t size = strlen(text);

	if (size > TEXT_MAX) {
		size = TEXT_MAX;
		/* Not in the middle of a character. */
		while (size && ((unsigned char)text[size] & 0xc0) == 0x80)
			size--;
	}
	return json_stringn(text, size);
}

void records_add(struct records *records, enum record_level level, const char *message, json_t *fields)
{
	static const char *const names[] = { "debug", "info", "warn", "error" };
	cleanup_json json_t *json = NULL;
	cleanup_free char *text = NULL;
	struct record *record;
	size_t size;

	(void)json_object_set_new(fields, "logger", json_string("envd"));
	json = json_pack("{s:I,s:I,s:s,s:o,s:o}", "seq", (json_int_t)(records->last + 1), "time_ms",
	                 (json_int_t)time_wall_ms(), "level", names[level], "message", records_text(message),
	                 "fields", fields);
	text = json ? json_dumps(json, JSON_COMPACT) : NULL;
	size = text ? strlen(text) : 0;
	record = text ? malloc(sizeof(*record) + size) : NULL;
	if (!record)
		return;
	memcpy(record->text, text, size);
	record->size = size;
	record->seq = ++records->last;
	records->size += sizeof(*record) + size;
	list_append(&records->all, &record->link);
	while (records->size > RECORDS_MAX)
		drop_first(records);
}

int64_t records_last(const struct records *records)
{
	return records->last;
}

int records_take(struct records *records, int64_t after, size_t limit, struct buffer *to)
{
	bool first = true;
	int ret;

	/* A number that was never given: whoever asks counts by another life of ours. */
	if (after > records->last)
		after = 0;
	while (!list_empty(&records->all) && list_entry(records->all.next, struct record, link)->seq <= after)
		drop_first(records);
	ret = buffer_printf(to, "{\"last\":%lld,\"entries\":[", (long long)records->last);
	list_for_each (node, &records->all) {
		const struct record *record = list_entry(node, struct record, link);

		if (ret < 0 || (!first && to->size + record->size > limit))
			break;
		if (!first)
			ret = buffer_append(to, ",", 1);
		if (ret == 0)
			ret = buffer_append(to, record->text, record->size);
		first = false;
	}
	return ret < 0 ? ret : buffer_append_string(to, "]}");
}

void records_handle(struct envd *envd, struct http_exchange *exchange)
{
	cleanup_buffer struct buffer answer = BUFFER_INIT;
	const char *text = http_request_query(exchange, "after");
	char *end = NULL;
	long long after = text ? strtoll(text, &end, 10) : 0;

	if (text && (end == text || *end || after < 0)) {
		http_reply_error(exchange, 400, "after must be the number of an entry");
		return;
	}
	if (records_take(envd->records, after, ANSWER_MAX, &answer) < 0)
		http_reply_error(exchange, 500, "out of memory");
	else
		http_reply(exchange, 200, "application/json", answer.data, answer.size);
}
