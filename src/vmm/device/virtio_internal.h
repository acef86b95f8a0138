/* What the transport offers the queue code and the models. Private to vmm/device. */
#pragma once

#include "vmm/device/virtio.h"

#define VIRTIO_F_EVENT_IDX (1ull << 29)
#define VIRTIO_F_VERSION_1 (1ull << 32)

enum virtio_interrupt_reason {
	VIRTIO_INTERRUPT_RING = 1,   /* a used buffer */
	VIRTIO_INTERRUPT_CONFIG = 2, /* the configuration changed, or the device needs a reset */
};

/* Requests that a model takes of a queue in one go; for the rest there is virtio_kick_later. */
#define VIRTIO_BATCH 256

/* Raise the device's interrupt (4.2.2: InterruptStatus). */
void virtio_interrupt(struct virtio_device *device, enum virtio_interrupt_reason reason);

/* Look at a queue again, as if it had been kicked, unless the device is at rest. On the device loop. */
void virtio_kick(struct virtio_device *device, unsigned index);

/* The same, but only when the loop comes round again: so that one queue with much to do lets others in. */
void virtio_kick_later(struct virtio_device *device, unsigned index);

/* The configuration space has changed: a new generation (2.5), and the driver is told if there is one. On the
 * device loop. */
void virtio_config_changed(struct virtio_device *device);

/* The driver broke the rules: set DEVICE_NEEDS_RESET (2.1.2) and look at its queues no more. Returns -EINVAL.
 */
int virtio_break(struct virtio_device *device);
