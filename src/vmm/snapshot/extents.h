/* extents: which pages of a memory, as sorted runs that neither overlap nor touch. Private to snapshot/. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE 4096 /* bytes */

struct extent {
	uint64_t first; /* page */
	uint64_t count; /* pages, at least 1 */
};

struct extents {
	struct extent *list;
	size_t count;
	size_t capacity;
};

void extents_fini(struct extents *extents);
#define cleanup_extents __attribute__((cleanup(extents_fini)))

/* Append a run that begins at or behind the end of the last one. 0 or -ENOMEM. */
int extents_append(struct extents *extents, uint64_t first, uint64_t count);

/* Append to `ret` what of `from` is not in `without`; and what is in any of `one` and `other`. */
int extents_subtract(const struct extents *from, const struct extents *without, struct extents *ret);
int extents_unite(const struct extents *one, const struct extents *other, struct extents *ret);

/* Whether a page is in any of them. */
bool extents_contain(const struct extents *extents, uint64_t page);
