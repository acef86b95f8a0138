/* encode: base64 (RFC 4648) and percent-encoding (RFC 3986). */
#pragma once

#include "base/buffer.h"

/* Append base64 with padding. 0 or -ENOMEM/-EMSGSIZE. */
int base64_encode(struct buffer *to, const void *data, size_t size);

/* Append the bytes that standard base64 `text` (padding optional) stands for. 0, -EINVAL or as above. */
int base64_decode(struct buffer *to, const char *text, size_t size);

/* Append `text` with %XX decoded; '+' becomes a space when `form` is set. 0, -EINVAL (bad %XX, NUL) or as
 * above. */
int percent_decode(struct buffer *to, const char *text, size_t size, int form);

/* Append `text` with everything but unreserved characters as %XX. */
int percent_encode(struct buffer *to, const char *text);
