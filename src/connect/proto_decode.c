#include <errno.h>
#include <string.h>

#include "base/base.h"
#include "connect/proto.h"

#define DEPTH_MAX 16

enum wire_type {
	WIRE_VARINT = 0,
	WIRE_64 = 1,
	WIRE_BYTES = 2,
	WIRE_32 = 5,
};

/* What is left of a message. */
struct input {
	const unsigned char *data;
	size_t size;
	struct error *err;
};

/* A field as it is on the wire. */
struct value {
	uint32_t number;
	unsigned wire;
	uint64_t integer;
	const unsigned char *data;
	size_t size;
};

static int bad(const struct input *input, const char *what)
{
	return error_set(input->err, EINVAL, "malformed protobuf message: %s", what);
}

static int read_varint(struct input *input, uint64_t *ret)
{
	*ret = 0;
	for (unsigned shift = 0; shift < 70; shift += 7) {
		uint64_t byte;

		if (!input->size)
			return bad(input, "a number is cut short");
		byte = *input->data++;
		input->size--;
		/* Of the tenth byte one bit counts. */
		if (shift == 63 && byte > 1)
			return bad(input, "a number has more than 64 bits");
		*ret |= (byte & 0x7f) << shift;
		if (!(byte & 0x80))
			return 0;
	}
	return bad(input, "a number has more than 64 bits");
}

static int take_bytes(struct input *input, uint64_t size, struct value *value)
{
	if (size > input->size)
		return bad(input, "a field is longer than the message");
	value->data = input->data;
	value->size = (size_t)size;
	input->data += size;
	input->size -= (size_t)size;
	return 0;
}

static int read_value(struct input *input, struct value *value)
{
	uint64_t tag;
	uint64_t size;
	int ret = read_varint(input, &tag);

	if (ret < 0)
		return ret;
	if (tag >> 3 == 0 || tag >> 3 > 0x1fffffff)
		return bad(input, "a field has an impossible number");
	*value = (struct value){ .number = (uint32_t)(tag >> 3), .wire = tag & 7 };
	switch (value->wire) {
	case WIRE_VARINT:
		return read_varint(input, &value->integer);
	case WIRE_64:
		return take_bytes(input, 8, value);
	case WIRE_32:
		return take_bytes(input, 4, value);
	case WIRE_BYTES:
		ret = read_varint(input, &size);
		return ret < 0 ? ret : take_bytes(input, size, value);
	default:
		return bad(input, "a field has an unknown wire type");
	}
}

static int decode_message(const struct proto_message *message, const struct value *value, json_t *into,
                          unsigned depth, struct error *err);

/* Text that is UTF-8 and, as in our JSON, without NUL. NULL with `err`. */
static json_t *decode_string(const struct value *value, struct error *err)
{
	json_t *string = value->size && memchr(value->data, '\0', value->size)
	                         ? NULL
	                         : json_stringn(value->size ? (const char *)value->data : "", value->size);

	if (!string)
		error_set(err, EINVAL, "malformed protobuf message: a string is not UTF-8 or has a NUL");
	return string;
}

static json_t *decode_bytes(const struct value *value, struct error *err)
{
	cleanup_buffer struct buffer text = BUFFER_INIT;
	json_t *string = NULL;

	if (base64_encode(&text, value->data ? (const char *)value->data : "", value->size) == 0)
		string = json_stringn(text.data ? text.data : "", text.size);
	if (!string)
		error_errno(err, ENOMEM, "decode a message");
	return string;
}

static json_t *decode_enum(const struct proto_field *field, int64_t number)
{
	for (const struct proto_name *name = field->names; name->name; name++)
		if (name->number == number)
			return json_string(name->name);
	return json_integer(number);
}

static json_t *decode_integer(const struct proto_field *field, uint64_t integer)
{
	uint32_t low = (uint32_t)integer;
	char text[24];

	switch (field->type) {
	case PROTO_BOOL:
		return json_boolean(integer != 0);
	case PROTO_UINT32:
		return json_integer(low);
	case PROTO_SINT32:
		return json_integer((int32_t)(low >> 1 ^ (0U - (low & 1))));
	case PROTO_ENUM:
		return decode_enum(field, (int32_t)low);
	default:
		(void)snprintf(text, sizeof(text), "%lld", (long long)(int64_t)integer);
		return json_string(text);
	}
}

/* An entry of a map is a message of key and value, both of which may be absent. */
static int decode_entry(const struct value *value, json_t *map, struct error *err)
{
	struct input input = { value->data, value->size, err };
	struct value parts[2] = { 0 };
	cleanup_json json_t *key = NULL;
	json_t *content;

	while (input.size) {
		struct value part;
		int ret = read_value(&input, &part);

		if (ret < 0)
			return ret;
		if (part.number > 2)
			continue;
		if (part.wire != WIRE_BYTES)
			return bad(&input, "a map's entry is not of strings");
		parts[part.number - 1] = part;
	}
	key = decode_string(&parts[0], err);
	content = key ? decode_string(&parts[1], err) : NULL;
	if (!content)
		return -EINVAL;
	return json_object_set_new(map, json_string_value(key), content) < 0
	               ? error_errno(err, ENOMEM, "decode a message")
	               : 0;
}

static int decode_timestamp(const struct value *value, json_t **ret_time, struct error *err)
{
	struct input input = { value->data, value->size, err };
	char text[TIME_RFC3339_SIZE];
	uint64_t parts[2] = { 0 };

	while (input.size) {
		struct value part;
		int ret = read_value(&input, &part);

		if (ret < 0)
			return ret;
		if (part.number <= 2 && part.wire == WIRE_VARINT)
			parts[part.number - 1] = part.integer;
	}
	/* (Years 1970 to 2262: what fits nanoseconds in 64 bits.) */
	if (parts[0] >= INT64_MAX / 1000000000 || parts[1] > 999999999)
		return bad(&input, "a time is out of range");
	(void)time_format_rfc3339((int64_t)(parts[0] * 1000 + parts[1] / 1000000), text);
	*ret_time = json_string(text);
	return 0;
}

/* The object or array of that name, made when it is missing. Borrowed. */
static json_t *member(json_t *into, const char *name, bool array)
{
	json_t *found = json_object_get(into, name);

	if (found)
		return found;
	found = array ? json_array() : json_object();
	(void)json_object_set_new(into, name, found);
	return found;
}

/* A field of bytes: all but numbers. */
static int decode_field(const struct proto_field *field, const struct value *value, json_t *into,
                        unsigned depth, struct error *err)
{
	json_t *made = NULL;
	int ret = 0;

	if (field->type == PROTO_STRING_MAP)
		return decode_entry(value, member(into, field->name, false), err);
	/* A message that comes in several parts is all of them together. */
	if (field->type == PROTO_MESSAGE && !field->repeated)
		return decode_message(field->message, value, member(into, field->name, false), depth + 1,
		                      err);
	if (field->type == PROTO_MESSAGE)
		ret = decode_message(field->message, value, made = json_object(), depth + 1, err);
	else if (field->type == PROTO_TIMESTAMP)
		ret = decode_timestamp(value, &made, err);
	else
		made = field->type == PROTO_BYTES ? decode_bytes(value, err) : decode_string(value, err);
	if (ret < 0 || !made) {
		json_decref(made);
		return ret < 0 ? ret : -EINVAL;
	}
	return field->repeated ? json_array_append_new(member(into, field->name, true), made)
	                       : json_object_set_new(into, field->name, made);
}

static int decode_message(const struct proto_message *message, const struct value *value, json_t *into,
                          unsigned depth, struct error *err)
{
	struct input input = { value->data, value->size, err };

	if (depth > DEPTH_MAX)
		return bad(&input, "messages are nested too deeply");
	while (input.size) {
		const struct proto_field *field = message->fields;
		struct value part;
		int ret = read_value(&input, &part);

		while (ret == 0 && field->number && field->number != part.number)
			field++;
		if (ret < 0)
			return ret;
		if (!field->number)
			continue;
		if (part.wire != (field->type <= PROTO_ENUM ? WIRE_VARINT : WIRE_BYTES))
			return bad(&input, "a field is not of its type");
		if (part.wire == WIRE_VARINT)
			ret = json_object_set_new(into, field->name, decode_integer(field, part.integer));
		else
			ret = decode_field(field, &part, into, depth, err);
		if (ret < 0)
			return ret;
	}
	return 0;
}

json_t *proto_decode(const struct proto_message *message, const char *data, size_t size, struct error *err)
{
	struct value whole = { .data = (const unsigned char *)data, .size = size };
	json_t *object = json_object();

	if (object && decode_message(message, &whole, object, 0, err) == 0)
		return object;
	json_decref(object);
	return NULL;
}
