#include "vmm/device/page_release.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/base.h"

#define PAGE 4096u

int page_release_init(struct page_release *release, const struct guest_memory *memory, bool file_backed)
{
	*release = (struct page_release){ .memory = memory };
	for (unsigned i = 0; file_backed && i < memory->count; i++) {
		/* One more, so that a region without a whole block has an array as well. */
		release->anonymous[i] = calloc(memory->regions[i].size / RELEASE_BLOCK + 1, sizeof(bool));
		if (!release->anonymous[i]) {
			page_release_fini(release);
			return -ENOMEM;
		}
	}
	return 0;
}

void page_release_fini(struct page_release *release)
{
	for (unsigned i = 0; i < GUEST_MEMORY_REGIONS; i++) {
		free(release->anonymous[i]);
		release->anonymous[i] = NULL;
	}
}

static int drop(unsigned char *host, size_t size, uint64_t *freed)
{
	if (size == 0)
		return 0;
	if (madvise(host, size, MADV_DONTNEED) < 0)
		return -errno;
	*freed += size;
	return 0;
}

/* Put anonymous memory in the place of whole blocks of a file's. */
static int replace(struct page_release *release, bool *anonymous, unsigned char *host, size_t count,
                   uint64_t *freed)
{
	size_t size = count * RELEASE_BLOCK;

	if (mmap(host, size, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
	         -1, 0) == MAP_FAILED)
		return -errno;
	for (size_t i = 0; i < count; i++)
		anonymous[i] = true;
	release->blocks += (unsigned)count;
	*freed += size;
	return 0;
}

/* Neighbouring blocks of one kind go in one call. */
static int release_blocks(struct page_release *release, bool *anonymous, unsigned char *host, size_t count,
                          uint64_t *freed)
{
	int ret = 0;

	for (size_t i = 0, run; i < count && ret == 0; i += run) {
		for (run = 1; i + run < count && anonymous[i + run] == anonymous[i]; run++)
			;
		if (anonymous[i])
			ret = drop(host + i * RELEASE_BLOCK, run * RELEASE_BLOCK, freed);
		else if (run <= RELEASE_BLOCKS_MAX - release->blocks)
			ret = replace(release, anonymous + i, host + i * RELEASE_BLOCK, run, freed);
		else
			ret = drop(host + i * RELEASE_BLOCK, run * RELEASE_BLOCK, freed);
	}
	return ret;
}

static int release_over_file(struct page_release *release, unsigned index, uint64_t offset, uint64_t size,
                             uint64_t *freed)
{
	unsigned char *host = release->memory->regions[index].host;
	bool *anonymous = release->anonymous[index];
	uint64_t end = offset + size;
	uint64_t first = (offset + RELEASE_BLOCK - 1) / RELEASE_BLOCK;
	uint64_t last = end / RELEASE_BLOCK; /* behind the last whole block */
	uint64_t head_end = first * RELEASE_BLOCK < end ? first * RELEASE_BLOCK : end;
	uint64_t tail = last * RELEASE_BLOCK > head_end ? last * RELEASE_BLOCK : head_end;
	int ret = 0;

	if (head_end > offset)
		ret = drop(host + offset, head_end - offset, freed);
	if (ret == 0 && last > first)
		ret = release_blocks(release, anonymous + first, host + first * RELEASE_BLOCK, last - first,
		                     freed);
	if (ret == 0 && end > tail)
		ret = drop(host + tail, end - tail, freed);
	return ret;
}

int page_release(struct page_release *release, void *host, size_t size, bool zero, uint64_t *ret_freed)
{
	*ret_freed = 0;
	for (unsigned i = 0; i < release->memory->count; i++) {
		const struct guest_region *region = &release->memory->regions[i];
		uint64_t offset = (uint64_t)((uintptr_t)host - (uintptr_t)region->host);

		if ((uintptr_t)host < (uintptr_t)region->host || !checked_range(offset, size, region->size))
			continue;
		if (offset % PAGE || size % PAGE)
			return -EINVAL;
		if (!release->anonymous[i])
			return drop(host, size, ret_freed);
		/* Zeros over a file are what a later layer of this memory could not tell from the file. */
		return zero ? 0 : release_over_file(release, i, offset, size, ret_freed);
	}
	return -EINVAL;
}
