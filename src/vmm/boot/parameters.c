/* What the 64-bit boot protocol wants in memory beside the kernel: zero page, command line, page tables, GDT.
 */
#include <asm/bootparam.h>
#include <errno.h>
#include <string.h>

#include "vmm/boot/boot.h"
#include "vmm/layout.h"

#define BOOT_FLAG        0xaa55
#define HEADER_MAGIC     0x53726448 /* "HdrS" */
#define LOADER_UNDEFINED 0xff
#define KERNEL_ALIGNMENT 0x1000000

#define E820_RAM         1
#define E820_RESERVED    2

#define PAGE_PRESENT     0x1
#define PAGE_WRITABLE    0x2
#define PAGE_LARGE       0x80

/* Flat 64-bit code and data segments, and a TSS that VMX wants to see (boot.rst: __BOOT_CS is 0x10, __BOOT_DS
 * 0x18). */
static const uint64_t gdt[] = { 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x008f8b000000ffff };

static void e820_add(struct boot_params *params, uint64_t start, uint64_t end, uint32_t type)
{
	struct boot_e820_entry *entry;

	if (end <= start || params->e820_entries == E820_MAX_ENTRIES_ZEROPAGE)
		return;
	entry = &params->e820_table[params->e820_entries++];
	entry->addr = start;
	entry->size = end - start;
	entry->type = type;
}

static void write_e820(struct boot_params *params, const struct guest_memory *memory)
{
	e820_add(params, 0, LAYOUT_LOW_END, E820_RAM);
	e820_add(params, LAYOUT_LOW_END, LAYOUT_KERNEL, E820_RESERVED);
	for (unsigned i = 0; i < memory->count; i++) {
		const struct guest_region *region = &memory->regions[i];
		uint64_t start = region->gpa > LAYOUT_KERNEL ? region->gpa : LAYOUT_KERNEL;

		e820_add(params, start, region->gpa + region->size, E820_RAM);
	}
}

/* Identity map of the first GiB in 2 MiB pages. */
static void write_page_tables(uint64_t *tables)
{
	uint64_t *pml4 = tables;
	uint64_t *pdpt = tables + 512;
	uint64_t *pd = tables + 1024;

	memset(tables, 0, 3 * 4096);
	pml4[0] = (LAYOUT_PML4 + 0x1000) | PAGE_PRESENT | PAGE_WRITABLE;
	pdpt[0] = (LAYOUT_PML4 + 0x2000) | PAGE_PRESENT | PAGE_WRITABLE;
	for (uint64_t i = 0; i < 512; i++)
		pd[i] = i << 21 | PAGE_PRESENT | PAGE_WRITABLE | PAGE_LARGE;
}

int boot_write_parameters(const struct guest_memory *memory, const struct boot_parameters *parameters,
                          struct error *err)
{
	size_t length = strlen(parameters->command_line);
	struct boot_params *params = guest_memory_at(memory, LAYOUT_ZERO_PAGE, sizeof(*params));
	char *command_line = guest_memory_at(memory, LAYOUT_CMDLINE, LAYOUT_CMDLINE_MAX);
	uint64_t *tables = guest_memory_at(memory, LAYOUT_PML4, 3 * 4096);
	void *gdt_at = guest_memory_at(memory, LAYOUT_GDT, sizeof(gdt));

	if (!params || !command_line || !tables || !gdt_at)
		return error_set(err, ENOMEM, "the guest has too little memory to boot");
	if (length >= LAYOUT_CMDLINE_MAX)
		return error_set(err, E2BIG, "the kernel command line is longer than %d bytes",
		                 LAYOUT_CMDLINE_MAX - 1);
	memset(params, 0, sizeof(*params));
	params->hdr.type_of_loader = LOADER_UNDEFINED;
	params->hdr.boot_flag = BOOT_FLAG;
	params->hdr.header = HEADER_MAGIC;
	params->hdr.cmd_line_ptr = LAYOUT_CMDLINE;
	params->hdr.cmdline_size = (uint32_t)length;
	params->hdr.kernel_alignment = KERNEL_ALIGNMENT;
	params->hdr.ramdisk_image = (uint32_t)parameters->initrd_gpa;
	params->hdr.ramdisk_size = (uint32_t)parameters->initrd_size;
	write_e820(params, memory);
	memcpy(command_line, parameters->command_line, length + 1);
	write_page_tables(tables);
	memcpy(gdt_at, gdt, sizeof(gdt));
	return 0;
}
