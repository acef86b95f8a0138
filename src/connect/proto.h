/*
 * proto: messages of Protocol Buffers (protobuf.dev/programming-guides/encoding) from and to the JSON that
 * stands for them (ProtoJSON), by tables that describe the messages. What is decoded is hostile.
 *
 * By hand and not by protobuf-c or nanopb: handlers already speak JSON, so one table-driven translation
 * serves every message, and a table of fields is all that a message costs.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"

enum proto_type {
	PROTO_BOOL,
	PROTO_UINT32,
	PROTO_INT64, /* in JSON a string */
	PROTO_SINT32,
	PROTO_ENUM, /* in JSON its name */
	PROTO_STRING,
	PROTO_BYTES, /* in JSON base64 */
	PROTO_MESSAGE,
	PROTO_STRING_MAP, /* map<string, string> */
	PROTO_TIMESTAMP,  /* google.protobuf.Timestamp; in JSON RFC 3339 */
};

struct proto_name {
	int64_t number;
	const char *name; /* NULL ends the table */
};

struct proto_message;

struct proto_field {
	uint32_t number;  /* 0 ends the table */
	const char *name; /* in JSON */
	enum proto_type type;
	bool repeated; /* of strings and messages only */
	const struct proto_message *message;
	const struct proto_name *names; /* of an enumeration */
};

struct proto_message {
	const struct proto_field *fields;
};

/* The JSON object of a message; unknown fields are passed over. New reference, NULL with `err` (EINVAL). */
json_t *proto_decode(const struct proto_message *message, const char *data, size_t size, struct error *err);

/* Append the message that a JSON object stands for; what the table does not know is left out. 0, or a
 * negative errno with `err` when a value is not of its field's type. */
int proto_encode(const struct proto_message *message, const json_t *object, struct buffer *to,
                 struct error *err);
