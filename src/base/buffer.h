/*
 * buffer: bytes that grow, up to a limit that is set when it is made. The content is always followed by a NUL
 * that is not counted, so that text can be used as a C string.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct buffer {
	char *data;  /* NULL until something is appended */
	size_t size; /* bytes in use */
	size_t capacity;
	size_t limit; /* most bytes it may hold; 0 = no limit but memory */
};

#define BUFFER_INIT                                                                                          \
	{                                                                                                    \
		0                                                                                            \
	}
#define cleanup_buffer __attribute__((cleanup(buffer_fini)))

void buffer_init(struct buffer *buffer, size_t limit);
void buffer_fini(struct buffer *buffer);

/* Each returns 0, -EMSGSIZE beyond the limit, or -ENOMEM; on failure the content is as before. */
int buffer_reserve(struct buffer *buffer, size_t more);
int buffer_append(struct buffer *buffer, const void *data, size_t size);
int buffer_append_string(struct buffer *buffer, const char *text);
int buffer_printf(struct buffer *buffer, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A number in decimal; for where a format would cost more than what it writes. */
int buffer_append_number(struct buffer *buffer, uint64_t number);

/* Drop `size` bytes (at most what there is) from the front. */
void buffer_consume(struct buffer *buffer, size_t size);

/* Forget the content, keep the memory. */
void buffer_clear(struct buffer *buffer);

/* The content as a C string owned by the caller; the buffer is empty then. Never NULL but when out of memory.
 */
char *buffer_take_string(struct buffer *buffer);

/* Text of `length` bytes into an array of `size`, cut to what fits and ended with a NUL. */
static inline void text_copy(char *to, size_t size, const char *text, size_t length)
{
	if (length >= size)
		length = size - 1;
	memcpy(to, text, length);
	to[length] = '\0';
}

/* A number in decimal digits alone, from 1 to `maximum`, at the begin of *text, which goes on behind it.
 * False: there is none. */
bool text_take_number(const char **text, unsigned maximum, unsigned *ret);
