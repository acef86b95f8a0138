#include "base/checksum.h"

#include <string.h>

#define POLYNOMIAL 0x82f63b78u /* bits reversed */

static uint32_t crc_portable(uint32_t crc, const unsigned char *bytes, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		crc ^= bytes[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL : 0);
	}
	return crc;
}

#ifdef __x86_64__
/* SSE 4.2 has this very polynomial as an instruction. */
__attribute__((target("sse4.2"))) static uint32_t crc_instruction(uint32_t crc, const unsigned char *bytes,
                                                                  size_t size)
{
	uint64_t wide = crc;

	for (; size >= sizeof(uint64_t); size -= sizeof(uint64_t), bytes += sizeof(uint64_t)) {
		uint64_t word;

		memcpy(&word, bytes, sizeof(word));
		wide = __builtin_ia32_crc32di(wide, word);
	}
	return crc_portable((uint32_t)wide, bytes, size);
}
#endif

uint32_t crc32c(uint32_t crc, const void *data, size_t size)
{
#ifdef __x86_64__
	if (__builtin_cpu_supports("sse4.2"))
		return ~crc_instruction(~crc, data, size);
#endif
	return ~crc_portable(~crc, data, size);
}
