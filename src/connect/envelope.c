#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "base/base.h"
#include "connect/connect.h"

#define ENVELOPE_HEADER     5
#define ENVELOPE_COMPRESSED 1

int connect_parse_envelope(const char *data, size_t size, const char **ret_payload, size_t *ret_size,
                           struct error *err)
{
	const unsigned char *bytes = (const unsigned char *)data;
	uint32_t length;

	if (size < ENVELOPE_HEADER)
		return error_set(err, EINVAL, "the message has no envelope");
	if (bytes[0] & ENVELOPE_COMPRESSED)
		return error_set(err, EINVAL, "compressed messages are not supported");
	length = (uint32_t)bytes[1] << 24 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 8 | bytes[4];
	if (length > size - ENVELOPE_HEADER)
		return error_set(err, EINVAL, "the envelope promises %u bytes and holds %zu", length,
		                 size - ENVELOPE_HEADER);
	*ret_payload = data + ENVELOPE_HEADER;
	*ret_size = length;
	return 0;
}

static const struct {
	const char *name;
	int status;
} codes[] = {
	[CONNECT_CANCELED] = { "canceled", 499 },
	[CONNECT_UNKNOWN] = { "unknown", 500 },
	[CONNECT_INVALID_ARGUMENT] = { "invalid_argument", 400 },
	[CONNECT_DEADLINE_EXCEEDED] = { "deadline_exceeded", 504 },
	[CONNECT_NOT_FOUND] = { "not_found", 404 },
	[CONNECT_ALREADY_EXISTS] = { "already_exists", 409 },
	[CONNECT_PERMISSION_DENIED] = { "permission_denied", 403 },
	[CONNECT_RESOURCE_EXHAUSTED] = { "resource_exhausted", 429 },
	[CONNECT_FAILED_PRECONDITION] = { "failed_precondition", 400 },
	[CONNECT_UNIMPLEMENTED] = { "unimplemented", 501 },
	[CONNECT_INTERNAL] = { "internal", 500 },
	[CONNECT_UNAVAILABLE] = { "unavailable", 503 },
	[CONNECT_UNAUTHENTICATED] = { "unauthenticated", 401 },
};

const char *connect_code_name(enum connect_code code)
{
	return codes[code].name;
}

int connect_code_status(enum connect_code code)
{
	return codes[code].status;
}
