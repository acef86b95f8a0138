#include "node/guest_log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"

#define LINE_MAX_SIZE (32 * 1024)
#define MESSAGE_MAX   (8 * 1024)
#define FIELDS_MAX    64
#define ENTRIES_MAX   4096 /* of one answer */
#define FILE_READ_MAX (GUEST_LOG_FILE_MAX + 4 * LINE_MAX_SIZE)

static const char *const level_names[] = { "debug", "info", "warn", "error" };

int guest_log_level(const char *name)
{
	for (size_t i = 0; name && i < ARRAY_SIZE(level_names); i++)
		if (strcmp(name, level_names[i]) == 0)
			return (int)i;
	return -1;
}

/* --- lines of a file --- */

struct lines {
	struct buffer text;
	size_t at; /* between two lines */
};

static void lines_open(struct lines *lines, const char *path, bool backward)
{
	buffer_init(&lines->text, FILE_READ_MAX);
	if (file_read(path, &lines->text, NULL) < 0)
		buffer_clear(&lines->text);
	/* A line without its end was never written whole. */
	while (lines->text.size && lines->text.data[lines->text.size - 1] != '\n')
		lines->text.size--;
	lines->at = backward ? lines->text.size : 0;
}

/* The next one, or the one before; NULL: none. */
static const char *lines_step(struct lines *lines, bool backward, size_t *ret_size)
{
	const char *data = lines->text.data;
	size_t from = lines->at;
	size_t to = lines->at;

	if (backward ? !lines->at : lines->at >= lines->text.size)
		return NULL;
	if (backward) {
		for (from--; from && data[from - 1] != '\n'; from--)
			;
		lines->at = from;
		*ret_size = to - from - 1;
		return data + from;
	}
	while (data[to] != '\n')
		to++;
	lines->at = to + 1;
	*ret_size = to - from;
	return data + from;
}

void guest_log_open(struct guest_log *log, const char *path)
{
	struct lines lines;
	const char *line;
	size_t size;

	*log = (struct guest_log){ 0 };
	(void)snprintf(log->path, sizeof(log->path), "%s", path);
	lines_open(&lines, path, true);
	line = lines_step(&lines, true, &size);
	if (line) {
		cleanup_json json_t *entry = json_loadb(line, size, 0, NULL);

		log->seq = json_integer_value(json_object_get(entry, "seq"));
		log->time_ms = json_integer_value(json_object_get(entry, "time_ms"));
	}
	buffer_fini(&lines.text);
}

/* --- taking --- */

/* A new object of what is well formed in an entry; NULL: it is none. */
static json_t *make_entry(struct guest_log *log, const json_t *from, int64_t now_ms)
{
	const char *level = json_string_value(json_object_get(from, "level"));
	json_t *message = json_object_get(from, "message");
	json_t *fields = json_object_get(from, "fields");
	int64_t seq = json_integer_value(json_object_get(from, "seq"));
	int64_t time_ms = json_integer_value(json_object_get(from, "time_ms"));
	const char *key;
	json_t *value;

	if (seq <= log->seq || guest_log_level(level) < 0 || !json_is_string(message) ||
	    json_string_length(message) > MESSAGE_MAX)
		return NULL;
	if (fields && (!json_is_object(fields) || json_object_size(fields) > FIELDS_MAX))
		return NULL;
	json_object_foreach (fields, key, value)
		if (!json_is_string(value))
			return NULL;
	/* In the order of the file, and not of the future. */
	if (time_ms > now_ms)
		time_ms = now_ms;
	if (time_ms < log->time_ms)
		time_ms = log->time_ms;
	return json_pack("{s:I,s:I,s:s,s:O,s:o}", "seq", (json_int_t)seq, "time_ms", (json_int_t)time_ms,
	                 "level", level, "message", message, "fields",
	                 fields ? json_incref(fields) : json_object());
}

static int append_lines(struct guest_log *log, const json_t *entries, int64_t now_ms, struct buffer *text)
{
	size_t index;
	json_t *from;

	json_array_foreach (entries, index, from) {
		cleanup_json json_t *entry = index < ENTRIES_MAX ? make_entry(log, from, now_ms) : NULL;
		cleanup_free char *line = entry ? json_dumps(entry, JSON_COMPACT) : NULL;

		if (!line || strlen(line) >= LINE_MAX_SIZE)
			continue;
		if (buffer_append_string(text, line) < 0 || buffer_append(text, "\n", 1) < 0)
			return -ENOMEM;
		log->seq = json_integer_value(json_object_get(entry, "seq"));
		log->time_ms = json_integer_value(json_object_get(entry, "time_ms"));
	}
	return 0;
}

static int write_lines(const struct guest_log *log, const struct buffer *text, struct error *err)
{
	cleanup_close int fd = open(log->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0640);
	char before[sizeof(log->path) + 2];
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return error_errno(err, errno, "open %s", log->path);
	if (fd_write_all(fd, text->data, text->size) < 0)
		return error_errno(err, errno, "write %s", log->path);
	if (st.st_size + (off_t)text->size < GUEST_LOG_FILE_MAX)
		return 0;
	(void)snprintf(before, sizeof(before), "%s.1", log->path);
	return rename(log->path, before) < 0 ? error_errno(err, errno, "rename %s", log->path) : 0;
}

int guest_log_take(struct guest_log *log, const json_t *answer, int64_t now_ms, struct error *err)
{
	cleanup_buffer struct buffer text = { .limit = GUEST_LOG_FILE_MAX };
	json_t *entries = NULL;
	int64_t last = 0;
	int ret = json_read_integer(answer, "last", JSON_REQUIRED, 0, INT64_MAX, &last, err);

	if (ret == 0)
		ret = json_read_array(answer, "entries", JSON_REQUIRED, &entries, err);
	if (ret < 0)
		return ret;
	if (last < log->seq)
		log->seq = 0; /* another life of the agent: it has begun to count anew */
	if (append_lines(log, entries, now_ms, &text) < 0)
		return error_errno(err, ENOMEM, "take logs");
	ret = text.size ? write_lines(log, &text, err) : 0;
	if (ret < 0)
		return ret;
	return text.size && log->seq < last;
}

/* --- reading --- */

static bool is_wanted(const json_t *entry, const struct guest_log_query *query)
{
	int64_t time_ms = json_integer_value(json_object_get(entry, "time_ms"));
	const char *message = json_string_value(json_object_get(entry, "message"));
	int level = guest_log_level(json_string_value(json_object_get(entry, "level")));

	return message && level >= (int)query->level &&
	       (query->backward ? time_ms <= query->cursor_ms : time_ms >= query->cursor_ms) &&
	       (!query->search || strstr(message, query->search));
}

static void read_one(const char *path, const struct guest_log_query *query, unsigned *skip, json_t *list)
{
	struct lines lines;
	const char *line;
	size_t size;

	lines_open(&lines, path, query->backward);
	while (json_array_size(list) < query->limit && (line = lines_step(&lines, query->backward, &size))) {
		cleanup_json json_t *entry = json_loadb(line, size, 0, NULL);

		if (!is_wanted(entry, query))
			continue;
		if (*skip)
			(*skip)--;
		else
			(void)json_array_append(list, entry);
	}
	buffer_fini(&lines.text);
}

json_t *guest_log_read(const char *path, const struct guest_log_query *query)
{
	json_t *list = json_array();
	unsigned skip = query->offset;
	char before[300];

	(void)snprintf(before, sizeof(before), "%s.1", path);
	read_one(query->backward ? path : before, query, &skip, list);
	read_one(query->backward ? before : path, query, &skip, list);
	return list;
}
