/*
 * page_release: gives pages of guest memory that the guest does not need back to the host.
 *
 * Anonymous memory is simple: MADV_DONTNEED frees a page, and it reads as zeros when it is touched again.
 * Memory of a restored snapshot is a private mapping of the memory file. There DONTNEED frees our copy of a
 * page, and the file's content comes back. Three things follow:
 *
 * - A balloon's page (5.5.6) has no content that the driver may rely on, nor has a reported or hinted one
 *   unless VIRTIO_BALLOON_F_PAGE_POISON was agreed (5.5.6.7). The file's content is this guest's own past, so
 *   nothing of another leaks: DONTNEED is right for all of these.
 * - With PAGE_POISON and a poison of 0 (Linux with init_on_free) a page must stay as it is or read as zeros.
 *   Only an anonymous mapping over the file's gives that; and there an untouched page of zeros looks like one
 *   that still is the file's, so that a layer would leave it out. A poison other than 0 we cannot give. Such
 *   pages are not released at all.
 * - A later snapshot writes what it reads. Whatever that is, it is what the guest sees if it goes on, so both
 *   agree; but the file's content would be written once more for pages that nobody needs, where zeros are
 *   holes.
 *
 * So over a file, blocks of 2 MiB that are released whole are replaced by anonymous memory; what is left of a
 * run is given to DONTNEED. Linux reports whole blocks of this size. As
 * mappings change at such blocks' edges only, a guest can make at most one mapping per 2 MiB of its memory,
 * and never more than RELEASE_BLOCKS_MAX, well below the kernel's limit (vm.max_map_count, 65530).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/memory.h"

#define RELEASE_BLOCK      (2u << 20)
#define RELEASE_BLOCKS_MAX 16384 /* blocks over a file that are made anonymous: 32 GiB */

struct page_release {
	const struct guest_memory *memory;
	bool *anonymous[GUEST_MEMORY_REGIONS]; /* over a file: per block from the region's start */
	unsigned blocks;                       /* that were made anonymous */
};

/* `file_backed`: the memory is a private mapping of a file. 0, or -ENOMEM. */
int page_release_init(struct page_release *release, const struct guest_memory *memory, bool file_backed);
void page_release_fini(struct page_release *release);

/*
 * Release [host, host + size), pages of guest memory: a range that is not aligned to pages or leaves its
 * region gives -EINVAL. `zero`: it must read as zeros or as before. *ret_freed gets the bytes that were given
 * back. 0 or a negative errno.
 */
int page_release(struct page_release *release, void *host, size_t size, bool zero, uint64_t *ret_freed);
