/* What the harnesses share: taking an input apart. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* What is left of the input. Beyond its end everything is 0. */
struct input {
	const uint8_t *data;
	size_t size;
};

/* The next `bytes` (4 at most) as a little-endian number. */
static inline uint32_t take(struct input *input, size_t bytes)
{
	uint32_t value = 0;

	for (size_t i = 0; i < bytes && input->size; i++, input->size--)
		value |= (uint32_t)*input->data++ << (8 * i);
	return value;
}

/* Sizes of the pieces in which a stream arrives: 1 to 16 bytes, now and then many, drawn from `*seed`. */
static inline size_t next_piece(uint32_t *seed, size_t left)
{
	size_t size;

	*seed = *seed * 1664525 + 1013904223;
	size = *seed >> 28 ? (*seed >> 20 & 15) + 1 : (*seed >> 12 & 1023) + 1;
	return size < left ? size : left;
}
