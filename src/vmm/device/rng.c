/* virtio entropy device (virtio 1.2 section 5.4): fills the driver's buffers from the kernel's generator. */
#include <errno.h>
#include <stdlib.h>

#include "base/base.h"
#include "vmm/device/device.h"
#include "vmm/device/virtio_internal.h"
#include "vmm/device/virtqueue.h"

#define RNG_REQUEST_MAX (64 * 1024) /* bytes per request; a driver asks again for more */

static void rng_kick(struct virtio_device *device, unsigned index)
{
	struct virtqueue *queue = &device->queues[index];
	uint16_t first_used = queue->next_used;
	struct virtqueue_chain chain;

	do {
		while (virtqueue_pop(device, queue, &chain) > 0) {
			size_t done = 0;

			for (int i = chain.readable;
			     i < chain.readable + chain.writable && done < RNG_REQUEST_MAX; i++) {
				size_t size = chain.iov[i].iov_len;

				if (size > RNG_REQUEST_MAX - done)
					size = RNG_REQUEST_MAX - done;
				random_bytes(chain.iov[i].iov_base, size);
				done += size;
			}
			virtqueue_push(device, queue, chain.head, (uint32_t)done);
		}
	} while (!device->broken && virtqueue_enable_kick(device, queue));
	virtqueue_notify(device, queue, first_used);
}

static void rng_free(struct virtio_device *device)
{
	virtio_fini(device);
	free(device);
}

static const struct virtio_ops rng_ops = {
	.name = "rng",
	.id = VIRTIO_ID_RNG,
	.queue_count = 1,
	.kick = rng_kick,
	.free = rng_free,
};

struct virtio_device *rng_new(const struct guest_memory *memory, struct loop *loop, struct error *err)
{
	struct virtio_device *device = calloc(1, sizeof(*device));

	if (!device) {
		error_errno(err, ENOMEM, "make the entropy device");
		return NULL;
	}
	if (virtio_init(device, &rng_ops, memory, loop, err) < 0) {
		rng_free(device);
		return NULL;
	}
	return device;
}
