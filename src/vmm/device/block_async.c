#include "vmm/device/block_async.h"

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/base.h"

#define SUBMISSIONS 64 /* collected before they go to the kernel at the latest */
#define RETRY_US    1000

/* What the kernel carries for us: the request, and in the low bits which of its extents. */
#define TAG_EXTENT (BLOCK_ASYNC_EXTENTS - 1u)
_Static_assert((BLOCK_ASYNC_EXTENTS & TAG_EXTENT) == 0 && BLOCK_ASYNC_EXTENTS <= _Alignof(struct block_io),
               "extents are told apart by the low bits of a pointer");

struct block_async {
	struct io_uring ring;
	bool has_ring;
	int event; /* eventfd: something is finished */
	struct loop_source *source;
	void (*ready)(void *context);
	block_async_done_fn *done;
	void *context;
	unsigned in_flight; /* requests */
	unsigned writes;
	struct block_io *free;
	struct block_io requests[BLOCK_ASYNC_REQUESTS];
};

static void on_event(void *context, uint32_t events)
{
	struct block_async *async = context;
	uint64_t count;

	(void)events;
	if (read(async->event, &count, sizeof(count)) < 0)
		return;
	async->ready(async->context);
}

/* A filter may let us make a ring and then not use it: try. */
static int try_ring(struct block_async *async)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&async->ring);
	struct io_uring_cqe *cqe;
	int ret;

	io_uring_prep_nop(sqe);
	ret = io_uring_submit_and_wait(&async->ring, 1);
	if (ret >= 0)
		ret = io_uring_peek_cqe(&async->ring, &cqe);
	if (ret == 0)
		io_uring_cqe_seen(&async->ring, cqe);
	return ret;
}

static int make_ring(struct block_async *async)
{
	/* Whatever may be in flight has room when it is finished. */
	struct io_uring_params params = { .flags = IORING_SETUP_CQSIZE,
		                          .cq_entries = BLOCK_ASYNC_REQUESTS * BLOCK_ASYNC_EXTENTS };
	int ret = io_uring_queue_init_params(SUBMISSIONS, &async->ring, &params);

	if (ret < 0)
		return ret;
	async->has_ring = true;
	ret = try_ring(async);
	if (ret < 0)
		return ret;
	async->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return async->event < 0 ? -errno : io_uring_register_eventfd(&async->ring, async->event);
}

struct block_async *block_async_new(struct loop *loop, void (*ready)(void *context),
                                    block_async_done_fn *done, void *context, struct error *err)
{
	struct block_async *async = calloc(1, sizeof(*async));
	int ret;

	if (!async) {
		error_errno(err, ENOMEM, "make an asynchronous disk");
		return NULL;
	}
	async->event = -1;
	async->ready = ready;
	async->done = done;
	async->context = context;
	for (unsigned i = 0; i < BLOCK_ASYNC_REQUESTS; i++)
		block_async_put(async, &async->requests[i]);
	ret = make_ring(async);
	if (ret < 0)
		error_errno(err, -ret, "use io_uring");
	else
		async->source = loop_watch(loop, async->event, EPOLLIN, on_event, async, err);
	if (!async->source) {
		block_async_free(async);
		return NULL;
	}
	return async;
}

void block_async_free(struct block_async *async)
{
	if (!async)
		return;
	loop_unwatch(async->source);
	if (async->has_ring)
		io_uring_queue_exit(&async->ring);
	if (async->event >= 0)
		close(async->event);
	free(async);
}

struct block_io *block_async_get(struct block_async *async)
{
	struct block_io *io = async->free;

	if (io)
		async->free = io->next_free;
	return io;
}

void block_async_put(struct block_async *async, struct block_io *io)
{
	io->next_free = async->free;
	async->free = io;
}

/*
 * Hand all to the kernel. Memory it may lack for a while; any other refusal cannot be undone, as requests
 * would lie in the ring, ready to write into a guest that has forgotten them.
 */
void block_async_submit(struct block_async *async)
{
	while (io_uring_sq_ready(&async->ring)) {
		int ret = io_uring_submit(&async->ring);

		if (ret >= 0 || ret == -EINTR)
			continue;
		if (ret != -EAGAIN && ret != -EBUSY && ret != -ENOMEM) {
			log_error("io_uring takes no requests any more: %s", strerror(-ret));
			abort();
		}
		(void)usleep(RETRY_US);
	}
}

static struct io_uring_sqe *next_sqe(struct block_async *async)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&async->ring);

	if (!sqe) {
		block_async_submit(async);
		sqe = io_uring_get_sqe(&async->ring);
	}
	return sqe;
}

void block_async_start(struct block_async *async, struct block_io *io, const struct iovec *iov, int count,
                       const struct disk_extent *extents, int extent_count)
{
	struct iovec *parts = io->parts;
	size_t skip = 0;

	io->failed = false;
	io->pending = (unsigned)extent_count;
	async->in_flight++;
	async->writes += io->write;
	for (int i = 0; i < extent_count; i++) {
		const struct disk_extent *extent = &extents[i];
		struct iovec slice[VIRTQUEUE_CHAIN_MAX];
		int used = iov_slice(iov, count, skip, extent->length, slice);
		struct io_uring_sqe *sqe = next_sqe(async);

		memcpy(parts, slice, (size_t)used * sizeof(slice[0]));
		if (io->write)
			io_uring_prep_writev(sqe, extent->fd, parts, (unsigned)used, extent->offset);
		else
			io_uring_prep_readv(sqe, extent->fd, parts, (unsigned)used, extent->offset);
		io_uring_sqe_set_data64(sqe, (uintptr_t)io | (unsigned)i);
		io->lengths[i] = extent->length;
		parts += used;
		skip += extent->length;
	}
}

static void take_completion(struct block_async *async, uint64_t tag, int result)
{
	struct block_io *io = (struct block_io *)(uintptr_t)(tag & ~(uint64_t)TAG_EXTENT);

	if (result < 0 || (uint64_t)result != io->lengths[tag & TAG_EXTENT])
		io->failed = true;
	if (--io->pending)
		return;
	async->in_flight--;
	async->writes -= io->write;
	async->done(async->context, io, !io->failed);
	block_async_put(async, io);
}

void block_async_reap(struct block_async *async, bool wait)
{
	block_async_submit(async);
	for (;;) {
		struct io_uring_cqe *cqe;
		uint64_t tag;
		int result;
		int ret = wait && async->in_flight ? io_uring_wait_cqe(&async->ring, &cqe)
		                                   : io_uring_peek_cqe(&async->ring, &cqe);

		if (ret == -EINTR)
			continue;
		if (ret == -EAGAIN)
			return;
		if (ret < 0) {
			log_error("io_uring answers no requests any more: %s", strerror(-ret));
			abort();
		}
		tag = io_uring_cqe_get_data64(cqe);
		result = cqe->res;
		io_uring_cqe_seen(&async->ring, cqe);
		take_completion(async, tag, result);
	}
}

unsigned block_async_writes(const struct block_async *async)
{
	return async->writes;
}
