#include "base/random.h"

#include <stdint.h>
#include <stdio.h>
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
	unsigned char drawn[32];

	for (size_t i = 0; i < bytes; i++) {
		unsigned char byte;

		if (i % sizeof(drawn) == 0)
			random_bytes(drawn, bytes - i < sizeof(drawn) ? bytes - i : sizeof(drawn));
		byte = drawn[i % sizeof(drawn)];
		text[2 * i] = digits[byte >> 4];
		text[2 * i + 1] = digits[byte & 15];
	}
	text[2 * bytes] = '\0';
}

void random_id(char *text, size_t length)
{
	static const char alphabet[] = "abcdefghijklmnopqrstuvwxyz0123456789";
	const unsigned fair = 256 - 256 % 36; /* bytes from here on would favour the first letters */
	unsigned char drawn[32];
	size_t used = sizeof(drawn);

	for (size_t i = 0; i < length;) {
		if (used == sizeof(drawn)) {
			random_bytes(drawn, sizeof(drawn));
			used = 0;
		}
		if (drawn[used] < fair)
			text[i++] = alphabet[drawn[used] % 36];
		used++;
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

void random_uuid(char id[37])
{
	char hex[33];

	random_hex(hex, 16);
	/* Version 4, variant 1. */
	hex[12] = '4';
	hex[16] = "89ab"[hex[16] & 3];
	(void)snprintf(id, 37, "%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8, hex + 12, hex + 16, hex + 20);
}
