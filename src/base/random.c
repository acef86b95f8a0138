#include "base/random.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

void random_bytes(void *data, size_t size)
{
	unsigned char *bytes = data;

	while (size) {
		ssize_t got = getrandom(bytes, size, 0);

		if (got <= 0)
			abort();
		bytes += got;
		size -= (size_t)got;
	}
}

void random_hex(char *text, size_t bytes)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < bytes; i++) {
		unsigned char byte;

		random_bytes(&byte, 1);
		text[2 * i] = digits[byte >> 4];
		text[2 * i + 1] = digits[byte & 15];
	}
	text[2 * bytes] = '\0';
}

void random_id(char *text, size_t length)
{
	static const char alphabet[] = "abcdefghijklmnopqrstuvwxyz0123456789";
	const unsigned fair = 256 - 256 % 36; /* bytes from here on would favour the first letters */

	for (size_t i = 0; i < length;) {
		unsigned char byte;

		random_bytes(&byte, 1);
		if (byte < fair)
			text[i++] = alphabet[byte % 36];
	}
	text[length] = '\0';
}

bool secret_equal(const char *a, const char *b)
{
	size_t size = strlen(a);
	unsigned char different = 0;

	if (size != strlen(b))
		return false;
	for (size_t i = 0; i < size; i++)
		different |= (unsigned char)(a[i] ^ b[i]);
	return different == 0;
}
