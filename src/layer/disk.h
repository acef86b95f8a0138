/* disk: a block device made of a raw base, frozen layers and, when it may be written, a private top layer. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/error.h"

#define DISK_BLOCK_SIZE 4096 /* bytes: unit of copy on write */
#define DISK_LAYERS_MAX 16

struct disk;

/*
 * Open a stack. `base` is a raw image whose size is a multiple of 512; `layers` the frozen files over it,
 * lowest first; `overlay` the private top (made when missing, opened and checked when it exists), or NULL.
 * Without an overlay writes go to the base itself when there are no layers and `read_only` is false, and are
 * refused otherwise. NULL with `err`.
 */
struct disk *disk_open(const char *base, const char *const *layers, unsigned layer_count, const char *overlay,
                       bool read_only, struct error *err);

/* Flush and close. A top layer that was closed is complete and can be named as frozen. */
void disk_close(struct disk *disk);

uint64_t disk_size(const struct disk *disk); /* bytes */
bool disk_writable(const struct disk *disk);

/*
 * Read or write the scattered buffers at `offset` (bytes, multiple of 512). The range must lie inside the
 * disk. 0, or a negative errno (-EIO, -ENOSPC, -EROFS). A write that is smaller than a block first copies the
 * rest of it up.
 */
int disk_readv(struct disk *disk, const struct iovec *iov, int count, uint64_t offset);
int disk_writev(struct disk *disk, const struct iovec *iov, int count, uint64_t offset);

/* A part of a disk: `length` bytes at `offset` of an open file, which is the disk's. */
struct disk_extent {
	int fd;
	uint64_t offset;
	uint64_t length;
};

/*
 * For asynchronous I/O: where [offset, offset + length) lies. They change nothing, and what they give is
 * right until the disk is next written, discarded or closed.
 *
 * A read takes up to `max` extents, in order: their number, -EINVAL when the range leaves the disk, -E2BIG
 * when it lies in more pieces. A write is possible in place, as one extent, when the top holds all of its
 * blocks: 0, -EAGAIN when it does not (then disk_writev), -EINVAL, or -EROFS.
 */
int disk_map_read(const struct disk *disk, uint64_t offset, uint64_t length, struct disk_extent *extents,
                  int max);
int disk_map_write(const struct disk *disk, uint64_t offset, uint64_t length, struct disk_extent *ret);

/* Make what was written durable: data, then bitmap, so that a crash shows old or new blocks and never a
 * mixture. */
int disk_flush(struct disk *disk);

/* Drop the content of a range (reads as zeros then). Only whole blocks are dropped; the rest is zeroed. */
int disk_discard(struct disk *disk, uint64_t offset, uint64_t length);
