/*
 * layout: where things lie in the guest's physical address space and which interrupts devices have. Snapshots
 * depend on it: a change needs a new snapshot version.
 */
#pragma once

#define LAYOUT_GDT             0x500
#define LAYOUT_ZERO_PAGE       0x7000 /* struct boot_params */
#define LAYOUT_STACK           0x8ff0
#define LAYOUT_PML4            0x9000 /* three pages: PML4, PDPT, PD */
#define LAYOUT_CMDLINE         0x20000
#define LAYOUT_CMDLINE_MAX     2048    /* bytes with the NUL */
#define LAYOUT_LOW_END         0x9fc00 /* conventional memory ends; MP table above */
#define LAYOUT_MPTABLE         0x9fc00
#define LAYOUT_ACPI            0xe0000 /* RSDP first: within what guests search for it */
#define LAYOUT_ACPI_SIZE       0x4000
#define LAYOUT_GENERATION      0xe4000 /* VM generation ID */
#define LAYOUT_GENERATION_SIZE 16
#define LAYOUT_KERNEL          0x100000

#define LAYOUT_HOLE_START      0xc0000000ull /* RAM stops here and goes on at 4 GiB */
#define LAYOUT_HOLE_END        0x100000000ull

#define LAYOUT_BOOT_TIMER      0xc0000000ull /* one byte, written by a guest that is up */
#define LAYOUT_MMIO_BASE       0xd0000000ull /* virtio windows, VIRTIO_MMIO_WINDOW apart */
#define LAYOUT_IOAPIC          0xfec00000u
#define LAYOUT_LAPIC           0xfee00000u
#define LAYOUT_TSS             0xfffbd000ull /* three pages that Intel's VMX needs */

#define LAYOUT_SERIAL_PORT     0x3f8 /* COM1 */
#define LAYOUT_SERIAL_PORTS    8

#define LAYOUT_GSI_KEYBOARD    1
#define LAYOUT_GSI_SERIAL      4
#define LAYOUT_GSI_FIRST       5 /* devices in their order */
#define LAYOUT_GSI_LAST        22
#define LAYOUT_GSI_GENERATION  23 /* the VM generation ID has changed */

#define LAYOUT_DEVICES_MAX     (LAYOUT_GSI_LAST - LAYOUT_GSI_FIRST + 1)
#define LAYOUT_VCPUS_MAX       16
