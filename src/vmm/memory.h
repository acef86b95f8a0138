/*
 * memory: the guest's physical memory as host mappings, and the one place where a guest address becomes a
 * pointer.
 *
 * Regions never overlap and never move while the machine lives. Everything that a guest gives as an address
 * goes through guest_memory_at(), which yields a pointer only when the whole range lies in one region.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define GUEST_MEMORY_REGIONS 3
#define GUEST_PAGE           4096 /* bytes */

struct guest_region {
	uint64_t gpa;  /* guest-physical start, bytes, page-aligned */
	uint64_t size; /* bytes, page-aligned */
	unsigned char *host;
};

struct guest_memory {
	struct guest_region regions[GUEST_MEMORY_REGIONS];
	unsigned count;
	uint8_t *
	        dirty; /* a bit per page of what the monitor has written, when that is asked for; else NULL */
};

/* Host pointer to [gpa, gpa + size), or NULL when that is not wholly guest memory. size 0 is allowed. */
static inline void *guest_memory_at(const struct guest_memory *memory, uint64_t gpa, uint64_t size)
{
	for (unsigned i = 0; i < memory->count; i++) {
		const struct guest_region *region = &memory->regions[i];

		if (gpa >= region->gpa && gpa - region->gpa <= region->size &&
		    size <= region->size - (gpa - region->gpa))
			return region->host + (gpa - region->gpa);
	}
	return NULL;
}

/*
 * What the monitor writes to the guest's memory on its own account: KVM's dirty log knows only of the vCPUs.
 * [gpa, gpa + size) is one that guest_memory_at has a pointer for.
 */
static inline void guest_memory_mark(const struct guest_memory *memory, uint64_t gpa, uint64_t size)
{
	uint64_t before = 0;

	if (!memory->dirty || size == 0)
		return;
	for (unsigned i = 0; i < memory->count; i++) {
		const struct guest_region *region = &memory->regions[i];

		if (gpa >= region->gpa && gpa - region->gpa < region->size) {
			uint64_t first = (before + gpa - region->gpa) / GUEST_PAGE;
			uint64_t last = (before + gpa - region->gpa + size - 1) / GUEST_PAGE;

			for (uint64_t page = first; page <= last; page++)
				memory->dirty[page / 8] |= (uint8_t)(1u << page % 8);
			return;
		}
		before += region->size;
	}
}
