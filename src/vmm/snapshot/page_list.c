#include "vmm/snapshot/page_list.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/base.h"

#define VERSION 1

struct page_list_head {
	char magic[PAGE_LIST_MAGIC_SIZE];
	uint32_t version;
	uint32_t crc; /* CRC-32C of head and extents, with this field 0 */
	uint64_t memory_size;
	uint64_t extent_count;
	/* Behind it: extent_count struct extent. */
};

static uint32_t list_crc(const struct page_list_head *head, const struct extent *list)
{
	struct page_list_head clean = *head;

	clean.crc = 0;
	return crc32c(crc32c(0, &clean, sizeof(clean)), list, head->extent_count * sizeof(*list));
}

int page_list_write(int fd, uint64_t *offset, const char *magic, uint64_t memory_size,
                    const struct extents *extents)
{
	struct page_list_head head = { .version = VERSION,
		                       .memory_size = memory_size,
		                       .extent_count = extents->count };
	size_t size = extents->count * sizeof(*extents->list);
	int ret;

	memcpy(head.magic, magic, sizeof(head.magic));
	head.crc = list_crc(&head, extents->list);
	ret = fd_pwrite_all(fd, &head, sizeof(head), *offset);
	if (ret == 0)
		ret = fd_pwrite_all(fd, extents->list, size, *offset + sizeof(head));
	*offset += sizeof(head) + size;
	return ret;
}

/* In order, without overlap, and inside of a memory of `pages` pages. */
static bool list_valid(const struct extents *extents, uint64_t pages)
{
	uint64_t end = 0;

	for (size_t i = 0; i < extents->count; i++) {
		const struct extent *extent = &extents->list[i];

		if (extent->first < end || extent->count == 0 ||
		    !checked_range(extent->first, extent->count, pages))
			return false;
		end = extent->first + extent->count;
	}
	return true;
}

static int check_head(const struct page_list_head *head, const char *magic, uint64_t memory_size,
                      const char *what, struct error *err)
{
	if (memcmp(head->magic, magic, sizeof(head->magic)) != 0)
		return error_set(err, EINVAL, "%s is not what it should be: its mark is missing", what);
	if (head->version != VERSION)
		return error_set(err, EINVAL, "%s has version %u, this monitor reads version %d", what,
		                 head->version, VERSION);
	if (head->memory_size != memory_size)
		return error_set(err, EINVAL, "%s belongs to a memory of %llu bytes, the machine has %llu",
		                 what, (unsigned long long)head->memory_size,
		                 (unsigned long long)memory_size);
	/* A sparse file may be as long as anybody likes; but each run has a page at least. */
	if (head->extent_count > memory_size / PAGE)
		return error_set(err, EINVAL, "%s has more runs than the memory has pages", what);
	return 0;
}

/* The runs, which the file has room for: so that nobody asks for memory by a number alone. */
static int read_runs(int fd, uint64_t offset, uint64_t count, struct extents *ret)
{
	size_t size = (size_t)count * sizeof(*ret->list);

	ret->list = malloc(size ? size : 1);
	if (!ret->list)
		return -ENOMEM;
	ret->count = ret->capacity = (size_t)count;
	return fd_pread_all(fd, ret->list, size, offset);
}

int page_list_read(int fd, uint64_t *offset, const char *magic, uint64_t memory_size, const char *what,
                   struct extents *ret, struct error *err)
{
	struct page_list_head head;
	struct stat st;
	uint64_t size;
	int result;

	if (fstat(fd, &st) < 0)
		return error_errno(err, errno, "read %s", what);
	if (!S_ISREG(st.st_mode) || !checked_range(*offset, sizeof(head), (uint64_t)st.st_size))
		return error_set(err, EINVAL, "%s is cut short", what);
	result = fd_pread_all(fd, &head, sizeof(head), *offset);
	if (result < 0)
		return error_errno(err, -result, "read %s", what);
	result = check_head(&head, magic, memory_size, what, err);
	if (result < 0)
		return result;
	*offset += sizeof(head);
	if (!checked_mul(head.extent_count, sizeof(struct extent), &size) ||
	    !checked_range(*offset, size, (uint64_t)st.st_size))
		return error_set(err, EINVAL, "%s is cut short", what);
	result = read_runs(fd, *offset, head.extent_count, ret);
	if (result < 0)
		return error_errno(err, -result, "read %s", what);
	*offset += size;
	if (list_crc(&head, ret->list) != head.crc)
		return error_set(err, EINVAL, "the checksum of %s is wrong: it is damaged", what);
	if (!list_valid(ret, memory_size / PAGE))
		return error_set(err, EINVAL, "the runs of %s are out of order or out of range", what);
	return 0;
}

int page_list_end(int fd, uint64_t offset, const char *what, struct error *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return error_errno(err, errno, "read %s", what);
	return (uint64_t)st.st_size == offset ? 0 : error_set(err, EINVAL, "%s goes on behind its end", what);
}
