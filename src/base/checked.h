/*
 * checked: arithmetic on numbers that come from outside. Each returns false when the result does not fit, and
 * leaves *result unspecified then.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

static inline bool checked_add(uint64_t a, uint64_t b, uint64_t *result)
{
	return !__builtin_add_overflow(a, b, result);
}

static inline bool checked_sub_signed(int64_t a, int64_t b, int64_t *result)
{
	return !__builtin_sub_overflow(a, b, result);
}

static inline bool checked_mul(uint64_t a, uint64_t b, uint64_t *result)
{
	return !__builtin_mul_overflow(a, b, result);
}

/* Whether [offset, offset + length) lies inside [0, limit). */
static inline bool checked_range(uint64_t offset, uint64_t length, uint64_t limit)
{
	uint64_t end;

	return checked_add(offset, length, &end) && end <= limit;
}
