/*
 * snapshot: a stopped machine as two files. Opens the folder.
 *
 * The state file holds numbered sections: configuration (JSON), vCPUs, VM, serial port, devices, keyboard. It
 * is small, written whole, and guarded by a checksum; a reader trusts nothing in it even so. The memory file
 * is the guest's memory, region after region: image.h.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"
#include "vmm/snapshot/image.h"

#define SNAPSHOT_VERSION 3

enum snapshot_section {
	SNAPSHOT_CONFIG = 1, /* the machine's configuration, as GET /vm/config shows it */
	SNAPSHOT_VM = 2,
	SNAPSHOT_VCPU = 3, /* one per vCPU, by index */
	SNAPSHOT_SERIAL = 4,
	SNAPSHOT_DEVICE = 5, /* one per virtio device, in the order of their windows */
	SNAPSHOT_KEYBOARD = 6,
};

/* --- writing --- */

struct snapshot_writer {
	struct buffer data;
	uint32_t count;
};

void snapshot_writer_init(struct snapshot_writer *writer);
void snapshot_writer_fini(struct snapshot_writer *writer);

/* Append a section. 0 or a negative errno. */
int snapshot_add(struct snapshot_writer *writer, enum snapshot_section kind, uint32_t index, const void *data,
                 size_t size, struct error *err);

/* Put the file in place: the old one or the new, never a part. */
int snapshot_write(struct snapshot_writer *writer, const char *path, struct error *err);

/* --- reading --- */

struct snapshot_reader {
	struct buffer data;
};

/* Read and check a file: magic, version, size, checksum, section table. 0, -EINVAL or -errno with `err`. */
int snapshot_read(struct snapshot_reader *reader, const char *path, struct error *err);
void snapshot_reader_fini(struct snapshot_reader *reader);

/* A section's bytes, which live as long as the reader; -ENOENT with `err` when there is none. */
int snapshot_find(const struct snapshot_reader *reader, enum snapshot_section kind, uint32_t index,
                  const void **ret_data, size_t *ret_size, struct error *err);
