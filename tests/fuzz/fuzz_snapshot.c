/*
 * Fuzz the reading of snapshots: hostile is a whole state file, as somebody might upload it. The first byte
 * says whether version, size and checksum are made to fit, as an attacker can; the rest is the file. Every
 * section is then looked up and every byte of it read; each is taken apart by whoever it is for but
 * KVM and the virtio devices. What can be read must be read the same after it was written again.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/base.h"
#include "fuzz.h"
#include "vmm/config/config.h"
#include "vmm/device/device.h"
#include "vmm/kvm/state_internal.h"
#include "vmm/snapshot/snapshot.h"

#define OPTION_FIT    1    /* version, size and checksum */
#define OPTION_MEMORY 2    /* the rest is a memory file */
#define OPTION_AGAIN  0xfc /* write it again: rarely, as it waits for the disk */
#define HEADER        32
#define VERSION_AT    8
#define SIZE_OFFSET   16
#define CRC_OFFSET    24
#define INDEX_MAX     4
#define HOST_XSAVE    64 /* bytes; few, so that a whole vCPU fits an input */
#define PAGE          4096

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int file = -1; /* in memory */
static char path[64];
static char directory[] = "/tmp/atoll-fuzz-XXXXXX";
static char copy_path[64];

static void remove_files(void)
{
	(void)unlink(copy_path);
	(void)rmdir(directory);
}

static void make_files(void)
{
	if (file >= 0)
		return;
	file = memfd_create("snapshot", MFD_CLOEXEC);
	if (file < 0 || !mkdtemp(directory))
		abort();
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
	(void)snprintf(copy_path, sizeof(copy_path), "%s/copy", directory);
	(void)atexit(remove_files);
}

static void write_file(const char *data, size_t size)
{
	if (ftruncate(file, 0) < 0 || pwrite(file, data, size, 0) != (ssize_t)size)
		abort();
}

/* Make a file's version, size and checksum right, whatever it holds. */
static void fit(char *data, size_t size)
{
	uint32_t version = SNAPSHOT_VERSION;
	uint64_t all = size;
	uint32_t crc = 0;

	if (size < HEADER)
		return;
	memcpy(data + VERSION_AT, &version, sizeof(version));
	memcpy(data + SIZE_OFFSET, &all, sizeof(all));
	memcpy(data + CRC_OFFSET, &crc, sizeof(crc));
	crc = crc32c(0, data, size);
	memcpy(data + CRC_OFFSET, &crc, sizeof(crc));
}

/* Any state that is taken must leave a port that works. */
static void restore_serial(const void *data, size_t size)
{
	struct loop *loop = loop_new(NULL);
	struct serial *serial = loop ? serial_new(-1, 0, NULL, NULL) : NULL;

	if (!serial)
		abort();
	if (serial_restore(serial, data, size, NULL) == 0) {
		for (unsigned reg = 0; reg < 8; reg++)
			(void)serial_read(serial, reg);
		serial_write(serial, 0, 'x');
	}
	serial_free(serial);
	loop_free(loop);
}

static void restore_keyboard(const void *data, size_t size)
{
	struct i8042 *i8042 = i8042_new(NULL);

	if (!i8042)
		abort();
	if (i8042_restore(i8042, data, size, NULL) == 0) {
		i8042_notify(i8042);
		(void)i8042_send_ctrl_alt_del(i8042, NULL);
		(void)i8042_write(i8042, I8042_DATA_PORT, 0xf2);
		for (unsigned i = 0; i < 20; i++)
			(void)i8042_read(i8042, I8042_DATA_PORT);
		if (i8042_read(i8042, I8042_COMMAND_PORT) & 1)
			abort();
	}
	i8042_free(i8042);
}

static void read_config(const void *data, size_t size)
{
	cleanup_json json_t *root = NULL;
	struct machine_config config;

	if (json_parse_object(data, size, &root, NULL) == 0)
		(void)config_read(root, &config, NULL);
}

/* What is taken fits where KVM reads it from. */
static void parse_vcpu(const void *data, size_t size)
{
	static struct vcpu_scratch scratch;

	if (vcpu_parse_state(data, size, HOST_XSAVE, &scratch, NULL) < 0)
		return;
	if (scratch.msrs.nmsrs > MSRS_MAX || scratch.cpuid.nent > CPUID_MAX ||
	    scratch.state.xsave_size > XSAVE_MAX || scratch.state.xsave_size < HOST_XSAVE)
		abort();
	for (uint32_t i = 0; i < scratch.msrs.nmsrs; i++)
		if (!kvm_msr_is_state(scratch.msrs.entries[i].index))
			abort();
}

static void parse_vm(const void *data, size_t size)
{
	struct vm_state state;

	if (vm_parse_state(data, size, &state, NULL) == 0 && state.irqchips[2].chip_id != 2)
		abort();
}

/* Look at each section, and put it into `writer`. */
static void read_sections(const struct snapshot_reader *reader, struct snapshot_writer *writer)
{
	static void (*const takers[])(const void *, size_t) = {
		[SNAPSHOT_CONFIG] = read_config,        [SNAPSHOT_VM] = parse_vm,
		[SNAPSHOT_VCPU] = parse_vcpu,           [SNAPSHOT_SERIAL] = restore_serial,
		[SNAPSHOT_KEYBOARD] = restore_keyboard,
	};

	for (unsigned kind = 0; kind <= SNAPSHOT_KEYBOARD + 1; kind++) {
		for (uint32_t index = 0; index < INDEX_MAX; index++) {
			const void *data;
			size_t size;

			if (snapshot_find(reader, kind, index, &data, &size, NULL) < 0)
				continue;
			if (snapshot_add(writer, kind, index, data, size, NULL) < 0)
				abort();
			if (kind < ARRAY_SIZE(takers) && takers[kind])
				takers[kind](data, size);
		}
	}
}

static void compare_sections(const struct snapshot_reader *one, const struct snapshot_reader *other)
{
	for (unsigned kind = 0; kind <= SNAPSHOT_KEYBOARD + 1; kind++) {
		for (uint32_t index = 0; index < INDEX_MAX; index++) {
			const void *data[2];
			size_t size[2];
			int ret = snapshot_find(one, kind, index, &data[0], &size[0], NULL);

			if (snapshot_find(other, kind, index, &data[1], &size[1], NULL) != ret ||
			    (ret == 0 && (size[0] != size[1] || memcmp(data[0], data[1], size[0]) != 0)))
				abort();
		}
	}
}

static void read_state(bool again_too)
{
	struct snapshot_reader reader;
	struct snapshot_reader again;
	struct snapshot_writer writer;
	struct error err;

	if (snapshot_read(&reader, path, &err) < 0)
		return;
	snapshot_writer_init(&writer);
	read_sections(&reader, &writer);
	if (again_too) {
		if (snapshot_write(&writer, copy_path, NULL) < 0 ||
		    snapshot_read(&again, copy_path, NULL) < 0)
			abort();
		compare_sections(&reader, &again);
		snapshot_reader_fini(&again);
	}
	snapshot_writer_fini(&writer);
	snapshot_reader_fini(&reader);
}

/* A memory file is only used when it has exactly the size of the machine's memory. */
static void map_memory(size_t size)
{
	struct image_config config = { .base_path = path };
	struct image *image;
	uint64_t wanted = (size + PAGE - 1) / PAGE * PAGE;

	config.size = wanted;
	image = image_open(&config, NULL);
	if (!image) {
		if (size && size == wanted)
			abort();
		return;
	}
	if (size != wanted)
		abort();
	image_close(image);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *content;

	if (size == 0)
		return 0;
	make_files();
	content = malloc(size);
	if (!content)
		abort();
	memcpy(content, data + 1, size - 1);
	if (data[0] & OPTION_FIT)
		fit(content, size - 1);
	write_file(content, size - 1);
	if (data[0] & OPTION_MEMORY)
		map_memory(size - 1);
	else
		read_state((data[0] & OPTION_AGAIN) == OPTION_AGAIN);
	free(content);
	return 0;
}
