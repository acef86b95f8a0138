/*
 * virtqueue: the device's side of a split virtqueue (virtio 1.2 section 2.7), with EVENT_IDX (2.7.10).
 *
 * Rings and buffers lie in guest memory and may change under us at any time: every field is read once,
 * checked, and used from our copy. A driver that breaks the rules gets its device marked broken, never a
 * stray access.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "vmm/device/virtio.h"

#define VIRTQUEUE_CHAIN_MAX 130 /* buffers per request: a header, 128 data segments, a status byte */

/* One request: the driver's buffers as host memory, device-readable ones first (2.7.4.2). */
struct virtqueue_chain {
	uint16_t head; /* for virtqueue_push */
	int readable;  /* entries of iov that we may read */
	int writable;  /* and, behind those, that we may write */
	struct iovec iov[VIRTQUEUE_CHAIN_MAX];
};

/* Check that the rings lie in guest memory, aligned as 2.7 wants. */
bool virtqueue_valid(const struct virtio_device *device, const struct virtqueue *queue);

/* Take the next request. 1 = taken, 0 = none, -EINVAL = the driver broke the rules (the device is broken
 * now). */
int virtqueue_pop(struct virtio_device *device, struct virtqueue *queue, struct virtqueue_chain *chain);

/* Give back the request that was taken last, as if it had not been. */
void virtqueue_unpop(struct virtqueue *queue);

/* Return a request with `written` bytes in its writable buffers. The driver is told by virtqueue_notify. */
void virtqueue_push(struct virtio_device *device, struct virtqueue *queue, uint16_t head, uint32_t written);

/* One returned request: as the used ring has it (2.7.8). */
struct virtqueue_used {
	uint32_t head;
	uint32_t written;
};

/*
 * Return several requests at once: the driver sees all of them or none, as the buffers of one packet demand
 * (5.1.6.4). At most as many as the queue has entries.
 */
void virtqueue_push_all(struct virtio_device *device, struct virtqueue *queue,
                        const struct virtqueue_used *elements, unsigned count);

/* Interrupt the driver if it wants to hear of what was pushed since `first_used` (a value of
 * queue->next_used). */
void virtqueue_notify(struct virtio_device *device, struct virtqueue *queue, uint16_t first_used);

/* Ask for a kick at the next new request. True when requests came meanwhile: look again. */
bool virtqueue_enable_kick(struct virtio_device *device, struct virtqueue *queue);

/* Requests that wait to be taken; and: ask for a kick at the next request after all of these. */
uint16_t virtqueue_waiting(const struct virtio_device *device, const struct virtqueue *queue);
void virtqueue_enable_kick_beyond(struct virtio_device *device, struct virtqueue *queue);

/*
 * The part of `iov` that lies in [skip, skip + size), at most VIRTQUEUE_CHAIN_MAX buffers: returns how many
 * of `to` it takes.
 */
int iov_slice(const struct iovec *iov, int count, size_t skip, size_t size,
              struct iovec to[VIRTQUEUE_CHAIN_MAX]);

/* Sizes of buffers, and copies from and to them. */
size_t iov_size(const struct iovec *iov, int count);
size_t iov_to_buffer(const struct iovec *iov, int count, size_t offset, void *data, size_t size);
size_t iov_from_buffer(const struct iovec *iov, int count, size_t offset, const void *data, size_t size);
