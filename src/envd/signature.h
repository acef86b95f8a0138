/* signature: who may touch a file without the access token in a header (E2B's signed file URLs). */
#pragma once

#include "envd/envd.h"

/*
 * Check a request for `operation` ("read" or "write") on /files. True: go on. False: the exchange has been
 * answered with 401.
 */
bool signature_allows(const struct envd *envd, struct http_exchange *exchange, const char *operation);

/* "v1_" and base64 without padding of SHA-256 over path:operation:user:token[:expiration]. */
int signature_make(const char *path, const char *operation, const char *user, const char *token,
                   const char *expiration, char signature[64]);
