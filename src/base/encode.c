#include "base/encode.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

static const char base64_alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

int base64_encode(struct buffer *to, const void *data, size_t size)
{
	const unsigned char *in = data;
	char *out;
	int ret = buffer_reserve(to, (size / 3 + 1) * 4);

	if (ret < 0)
		return ret;
	out = to->data + to->size;
	for (size_t i = 0; i < size; i += 3) {
		size_t left = size - i;
		unsigned group = (unsigned)in[i] << 16;

		if (left > 1)
			group |= (unsigned)in[i + 1] << 8;
		if (left > 2)
			group |= in[i + 2];
		*out++ = base64_alphabet[group >> 18];
		*out++ = base64_alphabet[group >> 12 & 63];
		*out++ = left > 1 ? base64_alphabet[group >> 6 & 63] : '=';
		*out++ = left > 2 ? base64_alphabet[group & 63] : '=';
	}
	to->size = (size_t)(out - to->data);
	to->data[to->size] = '\0';
	return 0;
}

static int base64_value(char c)
{
	const char *at = c ? strchr(base64_alphabet, c) : NULL;

	return at ? (int)(at - base64_alphabet) : -1;
}

int base64_decode(struct buffer *to, const char *text, size_t size)
{
	unsigned group = 0;
	unsigned bits = 0;
	int ret = buffer_reserve(to, size);

	if (ret < 0)
		return ret;
	while (size && text[size - 1] == '=')
		size--;
	if (size % 4 == 1)
		return -EINVAL;
	for (size_t i = 0; i < size; i++) {
		int value = base64_value(text[i]);

		if (value < 0)
			return -EINVAL;
		group = group << 6 | (unsigned)value;
		bits += 6;
		if (bits >= 8) {
			bits -= 8;
			to->data[to->size++] = (char)(group >> bits & 255);
		}
	}
	if (to->data)
		to->data[to->size] = '\0';
	return 0;
}

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

int percent_decode(struct buffer *to, const char *text, size_t size, int form)
{
	int ret = buffer_reserve(to, size);

	if (ret < 0)
		return ret;
	for (size_t i = 0; i < size; i++) {
		char c = text[i];

		if (c == '%') {
			int high = i + 2 < size ? hex_value(text[i + 1]) : -1;
			int low = i + 2 < size ? hex_value(text[i + 2]) : -1;

			if (high < 0 || low < 0)
				return -EINVAL;
			c = (char)(high << 4 | low);
			i += 2;
		} else if (c == '+' && form) {
			c = ' ';
		}
		if (c == '\0')
			return -EINVAL;
		to->data[to->size++] = c;
	}
	to->data[to->size] = '\0';
	return 0;
}

int percent_encode(struct buffer *to, const char *text)
{
	int ret = buffer_reserve(to, 0);

	for (; *text && ret == 0; text++) {
		unsigned char c = (unsigned char)*text;
		bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
		             strchr("-._~", c);

		ret = plain ? buffer_append(to, text, 1) : buffer_printf(to, "%%%02X", c);
	}
	return ret;
}
