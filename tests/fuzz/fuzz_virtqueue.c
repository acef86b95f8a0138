/*
 * Fuzz the virtio transport, the queue code and the block, entropy and balloon models: the input is what a
 * hostile driver does. Each command is a byte that says what, and its operands: a register write, bytes into
 * guest memory, a kick, a pause with save and restore. Nothing may be touched outside of the guest's memory:
 * ASan watches its ends.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "fuzz.h"
#include "vmm/device/device.h"

#define MEMORY_BASE 0x1000
#define MEMORY_SIZE 0x8000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char image_path[] = "/tmp/atoll-fuzz-XXXXXX";

static void remove_image(void)
{
	(void)unlink(image_path);
}

static const char *image(void)
{
	static int fd = -1;

	if (fd < 0) {
		fd = mkstemp(image_path);
		if (fd < 0 || ftruncate(fd, 65536) < 0)
			abort();
		(void)atexit(remove_image);
	}
	return image_path;
}

static void write_memory(struct guest_memory *memory, struct input *input)
{
	uint32_t offset = take(input, 2) % MEMORY_SIZE;
	uint32_t size = take(input, 1) % 64;

	for (uint32_t i = 0; i < size && offset + i < MEMORY_SIZE; i++)
		memory->regions[0].host[offset + i] = (unsigned char)take(input, 1);
}

static void save_and_restore(struct virtio_device *device, struct input *input)
{
	cleanup_buffer struct buffer state = BUFFER_INIT;
	uint32_t index = take(input, 1) * 2; /* the balloon's state has some 500 bytes */
	char change = (char)take(input, 1);

	if (virtio_pause(device, NULL) < 0 || virtio_save(device, &state, NULL) < 0)
		abort();
	/* A changed byte must be refused or lead to a device that still keeps inside. */
	state.data[index % state.size] ^= change;
	(void)virtio_restore(device, state.data, state.size, NULL);
	virtio_resume(device);
}

static void kick_all(struct virtio_device *device)
{
	for (unsigned i = 0; i < device->ops->queue_count; i++)
		if (device->active && !device->broken && device->queues[i].ready)
			device->ops->kick(device, i);
}

/* The first byte of an input says which device it is for. */
static struct virtio_device *make_device(unsigned kind, const struct guest_memory *memory, struct loop *loop)
{
	struct block_config block = { .id = "fuzz",
		                      .path = image(),
		                      .writeback = true,
		                      .engine = kind & 2 ? BLOCK_ENGINE_ASYNC : BLOCK_ENGINE_SYNC };
	struct balloon_config balloon = { .stats_polling_interval_s = kind & 8 ? 1 : 0,
		                          .free_page_hinting = kind & 16,
		                          .free_page_reporting = kind & 32 };

	if (kind & 1)
		return block_new(&block, memory, loop, NULL);
	if (kind & 2)
		return balloon_new(&balloon, kind & 4, memory, loop, NULL);
	return rng_new(NULL, memory, loop, NULL);
}

static void drive(struct virtio_device *device, struct guest_memory *memory, struct input *input)
{
	while (input->size) {
		uint32_t value;
		uint32_t offset;

		switch (take(input, 1) % 5) {
		case 0:
			/* Registers are a multiple of 4; most of the interesting ones lie low. */
			offset = take(input, 1) * 4 % VIRTIO_MMIO_WINDOW;
			value = take(input, 4);
			virtio_mmio_write(device, offset, &value, 4);
			break;
		case 1:
			offset = take(input, 2) % VIRTIO_MMIO_WINDOW;
			virtio_mmio_read(device, offset, &value, 1u << take(input, 1) % 3);
			break;
		case 2:
			write_memory(memory, input);
			break;
		case 3:
			kick_all(device);
			break;
		default:
			save_and_restore(device, input);
			break;
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = { data, size };
	/* Whole pages, which the balloon may give back. */
	unsigned char *ram = aligned_alloc(4096, MEMORY_SIZE);
	struct guest_memory memory = { .regions = { { MEMORY_BASE, MEMORY_SIZE, ram } }, .count = 1 };
	struct loop *loop = loop_new(NULL); /* never run: everything happens on this thread */
	struct virtio_device *device;

	if (!ram || !loop)
		abort();
	memset(ram, 0, MEMORY_SIZE);
	device = make_device(take(&input, 1), &memory, loop);
	if (!device)
		abort();
	drive(device, &memory, &input);
	virtio_free(device);
	loop_free(loop);
	free(ram);
	return 0;
}
