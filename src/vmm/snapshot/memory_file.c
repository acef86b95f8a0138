/* The memory file: guest memory as it is, with holes for zeros. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "vmm/snapshot/snapshot.h"

#define PAGE            4096
#define PAGEMAP_BATCH   512           /* pages looked up at once */
#define PAGEMAP_PRESENT (3ull << 62)  /* present, or swapped out */
#define RUN_MAX         (1024 * PAGE) /* bytes per write */

/* Where the next write goes: neighbouring pages become one. */
struct run {
	int fd;
	const unsigned char *host;
	uint64_t offset;
	size_t size;
};

static int run_flush(struct run *run)
{
	while (run->size) {
		ssize_t done = pwrite(run->fd, run->host, run->size, (off_t)run->offset);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return done < 0 ? -errno : -EIO;
		run->host += done;
		run->offset += (uint64_t)done;
		run->size -= (size_t)done;
	}
	return 0;
}

static int run_add(struct run *run, const unsigned char *page, uint64_t offset)
{
	int ret = 0;

	if (run->size && (run->host + run->size != page || run->size >= RUN_MAX))
		ret = run_flush(run);
	if (run->size == 0) {
		run->host = page;
		run->offset = offset;
	}
	run->size += PAGE;
	return ret;
}

static bool page_is_zero(const unsigned char *page)
{
	uint64_t first;

	memcpy(&first, page, sizeof(first));
	return first == 0 && memcmp(page, page + sizeof(first), PAGE - sizeof(first)) == 0;
}

/* Whether each of `count` pages from `host` was ever touched; all true when that cannot be told. */
static void find_present(int pagemap, const unsigned char *host, size_t count, bool present[PAGEMAP_BATCH])
{
	uint64_t entries[PAGEMAP_BATCH];
	off_t at = (off_t)((uintptr_t)host / PAGE * sizeof(entries[0]));
	bool known = pagemap >= 0 && pread(pagemap, entries, count * sizeof(entries[0]), at) ==
	                                     (ssize_t)(count * sizeof(entries[0]));

	for (size_t i = 0; i < count; i++)
		present[i] = !known || (entries[i] & PAGEMAP_PRESENT);
}

static int write_region(const struct guest_region *region, int pagemap, struct run *run, uint64_t offset)
{
	bool present[PAGEMAP_BATCH];
	uint64_t pages = region->size / PAGE;
	int ret = 0;

	for (uint64_t page = 0; page < pages && ret == 0; page += PAGEMAP_BATCH) {
		size_t count = pages - page < PAGEMAP_BATCH ? (size_t)(pages - page) : PAGEMAP_BATCH;
		const unsigned char *host = region->host + page * PAGE;

		find_present(pagemap, host, count, present);
		for (size_t i = 0; i < count && ret == 0; i++)
			if (present[i] && !page_is_zero(host + i * PAGE))
				ret = run_add(run, host + i * PAGE, offset + (page + i) * PAGE);
	}
	return ret;
}

static int write_regions(const struct guest_memory *memory, bool anonymous, int fd)
{
	cleanup_close int pagemap = anonymous ? open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC) : -1;
	struct run run = { .fd = fd };
	uint64_t offset = 0;
	int ret = 0;

	for (unsigned i = 0; i < memory->count && ret == 0; i++) {
		ret = write_region(&memory->regions[i], pagemap, &run, offset);
		offset += memory->regions[i].size;
	}
	if (ret == 0)
		ret = run_flush(&run);
	if (ret == 0 && (ftruncate(fd, (off_t)offset) < 0 || fsync(fd) < 0))
		ret = -errno;
	return ret;
}

int snapshot_write_memory(const struct guest_memory *memory, bool anonymous, const char *path,
                          struct error *err)
{
	cleanup_free char *temporary = NULL;
	cleanup_close int fd = -1;
	int ret;

	if (asprintf(&temporary, "%s.new", path) < 0) {
		temporary = NULL;
		return error_errno(err, ENOMEM, "write memory file %s", path);
	}
	fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0)
		return error_errno(err, errno, "write memory file %s", path);
	ret = write_regions(memory, anonymous, fd);
	if (ret == 0 && rename(temporary, path) < 0)
		ret = -errno;
	if (ret < 0) {
		(void)unlink(temporary);
		return error_errno(err, -ret, "write memory file %s", path);
	}
	return 0;
}

int snapshot_map_memory(const char *path, uint64_t size, void **ret_host, struct error *err)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	void *host;

	if (fd < 0 || fstat(fd, &st) < 0)
		return error_errno(err, errno, "open memory file %s", path);
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != size)
		return error_set(err, EINVAL, "memory file %s has %llu bytes, the machine has %llu", path,
		                 (unsigned long long)st.st_size, (unsigned long long)size);
	host = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, 0);
	if (host == MAP_FAILED)
		return error_errno(err, errno, "map memory file %s", path);
	*ret_host = host;
	return 0;
}
