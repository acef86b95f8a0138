#pragma once

#include <stddef.h>
#include <stdint.h>

/* The byte that makes all bytes of a table add up to 0 (MultiProcessor Specification 1.4, 4.1;
 * ACPI 6.5, 5.2.6). */
static inline uint8_t boot_checksum(const void *data, size_t size)
{
	const uint8_t *bytes = data;
	uint8_t sum = 0;

	for (size_t i = 0; i < size; i++)
		sum = (uint8_t)(sum + bytes[i]);
	return (uint8_t)(0 - sum);
}
