#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "connect/proto.h"

#define WIRE_VARINT 0
#define WIRE_BYTES  2

static int append_varint(struct buffer *to, uint64_t value)
{
	unsigned char bytes[10];
	size_t size = 0;

	do {
		bytes[size] = (unsigned char)(value & 0x7f);
		value >>= 7;
		if (value)
			bytes[size] |= 0x80;
		size++;
	} while (value);
	return buffer_append(to, bytes, size);
}

static int append_integer(struct buffer *to, uint32_t number, uint64_t value)
{
	int ret = append_varint(to, (uint64_t)number << 3 | WIRE_VARINT);

	return ret < 0 ? ret : append_varint(to, value);
}

static int append_bytes(struct buffer *to, uint32_t number, const char *data, size_t size)
{
	int ret = append_varint(to, (uint64_t)number << 3 | WIRE_BYTES);

	if (ret == 0)
		ret = append_varint(to, size);
	return ret < 0 ? ret : buffer_append(to, data, size);
}

static int wrong(const struct proto_field *field, struct error *err)
{
	return error_set(err, EINVAL, "the field %s is not of its type", field->name);
}

static int encode_enum(const struct proto_field *field, const json_t *value, struct buffer *to,
                       struct error *err)
{
	const char *text = json_string_value(value);

	if (json_is_integer(value))
		return append_integer(to, field->number, (uint64_t)json_integer_value(value));
	for (const struct proto_name *name = field->names; text && name->name; name++)
		if (strcmp(name->name, text) == 0)
			return append_integer(to, field->number, (uint64_t)name->number);
	return wrong(field, err);
}

/* An integer that may be a string, as 64-bit ones are. */
static bool integer_of(const json_t *value, int64_t *ret)
{
	const char *text = json_string_value(value);
	char *end = NULL;

	if (json_is_integer(value)) {
		*ret = json_integer_value(value);
		return true;
	}
	if (!text || !*text)
		return false;
	*ret = strtoll(text, &end, 10);
	return !*end;
}

static int encode_timestamp(const struct proto_field *field, const json_t *value, struct buffer *to,
                            struct error *err)
{
	cleanup_buffer struct buffer parts = BUFFER_INIT;
	const char *text = json_string_value(value);
	int64_t nanos;
	int64_t time;

	if (!text)
		return wrong(field, err);
	/* A file can have a time that we have no number for, such as one in the year 2300: then it has none.
	 */
	if (time_parse_rfc3339(text, &time) < 0)
		return 0;
	nanos = (time % 1000000000 + 1000000000) % 1000000000;
	if (append_integer(&parts, 1, (uint64_t)(time / 1000000000 - (time % 1000000000 < 0))) < 0 ||
	    append_integer(&parts, 2, (uint64_t)nanos) < 0)
		return error_errno(err, ENOMEM, "encode a message");
	return append_bytes(to, field->number, parts.data, parts.size);
}

static int encode_base64(const struct proto_field *field, const json_t *value, struct buffer *to,
                         struct error *err)
{
	cleanup_buffer struct buffer bytes = BUFFER_INIT;

	if (!json_is_string(value) ||
	    base64_decode(&bytes, json_string_value(value), json_string_length(value)) < 0)
		return wrong(field, err);
	return append_bytes(to, field->number, bytes.data ? bytes.data : "", bytes.size);
}

static int encode_map(const struct proto_field *field, const json_t *map, struct buffer *to,
                      struct error *err)
{
	const char *key;
	json_t *value;

	if (!json_is_object(map))
		return wrong(field, err);
	json_object_foreach ((json_t *)(uintptr_t)map, key, value) {
		cleanup_buffer struct buffer entry = BUFFER_INIT;

		if (!json_is_string(value))
			return wrong(field, err);
		if (append_bytes(&entry, 1, key, strlen(key)) < 0 ||
		    append_bytes(&entry, 2, json_string_value(value), json_string_length(value)) < 0 ||
		    append_bytes(to, field->number, entry.data, entry.size) < 0)
			return error_errno(err, ENOMEM, "encode a message");
	}
	return 0;
}

static int encode_message(const struct proto_field *field, const json_t *value, struct buffer *to,
                          struct error *err)
{
	cleanup_buffer struct buffer inner = BUFFER_INIT;
	int ret =
	        json_is_object(value) ? proto_encode(field->message, value, &inner, err) : wrong(field, err);

	return ret < 0 ? ret : append_bytes(to, field->number, inner.data ? inner.data : "", inner.size);
}

static int encode_number(const struct proto_field *field, const json_t *value, struct buffer *to,
                         struct error *err)
{
	int64_t integer = 0;

	if (field->type == PROTO_BOOL ? !json_is_boolean(value) : !integer_of(value, &integer))
		return wrong(field, err);
	if (field->type == PROTO_BOOL)
		integer = json_is_true(value);
	if (field->type == PROTO_SINT32)
		integer = (int64_t)((uint32_t)integer << 1 ^ (integer < 0 ? UINT32_MAX : 0));
	if (field->type == PROTO_UINT32)
		integer = (uint32_t)integer;
	return append_integer(to, field->number, (uint64_t)integer);
}

static int encode_value(const struct proto_field *field, const json_t *value, struct buffer *to,
                        struct error *err)
{
	switch (field->type) {
	case PROTO_ENUM:
		return encode_enum(field, value, to, err);
	case PROTO_STRING:
		return json_is_string(value) ? append_bytes(to, field->number, json_string_value(value),
		                                            json_string_length(value))
		                             : wrong(field, err);
	case PROTO_BYTES:
		return encode_base64(field, value, to, err);
	case PROTO_MESSAGE:
		return encode_message(field, value, to, err);
	case PROTO_STRING_MAP:
		return encode_map(field, value, to, err);
	case PROTO_TIMESTAMP:
		return encode_timestamp(field, value, to, err);
	default:
		return encode_number(field, value, to, err);
	}
}

int proto_encode(const struct proto_message *message, const json_t *object, struct buffer *to,
                 struct error *err)
{
	for (const struct proto_field *field = message->fields; field->number; field++) {
		const json_t *value = json_object_get(object, field->name);
		size_t count = field->repeated ? json_array_size(value) : 1;
		int ret = 0;

		if (!value || json_is_null(value))
			continue;
		if (field->repeated && !json_is_array(value))
			return wrong(field, err);
		for (size_t i = 0; ret == 0 && i < count; i++)
			ret = encode_value(field, field->repeated ? json_array_get(value, i) : value, to,
			                   err);
		if (ret < 0)
			return ret;
	}
	return 0;
}
