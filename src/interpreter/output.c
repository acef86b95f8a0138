#include "interpreter/output.h"

#include <errno.h>
#include <string.h>

#include "base/base.h"

static const struct {
	const char *mime;
	const char *field;
} REPRESENTATIONS[] = {
	{ "text/plain", "text" },        { "text/html", "html" },
	{ "text/markdown", "markdown" }, { "image/svg+xml", "svg" },
	{ "image/png", "png" },          { "image/jpeg", "jpeg" },
	{ "application/pdf", "pdf" },    { "text/latex", "latex" },
	{ "application/json", "json" },  { "application/javascript", "javascript" },
	{ "e2b/data", "data" },          { "e2b/chart", "chart" },
};

static int line_append(struct buffer *lines, json_t *item)
{
	cleanup_free char *text = item ? json_dumps(item, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
	int rc = -ENOMEM;

	json_decref(item);
	if (text)
		rc = buffer_append_string(lines, text);
	return rc < 0 ? rc : buffer_append(lines, "\n", 1);
}

/* Python shows a string in quotes; the SDK's `text` is without them. */
static json_t *text_without_quotes(json_t *value)
{
	const char *text = json_string_value(value);
	size_t size = json_string_length(value);

	if (size >= 2 && text[0] == text[size - 1] && (text[0] == '\'' || text[0] == '"'))
		return json_stringn(text + 1, size - 2);
	return json_incref(value);
}

static const char *representation_field(const char *mime)
{
	for (size_t i = 0; i < ARRAY_SIZE(REPRESENTATIONS); i++) {
		if (strcmp(REPRESENTATIONS[i].mime, mime) == 0)
			return REPRESENTATIONS[i].field;
	}
	return NULL;
}

json_t *output_result(const json_t *bundle, bool is_main_result)
{
	json_t *item = json_pack("{s:s}", "type", "result");
	cleanup_json json_t *extra = json_object();
	const char *mime;
	json_t *value;

	if (!item || !extra) {
		json_decref(item);
		return NULL;
	}
	json_object_foreach ((json_t *)bundle, mime, value) {
		const char *field = representation_field(mime);

		if (!field)
			json_object_set(extra, mime, value);
		else if (strcmp(field, "text") == 0 && json_is_string(value))
			json_object_set_new(item, field, text_without_quotes(value));
		else
			json_object_set(item, field, value);
	}
	if (json_object_size(extra) > 0)
		json_object_set(item, "extra", extra);
	json_object_set_new(item, "is_main_result", json_boolean(is_main_result));
	return item;
}

static json_t *string_or_empty(const json_t *object, const char *key)
{
	json_t *value = json_object_get(object, key);

	return json_is_string(value) ? json_incref(value) : json_string("");
}

static json_t *stream_item(const json_t *content, int64_t wall_ns)
{
	const char *name = json_string_value(json_object_get(content, "name"));
	const char *type = name && strcmp(name, "stderr") == 0 ? "stderr" : "stdout";

	return json_pack("{s:s, s:o, s:I}", "type", type, "text", string_or_empty(content, "text"),
	                 "timestamp", (json_int_t)wall_ns);
}

static json_t *traceback_text(const json_t *content)
{
	const json_t *traceback = json_object_get(content, "traceback");
	cleanup_buffer struct buffer text = BUFFER_INIT;
	size_t index;
	json_t *value;

	json_array_foreach (traceback, index, value) {
		if (!json_is_string(value))
			continue;
		if ((index > 0 && buffer_append(&text, "\n", 1) < 0) ||
		    buffer_append(&text, json_string_value(value), json_string_length(value)) < 0)
			return NULL;
	}
	return json_stringn(text.data ? text.data : "", text.size);
}

static json_t *error_item(const json_t *content)
{
	return json_pack("{s:s, s:o, s:o, s:o}", "type", "error", "name", string_or_empty(content, "ename"),
	                 "value", string_or_empty(content, "evalue"), "traceback", traceback_text(content));
}

static json_t *count_item(const json_t *content)
{
	json_t *count = json_object_get(content, "execution_count");

	return json_pack("{s:s, s:O}", "type", "number_of_executions", "execution_count", count);
}

int output_append_message(struct buffer *lines, const struct jupyter_message *message, int64_t wall_ns,
                          enum output_kind *ret_kind)
{
	const json_t *content = message->content;
	const char *state = json_string_value(json_object_get(content, "execution_state"));

	*ret_kind = OUTPUT_LINES;
	if (strcmp(message->type, "execute_input") == 0 && json_object_get(content, "execution_count"))
		return line_append(lines, count_item(content));
	if (strcmp(message->type, "stream") == 0)
		return line_append(lines, stream_item(content, wall_ns));
	if (strcmp(message->type, "execute_result") == 0)
		return line_append(lines, output_result(json_object_get(content, "data"), true));
	if (strcmp(message->type, "display_data") == 0)
		return line_append(lines, output_result(json_object_get(content, "data"), false));
	if (strcmp(message->type, "error") == 0)
		return line_append(lines, error_item(content));
	*ret_kind = OUTPUT_NONE;
	if (strcmp(message->type, "status") == 0 && state && strcmp(state, "idle") == 0)
		*ret_kind = OUTPUT_IDLE;
	return 0;
}

int output_append_error(struct buffer *lines, const char *name, const char *value)
{
	return line_append(lines, json_pack("{s:s, s:s, s:s, s:s}", "type", "error", "name", name, "value",
	                                    value, "traceback", ""));
}

int output_append_keepalive(struct buffer *lines)
{
	return buffer_append_string(lines, "{\"type\":\"keepalive\"}\n");
}

int output_append_end(struct buffer *lines)
{
	return buffer_append_string(lines, "{\"type\":\"end_of_execution\"}\n");
}
