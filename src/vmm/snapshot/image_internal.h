/* What the files of the image share. Private to snapshot/. */
#pragma once

#include "vmm/snapshot/extents.h"
#include "vmm/snapshot/image.h"

#define IMAGE_LAYER_MAGIC "ATOLLML" /* of a layer's table */
#define IMAGE_BATCH       512       /* pages looked up in the page tables at once */

struct image {
	unsigned char *host;
	uint64_t size;
	int base;              /* full memory file, -1: none */
	struct extents layers; /* pages that come from layers */
	int uffd;              /* -1: none */
	int handler;           /* socket of its handler: it closes when this process ends */
};

/* How a page stands in the page tables. */
enum image_page {
	IMAGE_PAGE_UNTOUCHED,
	IMAGE_PAGE_CLEAN,   /* mapped, as the file has it */
	IMAGE_PAGE_PRIVATE, /* anonymous: written, or never in a file */
};

/* State of `count` (up to IMAGE_BATCH) pages from `first`; `pagemap` is an open /proc/self/pagemap. 0 or
 * -errno. */
int image_look_up(const struct image *image, int pagemap, uint64_t first, size_t count,
                  enum image_page states[IMAGE_BATCH]);
int image_open_pagemap(struct error *err);

/* A file that takes the place of `path` when all went well (`ret` 0); close gives `ret` back with words, or
 * 0. */
struct image_output {
	char *temporary;
	int fd;
};

int image_output_open(struct image_output *output, const char *path, struct error *err);
int image_output_close(struct image_output *output, const char *path, int ret, struct error *err);

/*
 * Let the handler that listens on `path` fill an anonymous mapping page by page (Firecracker's Uffd back end:
 * the handshake is one message with a JSON array of mappings and the userfaultfd). 0 or a negative errno with
 * `err`.
 */
int image_hand_to_uffd(struct image *image, const char *path, struct error *err);
