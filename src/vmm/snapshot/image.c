#include "vmm/snapshot/image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "vmm/snapshot/image_internal.h"
#include "vmm/snapshot/page_list.h"

#define MAP_RUN_MIN     4            /* pages: a shorter run is cheaper to read than to map */
#define MAPPINGS_MAX    8192         /* of layers; beyond them runs are read (vm.max_map_count is 65530) */
#define PAGEMAP_PRESENT (1ull << 63) /* Documentation/admin-guide/mm/pagemap.rst */
#define PAGEMAP_SWAPPED (1ull << 62)
#define PAGEMAP_FILE    (1ull << 61) /* or shared anonymous */

/* --- page tables --- */

int image_open_pagemap(struct error *err)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	return fd >= 0 ? fd : error_errno(err, errno, "look up dirty pages in /proc/self/pagemap");
}

int image_look_up(const struct image *image, int pagemap, uint64_t first, size_t count,
                  enum image_page states[IMAGE_BATCH])
{
	uint64_t entries[IMAGE_BATCH];
	uint64_t at = ((uintptr_t)image->host / PAGE + first) * sizeof(entries[0]);
	int ret = fd_pread_all(pagemap, entries, count * sizeof(entries[0]), at);

	for (size_t i = 0; i < count && ret == 0; i++) {
		if (!(entries[i] & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED)))
			states[i] = IMAGE_PAGE_UNTOUCHED;
		else
			states[i] = entries[i] & PAGEMAP_FILE ? IMAGE_PAGE_CLEAN : IMAGE_PAGE_PRIVATE;
	}
	return ret;
}

/* --- the stack --- */

struct layer {
	const char *path;
	int fd;
	struct extents extents;
};

static int layer_open(struct layer *layer, const char *path, uint64_t size, struct error *err)
{
	uint64_t end = size;

	*layer = (struct layer){ .path = path, .fd = open(path, O_RDONLY | O_CLOEXEC) };
	if (layer->fd < 0)
		return error_errno(err, errno, "open memory layer %s", path);
	if (page_list_read(layer->fd, &end, IMAGE_LAYER_MAGIC, size, path, &layer->extents, err) < 0 ||
	    page_list_end(layer->fd, end, path, err) < 0)
		return error_wrap(err, "memory layer");
	return 0;
}

static void layer_close(struct layer *layer)
{
	extents_fini(&layer->extents);
	if (layer->fd >= 0)
		close(layer->fd);
}

/* Lay the visible pages of a layer over what is mapped below. */
static int layer_apply(const struct image *image, const struct layer *layer, const struct extents *visible,
                       unsigned *mappings, struct error *err)
{
	for (size_t i = 0; i < visible->count; i++) {
		const struct extent *run = &visible->list[i];
		unsigned char *host = image->host + run->first * PAGE;
		uint64_t offset = run->first * PAGE;
		int ret = 0;

		if (run->count >= MAP_RUN_MIN && *mappings < MAPPINGS_MAX) {
			(*mappings)++;
			if (mmap(host, run->count * PAGE, PROT_READ | PROT_WRITE,
			         MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, layer->fd,
			         (off_t)offset) == MAP_FAILED)
				ret = -errno;
		} else {
			ret = fd_pread_all(layer->fd, host, run->count * PAGE, offset);
		}
		if (ret < 0)
			return error_errno(err, -ret, "map memory layer %s", layer->path);
	}
	return 0;
}

/* From the top down: what a layer hides need not be touched. */
static int stack_layer(struct image *image, const char *path, unsigned *mappings, struct error *err)
{
	cleanup_extents struct extents visible = { 0 };
	struct extents covered = { 0 };
	struct layer layer;
	int ret = layer_open(&layer, path, image->size, err);

	if (ret == 0 && (extents_subtract(&layer.extents, &image->layers, &visible) < 0 ||
	                 extents_unite(&layer.extents, &image->layers, &covered) < 0))
		ret = error_errno(err, ENOMEM, "map memory layer %s", path);
	if (ret == 0)
		ret = layer_apply(image, &layer, &visible, mappings, err);
	if (ret == 0) {
		extents_fini(&image->layers);
		image->layers = covered;
	} else {
		extents_fini(&covered);
	}
	layer_close(&layer);
	return ret;
}

static int open_base(struct image *image, const char *path, struct error *err)
{
	struct stat st;

	image->base = open(path, O_RDONLY | O_CLOEXEC);
	if (image->base < 0 || fstat(image->base, &st) < 0)
		return error_errno(err, errno, "open memory file %s", path);
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != image->size)
		return error_set(err, EINVAL, "memory file %s has %llu bytes, the machine has %llu", path,
		                 (unsigned long long)st.st_size, (unsigned long long)image->size);
	return 0;
}

static int map(struct image *image, const struct image_config *config, struct error *err)
{
	int flags = MAP_PRIVATE | MAP_NORESERVE | (image->base < 0 ? MAP_ANONYMOUS : 0);
	unsigned mappings = 0;
	void *host = mmap(NULL, image->size, PROT_READ | PROT_WRITE, flags, image->base, 0);
	int ret = 0;

	if (host == MAP_FAILED)
		return error_errno(err, errno, "map %llu MiB of guest memory",
		                   (unsigned long long)(image->size >> 20));
	image->host = host;
	if (config->huge && madvise(host, image->size, MADV_HUGEPAGE) < 0)
		return error_errno(err, errno, "ask for huge pages");
	for (unsigned i = config->layer_count; ret == 0 && i > 0; i--)
		ret = stack_layer(image, config->layers[i - 1], &mappings, err);
	if (ret == 0 && config->uffd_path)
		ret = image_hand_to_uffd(image, config->uffd_path, err);
	return ret;
}

struct image *image_open(const struct image_config *config, struct error *err)
{
	struct image *image = calloc(1, sizeof(*image));
	int ret = 0;

	if (!image) {
		error_errno(err, ENOMEM, "map guest memory");
		return NULL;
	}
	*image = (struct image){ .size = config->size, .base = -1, .uffd = -1, .handler = -1 };
	if (config->layer_count > IMAGE_LAYERS_MAX)
		ret = error_set(err, E2BIG, "a memory has at most %d layers", IMAGE_LAYERS_MAX);
	else if (!config->base_path && config->layer_count)
		ret = error_set(err, EINVAL, "memory layers need a memory file below them");
	if (ret == 0 && config->base_path)
		ret = open_base(image, config->base_path, err);
	if (ret == 0)
		ret = map(image, config, err);
	if (ret < 0) {
		image_close(image);
		return NULL;
	}
	return image;
}

void image_close(struct image *image)
{
	if (!image)
		return;
	if (image->host)
		(void)munmap(image->host, image->size);
	if (image->base >= 0)
		close(image->base);
	if (image->uffd >= 0)
		close(image->uffd);
	if (image->handler >= 0)
		close(image->handler);
	extents_fini(&image->layers);
	free(image);
}

unsigned char *image_host(const struct image *image)
{
	return image->host;
}
