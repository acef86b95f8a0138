/*
 * image: guest memory as the monitor holds it: fresh, or a stack of files from a snapshot.
 *
 * The lowest file is a full memory file: raw, as long as the memory, with holes where it is zero. It is
 * mapped privately, so that a page which the guest writes becomes anonymous and the kernel's own page tables
 * tell which pages are dirty: no dirty log is paid for while the guest runs. Over it lie layers
 * (Firecracker's Diff snapshots): a file with dirty pages at their own offset, holes elsewhere, and behind
 * its last page a table of those that it holds. Of a stack only what no higher layer hides is mapped, or read
 * when it is a short run.
 *
 * Nothing is allocated in proportion to the memory's size when a stack is opened, and no clean page is
 * copied. Files must not change while an image has them mapped; replacing one by renaming is no such change.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#define IMAGE_LAYERS_MAX 32

struct image_config {
	uint64_t size;                        /* bytes, a multiple of 4096 */
	const char *base_path;                /* full memory file; NULL: zeros, or what uffd_path gives */
	const char *layers[IMAGE_LAYERS_MAX]; /* lowest first */
	unsigned layer_count;
	const char *uffd_path; /* socket of a page fault handler; NULL: none */
	bool huge;             /* ask for transparent huge pages */
};

struct image;

/* Map a memory. 0 bytes of it are touched but short runs of layers. NULL with `err`. */
struct image *image_open(const struct image_config *config, struct error *err);
void image_close(struct image *image);

/* The mapping: image_config's size, one piece. */
unsigned char *image_host(const struct image *image);

/*
 * Write the memory of a stopped machine as a full file; or as a layer over what the image was opened from.
 * The layer has the pages that differ from it, or those whose bit in `dirty` is set (bit N of byte N / 8;
 * NULL: ask the page tables). The file is replaced as a whole: old, or new. 0 or -errno with `err`.
 */
int image_write_full(const struct image *image, const char *path, struct error *err);
int image_write_layer(const struct image *image, const uint8_t *dirty, const char *path, struct error *err);

/*
 * Record which pages have been touched since the image was opened (those that were read, and those that were
 * written); and map those of such a record ahead, so that a run which needs the same ones has no faults.
 * Pages that the record names beyond `limit` bytes stay for their fault. *ret_pages gets how many were
 * mapped.
 */
int image_record(const struct image *image, const char *path, struct error *err);
int image_prefault(const struct image *image, const char *path, uint64_t limit, uint64_t *ret_pages,
                   struct error *err);
