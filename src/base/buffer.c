#include "base/buffer.h"

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void buffer_init(struct buffer *buffer, size_t limit)
{
	*buffer = (struct buffer){ .limit = limit };
}

void buffer_fini(struct buffer *buffer)
{
	free(buffer->data);
	*buffer = (struct buffer){ .limit = buffer->limit };
}

int buffer_reserve(struct buffer *buffer, size_t more)
{
	size_t need;
	size_t capacity;
	char *data;

	if (__builtin_add_overflow(buffer->size, more, &need) || need == SIZE_MAX)
		return -ENOMEM;
	if (buffer->limit && need > buffer->limit)
		return -EMSGSIZE;
	if (need < buffer->capacity)
		return 0;
	capacity = buffer->capacity ? buffer->capacity : 64;
	while (capacity <= need) {
		if (__builtin_mul_overflow(capacity, (size_t)2, &capacity))
			return -ENOMEM;
	}
	data = realloc(buffer->data, capacity);
	if (!data)
		return -ENOMEM;
	data[buffer->size] = '\0';
	buffer->data = data;
	buffer->capacity = capacity;
	return 0;
}

int buffer_append(struct buffer *buffer, const void *data, size_t size)
{
	bool fits = size < buffer->capacity - buffer->size &&
	            (!buffer->limit || size <= buffer->limit - buffer->size);
	int ret = fits ? 0 : buffer_reserve(buffer, size);

	if (ret < 0)
		return ret;
	if (size)
		memcpy(buffer->data + buffer->size, data, size);
	buffer->size += size;
	buffer->data[buffer->size] = '\0';
	return 0;
}

int buffer_append_string(struct buffer *buffer, const char *text)
{
	return buffer_append(buffer, text, strlen(text));
}

int buffer_printf(struct buffer *buffer, const char *format, ...)
{
	va_list args;
	va_list again;
	int size;
	int ret;

	va_start(args, format);
	va_copy(again, args);
	size = vsnprintf(NULL, 0, format, args);
	va_end(args);
	ret = size < 0 ? -EINVAL : buffer_reserve(buffer, (size_t)size);
	if (ret == 0) {
		(void)vsnprintf(buffer->data + buffer->size, (size_t)size + 1, format, again);
		buffer->size += (size_t)size;
	}
	va_end(again);
	return ret;
}

int buffer_append_number(struct buffer *buffer, uint64_t number)
{
	char digits[20];
	size_t at = sizeof(digits);

	do
		digits[--at] = (char)('0' + number % 10);
	while (number /= 10);
	return buffer_append(buffer, digits + at, sizeof(digits) - at);
}

void buffer_consume(struct buffer *buffer, size_t size)
{
	if (size >= buffer->size) {
		buffer_clear(buffer);
		return;
	}
	memmove(buffer->data, buffer->data + size, buffer->size - size + 1);
	buffer->size -= size;
}

void buffer_clear(struct buffer *buffer)
{
	buffer->size = 0;
	if (buffer->data)
		buffer->data[0] = '\0';
}

char *buffer_take_string(struct buffer *buffer)
{
	char *text;

	if (buffer_reserve(buffer, 0) < 0)
		return NULL;
	text = buffer->data;
	*buffer = (struct buffer){ .limit = buffer->limit };
	return text;
}

bool text_take_number(const char **text, unsigned maximum, unsigned *ret)
{
	size_t digits = strspn(*text, "0123456789");
	unsigned long value = digits > 0 && digits < 10 ? strtoul(*text, NULL, 10) : 0;

	if (value == 0 || value > maximum)
		return false;
	*text += digits;
	*ret = (unsigned)value;
	return true;
}
