/* What the files of the machine share. Private to machine/. */
#pragma once

#include <pthread.h>

#include "base/base.h"
#include "vmm/kvm/kvm.h"
#include "vmm/machine/generation.h"
#include "vmm/machine/machine.h"

struct machine_device {
	struct virtio_device *device;
	struct net_peer *peer; /* of a network interface that reaches the metadata service */
	char id[64];           /* in Firecracker's API; "" where a machine has at most one such */
};

struct machine {
	enum machine_state state;
	struct image *image;
	bool memory_file; /* a file stands behind the memory */
	struct guest_memory memory;
	struct vm vm;
	struct vcpu vcpus[LAYOUT_VCPUS_MAX];
	unsigned vcpu_count;
	struct loop *loop;
	pthread_t loop_thread;
	bool loop_started;
	bool seccomp; /* threads install filters */
	struct machine_device devices[LAYOUT_DEVICES_MAX];
	unsigned device_count;
	struct serial *serial;
	struct i8042 *keyboard;
	struct generation generation;
	struct vcpu_handler handler;
	struct buffer command_line;
	int end;              /* eventfd: the guest ended by itself */
	pthread_mutex_t lock; /* guards what follows: vCPUs end on their own threads */
	struct error failure;
	bool trace;
	int64_t traced;     /* when the last step ended, microseconds */
	int64_t started_us; /* when the machine was told to start; for the boot timer */
	bool boot_timer;
};

/* --- memory.c --- */

/* Map the memory and tell KVM of it. */
int machine_map_memory(struct machine *machine, const struct image_config *config, bool track_dirty,
                       struct error *err);
void machine_unmap_memory(struct machine *machine);

/* --- devices.c --- */

/*
 * Make the devices that the configuration names, on the device thread, which alone touches them, and fill
 * them from the snapshot when there is one.
 */
int machine_attach_devices(struct machine *machine, const struct machine_config *config,
                           const struct snapshot_reader *snapshot, struct error *err);

/* Exits of vCPUs that go to a device's window. */
void machine_mmio(void *context, uint64_t gpa, bool write, void *data, unsigned size);

void machine_free_devices(struct machine *machine);
