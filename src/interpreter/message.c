#include "interpreter/message.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

static const char DELIMITER[] = "<IDS|MSG>";

/* Length of the well-formed UTF-8 sequence at `text` (Unicode 15, table 3-7), or 0. */
static size_t utf8_sequence_length(const unsigned char *text, size_t size)
{
	unsigned char first = text[0];
	unsigned char low = 0x80, high = 0xbf;
	size_t length;

	if (first < 0x80)
		return 1;
	if (first < 0xc2 || first > 0xf4)
		return 0;
	length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
	if (length > size)
		return 0;
	if (first == 0xe0)
		low = 0xa0;
	else if (first == 0xed)
		high = 0x9f;
	else if (first == 0xf0)
		low = 0x90;
	else if (first == 0xf4)
		high = 0x8f;
	if (text[1] < low || text[1] > high)
		return 0;
	for (size_t i = 2; i < length; i++) {
		if ((text[i] & 0xc0) != 0x80)
			return 0;
	}
	return length;
}

static int utf8_repair(struct buffer *to, const unsigned char *text, size_t size)
{
	int rc = buffer_reserve(to, size);

	for (size_t at = 0; rc == 0 && at < size;) {
		size_t length = utf8_sequence_length(text + at, size - at);

		if (length == 0)
			rc = buffer_append(to, "\xef\xbf\xbd", 3);
		else
			rc = buffer_append(to, text + at, length);
		at += length ? length : 1;
	}
	return rc;
}

/* Unlike json_parse_object this takes NUL in strings and repeated keys: both come from what users print. */
static int frame_parse(const struct jupyter_frame *frame, const char *name, json_t **ret, struct error *err)
{
	cleanup_buffer struct buffer repaired = BUFFER_INIT;
	json_error_t why;
	json_t *value = json_loadb(frame->data, frame->size, JSON_ALLOW_NUL, &why);

	if (!value && json_error_code(&why) == json_error_invalid_utf8) {
		if (utf8_repair(&repaired, frame->data, frame->size) < 0)
			return error_set(err, ENOMEM, "decode %s: out of memory", name);
		value = json_loadb(repaired.data, repaired.size, JSON_ALLOW_NUL, &why);
	}
	if (!value)
		return error_set(err, EBADMSG, "decode %s: %s", name, why.text);
	if (!json_is_object(value)) {
		json_decref(value);
		return error_set(err, EBADMSG, "decode %s: not an object", name);
	}
	*ret = value;
	return 0;
}

static bool frame_is_delimiter(const struct jupyter_frame *frame)
{
	return frame->size == sizeof(DELIMITER) - 1 && memcmp(frame->data, DELIMITER, frame->size) == 0;
}

static int message_decode_parts(struct jupyter_message *message, const struct jupyter_frame *frames,
                                size_t count, struct error *err)
{
	size_t at = 0;
	int rc;

	while (at < count && !frame_is_delimiter(&frames[at]))
		at++;
	if (at == count)
		return error_set(err, EBADMSG, "decode message: no delimiter in %zu frames", count);
	if (count - at < JUPYTER_WIRE_PARTS)
		return error_set(err, EBADMSG, "decode message: %zu frames after the delimiter",
		                 count - at - 1);
	rc = frame_parse(&frames[at + 2], "header", &message->header, err);
	if (rc == 0)
		rc = frame_parse(&frames[at + 3], "parent header", &message->parent_header, err);
	if (rc == 0)
		rc = frame_parse(&frames[at + 5], "content", &message->content, err);
	if (rc < 0)
		return rc;
	message->type = json_string_value(json_object_get(message->header, "msg_type"));
	if (!message->type)
		return error_set(err, EBADMSG, "decode message: no msg_type");
	message->parent_id = json_string_value(json_object_get(message->parent_header, "msg_id"));
	if (!message->parent_id)
		message->parent_id = "";
	return 0;
}

int jupyter_message_decode(struct jupyter_message *message, const struct jupyter_frame *frames, size_t count,
                           struct error *err)
{
	int rc;

	*message = (struct jupyter_message){ 0 };
	rc = message_decode_parts(message, frames, count, err);
	if (rc < 0)
		jupyter_message_fini(message);
	return rc;
}

void jupyter_message_fini(struct jupyter_message *message)
{
	json_decref(message->header);
	json_decref(message->parent_header);
	json_decref(message->content);
	*message = (struct jupyter_message){ 0 };
}

static json_t *request_header(const char *session, const char *type, const char *id)
{
	char date[TIME_RFC3339_SIZE];

	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "msg_id", id, "session", session, "username",
	                 "atoll", "date", time_format_rfc3339(time_wall_ms(), date), "msg_type", type,
	                 "version", "5.3");
}

int jupyter_request_encode(struct jupyter_wire *wire, const char *session, const char *type,
                           const json_t *content, const json_t *metadata, char id[JUPYTER_ID_SIZE])
{
	cleanup_json json_t *header = NULL;

	random_hex(id, (JUPYTER_ID_SIZE - 1) / 2);
	header = request_header(session, type, id);
	wire->parts[0] = strdup(DELIMITER);
	wire->parts[1] = strdup("");
	wire->parts[2] = header ? json_dumps(header, JSON_COMPACT) : NULL;
	wire->parts[3] = strdup("{}");
	wire->parts[4] = metadata ? json_dumps(metadata, JSON_COMPACT) : strdup("{}");
	wire->parts[5] = json_dumps(content, JSON_COMPACT);
	for (size_t i = 0; i < JUPYTER_WIRE_PARTS; i++) {
		if (!wire->parts[i]) {
			jupyter_wire_fini(wire);
			return -ENOMEM;
		}
		wire->frames[i] = (struct jupyter_frame){ wire->parts[i], strlen(wire->parts[i]) };
	}
	return 0;
}

void jupyter_wire_fini(struct jupyter_wire *wire)
{
	for (size_t i = 0; i < JUPYTER_WIRE_PARTS; i++) {
		free(wire->parts[i]);
		wire->parts[i] = NULL;
	}
}
