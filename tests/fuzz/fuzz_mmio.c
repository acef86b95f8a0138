/*
 * Fuzz the register window of every virtio device: accesses of any width at any offset in any order, rings
 * anywhere, changes of the status back and forth, saved state that was tampered with. What can be told of a
 * device from outside must hold after each step: a broken one says that it needs a reset, one that runs has
 * its rings in memory, one that was reset is as new. Memory has a hole, and ASan watches its ends and those
 * of the bitmap of what was written.
 */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/base.h"
#include "fuzz.h"
#include "vmm/device/device.h"
#include "vmm/device/net_internal.h"
#include "vmm/device/virtio_internal.h"
#include "vmm/device/virtqueue.h"

#define LOW_SIZE           0x4000
#define HIGH_BASE          0x100000000ull
#define HIGH_SIZE          0x8000
#define PAGES              ((LOW_SIZE + HIGH_SIZE) / GUEST_PAGE)

#define REG_STATUS         0x070
#define STATUS_DRIVER_OK   4
#define STATUS_NEEDS_RESET 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct machine {
	struct input input;
	struct guest_memory memory;
	struct loop *loop; /* never run: everything happens on this thread */
	struct virtio_device *device;
	unsigned kind;
	bool restored; /* from a state that is not to be believed */
	int tap;
};

static char directory[] = "/tmp/atoll-fuzz-XXXXXX";
static char image_path[64];
static char socket_path[64];

static void remove_directory(void)
{
	(void)rmdir(directory);
}

static void make_files(void)
{
	int fd;

	if (image_path[0])
		return;
	/* In memory: there is a flush at each pause. */
	fd = memfd_create("image", MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, 65536) < 0 || !mkdtemp(directory))
		abort();
	(void)atexit(remove_directory);
	(void)snprintf(image_path, sizeof(image_path), "/proc/self/fd/%d", fd);
	(void)snprintf(socket_path, sizeof(socket_path), "%s/v", directory);
}

/* --- devices --- */

static struct virtio_device *make_net(struct machine *machine)
{
	struct net_config config = { .id = "fuzz", .has_mac = machine->kind & 8, .mtu = 1500 };
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) < 0)
		abort();
	machine->tap = ends[0];
	return net_new_on(&config, ends[1], false, NULL, &machine->memory, machine->loop, NULL);
}

static struct virtio_device *make_block(struct machine *machine)
{
	struct block_config config = { .id = "fuzz",
		                       .path = image_path,
		                       .writeback = machine->kind & 8,
		                       .read_only = machine->kind & 16,
		                       .engine =
		                               machine->kind & 32 ? BLOCK_ENGINE_ASYNC : BLOCK_ENGINE_SYNC };

	return block_new(&config, &machine->memory, machine->loop, NULL);
}

static struct virtio_device *make_balloon(struct machine *machine)
{
	struct balloon_config config = { .stats_polling_interval_s = machine->kind & 8 ? 1 : 0,
		                         .free_page_hinting = machine->kind & 16,
		                         .free_page_reporting = machine->kind & 32 };

	return balloon_new(&config, machine->kind & 64, &machine->memory, machine->loop, NULL);
}

static void make_device(struct machine *machine)
{
	struct vsock_config vsock = { .guest_cid = 3, .uds_path = socket_path };

	switch (machine->kind % 8) {
	case 0:
	case 1:
		machine->device = make_net(machine);
		break;
	case 2:
	case 3:
		machine->device = make_block(machine);
		break;
	case 4:
		machine->device = rng_new(NULL, &machine->memory, machine->loop, NULL);
		break;
	case 5:
		machine->device = vsock_new(&vsock, &machine->memory, machine->loop, NULL);
		break;
	default:
		machine->device = make_balloon(machine);
		break;
	}
	if (!machine->device)
		abort();
	machine->restored = false;
}

static void free_device(struct machine *machine)
{
	virtio_free(machine->device);
	if (machine->tap >= 0)
		close(machine->tap);
	machine->tap = -1;
}

/* --- accesses --- */

static uint32_t reg_read(struct machine *machine, uint32_t offset)
{
	uint32_t value;

	virtio_mmio_read(machine->device, offset, &value, sizeof(value));
	return value;
}

static void reg_write(struct machine *machine, uint32_t offset, uint32_t value)
{
	virtio_mmio_write(machine->device, offset, &value, sizeof(value));
}

/* Addresses where it matters: both ends of memory's pieces, and those of the world. */
static uint64_t take_address(struct input *input)
{
	static const uint64_t places[] = { 0,
		                           LOW_SIZE - 0x1000,
		                           LOW_SIZE,
		                           HIGH_BASE,
		                           HIGH_BASE + 0x1000,
		                           HIGH_BASE + HIGH_SIZE - 0x1000,
		                           HIGH_BASE + HIGH_SIZE,
		                           UINT64_MAX - 0xfff };
	uint64_t place = places[take(input, 1) % ARRAY_SIZE(places)];

	return place + take(input, 2) % 0x1000;
}

static void write_any(struct machine *machine)
{
	uint32_t size = 1u << take(&machine->input, 1) % 4;
	uint32_t offset = take(&machine->input, 2) % (VIRTIO_MMIO_WINDOW - size + 1);
	uint64_t value = take(&machine->input, 4) | (uint64_t)take(&machine->input, size > 4 ? 4 : 0) << 32;

	virtio_mmio_write(machine->device, offset, &value, size);
}

/* What the device leaves of the destination is the last access's: it must fill it all. */
static void read_any(struct machine *machine)
{
	uint32_t size = 1u << take(&machine->input, 1) % 4;
	uint32_t offset = take(&machine->input, 2) % (VIRTIO_MMIO_WINDOW - size + 1);
	uint8_t value[2][8];

	memset(value[0], 0x00, sizeof(value[0]));
	memset(value[1], 0xff, sizeof(value[1]));
	virtio_mmio_read(machine->device, offset, value[0], size);
	virtio_mmio_read(machine->device, offset, value[1], size);
	for (unsigned i = 0; i < 8; i++)
		if (i < size ? value[0][i] != value[1][i] : value[0][i] != 0 || value[1][i] != 0xff)
			abort();
}

static void write_register(struct machine *machine)
{
	static const uint8_t registers[] = { 0x014, 0x020, 0x024, 0x030, 0x038, 0x044, 0x050, 0x064, 0x070 };

	reg_write(machine, registers[take(&machine->input, 1) % sizeof(registers)], take(&machine->input, 4));
}

static void set_queue(struct machine *machine)
{
	uint32_t flags = take(&machine->input, 1);

	reg_write(machine, 0x030, flags % 8);
	reg_write(machine, 0x038, flags & 8 ? take(&machine->input, 2) : 1u << (flags >> 4 & 7));
	for (uint32_t area = 0x080; area < 0x0b0; area += 0x010) {
		uint64_t address = take_address(&machine->input);

		reg_write(machine, area, (uint32_t)address);
		reg_write(machine, area + 4, (uint32_t)(address >> 32));
	}
	reg_write(machine, 0x044, flags & 0x80 ? take(&machine->input, 4) : 1);
}

/* As a driver that knows its trade does, up to where the input says. */
static void negotiate(struct machine *machine)
{
	uint32_t features = take(&machine->input, 4);

	reg_write(machine, REG_STATUS, 0);
	reg_write(machine, REG_STATUS, 3);
	reg_write(machine, 0x014, 0);
	reg_write(machine, 0x024, 0);
	reg_write(machine, 0x020, features & reg_read(machine, 0x010));
	reg_write(machine, 0x024, 1);
	reg_write(machine, 0x020, 1);
	reg_write(machine, REG_STATUS, 11);
}

static void write_memory(struct machine *machine)
{
	uint64_t gpa = take_address(&machine->input);
	uint32_t size = take(&machine->input, 1) % 64;
	unsigned char *host = guest_memory_at(&machine->memory, gpa, size);

	for (uint32_t i = 0; i < size; i++) {
		unsigned char byte = (unsigned char)take(&machine->input, 1);

		if (host)
			host[i] = byte;
	}
}

/* A descriptor of queue N and one more entry in its ring. */
static void offer(struct machine *machine)
{
	struct virtqueue *queue = &machine->device->queues[take(&machine->input, 1) % VIRTIO_QUEUES_MAX];
	uint64_t address = take_address(&machine->input);
	uint32_t words[2];
	unsigned char *desc = guest_memory_at(&machine->memory, queue->desc, 16);
	unsigned char *avail = guest_memory_at(&machine->memory, queue->avail, 6);
	uint16_t index;

	words[0] = take(&machine->input, 2);
	words[1] = take(&machine->input, 4);
	if (!desc || !avail)
		return;
	memcpy(desc, &address, sizeof(address));
	memcpy(desc + 8, words, sizeof(words));
	memcpy(&index, avail + 2, sizeof(index));
	index++;
	memcpy(avail + 2, &index, sizeof(index));
}

static void kick_all(struct machine *machine)
{
	for (unsigned i = 0; i < machine->device->ops->queue_count; i++)
		virtio_kick(machine->device, i);
}

static void reset(struct machine *machine)
{
	reg_write(machine, REG_STATUS, 0);
	if (reg_read(machine, REG_STATUS) || reg_read(machine, 0x060) || machine->device->active)
		abort();
	for (uint32_t i = 0; i < VIRTIO_QUEUES_MAX; i++) {
		reg_write(machine, 0x030, i);
		if (reg_read(machine, 0x044))
			abort();
	}
	machine->restored = false;
}

/* Into a new device, as a restore does. */
static void save_and_restore(struct machine *machine)
{
	cleanup_buffer struct buffer state = BUFFER_INIT;

	if (virtio_pause(machine->device, NULL) < 0 || virtio_save(machine->device, &state, NULL) < 0)
		abort();
	free_device(machine);
	make_device(machine);
	state.data[take(&machine->input, 2) % state.size] ^= (char)take(&machine->input, 1);
	if (virtio_restore(machine->device, state.data, state.size, NULL) < 0 && machine->device->active)
		abort();
	virtio_resume(machine->device);
	machine->restored = true;
}

/* --- together --- */

static void check(struct machine *machine)
{
	struct virtio_device *device = machine->device;
	uint32_t status = reg_read(machine, REG_STATUS);

	if (machine->restored)
		return;
	if (device->broken && !(status & STATUS_NEEDS_RESET))
		abort();
	if (device->active && !(status & STATUS_DRIVER_OK))
		abort();
	for (unsigned i = 0; device->active && i < device->ops->queue_count; i++)
		if (device->queues[i].ready && !virtqueue_valid(device, &device->queues[i]))
			abort();
}

static void step(struct machine *machine)
{
	static void (*const steps[])(struct machine *) = {
		write_any, read_any, write_register, set_queue, negotiate, write_memory, offer, kick_all,
	};
	uint32_t what = take(&machine->input, 1);

	if (what == 0xff)
		save_and_restore(machine);
	else if (what == 0xfe)
		reset(machine);
	else if (what >= 0xf8)
		reg_write(machine, REG_STATUS, 15);
	else
		steps[what % ARRAY_SIZE(steps)](machine);
	check(machine);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct machine machine = { .input = { data, size }, .tap = -1 };
	/* Whole pages, which the balloon may give back. */
	unsigned char *low = aligned_alloc(GUEST_PAGE, LOW_SIZE);
	unsigned char *high = aligned_alloc(GUEST_PAGE, HIGH_SIZE);

	make_files();
	(void)signal(SIGPIPE, SIG_IGN);
	log_init("fuzz_mmio", LOG_LEVEL_ERROR);
	machine.loop = loop_new(NULL);
	machine.memory =
	        (struct guest_memory){ .regions = { { 0, LOW_SIZE, low }, { HIGH_BASE, HIGH_SIZE, high } },
		                       .count = 2 };
	machine.memory.dirty = calloc(1, (PAGES + 7) / 8);
	if (!low || !high || !machine.loop || !machine.memory.dirty)
		abort();
	memset(low, 0, LOW_SIZE);
	memset(high, 0, HIGH_SIZE);
	machine.kind = take(&machine.input, 1);
	make_device(&machine);
	while (machine.input.size)
		step(&machine);
	free_device(&machine);
	loop_free(machine.loop);
	free(machine.memory.dirty);
	free(low);
	free(high);
	return 0;
}
