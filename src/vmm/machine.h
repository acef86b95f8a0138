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
#include "vmm/snapshot/snapshot.h"

#define MACHINE_DRIVES_MAX 8

/* Strings are borrowed during the call. Names as in Firecracker's API. */
struct machine_config {
	unsigned vcpu_count;   /* 1 to LAYOUT_VCPUS_MAX */
	uint64_t mem_size_mib; /* 128 to 32768 */
	const char *kernel_image_path;
	const char *initrd_path; /* NULL: none */
	const char *boot_args;
	struct block_config drives[MACHINE_DRIVES_MAX];
	unsigned drive_count;
	struct vsock_config vsock; /* guest_cid 0: none */
	bool entropy;
	const char *serial_out_path; /* NULL: standard output */
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

/*
 * Map the memory file, restore vCPUs and devices from the snapshot; the machine is paused then. `config` is
 * the snapshot's own with its paths overridden. A failure leaves a machine that can only be freed.
 */
int machine_restore(struct machine *machine, const struct machine_config *config,
                    const struct snapshot_reader *snapshot, const char *memory_path, struct error *err);

/* Stop and continue vCPUs and devices. Both are idempotent. */
int machine_pause(struct machine *machine, struct error *err);
int machine_resume(struct machine *machine, struct error *err);

/* Add the sections of a paused machine (all but SNAPSHOT_CONFIG) to `writer`, and write its memory file. */
int machine_save(struct machine *machine, struct snapshot_writer *writer, const char *memory_path,
                 struct error *err);

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
