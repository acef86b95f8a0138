/* The MP table, as the MultiProcessor Specification 1.4 lays it out (chapter 4). */
#include <errno.h>
#include <string.h>

#include "vmm/boot/boot.h"
#include "vmm/boot/checksum.h"
#include "vmm/layout.h"

#define ENTRY_PROCESSOR  0
#define ENTRY_BUS        1
#define ENTRY_IOAPIC     2
#define ENTRY_INTERRUPT  3
#define ENTRY_LOCAL      4
#define INTERRUPT_INT    0
#define INTERRUPT_NMI    1
#define INTERRUPT_EXTINT 3
#define APIC_VERSION     0x14
#define ALL_LAPICS       0xff

struct mp_pointer {
	char signature[4]; /* "_MP_" */
	uint32_t table;
	uint8_t length; /* in 16 bytes */
	uint8_t revision;
	uint8_t checksum;
	uint8_t features[5];
};

struct mp_table {
	char signature[4]; /* "PCMP" */
	uint16_t length;
	uint8_t revision;
	uint8_t checksum;
	char oem[8];
	char product[12];
	uint32_t oem_table;
	uint16_t oem_size;
	uint16_t entries;
	uint32_t lapic;
	uint16_t extended_length;
	uint8_t extended_checksum;
	uint8_t reserved;
};

struct mp_processor {
	uint8_t type;
	uint8_t apic_id;
	uint8_t apic_version;
	uint8_t flags; /* 1 enabled, 2 boot processor */
	uint32_t signature;
	uint32_t features;
	uint32_t reserved[2];
};

struct mp_bus {
	uint8_t type;
	uint8_t id;
	char name[6];
};

struct mp_ioapic {
	uint8_t type;
	uint8_t id;
	uint8_t version;
	uint8_t flags;
	uint32_t address;
};

struct mp_interrupt {
	uint8_t type;
	uint8_t kind;
	uint16_t flags;
	uint8_t source_bus;
	uint8_t source_irq;
	uint8_t target;
	uint8_t target_pin;
};

struct writer {
	struct mp_table *table;
	unsigned char *end;
};

static void add(struct writer *writer, const void *entry, size_t size)
{
	memcpy(writer->end, entry, size);
	writer->end += size;
	writer->table->entries++;
}

static void add_interrupts(struct writer *writer, uint8_t ioapic)
{
	struct mp_interrupt local = { .type = ENTRY_LOCAL, .kind = INTERRUPT_EXTINT };

	for (uint8_t irq = 0; irq <= LAYOUT_GSI_LAST; irq++) {
		struct mp_interrupt line = { .type = ENTRY_INTERRUPT,
			                     .kind = INTERRUPT_INT,
			                     .source_irq = irq,
			                     .target = ioapic,
			                     .target_pin = irq };

		add(writer, &line, sizeof(line));
	}
	add(writer, &local, sizeof(local));
	local.kind = INTERRUPT_NMI;
	local.target = ALL_LAPICS;
	local.target_pin = 1;
	add(writer, &local, sizeof(local));
}

int boot_write_mptable(const struct guest_memory *memory, unsigned vcpus, struct error *err)
{
	unsigned char *area = guest_memory_at(memory, LAYOUT_MPTABLE, 0xf0000 - LAYOUT_MPTABLE);
	struct mp_pointer *pointer = (struct mp_pointer *)area;
	struct writer writer;
	uint8_t ioapic = (uint8_t)(vcpus + 1);

	if (!area)
		return error_set(err, ENOMEM, "the guest has too little memory to boot");
	writer.table = (struct mp_table *)(area + sizeof(*pointer));
	writer.end = (unsigned char *)(writer.table + 1);
	*pointer =
	        (struct mp_pointer){ .table = LAYOUT_MPTABLE + sizeof(*pointer), .length = 1, .revision = 4 };
	memcpy(pointer->signature, "_MP_", 4);
	pointer->checksum = boot_checksum(pointer, sizeof(*pointer));
	*writer.table = (struct mp_table){ .revision = 4, .lapic = LAYOUT_LAPIC };
	memcpy(writer.table->signature, "PCMP", 4);
	memcpy(writer.table->oem, "ATOLL   ", 8);
	memcpy(writer.table->product, "MICROVM     ", 12);
	for (unsigned i = 0; i < vcpus; i++) {
		struct mp_processor processor = { .type = ENTRY_PROCESSOR,
			                          .apic_id = (uint8_t)i,
			                          .apic_version = APIC_VERSION,
			                          .flags = i == 0 ? 3 : 1,
			                          .signature = 0x600,
			                          .features = 0x201 };

		add(&writer, &processor, sizeof(processor));
	}
	add(&writer, &(struct mp_bus){ .type = ENTRY_BUS, .name = { 'I', 'S', 'A', ' ', ' ', ' ' } },
	    sizeof(struct mp_bus));
	add(&writer, &(struct mp_ioapic){ ENTRY_IOAPIC, ioapic, APIC_VERSION, 1, LAYOUT_IOAPIC },
	    sizeof(struct mp_ioapic));
	add_interrupts(&writer, ioapic);
	writer.table->length = (uint16_t)(writer.end - (unsigned char *)writer.table);
	writer.table->checksum = boot_checksum(writer.table, writer.table->length);
	return 0;
}
