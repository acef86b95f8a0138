/* entry: what the clients are told of a file (filesystem.EntryInfo). */
#pragma once

#include "envd/envd.h"

/* New reference; NULL with `err` (ENOENT, ...) when there is no such file. Symbolic links tell of their
 * target. */
json_t *entry_of(const char *path, struct error *err);
