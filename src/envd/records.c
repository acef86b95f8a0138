#include "envd/records.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define TEXT_MAX   4096        /* bytes of a field */
#define ANSWER_MAX (64 * 1024) /* it stays until the next is asked for */
#define BLOCK_SIZE (16 * 1024)

struct record {
	int64_t seq;
	size_t size;
	char text[]; /* JSON */
};

/* Records side by side, outside of the heap: each by itself would keep a page of that from the kernel. */
struct block {
	struct list link;
	size_t first;    /* where the oldest begins that is still wanted */
	size_t used;     /* bytes */
	size_t capacity; /* for a record that does not fit BLOCK_SIZE, as much as it takes */
	_Alignas(struct record) char bytes[];
};

struct records {
	struct list blocks; /* oldest first; none is empty */
	size_t size;        /* bytes of all records */
	int64_t last;
};

struct records *records_new(void)
{
	struct records *records = calloc(1, sizeof(*records));

	if (records)
		list_init(&records->blocks);
	return records;
}

static size_t space_of(size_t text_size)
{
	return (sizeof(struct record) + text_size + _Alignof(struct record) - 1) &
	       ~(_Alignof(struct record) - 1);
}

static struct record *record_at(struct block *block, size_t at)
{
	return (struct record *)(void *)(block->bytes + at);
}

/* NULL: there is none. */
static struct record *first_record(struct records *records)
{
	struct block *block = list_entry(records->blocks.next, struct block, link);

	return list_empty(&records->blocks) ? NULL : record_at(block, block->first);
}

/* There is one. */
static void drop_first(struct records *records)
{
	struct block *block = list_entry(records->blocks.next, struct block, link);
	size_t space = space_of(record_at(block, block->first)->size);

	records->size -= space;
	block->first += space;
	if (block->first < block->used)
		return;
	list_remove(&block->link);
	(void)munmap(block, sizeof(*block) + block->capacity);
}

/* An empty one at the end. NULL: no memory. */
static struct block *add_block(struct records *records, size_t space)
{
	size_t size = sizeof(struct block) + space < BLOCK_SIZE ? BLOCK_SIZE : sizeof(struct block) + space;
	struct block *block = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (block == MAP_FAILED)
		return NULL;
	block->capacity = size - sizeof(*block);
	list_append(&records->blocks, &block->link);
	return block;
}

/* Where the next one goes. NULL: no memory. */
static struct record *make_space(struct records *records, size_t text_size)
{
	struct block *block = list_entry(records->blocks.prev, struct block, link);
	size_t space = space_of(text_size);

	if (list_empty(&records->blocks) || block->capacity - block->used < space)
		block = add_block(records, space);
	if (!block)
		return NULL;
	block->used += space;
	records->size += space;
	return record_at(block, block->used - space);
}

void records_clear(struct records *records)
{
	while (!list_empty(&records->blocks))
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
	record = text ? make_space(records, size) : NULL;
	if (!record)
		return;
	memcpy(record->text, text, size);
	record->size = size;
	record->seq = ++records->last;
	while (records->size > RECORDS_MAX)
		drop_first(records);
}

int64_t records_last(const struct records *records)
{
	return records->last;
}

/* Those of a block. 0, 1 when the limit is reached, or -ENOMEM. */
static int take_block(struct block *block, size_t limit, bool *first, struct buffer *to)
{
	int ret = 0;

	for (size_t at = block->first; ret == 0 && at < block->used;) {
		const struct record *record = record_at(block, at);

		if (!*first && to->size + record->size > limit)
			return 1;
		if (!*first)
			ret = buffer_append(to, ",", 1);
		if (ret == 0)
			ret = buffer_append(to, record->text, record->size);
		*first = false;
		at += space_of(record->size);
	}
	return ret;
}

int records_take(struct records *records, int64_t after, size_t limit, struct buffer *to)
{
	const struct record *oldest;
	bool first = true;
	int ret;

	/* A number that was never given: whoever asks counts by another life of ours. */
	if (after > records->last)
		after = 0;
	while ((oldest = first_record(records)) && oldest->seq <= after)
		drop_first(records);
	ret = buffer_printf(to, "{\"last\":%lld,\"entries\":[", (long long)records->last);
	list_for_each (node, &records->blocks) {
		if (ret != 0)
			break;
		ret = take_block(list_entry(node, struct block, link), limit, &first, to);
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
