/*
 * virtio: a virtio 1.2 device behind the memory-mapped transport (section 4.2, version 2, modern only), with
 * split virtqueues (2.7).
 *
 * A device model (block, vsock, rng) embeds a struct virtio_device and gives its operations. The monitor's
 * core owns address space and interrupts: it calls virtio_mmio_read/_write from vCPU threads for every access
 * in the device's window except QueueNotify, which KVM turns into a write to the queue's `kick` eventfd, and
 * it connects `irq` to a GSI by irqfd. Transport registers are guarded by `lock`; queue processing happens on
 * the device loop only.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"
#include "vmm/device/loop.h"
#include "vmm/memory.h"

#define VIRTIO_MMIO_WINDOW       0x1000 /* bytes of guest-physical space per device */
#define VIRTIO_MMIO_QUEUE_NOTIFY 0x050  /* ioeventfd goes here, 4 bytes, datamatch = queue index */
#define VIRTIO_QUEUES_MAX        5      /* the balloon's, with all its features */
#define VIRTIO_QUEUE_SIZE        256

enum virtio_id {
	VIRTIO_ID_NET = 1,
	VIRTIO_ID_BLOCK = 2,
	VIRTIO_ID_RNG = 4,
	VIRTIO_ID_BALLOON = 5,
	VIRTIO_ID_VSOCK = 19,
};

/* One split virtqueue. The fields down to `ready` are what the driver set; the indices are ours. */
struct virtqueue {
	uint16_t size; /* entries, a power of two up to VIRTIO_QUEUE_SIZE */
	bool ready;
	uint64_t desc; /* guest-physical addresses of the three areas */
	uint64_t avail;
	uint64_t used;
	uint16_t next_avail;
	uint16_t next_used;
	int kick; /* eventfd: the driver has new buffers */
	struct loop_source *source;
};

/* "block", for messages. */
const char *virtio_kind_name(enum virtio_id id);

struct virtio_device;

/* A counter of a model: its name in Firecracker's metrics, and where in the model it lies (a uint64_t). */
struct virtio_metric {
	const char *name;
	size_t offset;
};

struct virtio_ops {
	const char *name;
	enum virtio_id id;
	unsigned queue_count;
	/* Device features beyond VIRTIO_F_VERSION_1 and RING_EVENT_IDX, which the transport offers by itself.
	 */
	uint64_t (*features)(struct virtio_device *device);
	/* Configuration space (4.2.2: offset from 0x100). Reads beyond its end give zeros. NULL: none. */
	void (*config_read)(struct virtio_device *device, uint32_t offset, void *data, unsigned size);
	void (*config_write)(struct virtio_device *device, uint32_t offset, const void *data, unsigned size);
	/* DRIVER_OK was written: rings are valid. On the device loop. */
	void (*activate)(struct virtio_device *device);
	/* Status 0 was written: forget all driver state, finish or drop I/O. On the device loop. */
	void (*reset)(struct virtio_device *device);
	/* The driver kicked queue `index`. On the device loop. */
	void (*kick)(struct virtio_device *device, unsigned index);
	/* Bring the device to rest so that its state is all in queues and `save` (drain I/O). On the device
	 * loop. */
	int (*quiesce)(struct virtio_device *device, struct error *err);
	/* After a restore and after a resume: look at every queue again, raise what is pending. On the device
	 * loop. */
	void (*resume)(struct virtio_device *device);
	/* The model's own state as bytes, and back. NULL: none. `restore` treats its input as hostile. */
	int (*save)(struct virtio_device *device, struct buffer *to, struct error *err);
	int (*restore)(struct virtio_device *device, const void *data, size_t size, struct error *err);
	void (*free)(struct virtio_device *device);
	/* Counters, ended by a NULL name; written on the device loop only. NULL: none. */
	const struct virtio_metric *metrics;
};

struct virtio_device {
	const struct virtio_ops *ops;
	const struct guest_memory *memory; /* valid before the first register access */
	struct loop *loop;
	pthread_mutex_t lock;
	struct virtqueue queues[VIRTIO_QUEUES_MAX];
	int irq; /* eventfd behind the device's GSI */
	uint32_t status;
	uint32_t interrupt_status;
	uint32_t features_select;
	uint32_t driver_features_select;
	uint32_t queue_select;
	uint32_t config_generation;
	uint64_t driver_features;
	bool active; /* DRIVER_OK and not reset */
	bool paused; /* kicks wait for the resume */
	bool broken; /* the driver broke the rules: NEEDS_RESET is set, queues are not looked at */
};

/* Init common state: eventfds, lock, loop sources. 0 or a negative errno. */
int virtio_init(struct virtio_device *device, const struct virtio_ops *ops, const struct guest_memory *memory,
                struct loop *loop, struct error *err);
void virtio_fini(struct virtio_device *device);

/* Register access from a vCPU thread; `offset` within the window, `size` 1, 2, 4 or 8. Unknown registers read
 * as 0. */
void virtio_mmio_read(struct virtio_device *device, uint32_t offset, void *data, unsigned size);
void virtio_mmio_write(struct virtio_device *device, uint32_t offset, const void *data, unsigned size);

/* Stop looking at queues and bring the device to rest; go on. Any thread. */
int virtio_pause(struct virtio_device *device, struct error *err);
void virtio_resume(struct virtio_device *device);

/*
 * Transport, queues and model state of a paused device as bytes appended to `to`; and the same into a device
 * that was made with the same configuration. Bad bytes give -EINVAL with `err`, and leave the device
 * inactive.
 */
int virtio_save(struct virtio_device *device, struct buffer *to, struct error *err);
int virtio_restore(struct virtio_device *device, const void *data, size_t size, struct error *err);
