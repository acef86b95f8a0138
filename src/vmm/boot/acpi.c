/*
 * ACPI tables for a guest that finds its devices by them (ACPI 6.5): RSDP, XSDT, a hardware-reduced FADT,
 * MADT and a DSDT with the serial port and the virtio windows. Kernels that know virtio_mmio.device= may do
 * with the command line and the MP table; distributions' kernels do not.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vmm/boot/aml.h"
#include "vmm/boot/boot.h"
#include "vmm/boot/checksum.h"
#include "vmm/device/device.h"
#include "vmm/layout.h"

#define FADT_FLAGS (1u << 20 | 1u << 5 | 1u << 4 | 1u << 0) /* hardware-reduced; no buttons; WBINVD */
/* A keyboard controller; no VGA, MSI, ASPM, CMOS clock. */
#define FADT_BOOT_ARCH      (1u << 1 | 1u << 2 | 1u << 3 | 1u << 4 | 1u << 5)

#define NOTIFY_CHANGED      0x80 /* device-specific: the ID */

#define MADT_LAPIC          0
#define MADT_IOAPIC         1
#define MADT_LAPIC_NMI      4
#define MADT_ALL_PROCESSORS 0xff

struct __attribute__((packed)) acpi_rsdp {
	char signature[8];
	uint8_t checksum; /* of the first 20 bytes */
	char oem[6];
	uint8_t revision;
	uint32_t rsdt;
	uint32_t length;
	uint64_t xsdt;
	uint8_t extended_checksum;
	uint8_t reserved[3];
};

struct __attribute__((packed)) acpi_header {
	char signature[4];
	uint32_t length;
	uint8_t revision;
	uint8_t checksum;
	char oem[6];
	char oem_table[8];
	uint32_t oem_revision;
	char creator[4];
	uint32_t creator_revision;
};

struct __attribute__((packed)) acpi_xsdt {
	struct acpi_header header;
	uint64_t fadt;
	uint64_t madt;
};

/* Of its 276 bytes only these are not zero. */
struct __attribute__((packed)) acpi_fadt {
	struct acpi_header header;
	uint32_t facs;
	uint32_t dsdt;
	uint8_t pm_blocks[65];
	uint16_t boot_arch;
	uint8_t reserved;
	uint32_t flags;
	uint8_t reset[12];
	uint8_t reset_value;
	uint16_t arm_boot_arch;
	uint8_t minor_version;
	uint64_t x_facs;
	uint64_t x_dsdt;
	uint8_t x_blocks[120];
	char hypervisor[8];
};

_Static_assert(sizeof(struct acpi_fadt) == 276, "ACPI 6.5, table 5.9");

struct __attribute__((packed)) acpi_madt {
	struct acpi_header header;
	uint32_t lapic;
	uint32_t flags;
};

struct __attribute__((packed)) madt_lapic {
	uint8_t type;
	uint8_t length;
	uint8_t processor;
	uint8_t apic;
	uint32_t flags; /* bit 0: enabled */
};

struct __attribute__((packed)) madt_ioapic {
	uint8_t type;
	uint8_t length;
	uint8_t id;
	uint8_t reserved;
	uint32_t address;
	uint32_t first_gsi;
};

struct __attribute__((packed)) madt_nmi {
	uint8_t type;
	uint8_t length;
	uint8_t processor;
	uint16_t flags;
	uint8_t lint;
};

/* Guest memory at LAYOUT_ACPI, filled from its start. */
struct area {
	unsigned char *host;
	size_t used;
};

static struct acpi_header header_of(const char *signature, uint8_t revision)
{
	struct acpi_header header = { .revision = revision, .oem_revision = 1, .creator_revision = 1 };

	memcpy(header.signature, signature, 4);
	memcpy(header.oem, "ATOLL ", 6);
	memcpy(header.oem_table, "MICROVM ", 8);
	memcpy(header.creator, "ATOL", 4);
	return header;
}

/* Complete the table of `size` bytes at the end of the area and return its address. */
static uint32_t finish(struct area *area, size_t size)
{
	struct acpi_header *header = (struct acpi_header *)(area->host + area->used);
	uint32_t gpa = LAYOUT_ACPI + (uint32_t)area->used;

	header->length = (uint32_t)size;
	header->checksum = 0;
	header->checksum = boot_checksum(header, size);
	area->used += (size + 15) & ~(size_t)15;
	return gpa;
}

static void describe_serial(struct aml *aml)
{
	size_t device = aml_device(aml, "COM1");
	size_t resources;

	aml_name_eisaid(aml, "_HID", "PNP0501");
	aml_name_integer(aml, "_UID", 0);
	resources = aml_resources(aml, "_CRS");
	aml_ports(aml, LAYOUT_SERIAL_PORT, LAYOUT_SERIAL_PORTS);
	aml_interrupt(aml, LAYOUT_GSI_SERIAL);
	aml_end_resources(aml, resources);
	aml_end(aml, device);
}

static void describe_keyboard(struct aml *aml)
{
	size_t device = aml_device(aml, "PS2K");
	size_t resources;

	aml_name_eisaid(aml, "_HID", "PNP0303");
	aml_name_integer(aml, "_UID", 0);
	resources = aml_resources(aml, "_CRS");
	aml_ports(aml, I8042_DATA_PORT, 1);
	aml_ports(aml, I8042_COMMAND_PORT, 1);
	aml_interrupt(aml, LAYOUT_GSI_KEYBOARD);
	aml_end_resources(aml, resources);
	aml_end(aml, device);
}

static void describe_virtio(struct aml *aml, unsigned index)
{
	char name[8];
	size_t device;
	size_t resources;

	(void)snprintf(name, sizeof(name), "V%03u", index % 1000);
	device = aml_device(aml, name);
	aml_name_string(aml, "_HID", "LNRO0005");
	aml_name_integer(aml, "_UID", index);
	aml_name_integer(aml, "_CCA", 1);
	resources = aml_resources(aml, "_CRS");
	aml_memory(aml, (uint32_t)(LAYOUT_MMIO_BASE + index * VIRTIO_MMIO_WINDOW), VIRTIO_MMIO_WINDOW);
	aml_interrupt(aml, LAYOUT_GSI_FIRST + index);
	aml_end_resources(aml, resources);
	aml_end(aml, device);
}

/* The VM generation ID, and the generic event device (5.6.9) that notifies it of a change. */
static void describe_generation(struct aml *aml)
{
	size_t device = aml_device(aml, "VGEN");
	size_t resources;
	size_t method;
	size_t choice;

	aml_name_string(aml, "_HID", "VMGENCTR");
	aml_name_string(aml, "_CID", "VM_Gen_Counter");
	aml_name_string(aml, "_DDN", "VM_Gen_Counter");
	aml_name_pair(aml, "ADDR", LAYOUT_GENERATION, 0);
	aml_end(aml, device);

	device = aml_device(aml, "GED_");
	aml_name_string(aml, "_HID", "ACPI0013");
	aml_name_integer(aml, "_UID", 0);
	resources = aml_resources(aml, "_CRS");
	aml_interrupt(aml, LAYOUT_GSI_GENERATION);
	aml_end_resources(aml, resources);
	method = aml_method(aml, "_EVT");
	choice = aml_if_argument(aml, LAYOUT_GSI_GENERATION);
	aml_notify(aml, "_SB_", "VGEN", NOTIFY_CHANGED);
	aml_end(aml, choice);
	aml_end(aml, method);
	aml_end(aml, device);
}

static uint32_t write_dsdt(struct area *area, unsigned devices, struct error *err)
{
	struct acpi_header *header = (struct acpi_header *)(area->host + area->used);
	struct aml aml = { (unsigned char *)(header + 1), 0, LAYOUT_ACPI_SIZE / 2 };
	size_t scope;

	*header = header_of("DSDT", 2);
	scope = aml_scope(&aml, "_SB_");
	describe_serial(&aml);
	describe_keyboard(&aml);
	describe_generation(&aml);
	for (unsigned i = 0; i < devices; i++)
		describe_virtio(&aml, i);
	aml_end(&aml, scope);
	if (aml.size > aml.limit) {
		error_set(err, ENOSPC, "the ACPI tables have no room for %u devices", devices);
		return 0;
	}
	return finish(area, sizeof(*header) + aml.size);
}

static uint32_t write_fadt(struct area *area, uint32_t dsdt)
{
	struct acpi_fadt *fadt = (struct acpi_fadt *)(area->host + area->used);

	*fadt = (struct acpi_fadt){ .header = header_of("FACP", 6),
		                    .dsdt = dsdt,
		                    .boot_arch = FADT_BOOT_ARCH,
		                    .flags = FADT_FLAGS,
		                    .minor_version = 5,
		                    .x_dsdt = dsdt };
	memcpy(fadt->hypervisor, "ATOLL   ", 8);
	return finish(area, sizeof(*fadt));
}

static uint32_t write_madt(struct area *area, unsigned vcpus)
{
	struct acpi_madt *madt = (struct acpi_madt *)(area->host + area->used);
	unsigned char *end = (unsigned char *)(madt + 1);
	struct madt_ioapic ioapic = { MADT_IOAPIC, sizeof(ioapic), (uint8_t)vcpus, 0, LAYOUT_IOAPIC, 0 };
	struct madt_nmi nmi = { MADT_LAPIC_NMI, sizeof(nmi), MADT_ALL_PROCESSORS, 0, 1 };

	*madt = (struct acpi_madt){ .header = header_of("APIC", 5), .lapic = LAYOUT_LAPIC };
	for (unsigned i = 0; i < vcpus; i++) {
		struct madt_lapic lapic = { MADT_LAPIC, sizeof(lapic), (uint8_t)i, (uint8_t)i, 1 };

		memcpy(end, &lapic, sizeof(lapic));
		end += sizeof(lapic);
	}
	memcpy(end, &ioapic, sizeof(ioapic));
	end += sizeof(ioapic);
	memcpy(end, &nmi, sizeof(nmi));
	end += sizeof(nmi);
	return finish(area, (size_t)(end - (unsigned char *)madt));
}

static uint32_t write_xsdt(struct area *area, uint32_t fadt, uint32_t madt)
{
	struct acpi_xsdt *xsdt = (struct acpi_xsdt *)(area->host + area->used);

	*xsdt = (struct acpi_xsdt){ .header = header_of("XSDT", 1), .fadt = fadt, .madt = madt };
	return finish(area, sizeof(*xsdt));
}

int boot_write_acpi(const struct guest_memory *memory, unsigned vcpus, unsigned devices, struct error *err)
{
	unsigned char *host = guest_memory_at(memory, LAYOUT_ACPI, LAYOUT_ACPI_SIZE);
	struct area area = { host, 48 }; /* behind the RSDP */
	struct acpi_rsdp rsdp = { .revision = 2, .length = sizeof(rsdp) };
	uint32_t dsdt;
	uint32_t fadt;

	if (!host)
		return error_set(err, ENOMEM, "the guest has too little memory to boot");
	memset(host, 0, LAYOUT_ACPI_SIZE);
	dsdt = write_dsdt(&area, devices, err);
	if (!dsdt)
		return -ENOSPC;
	memcpy(rsdp.signature, "RSD PTR ", 8);
	memcpy(rsdp.oem, "ATOLL ", 6);
	fadt = write_fadt(&area, dsdt);
	rsdp.xsdt = write_xsdt(&area, fadt, write_madt(&area, vcpus));
	rsdp.checksum = boot_checksum(&rsdp, 20);
	rsdp.extended_checksum = boot_checksum(&rsdp, sizeof(rsdp));
	memcpy(host, &rsdp, sizeof(rsdp));
	return 0;
}
