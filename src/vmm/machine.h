/*
 * machine: one microVM, from its configuration to its end. Owns memory, VM, vCPUs, devices and the device
 * thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "vmm/device/device.h"
#include "vmm/layout.h"

#define MACHINE_DRIVES_MAX 8

/* Strings are borrowed and must outlive the machine. Names as in Firecracker's API. */
struct machine_config {
	unsigned vcpu_count;   /* 1 to LAYOUT_VCPUS_MAX */
	uint64_t mem_size_mib; /* 128 to 32768 */
	const char *kernel_image_path;
	const char *initrd_path; /* NULL: none */
	const char *boot_args;
	struct block_config drives[MACHINE_DRIVES_MAX];
	unsigned drive_count;
	bool entropy;
	const char *serial_out_path; /* NULL: standard output */
};

struct machine;

/* Make a machine ready to run: everything is opened, loaded and connected. NULL with `err`. */
struct machine *machine_new(const struct machine_config *config, struct error *err);

/* Start the vCPUs and run devices on the calling thread until the guest ends or machine_stop. 0, or -errno.
 */
int machine_run(struct machine *machine, struct error *err);

/* End machine_run; from any thread or a signal handler. */
void machine_stop(struct machine *machine);

/* Flush disks and free everything. */
void machine_free(struct machine *machine);
