/*
 * tls_authority: a certificate for a service that nobody has given one: signed by an authority that is made
 * for this service, on this machine, and can sign for no names but its own.
 *
 * In its directory: ca.key (0600), ca.pem (what clients are told to trust), server.key (0600), server.pem
 * (chain).
 */
#pragma once

#include <stdbool.h>

#include "base/error.h"

#define TLS_AUTHORITY_PATH_MAX 320
#define TLS_AUTHORITY_DOMAIN   "atoll.localhost" /* of the service, when it has no name of its own */

struct tls_authority {
	char ca[TLS_AUTHORITY_PATH_MAX];
	char ca_key[TLS_AUTHORITY_PATH_MAX];
	char certificate[TLS_AUTHORITY_PATH_MAX];
	char key[TLS_AUTHORITY_PATH_MAX];
};

/*
 * Make what is missing in `directory` (made too), for `domain`, all names one level below it, "localhost" and
 * the loopback addresses. A server certificate that has less than 30 days left is made anew, and *ret_renewed
 * set (may be NULL). Files are replaced as a whole. 0, or a negative errno with `err`.
 */
int tls_authority_ensure(const char *directory, const char *domain, struct tls_authority *ret,
                         bool *ret_renewed, struct error *err);
