/* codec: the two forms of a message, and their content types. Private to connect. */
#pragma once

#include "connect/connect.h"

enum codec {
	CODEC_NONE, /* none that the method has */
	CODEC_JSON,
	CODEC_PROTO,
};

/* Of a request's content type, and the types for a method. */
enum codec codec_of_request(const struct http_exchange *exchange, const struct connect_method *method);
const char *codec_content_type(enum codec codec, enum connect_kind kind);
/* Those that a method takes, for Accept-Post. */
const char *codec_accepted(const struct connect_method *method);

/* New reference to the object, or NULL with `err`. Nothing at all is an empty message. */
json_t *codec_decode(enum codec codec, const struct proto_message *message, const char *data, size_t size,
                     struct error *err);
/* Append the form of `object`. 0, or a negative errno with `err`. */
int codec_encode(enum codec codec, const struct proto_message *message, const json_t *object,
                 struct buffer *to, struct error *err);
