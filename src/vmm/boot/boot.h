/*
 * boot: from a kernel image to guest memory that a vCPU can start in, as Linux's 64-bit boot protocol wants
 * it (Documentation/x86/boot.rst). Opens the folder. The image is hostile: every number in it is checked.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "vmm/memory.h"

/*
 * Load an uncompressed ELF kernel (vmlinux): its PT_LOAD segments go to their physical addresses. *ret_entry
 * gets the physical entry point of the 64-bit protocol. 0, -ENOEXEC for what is no such kernel, -errno.
 */
int boot_load_elf(const char *path, const struct guest_memory *memory, uint64_t *ret_entry,
                  struct error *err);

/* Put an initial RAM disk at the top of low memory. Its place comes back in *ret_gpa and *ret_size. */
int boot_load_initrd(const char *path, const struct guest_memory *memory, uint64_t *ret_gpa,
                     uint64_t *ret_size, struct error *err);

struct boot_parameters {
	const char *command_line;
	uint64_t initrd_gpa; /* 0: none */
	uint64_t initrd_size;
};

/* Write zero page, e820 map, command line, page tables and GDT. */
int boot_write_parameters(const struct guest_memory *memory, const struct boot_parameters *parameters,
                          struct error *err);

/* Write the MP table (MultiProcessor Specification 1.4): `vcpus` processors, one IOAPIC, ISA interrupts one
 * to one. */
int boot_write_mptable(const struct guest_memory *memory, unsigned vcpus, struct error *err);

/*
 * Write ACPI tables (ACPI 6.5) at LAYOUT_ACPI, where guests look for them: `vcpus` processors, the IOAPIC,
 * serial port, keyboard and `devices` virtio windows with their interrupts. A kernel that is told acpi=off
 * uses the MP table and its command line instead.
 */
int boot_write_acpi(const struct guest_memory *memory, unsigned vcpus, unsigned devices, struct error *err);
