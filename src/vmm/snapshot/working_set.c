/* The pages that a run touches, recorded once and mapped ahead for the next. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/base.h"
#include "vmm/snapshot/image_internal.h"
#include "vmm/snapshot/page_list.h"

#define READ_MAGIC    "ATOLLWR"
#define WRITTEN_MAGIC "ATOLLWW"

#ifndef MADV_POPULATE_READ /* Linux 5.14 */
#define MADV_POPULATE_READ  22
#define MADV_POPULATE_WRITE 23
#endif

static int find_touched(const struct image *image, int pagemap, struct extents *read, struct extents *written)
{
	enum image_page states[IMAGE_BATCH];
	uint64_t pages = image->size / PAGE;
	int ret = 0;

	for (uint64_t page = 0; page < pages && ret == 0; page += IMAGE_BATCH) {
		size_t count = pages - page < IMAGE_BATCH ? (size_t)(pages - page) : IMAGE_BATCH;

		ret = image_look_up(image, pagemap, page, count, states);
		for (size_t i = 0; i < count && ret == 0; i++) {
			if (states[i] == IMAGE_PAGE_CLEAN)
				ret = extents_append(read, page + i, 1);
			else if (states[i] == IMAGE_PAGE_PRIVATE)
				ret = extents_append(written, page + i, 1);
		}
	}
	return ret;
}

int image_record(const struct image *image, const char *path, struct error *err)
{
	cleanup_extents struct extents read = { 0 };
	cleanup_extents struct extents written = { 0 };
	cleanup_close int pagemap = image_open_pagemap(err);
	struct image_output output;
	uint64_t offset = 0;
	int ret = pagemap < 0 ? pagemap : image_output_open(&output, path, err);

	if (ret < 0)
		return ret;
	ret = find_touched(image, pagemap, &read, &written);
	if (ret == 0)
		ret = page_list_write(output.fd, &offset, WRITTEN_MAGIC, image->size, &written);
	if (ret == 0)
		ret = page_list_write(output.fd, &offset, READ_MAGIC, image->size, &read);
	return image_output_close(&output, path, ret, err);
}

/* Map runs until `left` pages are used up. A run that cannot be mapped now has its faults later. */
static void populate(const struct image *image, const struct extents *extents, int advice, uint64_t *left)
{
	for (size_t i = 0; i < extents->count && *left; i++) {
		const struct extent *run = &extents->list[i];
		uint64_t count = run->count < *left ? run->count : *left;

		if (madvise(image->host + run->first * PAGE, count * PAGE, advice) == 0)
			*left -= count;
	}
}

int image_prefault(const struct image *image, const char *path, uint64_t limit, uint64_t *ret_pages,
                   struct error *err)
{
	cleanup_extents struct extents read = { 0 };
	cleanup_extents struct extents written = { 0 };
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint64_t left = limit / PAGE;
	uint64_t offset = 0;
	int ret;

	if (fd < 0)
		return error_errno(err, errno, "open the working set %s", path);
	ret = page_list_read(fd, &offset, WRITTEN_MAGIC, image->size, path, &written, err);
	if (ret == 0)
		ret = page_list_read(fd, &offset, READ_MAGIC, image->size, path, &read, err);
	if (ret == 0)
		ret = page_list_end(fd, offset, path, err);
	if (ret < 0)
		return error_wrap(err, "working set");
	populate(image, &written, MADV_POPULATE_WRITE, &left);
	populate(image, &read, MADV_POPULATE_READ, &left);
	*ret_pages = limit / PAGE - left;
	return 0;
}
