/*
 * Fuzz the loading of kernels: hostile are an ELF file, an initial RAM disk of any size, and a command line.
 * The first byte says whether the file's marks are made right, so that its numbers are looked at. Memory is
 * small, in two pieces; ASan watches its ends.
 */
#include <elf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/base.h"
#include "fuzz.h"
#include "vmm/boot/boot.h"
#include "vmm/layout.h"

#define LOW_SIZE      0x180000
#define HIGH_SIZE     0x10000
#define OPTION_FIT    1 /* ELF's marks, one to four segments */
#define OPTION_NEAR   2 /* segments go where memory is */
#define OPTION_INITRD 4
#define SEGMENTS_FIT  4

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int file = -1; /* in memory */
static char path[64];

static void write_file(const void *data, size_t size, size_t length)
{
	if (file < 0) {
		file = memfd_create("kernel", MFD_CLOEXEC);
		(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
	}
	if (file < 0 || ftruncate(file, 0) < 0 || pwrite(file, data, size, 0) != (ssize_t)size ||
	    ftruncate(file, (off_t)length) < 0)
		abort();
}

static void fit(unsigned char *data, size_t size, bool near)
{
	Elf64_Ehdr header;

	if (size < sizeof(header))
		return;
	memcpy(&header, data, sizeof(header));
	memcpy(header.e_ident, ELFMAG, SELFMAG);
	header.e_ident[EI_CLASS] = ELFCLASS64;
	header.e_ident[EI_DATA] = ELFDATA2LSB;
	header.e_machine = EM_X86_64;
	header.e_phentsize = sizeof(Elf64_Phdr);
	header.e_phnum = (uint16_t)(header.e_phnum % SEGMENTS_FIT + 1);
	if (near) {
		header.e_phoff = sizeof(header);
		header.e_entry %= 2 * LOW_SIZE;
	}
	memcpy(data, &header, sizeof(header));
	for (size_t i = 0; near && i < header.e_phnum; i++) {
		size_t at = sizeof(header) + i * sizeof(Elf64_Phdr);
		Elf64_Phdr segment;

		if (at + sizeof(segment) > size)
			return;
		memcpy(&segment, data + at, sizeof(segment));
		segment.p_type = PT_LOAD;
		segment.p_paddr = LAYOUT_KERNEL - 0x1000 + segment.p_paddr % LOW_SIZE;
		segment.p_offset %= 2 * size;
		segment.p_filesz %= 2 * size;
		segment.p_memsz %= LOW_SIZE;
		memcpy(data + at, &segment, sizeof(segment));
	}
}

static void load_initrd(struct input *input, const struct guest_memory *memory,
                        struct boot_parameters *parameters)
{
	uint64_t length = take(input, 4) % (2 * LOW_SIZE);

	write_file("initrd", 6, length);
	if (boot_load_initrd(path, memory, &parameters->initrd_gpa, &parameters->initrd_size, NULL) < 0) {
		parameters->initrd_gpa = parameters->initrd_size = 0;
		return;
	}
	if (parameters->initrd_size != length ||
	    !guest_memory_at(memory, parameters->initrd_gpa, parameters->initrd_size))
		abort();
}

static void boot(struct input *input, const struct guest_memory *memory)
{
	struct boot_parameters parameters = { 0 };
	uint32_t options = take(input, 1);
	char command_line[2 * LAYOUT_CMDLINE_MAX];
	size_t length = take(input, 2) % sizeof(command_line);
	unsigned char *content;
	uint64_t entry;

	memset(command_line, 'c', length);
	command_line[length] = 0;
	parameters.command_line = command_line;
	if (options & OPTION_INITRD)
		load_initrd(input, memory, &parameters);
	content = malloc(input->size + 1);
	if (!content)
		abort();
	memcpy(content, input->data, input->size);
	if (options & OPTION_FIT)
		fit(content, input->size, options & OPTION_NEAR);
	write_file(content, input->size, input->size);
	if (boot_load_elf(path, memory, &entry, NULL) == 0 && !guest_memory_at(memory, entry, 1))
		abort();
	/* Whatever was loaded, the tables have their places. */
	if ((boot_write_parameters(memory, &parameters, NULL) == 0) != (length < LAYOUT_CMDLINE_MAX))
		abort();
	free(content);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = { data, size };
	unsigned char *low = calloc(1, LOW_SIZE);
	unsigned char *high = calloc(1, HIGH_SIZE);
	struct guest_memory memory = {
		.regions = { { 0, LOW_SIZE, low }, { LAYOUT_HOLE_END, HIGH_SIZE, high } }, .count = 2
	};

	if (!low || !high)
		abort();
	boot(&input, &memory);
	free(low);
	free(high);
	return 0;
}
