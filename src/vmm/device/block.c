/*
 * virtio-block (virtio 1.2 section 5.2) over a stack of disk layers.
 *
 * With the synchronous engine a request is done when kick returns. With the asynchronous one reads, and
 * writes to blocks that the top layer holds already, go on behind the loop's back (block_async.h), and are
 * used in the order in which they end; everything else, writes that grow the top layer among it, is done at
 * once. A flush waits for the writes before it and holds up what is behind it, so what it makes durable is
 * the same with both.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "layer/layer.h"
#include "vmm/device/block_async.h"
#include "vmm/device/device.h"
#include "vmm/device/virtio_internal.h"
#include "vmm/device/virtqueue.h"

/* Features (5.2.3). */
#define BLK_F_SEG_MAX      (1ull << 2)
#define BLK_F_RO           (1ull << 5)
#define BLK_F_FLUSH        (1ull << 9)
#define BLK_F_DISCARD      (1ull << 13)
#define BLK_F_WRITE_ZEROES (1ull << 14)

/* Request types and status (5.2.6). */
enum block_request_type {
	BLK_T_IN = 0,
	BLK_T_OUT = 1,
	BLK_T_FLUSH = 4,
	BLK_T_GET_ID = 8,
	BLK_T_DISCARD = 11,
	BLK_T_WRITE_ZEROES = 13,
};

#define BLK_S_OK       0
#define BLK_S_IOERR    1
#define BLK_S_UNSUPP   2

#define SECTOR         512
#define ID_SIZE        20
#define SEGMENTS_MAX   (VIRTQUEUE_CHAIN_MAX - 2) /* what is left of a chain beside header and status */
#define DISCARD_RANGES 16                        /* per request */
#define DISCARD_MAX    (1u << 22)                /* sectors per range: 2 GiB */

struct block_request_header {
	uint32_t type;
	uint32_t reserved;
	uint64_t sector;
};

struct block_range {
	uint64_t sector;
	uint32_t sectors;
	uint32_t flags;
};

/* Configuration space (5.2.4). */
struct block_config_space {
	uint64_t capacity; /* sectors */
	uint32_t size_max;
	uint32_t seg_max;
	uint16_t cylinders;
	uint8_t heads;
	uint8_t sectors;
	uint32_t blk_size;
	uint8_t physical_block_exp;
	uint8_t alignment_offset;
	uint16_t min_io_size;
	uint32_t opt_io_size;
	uint8_t writeback;
	uint8_t unused0;
	uint16_t num_queues;
	uint32_t max_discard_sectors;
	uint32_t max_discard_seg;
	uint32_t discard_sector_alignment;
	uint32_t max_write_zeroes_sectors;
	uint32_t max_write_zeroes_seg;
	uint8_t write_zeroes_may_unmap;
	uint8_t unused1[3];
};

struct block {
	struct virtio_device device;
	struct disk *disk;
	uint64_t capacity; /* sectors; vCPU threads read it: atomic accesses only */
	char id[64];
	bool writeback;
	bool writable;
	bool layered;
	bool read_only;
	struct block_async *async; /* NULL: the synchronous engine */
	bool stalled;              /* a request waits for others to be finished */
	bool dropping;             /* the driver has forgotten what is in flight */
	struct rate_limiter limiter;
	struct block_metrics {
		uint64_t queue_event_count;
		uint64_t invalid_reqs_count;
		uint64_t execute_fails;
		uint64_t flush_count;
		uint64_t read_count;
		uint64_t read_bytes;
		uint64_t write_count;
		uint64_t write_bytes;
		uint64_t rate_limiter_throttled_events;
		uint64_t io_engine_throttled_events;
		uint64_t update_count;
		uint64_t update_fails;
	} metrics;
};

static struct block *block_of(struct virtio_device *device)
{
	return (struct block *)device;
}

static uint64_t block_features(struct virtio_device *device)
{
	struct block *block = block_of(device);
	uint64_t features = BLK_F_SEG_MAX;

	if (block->writeback)
		features |= BLK_F_FLUSH;
	if (block->writable)
		features |= BLK_F_DISCARD | BLK_F_WRITE_ZEROES;
	else
		features |= BLK_F_RO;
	return features;
}

static void block_config_read(struct virtio_device *device, uint32_t offset, void *data, unsigned size)
{
	struct block *block = block_of(device);
	struct block_config_space space = { .capacity = __atomic_load_n(&block->capacity, __ATOMIC_RELAXED),
		                            .seg_max = SEGMENTS_MAX,
		                            .num_queues = 1,
		                            .max_discard_sectors = DISCARD_MAX,
		                            .max_discard_seg = DISCARD_RANGES,
		                            .discard_sector_alignment = DISK_BLOCK_SIZE / SECTOR,
		                            .max_write_zeroes_sectors = DISCARD_MAX,
		                            .max_write_zeroes_seg = DISCARD_RANGES,
		                            .write_zeroes_may_unmap = 1 };

	if (checked_range(offset, size, sizeof(space)))
		memcpy(data, (char *)&space + offset, size);
}

/* Where the data of a request lies on the disk; false when it leaves the disk or is no whole number of
 * sectors. */
static bool data_offset(const struct block *block, uint64_t sector, size_t size, uint64_t *ret)
{
	return size % SECTOR == 0 && checked_mul(sector, SECTOR, ret) &&
	       checked_range(*ret, size, disk_size(block->disk));
}

/* The buffers of a read or a write. The status byte is a descriptor of its own with Linux; if a driver puts
 * it elsewhere, the request is odd. */
static const struct iovec *request_data(const struct virtqueue_chain *chain, bool write, int *ret_count)
{
	*ret_count = (write ? chain->readable : chain->writable) - 1;
	return chain->iov + (write ? 1 : chain->readable);
}

/* Count what was moved: the status of the request, and in *ret_written the bytes that the driver gets. */
static uint8_t moved(struct block *block, const struct virtqueue_chain *chain, bool write,
                     uint32_t *ret_written)
{
	int count;
	const struct iovec *iov = request_data(chain, write, &count);
	size_t size = iov_size(iov, count);

	if (write) {
		block->metrics.write_count++;
		block->metrics.write_bytes += size;
		return BLK_S_OK;
	}
	*ret_written = (uint32_t)size;
	block->metrics.read_count++;
	block->metrics.read_bytes += size;
	return BLK_S_OK;
}

static uint8_t move(struct block *block, uint64_t offset, const struct virtqueue_chain *chain, bool write,
                    uint32_t *ret_written)
{
	int count;
	const struct iovec *iov = request_data(chain, write, &count);
	int ret = write ? disk_writev(block->disk, iov, count, offset)
	                : disk_readv(block->disk, iov, count, offset);

	return ret < 0 ? BLK_S_IOERR : moved(block, chain, write, ret_written);
}

static uint8_t do_transfer(struct block *block, const struct block_request_header *header,
                           const struct virtqueue_chain *chain, bool write, uint32_t *ret_written)
{
	int count;
	const struct iovec *iov = request_data(chain, write, &count);
	uint64_t offset;

	if (!data_offset(block, header->sector, iov_size(iov, count), &offset))
		return BLK_S_IOERR;
	return move(block, offset, chain, write, ret_written);
}

static uint8_t do_get_id(struct block *block, const struct virtqueue_chain *chain, uint32_t *ret_written)
{
	char id[ID_SIZE] = { 0 };

	memcpy(id, block->id, strnlen(block->id, sizeof(id)));
	*ret_written = (uint32_t)iov_from_buffer(chain->iov + chain->readable, chain->writable - 1, 0, id,
	                                         sizeof(id));
	return BLK_S_OK;
}

/* DISCARD and WRITE_ZEROES: a discarded range reads as zeros here, so both are one (5.2.6.2). */
static uint8_t do_discard(struct block *block, const struct virtqueue_chain *chain)
{
	size_t size = iov_size(chain->iov + 1, chain->readable - 1);

	if (!disk_writable(block->disk))
		return BLK_S_IOERR;
	if (size == 0 || size % sizeof(struct block_range) ||
	    size / sizeof(struct block_range) > DISCARD_RANGES)
		return BLK_S_UNSUPP;
	for (size_t at = 0; at < size; at += sizeof(struct block_range)) {
		struct block_range range;
		uint64_t offset;

		iov_to_buffer(chain->iov + 1, chain->readable - 1, at, &range, sizeof(range));
		if (range.sectors > DISCARD_MAX || !checked_mul(range.sector, SECTOR, &offset) ||
		    disk_discard(block->disk, offset, (uint64_t)range.sectors * SECTOR) < 0)
			return BLK_S_IOERR;
	}
	return BLK_S_OK;
}

static uint8_t do_request(struct block *block, const struct block_request_header *header,
                          const struct virtqueue_chain *chain, uint32_t *ret_written)
{
	switch ((enum block_request_type)header->type) {
	case BLK_T_IN:
	case BLK_T_OUT:
		return do_transfer(block, header, chain, header->type == BLK_T_OUT, ret_written);
	case BLK_T_FLUSH:
		block->metrics.flush_count++;
		return disk_flush(block->disk) < 0 ? BLK_S_IOERR : BLK_S_OK;
	case BLK_T_GET_ID:
		return do_get_id(block, chain, ret_written);
	case BLK_T_DISCARD:
	case BLK_T_WRITE_ZEROES:
		return do_discard(block, chain);
	default:
		return BLK_S_UNSUPP;
	}
}

/* A request has a readable header of its own and ends in one writable status byte of its own. */
static bool chain_is_request(const struct virtqueue_chain *chain)
{
	return chain->readable >= 1 && chain->writable >= 1 &&
	       chain->iov[0].iov_len == sizeof(struct block_request_header) &&
	       chain->iov[chain->readable + chain->writable - 1].iov_len == 1;
}

/* Data is what a request moves: all but its header and its status. */
static size_t chain_data(const struct virtqueue_chain *chain)
{
	return iov_size(chain->iov + 1, chain->readable + chain->writable - 2);
}

/* Return a request to the driver. */
static void finish(struct block *block, const struct virtqueue_chain *chain, uint8_t status, uint32_t written)
{
	block->metrics.execute_fails += status != BLK_S_OK;
	*(uint8_t *)chain->iov[chain->readable + chain->writable - 1].iov_base = status;
	virtqueue_push(&block->device, &block->device.queues[0], chain->head, written + 1);
}

/* --- the asynchronous engine --- */

static bool is_transfer(const struct block_request_header *header)
{
	return header->type == BLK_T_IN || header->type == BLK_T_OUT;
}

/* Whether a request cannot be begun before others are finished. *ret_io: what a read or write may take. */
static bool must_wait(struct block *block, const struct block_request_header *header,
                      struct block_io **ret_io)
{
	*ret_io = NULL;
	if (!block->async)
		return false;
	if (header->type == BLK_T_FLUSH && block_async_writes(block->async))
		return true;
	if (!is_transfer(header))
		return false;
	*ret_io = block_async_get(block->async);
	block->metrics.io_engine_throttled_events += !*ret_io;
	return !*ret_io;
}

/* Begin a read or write that can be done in the background. False: it cannot, `io` is to be put back. */
static bool start(struct block *block, const struct block_request_header *header,
                  const struct virtqueue_chain *chain, struct block_io *io)
{
	bool write = header->type == BLK_T_OUT;
	struct disk_extent extents[BLOCK_ASYNC_EXTENTS];
	int count;
	const struct iovec *iov = request_data(chain, write, &count);
	size_t size = iov_size(iov, count);
	int extent_count;

	if (size == 0 || !data_offset(block, header->sector, size, &io->offset))
		return false;
	if (write)
		extent_count = disk_map_write(block->disk, io->offset, size, extents) < 0 ? 0 : 1;
	else
		extent_count = disk_map_read(block->disk, io->offset, size, extents, BLOCK_ASYNC_EXTENTS);
	if (extent_count <= 0)
		return false;
	io->chain = *chain;
	io->write = write;
	block_async_start(block->async, io, iov, count, extents, extent_count);
	return true;
}

/* What the kernel did not do, or not wholly, is done anew, and fails for good if it must. */
static void on_done(void *context, struct block_io *io, bool ok)
{
	struct block *block = context;
	uint32_t written = 0;
	uint8_t status;

	if (block->dropping)
		return;
	status = ok ? moved(block, &io->chain, io->write, &written)
	            : move(block, io->offset, &io->chain, io->write, &written);
	finish(block, &io->chain, status, written);
}

/* Return what is finished; with `wait`, until nothing is in flight. */
static void reap(struct block *block, bool wait)
{
	struct virtqueue *queue = &block->device.queues[0];
	uint16_t first_used = queue->next_used;

	if (!block->async)
		return;
	block_async_reap(block->async, wait);
	virtqueue_notify(&block->device, queue, first_used);
}

static void on_ready(void *context)
{
	struct block *block = context;

	reap(block, false);
	if (!block->stalled)
		return;
	block->stalled = false;
	virtio_kick(&block->device, 0);
}

static void drop_in_flight(struct block *block)
{
	block->dropping = true;
	if (block->async)
		block_async_reap(block->async, true);
	block->dropping = false;
	block->stalled = false;
}

static void choose_engine(struct block *block, const struct block_config *config, struct loop *loop)
{
	struct error err;

	if (config->engine != BLOCK_ENGINE_ASYNC)
		return;
	block->async = block_async_new(loop, on_ready, on_done, block, &err);
	if (!block->async)
		log_warn("drive %s: %s; its requests are carried out one by one", config->id, err.message);
}

/* --- the queue --- */

/* Carry out a request and return it, or begin to. False: it has to wait, and is back in the queue. */
static bool answer(struct block *block, struct virtqueue *queue, const struct virtqueue_chain *chain)
{
	struct block_request_header header;
	struct block_io *io;
	uint32_t written = 0;
	uint8_t status;

	iov_to_buffer(chain->iov, 1, 0, &header, sizeof(header));
	if (must_wait(block, &header, &io)) {
		block->stalled = true;
		virtqueue_unpop(queue);
		return false;
	}
	if (!rate_limiter_take(&block->limiter, chain_data(chain))) {
		block->metrics.rate_limiter_throttled_events++;
		if (io)
			block_async_put(block->async, io);
		virtqueue_unpop(queue);
		return false;
	}
	if (io && start(block, &header, chain, io))
		return true;
	if (io)
		block_async_put(block->async, io);
	status = do_request(block, &header, chain, &written);
	finish(block, chain, status, written);
	return true;
}

static void take_requests(struct block *block, struct virtqueue *queue)
{
	struct virtio_device *device = &block->device;
	unsigned left = VIRTIO_BATCH;
	struct virtqueue_chain chain;

	do {
		while (left && virtqueue_pop(device, queue, &chain) > 0) {
			left--;
			if (!chain_is_request(&chain)) {
				block->metrics.invalid_reqs_count++;
				(void)virtio_break(device);
				return;
			}
			if (!answer(block, queue, &chain))
				return;
		}
	} while (left && !device->broken && virtqueue_enable_kick(device, queue));
	if (!left)
		virtio_kick_later(device, 0);
}

static void block_kick(struct virtio_device *device, unsigned index)
{
	struct block *block = block_of(device);
	struct virtqueue *queue = &device->queues[index];
	uint16_t first_used = queue->next_used;

	block->metrics.queue_event_count++;
	if (!block->stalled)
		take_requests(block, queue);
	if (block->async)
		block_async_submit(block->async);
	virtqueue_notify(device, queue, first_used);
}

static void on_tokens(void *context)
{
	virtio_kick(context, 0);
}

void block_set_limits(struct virtio_device *device, const struct token_bucket_config *bandwidth,
                      const struct token_bucket_config *ops)
{
	block_of(device)->metrics.update_count++;
	rate_limiter_update(&block_of(device)->limiter, bandwidth, ops);
}

static int open_disk(struct block *block, const struct block_config *config, struct error *err)
{
	struct disk *disk = disk_open(config->path, config->layers, config->layer_count, config->overlay_path,
	                              config->read_only, err);

	if (!disk)
		return -EIO;
	disk_close(block->disk);
	block->disk = disk;
	__atomic_store_n(&block->capacity, disk_size(disk) / SECTOR, __ATOMIC_RELAXED);
	return 0;
}

static int change_path(struct block *block, const char *path, struct error *err)
{
	struct block_config config = { .path = path, .read_only = block->read_only };
	int ret;

	if (block->layered)
		return error_set(err, EINVAL, "drive %s has layers: its image cannot be replaced", block->id);
	reap(block, true);
	/* What the driver may think durable is the old image's matter. */
	ret = disk_flush(block->disk);
	if (ret < 0)
		return error_errno(err, -ret, "flush drive %s", block->id);
	return open_disk(block, &config, err);
}

/* Its writes are all in the old stack; what comes goes to the new one. */
static int change_stack(struct block *block, const struct block_config *config, struct error *err)
{
	uint64_t capacity = block->capacity;
	int ret;

	if (!block->layered)
		return error_set(err, EINVAL, "drive %s has no layers that could be replaced", block->id);
	reap(block, true);
	ret = disk_flush(block->disk);
	if (ret < 0)
		return error_errno(err, -ret, "flush drive %s", block->id);
	ret = open_disk(block, config, err);
	if (ret == 0 && block->capacity != capacity)
		log_warn("drive %s has another size with its new layers", block->id);
	return ret;
}

static int finish_update(struct virtio_device *device, int ret)
{
	struct block *block = block_of(device);

	block->metrics.update_count += ret == 0;
	block->metrics.update_fails += ret < 0;
	if (ret == 0)
		virtio_config_changed(device);
	/* A flush may have waited for what is finished now. */
	block->stalled = false;
	virtio_kick(device, 0);
	return ret;
}

int block_set_path(struct virtio_device *device, const char *path, struct error *err)
{
	return finish_update(device, change_path(block_of(device), path, err));
}

int block_set_stack(struct virtio_device *device, const struct block_config *config, struct error *err)
{
	return finish_update(device, change_stack(block_of(device), config, err));
}

/* What is in flight ends now, so that nothing is written into memory that another driver has. */
static void block_reset(struct virtio_device *device)
{
	drop_in_flight(block_of(device));
}

static int block_quiesce(struct virtio_device *device, struct error *err)
{
	struct block *block = block_of(device);
	int ret;

	reap(block, true);
	block->stalled = false;
	ret = disk_flush(block->disk);
	return ret < 0 ? error_errno(err, -ret, "flush the disk") : 0;
}

static void block_free(struct virtio_device *device)
{
	struct block *block = block_of(device);

	drop_in_flight(block);
	block_async_free(block->async);
	rate_limiter_fini(&block->limiter);
	virtio_fini(device);
	disk_close(block->disk);
	free(block);
}

#define METRIC(counter)                                                                                      \
	{                                                                                                    \
#counter, offsetof(struct block, metrics.counter)                                            \
	}
static const struct virtio_metric block_metrics[] = {
	METRIC(queue_event_count),
	METRIC(invalid_reqs_count),
	METRIC(execute_fails),
	METRIC(flush_count),
	METRIC(read_count),
	METRIC(read_bytes),
	METRIC(write_count),
	METRIC(write_bytes),
	METRIC(rate_limiter_throttled_events),
	METRIC(io_engine_throttled_events),
	METRIC(update_count),
	METRIC(update_fails),
	{ 0 },
};

static const struct virtio_ops block_ops = {
	.name = "block",
	.id = VIRTIO_ID_BLOCK,
	.queue_count = 1,
	.features = block_features,
	.config_read = block_config_read,
	.kick = block_kick,
	.reset = block_reset,
	.quiesce = block_quiesce,
	.free = block_free,
	.metrics = block_metrics,
};

struct virtio_device *block_new(const struct block_config *config, const struct guest_memory *memory,
                                struct loop *loop, struct error *err)
{
	struct block *block = calloc(1, sizeof(*block));

	if (!block) {
		error_errno(err, ENOMEM, "make drive %s", config->id);
		return NULL;
	}
	(void)snprintf(block->id, sizeof(block->id), "%s", config->id);
	block->writeback = config->writeback;
	block->read_only = config->read_only;
	block->layered = config->layer_count || config->overlay_path;
	rate_limiter_init(&block->limiter, &config->limits, loop, on_tokens, block);
	if (open_disk(block, config, err) < 0) {
		free(block);
		return NULL;
	}
	block->writable = disk_writable(block->disk);
	if (virtio_init(&block->device, &block_ops, memory, loop, err) < 0) {
		block_free(&block->device);
		return NULL;
	}
	choose_engine(block, config, loop);
	return &block->device;
}
