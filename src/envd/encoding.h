/* encoding: which content coding a request has and which its client accepts (RFC 9110, 8.4 and 12.5.3). */
#pragma once

#include <stdbool.h>

enum encoding {
	ENCODING_NONE, /* none that we have */
	ENCODING_IDENTITY,
	ENCODING_GZIP,
};

/* Of a Content-Encoding header; NULL: identity. */
enum encoding encoding_of_content(const char *header);

/*
 * The client's preferred one of an Accept-Encoding header (NULL: identity); identity when it names none that
 * we have and does not refuse it. *ret_identity (may be NULL): whether identity would do as well.
 */
enum encoding encoding_accepted(const char *header, bool *ret_identity);
