/* Memory to files: full ones, and layers of dirty pages. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "vmm/snapshot/image_internal.h"
#include "vmm/snapshot/page_list.h"

#define WRITE_MAX (4u << 20) /* bytes at once */

/* --- neighbouring pages become one write --- */

struct run {
	const struct image *image;
	int fd;
	uint64_t first; /* page */
	uint64_t count;
};

static int run_flush(struct run *run)
{
	uint64_t offset = run->first * PAGE;
	size_t size = (size_t)run->count * PAGE;

	run->count = 0;
	return size ? fd_pwrite_all(run->fd, run->image->host + offset, size, offset) : 0;
}

static int run_add(struct run *run, uint64_t page)
{
	int ret = 0;

	if (run->count && (run->first + run->count != page || run->count * PAGE >= WRITE_MAX))
		ret = run_flush(run);
	if (run->count == 0)
		run->first = page;
	run->count++;
	return ret;
}

/* --- which pages --- */

static bool page_is_zero(const struct image *image, uint64_t page)
{
	const unsigned char *host = image->host + page * PAGE;
	uint64_t first;

	memcpy(&first, host, sizeof(first));
	return first == 0 && memcmp(host, host + sizeof(first), PAGE - sizeof(first)) == 0;
}

/* The data of the base file around the page that was asked for last: holes need not be read to be known. */
struct base_data {
	uint64_t begin; /* pages */
	uint64_t end;
};

static bool base_is_hole(const struct image *image, struct base_data *data, uint64_t page)
{
	off_t at;

	if (page < data->end)
		return page < data->begin;
	at = lseek(image->base, (off_t)(page * PAGE), SEEK_DATA);
	if (at < 0) {
		/* ENXIO: nothing but a hole behind; anything else: read to be safe. */
		data->begin = errno == ENXIO ? image->size / PAGE : page;
		data->end = image->size / PAGE;
		return page < data->begin;
	}
	data->begin = (uint64_t)at / PAGE;
	at = lseek(image->base, at, SEEK_HOLE);
	data->end = at < 0 ? image->size / PAGE : ((uint64_t)at + PAGE - 1) / PAGE;
	return page < data->begin;
}

/* What a full file needs: pages that may not be zero. */
static bool page_may_be_data(const struct image *image, struct base_data *data, uint64_t page,
                             enum image_page state)
{
	/* What a handler of faults holds is only known when it is asked. */
	if (state != IMAGE_PAGE_UNTOUCHED || image->uffd >= 0 || extents_contain(&image->layers, page))
		return true;
	return image->base >= 0 && !base_is_hole(image, data, page);
}

/* --- writing --- */

static int write_full(const struct image *image, int pagemap, int fd)
{
	enum image_page states[IMAGE_BATCH];
	struct run run = { .image = image, .fd = fd };
	struct base_data data = { 0 };
	uint64_t pages = image->size / PAGE;
	int ret = ftruncate(fd, (off_t)image->size) < 0 ? -errno : 0;

	for (uint64_t page = 0; page < pages && ret == 0; page += IMAGE_BATCH) {
		size_t count = pages - page < IMAGE_BATCH ? (size_t)(pages - page) : IMAGE_BATCH;

		ret = image_look_up(image, pagemap, page, count, states);
		for (size_t i = 0; i < count && ret == 0; i++)
			if (page_may_be_data(image, &data, page + i, states[i]) &&
			    !page_is_zero(image, page + i))
				ret = run_add(&run, page + i);
	}
	return ret == 0 ? run_flush(&run) : ret;
}

static bool bit_is_set(const uint8_t *bits, uint64_t index)
{
	return bits[index / 8] >> (index % 8) & 1;
}

/* Pages of zeros stay holes of the file; the table says that the layer has them. */
static int write_layer(const struct image *image, const uint8_t *dirty, int pagemap, int fd,
                       struct extents *table)
{
	enum image_page states[IMAGE_BATCH] = { 0 };
	struct run run = { .image = image, .fd = fd };
	uint64_t pages = image->size / PAGE;
	uint64_t end = image->size;
	int ret = ftruncate(fd, (off_t)image->size) < 0 ? -errno : 0;

	for (uint64_t page = 0; page < pages && ret == 0; page += IMAGE_BATCH) {
		size_t count = pages - page < IMAGE_BATCH ? (size_t)(pages - page) : IMAGE_BATCH;

		if (!dirty)
			ret = image_look_up(image, pagemap, page, count, states);
		for (size_t i = 0; i < count && ret == 0; i++) {
			if (dirty ? !bit_is_set(dirty, page + i) : states[i] != IMAGE_PAGE_PRIVATE)
				continue;
			ret = extents_append(table, page + i, 1);
			if (ret == 0 && !page_is_zero(image, page + i))
				ret = run_add(&run, page + i);
		}
	}
	if (ret == 0)
		ret = run_flush(&run);
	return ret == 0 ? page_list_write(fd, &end, IMAGE_LAYER_MAGIC, image->size, table) : ret;
}

/* --- files --- */

int image_output_open(struct image_output *output, const char *path, struct error *err)
{
	output->fd = -1;
	if (asprintf(&output->temporary, "%s.new", path) < 0) {
		output->temporary = NULL;
		return error_errno(err, ENOMEM, "write memory file %s", path);
	}
	output->fd = open(output->temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (output->fd < 0) {
		int ret = error_errno(err, errno, "write memory file %s", path);

		free(output->temporary);
		output->temporary = NULL;
		return ret;
	}
	return 0;
}

/* Put the file in place if all went well. */
int image_output_close(struct image_output *output, const char *path, int ret, struct error *err)
{
	if (ret == 0 && (fsync(output->fd) < 0 || rename(output->temporary, path) < 0))
		ret = -errno;
	if (output->fd >= 0)
		close(output->fd);
	if (ret < 0 && output->fd >= 0)
		(void)unlink(output->temporary);
	free(output->temporary);
	return ret < 0 ? error_errno(err, -ret, "write memory file %s", path) : 0;
}

int image_write_full(const struct image *image, const char *path, struct error *err)
{
	cleanup_close int pagemap = image_open_pagemap(err);
	struct image_output output;
	int ret = pagemap < 0 ? pagemap : image_output_open(&output, path, err);

	if (ret < 0)
		return ret;
	return image_output_close(&output, path, write_full(image, pagemap, output.fd), err);
}

int image_write_layer(const struct image *image, const uint8_t *dirty, const char *path, struct error *err)
{
	cleanup_extents struct extents table = { 0 };
	cleanup_close int pagemap = dirty ? -1 : image_open_pagemap(err);
	struct image_output output;
	int ret = !dirty && pagemap < 0 ? pagemap : image_output_open(&output, path, err);

	if (ret < 0)
		return ret;
	return image_output_close(&output, path, write_layer(image, dirty, pagemap, output.fd, &table), err);
}
