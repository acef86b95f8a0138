/*
 * metadata: what clients say about a file with X-Metadata-* headers, kept as extended attributes
 * "user.e2b.KEY" of the file and shown in its EntryInfo.
 */
#pragma once

#include <jansson.h>

#include "base/error.h"
#include "net/http_server.h"

/*
 * {KEY: value} of a request's headers, keys in lower case. New reference; NULL with `err` when a name or
 * value is not printable ASCII or too long.
 */
json_t *metadata_of_request(const struct http_exchange *exchange, struct error *err);

/* Make them those of an open file, and no others. 0 (also when its file system has no attributes), or a
 * negative errno with `err`. */
int metadata_write(int fd, const json_t *metadata, struct error *err);

/* Those of a file, new reference. NULL when it has none. */
json_t *metadata_read(const char *path);
