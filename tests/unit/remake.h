/* Making a device anew from its saved state, and restoring into one: on the loop's thread, which alone
 * touches devices. */
#pragma once

#include "vmm/device/device.h"
#include "vmm/device/loop.h"

struct remake {
	struct loop *loop;
	struct virtio_device **device;
	void (*make)(void *fixture); /* puts a fresh one into *device */
	void *fixture;
	struct buffer saved;
	int ret;
};

static inline void remake_restore_on_loop(void *context)
{
	struct remake *remake = context;
	struct error err;

	remake->ret = virtio_restore(*remake->device, remake->saved.data, remake->saved.size, &err);
}

static inline void remake_on_loop(void *context)
{
	struct remake *remake = context;
	struct error err;

	remake->ret = virtio_save(*remake->device, &remake->saved, &err);
	virtio_free(*remake->device);
	remake->make(remake->fixture);
	if (remake->ret == 0)
		remake_restore_on_loop(remake);
}

/* Save the device, free it, make another and restore that. What was saved stays in `saved`. 0 or -errno. */
static inline int remake_device(struct remake *remake)
{
	loop_call(remake->loop, remake_on_loop, remake);
	return remake->ret;
}

/* Restore what is in `saved` into the device. 0 or -errno. */
static inline int remake_restore(struct remake *remake)
{
	loop_call(remake->loop, remake_restore_on_loop, remake);
	return remake->ret;
}
