/* http_message: what server and client share in reading and writing HTTP/1.1 heads. Private to net. */
#pragma once

#include <http_parser.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/buffer.h"
#include "net/http_server.h"

/* Headers as they arrive in pieces from the parser: NUL-terminated names and values behind one another. */
struct http_head {
	struct buffer text;
	size_t *offsets; /* 2 per header: name, value */
	size_t count;
	size_t capacity;
	struct http_header *headers; /* after http_head_finish; points into `text` */
	bool in_value;
};

void http_head_init(struct http_head *head, size_t limit);
void http_head_fini(struct http_head *head);

/* Feed the parser's callbacks. 0, -EMSGSIZE beyond the limit, -ENOMEM. */
int http_head_field(struct http_head *head, const char *data, size_t size);
int http_head_value(struct http_head *head, const char *data, size_t size);
int http_head_finish(struct http_head *head);

const char *http_head_find(const struct http_head *head, const char *name);

/* Append "name: value\r\n" unless either holds a character that would end the line. */
void http_append_header(struct buffer *to, const char *name, const char *value);

/* Append one chunk of a chunked body. */
int http_append_chunk_size(struct buffer *to, size_t size);
