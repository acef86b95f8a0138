/* checksum: CRC-32C (Castagnoli, RFC 3720 appendix B.4) of what our files hold. Finds damage, not forgery. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Go on from `crc`, which is 0 at the start. */
uint32_t crc32c(uint32_t crc, const void *data, size_t size);
