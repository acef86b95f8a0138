#include "connect/codec.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/base.h"

static const char *const types[][3] = {
	[CODEC_JSON] = { "application/json", "application/connect+json", "application/connect+json" },
	[CODEC_PROTO] = { "application/proto", "application/connect+proto", "application/connect+proto" },
};

const char *codec_content_type(enum codec codec, enum connect_kind kind)
{
	return types[codec][kind];
}

const char *codec_accepted(const struct connect_method *method)
{
	bool unary = method->kind == CONNECT_UNARY;

	if (!method->request)
		return codec_content_type(CODEC_JSON, method->kind);
	return unary ? "application/json, application/proto"
	             : "application/connect+json, application/connect+proto";
}

enum codec codec_of_request(const struct http_exchange *exchange, const struct connect_method *method)
{
	const char *type = http_request_header(exchange, "Content-Type");
	size_t size = type ? strcspn(type, "; \t") : 0;

	for (enum codec codec = CODEC_JSON; codec <= CODEC_PROTO; codec++) {
		const char *wanted = codec_content_type(codec, method->kind);

		if (size == strlen(wanted) && strncasecmp(type, wanted, size) == 0)
			return codec == CODEC_PROTO && !method->request ? CODEC_NONE : codec;
	}
	return CODEC_NONE;
}

json_t *codec_decode(enum codec codec, const struct proto_message *message, const char *data, size_t size,
                     struct error *err)
{
	json_t *object = NULL;

	if (codec == CODEC_PROTO)
		return proto_decode(message, data, size, err);
	return json_parse_object(size ? data : "{}", size ? size : 2, &object, err) < 0 ? NULL : object;
}

int codec_encode(enum codec codec, const struct proto_message *message, const json_t *object,
                 struct buffer *to, struct error *err)
{
	cleanup_free char *text = NULL;

	if (codec == CODEC_PROTO)
		return proto_encode(message, object, to, err);
	text = json_dumps(object, JSON_COMPACT);
	if (!text || buffer_append_string(to, text) < 0)
		return error_set(err, ENOMEM, "the answer could not be written as JSON");
	return 0;
}
