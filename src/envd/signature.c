#include "envd/signature.h"

#include <nettle/sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int signature_make(const char *path, const char *operation, const char *user, const char *token,
                   const char *expiration, char signature[64])
{
	cleanup_buffer struct buffer text = BUFFER_INIT;
	cleanup_buffer struct buffer encoded = BUFFER_INIT;
	unsigned char digest[SHA256_DIGEST_SIZE];
	struct sha256_ctx sha;

	if (buffer_printf(&text, "%s:%s:%s:%s%s%s", path, operation, user, token, expiration ? ":" : "",
	                  expiration ? expiration : "") < 0)
		return -1;
	sha256_init(&sha);
	sha256_update(&sha, text.size, (const uint8_t *)text.data);
	sha256_digest(&sha, sizeof(digest), digest);
	if (base64_encode(&encoded, digest, sizeof(digest)) < 0)
		return -1;
	(void)snprintf(signature, 64, "v1_%.*s", (int)strcspn(encoded.data, "="), encoded.data);
	return 0;
}

/* What is wrong with the request's credentials; NULL: nothing. */
static const char *find_fault(const struct envd *envd, struct http_exchange *exchange, const char *operation)
{
	const char *token = http_request_header(exchange, "X-Access-Token");
	const char *given = http_request_query(exchange, "signature");
	const char *path = http_request_query(exchange, "path");
	const char *user = http_request_query(exchange, "username");
	const char *expiration = http_request_query(exchange, "signature_expiration");
	char wanted[64];

	if (token)
		return secret_equal(token, envd->token) ? NULL
		                                        : "access token present in header but does not match";
	if (!given)
		return "missing signature query parameter";
	if (signature_make(path ? path : "", operation, user ? user : "", envd->token, expiration, wanted) <
	            0 ||
	    !secret_equal(given, wanted))
		return "invalid signature";
	if (expiration && strtoll(expiration, NULL, 10) < (long long)time(NULL))
		return "signature is already expired";
	return NULL;
}

bool signature_allows(const struct envd *envd, struct http_exchange *exchange, const char *operation)
{
	const char *fault = NULL;

	if (envd->token && http_exchange_tag(exchange) != ENVD_DOOR_CONTROL)
		fault = find_fault(envd, exchange, operation);
	if (fault)
		http_reply_error(exchange, 401, "%s", fault);
	return !fault;
}
