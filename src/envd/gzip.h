/*
 * gzip: RFC 1952 as a stream both ways, in constant memory (zlib). What is read is hostile.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/buffer.h"

struct gzip_reader;
struct gzip_writer;

/* Takes a piece of the plain bytes (at most 64 KiB). 0 to go on, or a negative errno that ends the reading.
 */
typedef int gzip_data_fn(const char *data, size_t size, void *context);

/* NULL when out of memory. */
struct gzip_reader *gzip_reader_new(gzip_data_fn *on_data, void *context);
void gzip_reader_free(struct gzip_reader *reader);

/* 0, what `on_data` returned, -EINVAL for what is no gzip, or -ENOMEM. Members may follow each other. */
int gzip_reader_feed(struct gzip_reader *reader, const char *data, size_t size);

/* Whether all that was fed is whole members, at least one. */
bool gzip_reader_complete(const struct gzip_reader *reader);

/* NULL when out of memory. */
struct gzip_writer *gzip_writer_new(void);
void gzip_writer_free(struct gzip_writer *writer);

/* Append to `to` what is ready of the packed form; all of it with `last`. 0, or what the buffer returned. */
int gzip_writer_feed(struct gzip_writer *writer, const char *data, size_t size, bool last, struct buffer *to);
