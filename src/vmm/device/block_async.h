/*
 * block_async: reads and writes of a block device that go on while the device loop does other things, by
 * io_uring. Private to vmm/device.
 *
 * A block_io is one request of the driver. It is started over the extents in which its data lies, and comes
 * back through `done` from block_async_reap(). All on the device loop.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "layer/layer.h"
#include "vmm/device/loop.h"
#include "vmm/device/virtqueue.h"

#define BLOCK_ASYNC_REQUESTS 64 /* in flight at once */
#define BLOCK_ASYNC_EXTENTS  8  /* per request */

struct block_io {
	struct virtqueue_chain chain; /* the whole request */
	uint64_t offset;              /* on the disk */
	bool write;
	/* The engine's: */
	bool failed;
	unsigned pending;
	struct iovec parts[VIRTQUEUE_CHAIN_MAX + BLOCK_ASYNC_EXTENTS];
	uint64_t lengths[BLOCK_ASYNC_EXTENTS];
	struct block_io *next_free;
};

struct block_async;

/* `ok`: all of it was moved. Otherwise nothing is known of the data, and it may be tried again in another
 * way. */
typedef void block_async_done_fn(void *context, struct block_io *io, bool ok);

/*
 * `ready(context)` is called on the loop when requests are finished: it should reap them. NULL with `err`
 * when the kernel has no io_uring for us.
 */
struct block_async *block_async_new(struct loop *loop, void (*ready)(void *context),
                                    block_async_done_fn *done, void *context, struct error *err);

/* Free; nothing may be in flight. NULL is allowed. */
void block_async_free(struct block_async *async);

/* A free request, or NULL when all are in flight; and give back one that was not started. */
struct block_io *block_async_get(struct block_async *async);
void block_async_put(struct block_async *async, struct block_io *io);

/*
 * Start moving the buffers of `iov` from or to the extents (BLOCK_ASYNC_EXTENTS at most), whose lengths add
 * up to theirs. Goes to the kernel with block_async_submit at the latest.
 */
void block_async_start(struct block_async *async, struct block_io *io, const struct iovec *iov, int count,
                       const struct disk_extent *extents, int extent_count);
void block_async_submit(struct block_async *async);

/* Call `done` for what is finished; with `wait`, until nothing is in flight. */
void block_async_reap(struct block_async *async, bool wait);

unsigned block_async_writes(const struct block_async *async); /* in flight */
