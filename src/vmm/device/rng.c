/* virtio entropy device (virtio 1.2 section 5.4): fills the driver's buffers from the kernel's generator. */
#include <errno.h>
#include <stdlib.h>

#include "base/base.h"
#include "vmm/device/device.h"
#include "vmm/device/virtio_internal.h"
#include "vmm/device/virtqueue.h"

#define RNG_REQUEST_MAX   (64 * 1024) /* bytes per request; a driver asks again for more */
#define REQUESTS_PER_KICK 16          /* of up to 64 KiB each: then others have their turn */

struct rng {
	struct virtio_device device;
	struct rate_limiter limiter;
	struct rng_metrics {
		uint64_t entropy_event_count;
		uint64_t entropy_event_fails;
		uint64_t entropy_bytes;
		uint64_t entropy_rate_limiter_throttled;
	} metrics;
};

static struct rng *rng_of(struct virtio_device *device)
{
	return (struct rng *)device;
}

/* Fill the writable buffers of a request, up to the limit of one. */
static size_t fill(const struct virtqueue_chain *chain)
{
	size_t done = 0;

	for (int i = chain->readable; i < chain->readable + chain->writable && done < RNG_REQUEST_MAX; i++) {
		size_t size = chain->iov[i].iov_len;

		if (size > RNG_REQUEST_MAX - done)
			size = RNG_REQUEST_MAX - done;
		random_bytes(chain->iov[i].iov_base, size);
		done += size;
	}
	return done;
}

/* False: the limit is reached, and the request back in the queue. */
static bool answer(struct rng *rng, struct virtqueue *queue, const struct virtqueue_chain *chain)
{
	size_t size = iov_size(chain->iov + chain->readable, chain->writable);

	if (!rate_limiter_take(&rng->limiter, size < RNG_REQUEST_MAX ? size : RNG_REQUEST_MAX)) {
		rng->metrics.entropy_rate_limiter_throttled++;
		virtqueue_unpop(queue);
		return false;
	}
	size = fill(chain);
	rng->metrics.entropy_event_count++;
	rng->metrics.entropy_bytes += size;
	virtqueue_push(&rng->device, queue, chain->head, (uint32_t)size);
	return true;
}

static void rng_kick(struct virtio_device *device, unsigned index)
{
	struct rng *rng = rng_of(device);
	struct virtqueue *queue = &device->queues[index];
	uint16_t first_used = queue->next_used;
	unsigned left = REQUESTS_PER_KICK;
	struct virtqueue_chain chain;

	do {
		while (left && virtqueue_pop(device, queue, &chain) > 0 && answer(rng, queue, &chain))
			left--;
	} while (left && !device->broken && !rng->limiter.waiting && virtqueue_enable_kick(device, queue));
	if (!left)
		virtio_kick_later(device, index);
	rng->metrics.entropy_event_fails += device->broken;
	virtqueue_notify(device, queue, first_used);
}

static void on_tokens(void *context)
{
	virtio_kick(context, 0);
}

static void rng_free(struct virtio_device *device)
{
	rate_limiter_fini(&rng_of(device)->limiter);
	virtio_fini(device);
	free(rng_of(device));
}

#define METRIC(counter)                                                                                      \
	{                                                                                                    \
#counter, offsetof(struct rng, metrics.counter)                                              \
	}
static const struct virtio_metric rng_metrics[] = {
	METRIC(entropy_event_count),
	METRIC(entropy_event_fails),
	METRIC(entropy_bytes),
	METRIC(entropy_rate_limiter_throttled),
	{ 0 },
};

static const struct virtio_ops rng_ops = {
	.name = "rng",
	.id = VIRTIO_ID_RNG,
	.queue_count = 1,
	.kick = rng_kick,
	.free = rng_free,
	.metrics = rng_metrics,
};

struct virtio_device *rng_new(const struct rate_limiter_config *limits, const struct guest_memory *memory,
                              struct loop *loop, struct error *err)
{
	struct rng *rng = calloc(1, sizeof(*rng));
	struct virtio_device *device = rng ? &rng->device : NULL;

	if (!rng) {
		error_errno(err, ENOMEM, "make the entropy device");
		return NULL;
	}
	rate_limiter_init(&rng->limiter, limits, loop, on_tokens, rng);
	if (virtio_init(device, &rng_ops, memory, loop, err) < 0) {
		rng_free(device);
		return NULL;
	}
	return device;
}
