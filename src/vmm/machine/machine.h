/*
 * machine: one microVM, from a shell to its end. Owns memory, VM, vCPUs, devices and the device thread.
 *
 * A machine starts as a shell: VM, interrupt chip and vCPUs exist, their threads wait. It is then either
 * booted from a configuration or restored from a snapshot, once. All functions are called from one thread
 * (the machine API's) but machine_end_fd's descriptor, which anyone may poll.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "vmm/device/device.h"
#include "vmm/layout.h"
#include "vmm/mmds/mmds.h"
#include "vmm/snapshot/snapshot.h"

#define MACHINE_DRIVES_MAX 8
#define MACHINE_NETS_MAX   8

/* Strings are borrowed during the call. Names as in Firecracker's API. */
struct machine_config {
	unsigned vcpu_count;   /* 1 to LAYOUT_VCPUS_MAX */
	uint64_t mem_size_mib; /* 128 to 32768 */
	const char *kernel_image_path;
	const char *initrd_path; /* NULL: none */
	const char *boot_args;
	bool track_dirty_pages; /* for diff snapshots of what was written since the last one */
	bool huge_pages;        /* transparent ones */
	bool boot_timer;        /* log when the guest says that it is up */
	struct block_config drives[MACHINE_DRIVES_MAX]; /* the root device first */
	unsigned drive_count;
	bool has_root_drive;       /* drives[0] */
	const char *root_partuuid; /* of the root partition; NULL: the whole drive */
	struct net_config nets[MACHINE_NETS_MAX];
	unsigned net_count;
	bool has_balloon;
	struct balloon_config balloon;
	struct vsock_config vsock; /* guest_cid 0: none */
	struct mmds *mmds;         /* borrowed for the machine's life; NULL: none */
	struct mmds_config metadata;
	bool metadata_on[MACHINE_NETS_MAX]; /* by interface: it reaches the metadata service */
	bool entropy;
	struct rate_limiter_config entropy_limits;
	const char *serial_out_path; /* NULL: standard output */
	struct token_bucket_config serial_limit;
};

enum machine_state {
	MACHINE_NOT_STARTED,
	MACHINE_RUNNING,
	MACHINE_PAUSED,
};

struct machine;

/*
 * Make a shell with `vcpu_count` vCPUs; 0 = as many as the configuration says, made then. `seccomp`: its
 * threads hold themselves to their roles (vmm/seccomp). NULL with `err`.
 */
struct machine *machine_new(unsigned vcpu_count, bool seccomp, struct error *err);

enum machine_state machine_state(const struct machine *machine);

/* Load kernel and devices and run. A failure leaves a machine that can only be freed. 0, or -errno. */
int machine_boot(struct machine *machine, const struct machine_config *config, struct error *err);

/* What a restore needs beside the state file. */
struct machine_load {
	struct image_config image;
	const char *working_set_path; /* pages to map ahead, or NULL */
	bool track_dirty_pages;
	bool clock_realtime; /* the guest's clock jumps to now, rather than going on */
};

/*
 * Map the memory, restore vCPUs and devices from the snapshot; the machine is paused then. `config` is the
 * snapshot's own with its paths overridden. A failure leaves a machine that can only be freed.
 */
int machine_restore(struct machine *machine, const struct machine_config *config,
                    const struct snapshot_reader *snapshot, const struct machine_load *load,
                    struct error *err);

/* Stop and continue vCPUs and devices. Both are idempotent. */
int machine_pause(struct machine *machine, struct error *err);
int machine_resume(struct machine *machine, struct error *err);

/* Add the sections of a paused machine (all but SNAPSHOT_CONFIG) to `writer`. */
int machine_save(struct machine *machine, struct snapshot_writer *writer, struct error *err);

/*
 * Write the memory of a machine that was just saved: in full, or as a layer of the pages that were written
 * since it was loaded (with track_dirty_pages: since the last snapshot).
 */
int machine_save_memory(struct machine *machine, const char *path, bool diff, struct error *err);

/* Record the pages that were touched since the machine was loaded: machine_load's working_set_path for the
 * next. */
int machine_record_working_set(struct machine *machine, const char *path, struct error *err);

/* --- devices, while it runs --- */

/* Called on the device thread, which alone touches devices. */
typedef int machine_device_fn(struct virtio_device *device, void *context, struct error *err);
typedef void machine_visit_fn(struct virtio_device *device, const char *id, void *context);

/* Let `function` change the device of that kind and id (NULL: the only one). -ENOENT when there is none. */
int machine_call_device(struct machine *machine, enum virtio_id kind, const char *id,
                        machine_device_fn *function, void *context, struct error *err);

/* Press Ctrl-Alt-Del at the guest's keyboard. 0; -EINVAL, or -EBUSY while it does not read, with `err`. */
int machine_send_ctrl_alt_del(struct machine *machine, struct error *err);

/* Show all devices to `function`, in their order. */
void machine_visit_devices(struct machine *machine, machine_visit_fn *function, void *context);

/* What a machine has counted since its start, beside its devices. Names as in Firecracker's metrics. */
struct machine_counters {
	uint64_t exit_io_in;
	uint64_t exit_io_out;
	uint64_t exit_mmio_read;
	uint64_t exit_mmio_write;
	uint64_t failures;
	uint64_t uart_write_count;
	uint64_t uart_dropped_bytes;
};

void machine_count(struct machine *machine, struct machine_counters *ret);

/* --- the end --- */

/*
 * Becomes readable when the guest ended by itself: reset, shutdown or failure. machine_failure then tells of
 * the latter: 0, or a negative errno with `err`.
 */
int machine_end_fd(const struct machine *machine);
int machine_failure(struct machine *machine, struct error *err);

/* Log what each step of boot or restore took, in microseconds. */
void machine_trace(struct machine *machine, bool on);

/* Stop everything, flush disks and free. */
void machine_free(struct machine *machine);
