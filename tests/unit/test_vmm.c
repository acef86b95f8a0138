/* Unit tests of the monitor's boot path and configuration: what needs no KVM. */
#include <asm/bootparam.h>
#include <elf.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <sys/mman.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/base.h"
#include "vmm/boot/boot.h"
#include "vmm/config/config.h"
#include "vmm/kvm/state_internal.h"
#include "vmm/layout.h"
#include "vmm/snapshot/snapshot.h"

#define RAM_SIZE (8u << 20)

struct fixture {
	struct guest_memory memory;
	char directory[32];
	char path[64];
};

static int setup(void **state)
{
	struct fixture *fixture = calloc(1, sizeof(*fixture));

	fixture->memory.regions[0] = (struct guest_region){ 0, RAM_SIZE, calloc(1, RAM_SIZE) };
	fixture->memory.count = 1;
	(void)snprintf(fixture->directory, sizeof(fixture->directory), "/tmp/atoll-vmm-XXXXXX");
	assert_non_null(mkdtemp(fixture->directory));
	(void)snprintf(fixture->path, sizeof(fixture->path), "%s/file", fixture->directory);
	*state = fixture;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *fixture = *state;

	assert_int_equal(file_remove_tree(fixture->directory, NULL), 0);
	free(fixture->memory.regions[0].host);
	free(fixture);
	return 0;
}

struct tiny_kernel {
	Elf64_Ehdr header;
	Elf64_Phdr segment;
	char code[16];
};

static struct tiny_kernel tiny_kernel(void)
{
	struct tiny_kernel kernel = { .header = { .e_machine = EM_X86_64,
		                                  .e_entry = 0x200000,
		                                  .e_phoff = sizeof(Elf64_Ehdr),
		                                  .e_phentsize = sizeof(Elf64_Phdr),
		                                  .e_phnum = 1 },
		                      .segment = { .p_type = PT_LOAD,
		                                   .p_offset = offsetof(struct tiny_kernel, code),
		                                   .p_paddr = 0x200000,
		                                   .p_filesz = 16,
		                                   .p_memsz = 4096 },
		                      .code = "fifteen letters" };

	memcpy(kernel.header.e_ident, ELFMAG, SELFMAG);
	kernel.header.e_ident[EI_CLASS] = ELFCLASS64;
	kernel.header.e_ident[EI_DATA] = ELFDATA2LSB;
	return kernel;
}

static int load(struct fixture *fixture, const struct tiny_kernel *kernel, size_t size, struct error *err)
{
	uint64_t entry = 0;

	assert_int_equal(file_write_atomic(fixture->path, kernel, size, 0600, NULL), 0);
	return boot_load_elf(fixture->path, &fixture->memory, &entry, err);
}

static void a_kernel_is_loaded_where_it_wants(void **state)
{
	struct fixture *fixture = *state;
	struct tiny_kernel kernel = tiny_kernel();
	struct error err = { 0 };

	assert_int_equal(load(fixture, &kernel, sizeof(kernel), &err), 0);
	assert_string_equal(fixture->memory.regions[0].host + 0x200000, "fifteen letters");
}

static void expect_refused(struct fixture *fixture, const struct tiny_kernel *kernel, const char *reason)
{
	struct error err = { 0 };

	assert_true(load(fixture, kernel, sizeof(*kernel), &err) < 0);
	if (!strstr(err.message, reason))
		fail_msg("'%s' does not say '%s'", err.message, reason);
}

static void kernels_that_lie_are_refused(void **state)
{
	struct fixture *fixture = *state;
	struct tiny_kernel kernel = tiny_kernel();
	struct error err = { 0 };

	for (size_t size = 0; size < offsetof(struct tiny_kernel, code); size++)
		assert_true(load(fixture, &kernel, size, &err) < 0);
	kernel.segment.p_filesz = 17;
	expect_refused(fixture, &kernel, "leaves the file");
	kernel.segment.p_filesz = UINT64_MAX;
	expect_refused(fixture, &kernel, "leaves the file");
	kernel = tiny_kernel();
	kernel.segment.p_paddr = 0x7000;
	expect_refused(fixture, &kernel, "below 1 MiB");
	kernel.segment.p_paddr = UINT64_MAX - 100;
	expect_refused(fixture, &kernel, "does not fit");
	kernel.segment.p_paddr = RAM_SIZE - 16;
	expect_refused(fixture, &kernel, "does not fit");
	kernel = tiny_kernel();
	kernel.header.e_entry = RAM_SIZE;
	expect_refused(fixture, &kernel, "entry point");
	kernel = tiny_kernel();
	kernel.header.e_phnum = 60000;
	expect_refused(fixture, &kernel, "program header");
	kernel = tiny_kernel();
	kernel.header.e_phoff = UINT64_MAX - 8;
	expect_refused(fixture, &kernel, "program header");
	kernel = tiny_kernel();
	kernel.header.e_machine = EM_AARCH64;
	expect_refused(fixture, &kernel, "x86-64");
}

static void the_zero_page_maps_memory(void **state)
{
	struct fixture *fixture = *state;
	struct boot_parameters parameters = { .command_line = "console=ttyS0" };
	const struct boot_params *params =
	        guest_memory_at(&fixture->memory, LAYOUT_ZERO_PAGE, sizeof(*params));
	char too_long[LAYOUT_CMDLINE_MAX + 1];
	struct error err = { 0 };

	assert_int_equal(boot_write_parameters(&fixture->memory, &parameters, &err), 0);
	assert_string_equal(fixture->memory.regions[0].host + LAYOUT_CMDLINE, "console=ttyS0");
	assert_int_equal(params->e820_entries, 3);
	assert_int_equal(params->e820_table[2].addr, LAYOUT_KERNEL);
	assert_int_equal(params->e820_table[2].size, RAM_SIZE - LAYOUT_KERNEL);
	memset(too_long, 'x', sizeof(too_long));
	too_long[sizeof(too_long) - 1] = '\0';
	parameters.command_line = too_long;
	assert_int_equal(boot_write_parameters(&fixture->memory, &parameters, &err), -E2BIG);
}

static void the_mp_table_adds_up(void **state)
{
	struct fixture *fixture = *state;
	const unsigned char *table = fixture->memory.regions[0].host + LAYOUT_MPTABLE;

	for (unsigned vcpus = 1; vcpus <= LAYOUT_VCPUS_MAX; vcpus++) {
		unsigned char pointer_sum = 0;
		unsigned char table_sum = 0;
		uint16_t length;

		assert_int_equal(boot_write_mptable(&fixture->memory, vcpus, NULL), 0);
		assert_memory_equal(table, "_MP_", 4);
		assert_memory_equal(table + 16, "PCMP", 4);
		memcpy(&length, table + 20, sizeof(length));
		for (unsigned i = 0; i < 16; i++)
			pointer_sum = (unsigned char)(pointer_sum + table[i]);
		for (unsigned i = 0; i < length; i++)
			table_sum = (unsigned char)(table_sum + table[16 + i]);
		assert_int_equal(pointer_sum, 0);
		assert_int_equal(table_sum, 0);
	}
}

static void expect_config(struct fixture *fixture, const char *text, const char *reason)
{
	cleanup_json json_t *json = NULL;
	struct error err = { 0 };
	int ret;

	assert_int_equal(file_write_atomic(fixture->path, text, strlen(text), 0600, NULL), 0);
	ret = config_read_file(fixture->path, &json, &err);
	if (!reason) {
		assert_int_equal(ret, 0);
		return;
	}
	assert_true(ret < 0);
	if (!strstr(err.message, reason))
		fail_msg("'%s' does not say '%s'", err.message, reason);
}

static void configurations_are_checked_by_name(void **state)
{
	struct fixture *fixture = *state;

	expect_config(fixture, "{\"boot-source\":{\"kernel_image_path\":\"/k\"}}", NULL);
	expect_config(fixture, "{}", "boot-source is missing");
	expect_config(fixture, "{\"boot-source\":{}}", "'kernel_image_path' is required");
	expect_config(fixture, "{\"boot-source\":{\"kernel_image_path\":5}}", "must be a string");
	expect_config(fixture, "{\"boot-source\":{\"kernel_image_path\":\"/k\"},\"colour\":1}", "'colour'");
	expect_config(fixture,
	              "{\"boot-source\":{\"kernel_image_path\":\"/k\"},"
	              "\"machine-config\":{\"vcpu_count\":17,\"mem_size_mib\":128}}",
	              "between 1 and 16");
	expect_config(fixture,
	              "{\"boot-source\":{\"kernel_image_path\":\"/k\"},\"drives\":[{\"drive_id\":\"a\","
	              "\"path_on_host\":\"/d\",\"is_root_device\":true,\"layers\":[1]}]}",
	              "must be strings");
	/* One name for two of a kind, where a root device has changed the order; of two kinds it may be. */
	expect_config(fixture,
	              "{\"boot-source\":{\"kernel_image_path\":\"/k\"},\"drives\":["
	              "{\"drive_id\":\"a\",\"path_on_host\":\"/d\",\"is_root_device\":false},"
	              "{\"drive_id\":\"b\",\"path_on_host\":\"/d\",\"is_root_device\":true},"
	              "{\"drive_id\":\"a\",\"path_on_host\":\"/d\",\"is_root_device\":false}]}",
	              "two drives a");
	expect_config(fixture,
	              "{\"boot-source\":{\"kernel_image_path\":\"/k\"},\"network-interfaces\":["
	              "{\"iface_id\":\"a\",\"host_dev_name\":\"s\"},"
	              "{\"iface_id\":\"a\",\"host_dev_name\":\"t\"}]}",
	              "two interfaces a");
	expect_config(fixture,
	              "{\"boot-source\":{\"kernel_image_path\":\"/k\"},\"drives\":["
	              "{\"drive_id\":\"a\",\"path_on_host\":\"/d\",\"is_root_device\":true}],"
	              "\"network-interfaces\":[{\"iface_id\":\"a\",\"host_dev_name\":\"t\"}]}",
	              NULL);
	expect_config(fixture, "{\"boot-source\"", "invalid JSON");
}

static void make_snapshot(struct fixture *fixture)
{
	struct snapshot_writer writer;

	snapshot_writer_init(&writer);
	assert_int_equal(snapshot_add(&writer, SNAPSHOT_CONFIG, 0, "{}", 2, NULL), 0);
	assert_int_equal(snapshot_add(&writer, SNAPSHOT_VCPU, 1, "state of one", 12, NULL), 0);
	assert_int_equal(snapshot_write(&writer, fixture->path, NULL), 0);
	snapshot_writer_fini(&writer);
}

static unsigned byte_sum(const unsigned char *data, size_t size)
{
	unsigned sum = 0;

	for (size_t i = 0; i < size; i++)
		sum += data[i];
	return sum & 0xff;
}

/* A saved vCPU with one CPUID entry and two MSRs, the second of which is as given. Returns its size. */
static size_t saved_vcpu(unsigned char *to, uint32_t msr)
{
	struct vcpu_state state = { .cpuid_count = 1, .msr_count = 2, .xsave_size = 4096 };
	struct kvm_msr_entry msrs[2] = { { .index = 0x10 }, { .index = msr } };
	size_t at = sizeof(state) + sizeof(struct kvm_cpuid_entry2);

	memset(to, 0, at + sizeof(msrs) + state.xsave_size);
	memcpy(to, &state, sizeof(state));
	memcpy(to + at, msrs, sizeof(msrs));
	return at + sizeof(msrs) + state.xsave_size;
}

static void saved_vcpus_are_checked(void **state)
{
	struct vcpu_scratch *scratch = calloc(1, sizeof(*scratch));
	unsigned char *saved = malloc(65536);
	size_t size;
	uint32_t count = UINT32_MAX;
	struct vm_state vm = { .irqchips = { { .chip_id = 0 }, { .chip_id = 1 }, { .chip_id = 2 } } };
	struct vm_state parsed;
	struct error err;

	(void)state;
	assert_non_null(saved);
	assert_non_null(scratch);
	size = saved_vcpu(saved, 0xc0000082);
	assert_int_equal(vcpu_parse_state(saved, size, 4096, scratch, &err), 0);
	assert_int_equal(scratch->msrs.nmsrs, 2);
	assert_int_equal(scratch->msrs.entries[1].index, 0xc0000082);
	assert_int_equal(scratch->cpuid.nent, 1);
	assert_int_equal(vcpu_parse_state(saved, size, 4097, scratch, &err), -EINVAL);
	assert_int_equal(vcpu_parse_state(saved, size - 1, 4096, scratch, &err), -EINVAL);
	assert_int_equal(vcpu_parse_state(saved, size + 1, 4096, scratch, &err), -EINVAL);
	assert_int_equal(vcpu_parse_state(saved, 8, 4096, scratch, &err), -EINVAL);
	/* Counts whose sum of sizes would wrap or leave our arrays. */
	for (size_t at = 0; at < 12; at += 4) {
		(void)saved_vcpu(saved, 0x10);
		memcpy(saved + at, &count, sizeof(count));
		assert_int_equal(vcpu_parse_state(saved, size, 4096, scratch, &err), -EINVAL);
	}
	/* What a guest may not have set: here the host's microcode update. */
	(void)saved_vcpu(saved, 0x79);
	assert_int_equal(vcpu_parse_state(saved, size, 4096, scratch, &err), -EINVAL);
	assert_non_null(strstr(err.message, "0x79"));

	assert_int_equal(vm_parse_state(&vm, sizeof(vm), &parsed, &err), 0);
	assert_int_equal(vm_parse_state(&vm, sizeof(vm) - 1, &parsed, &err), -EINVAL);
	vm.irqchips[2].chip_id = 1;
	assert_int_equal(vm_parse_state(&vm, sizeof(vm), &parsed, &err), -EINVAL);
	free(saved);
	free(scratch);
}

/* An ACPI table by its address, checked for name and checksum. */
static const unsigned char *acpi_table(struct fixture *fixture, uint64_t gpa, const char *signature,
                                       uint32_t *ret_length)
{
	const unsigned char *header = guest_memory_at(&fixture->memory, gpa, 36);
	uint32_t length;

	assert_non_null(header);
	memcpy(&length, header + 4, sizeof(length));
	assert_memory_equal(header, signature, 4);
	assert_non_null(guest_memory_at(&fixture->memory, gpa, length));
	assert_int_equal(byte_sum(header, length), 0);
	if (ret_length)
		*ret_length = length;
	return header;
}

static uint64_t read_address(const unsigned char *at)
{
	uint64_t value;

	memcpy(&value, at, sizeof(value));
	return value;
}

/* The tables are found from the RSDP, and the DSDT's packages end where the table ends. */
static void acpi_tables_hang_together(void **state)
{
	static const unsigned char serial[] = { 0x0c, 0x41, 0xd0, 0x05, 0x01 }; /* EisaId("PNP0501") */
	static const unsigned char keyboard[] = { 0x47, 1,    0x60, 0,    0x60, 0, 1, 1,    0x47,
		                                  1,    0x64, 0,    0x64, 0,    1, 1, 0x89, 6,
		                                  0,    3,    1,    1,    0,    0, 0, 0x79, 0 };
	static const unsigned char window[] = { 0x86, 9, 0, 1, 0, 0x20, 0, 0xd0, 0, 0x10, 0, 0,
		                                0x89, 6, 0, 3, 1, 7,    0, 0,    0, 0x79, 0 };
	struct fixture *fixture = *state;
	struct error err;
	uint32_t length;
	uint32_t scope;
	const unsigned char *rsdp;
	const unsigned char *table;

	assert_int_equal(boot_write_acpi(&fixture->memory, 2, 3, &err), 0);
	rsdp = guest_memory_at(&fixture->memory, LAYOUT_ACPI, 36);
	assert_memory_equal(rsdp, "RSD PTR ", 8);
	assert_int_equal(byte_sum(rsdp, 20), 0);
	assert_int_equal(byte_sum(rsdp, 36), 0);
	table = acpi_table(fixture, read_address(rsdp + 24), "XSDT", &length);
	assert_int_equal(length, 36 + 2 * 8);
	(void)acpi_table(fixture, read_address(table + 44), "APIC", &length);
	assert_int_equal(length, 44 + 2 * 8 + 12 + 6);
	table = acpi_table(fixture, read_address(table + 36), "FACP", &length);
	assert_int_equal(length, 276);
	table = acpi_table(fixture, read_address(table + 140), "DSDT", &length);
	/* Scope(_SB): one package in the three-byte form, as long as the table. */
	assert_int_equal(table[36], 0x10);
	scope = (table[37] & 0xfu) | (uint32_t)table[38] << 4 | (uint32_t)table[39] << 12;
	assert_int_equal(scope, length - 37);
	assert_non_null(memmem(table, length, serial, sizeof(serial)));
	/* Its two ports and its interrupt. */
	assert_non_null(memmem(table, length, keyboard, sizeof(keyboard)));
	/* The third device: its window, its interrupt, the end tag. */
	assert_non_null(memmem(table, length, window, sizeof(window)));
	assert_null(memmem(table, length, "V003", 4));
	assert_int_equal(boot_write_acpi(&fixture->memory, 1, 1000, &err), -ENOSPC);
}

static void snapshots_come_back(void **state)
{
	struct fixture *fixture = *state;
	struct snapshot_reader reader;
	const void *data;
	size_t size;

	make_snapshot(fixture);
	assert_int_equal(snapshot_read(&reader, fixture->path, NULL), 0);
	assert_int_equal(snapshot_find(&reader, SNAPSHOT_VCPU, 1, &data, &size, NULL), 0);
	assert_int_equal(size, 12);
	assert_memory_equal(data, "state of one", 12);
	assert_int_equal(snapshot_find(&reader, SNAPSHOT_VCPU, 0, &data, &size, NULL), -ENOENT);
	snapshot_reader_fini(&reader);
}

/* Every byte changed, and every length cut, must be noticed and do no harm. */
static void damaged_snapshots_are_refused(void **state)
{
	struct fixture *fixture = *state;
	cleanup_buffer struct buffer file = BUFFER_INIT;
	struct snapshot_reader reader;
	struct error err;

	make_snapshot(fixture);
	assert_int_equal(file_read(fixture->path, &file, NULL), 0);
	for (size_t i = 0; i < file.size; i++) {
		file.data[i] ^= 0x10;
		assert_int_equal(file_write_atomic(fixture->path, file.data, file.size, 0600, NULL), 0);
		assert_int_equal(snapshot_read(&reader, fixture->path, &err), -EINVAL);
		file.data[i] ^= 0x10;
		assert_int_equal(file_write_atomic(fixture->path, file.data, i, 0600, NULL), 0);
		assert_int_equal(snapshot_read(&reader, fixture->path, &err), -EINVAL);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(snapshots_come_back, setup, teardown),
		cmocka_unit_test_setup_teardown(damaged_snapshots_are_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(a_kernel_is_loaded_where_it_wants, setup, teardown),
		cmocka_unit_test_setup_teardown(kernels_that_lie_are_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(the_zero_page_maps_memory, setup, teardown),
		cmocka_unit_test_setup_teardown(the_mp_table_adds_up, setup, teardown),
		cmocka_unit_test(saved_vcpus_are_checked),
		cmocka_unit_test_setup_teardown(acpi_tables_hang_together, setup, teardown),
		cmocka_unit_test_setup_teardown(configurations_are_checked_by_name, setup, teardown),
	};

	return cmocka_run_group_tests_name("vmm", tests, NULL, NULL);
}
