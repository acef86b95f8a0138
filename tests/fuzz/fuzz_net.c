/*
 * Fuzz the network device: hostile are the guest's chains of either queue, what it writes into its memory and
 * registers, and what was saved; frames of the tap and of the peer come between, of any size. Each command is
 * a byte that says what, and its operands. Commands run on the device loop, between what the tap has to tell.
 */
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/base.h"
#include "fuzz.h"
#include "vmm/device/net_internal.h"

#define MEMORY_SIZE  0x40000
#define QUEUE_SIZE   16
#define DESC(queue)  ((queue)*0x1000u)
#define AVAIL(queue) ((queue)*0x1000u + 0x400)
#define USED(queue)  ((queue)*0x1000u + 0x800)
#define RX_DATA      0x4000u
#define TX_DATA      0x20000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct desc {
	uint64_t address;
	uint32_t length;
	uint16_t flags;
	uint16_t next;
};

struct machine {
	struct input input;
	unsigned char *ram; /* exactly the guest's memory, for ASan */
	struct guest_memory memory;
	struct loop *loop;
	struct loop_source *source;
	int step; /* always readable: the next command */
	struct virtio_device *device;
	struct net_peer peer;
	unsigned answers; /* that the peer has */
	int timeout;
	uint16_t offered[NET_QUEUE_COUNT];
	int tap;
};

static unsigned char frame[NET_FRAME_MAX + 100];

/* --- the guest --- */

static void reg_write(struct machine *machine, uint32_t offset, uint32_t value)
{
	virtio_mmio_write(machine->device, offset, &value, 4);
}

static void drive(struct machine *machine, uint32_t features)
{
	reg_write(machine, 0x070, 0);
	memset(machine->ram, 0, 0x4000);
	reg_write(machine, 0x070, 3);
	reg_write(machine, 0x024, 0);
	reg_write(machine, 0x020, features & 0x2000ddabu);
	reg_write(machine, 0x024, 1);
	reg_write(machine, 0x020, 1);
	reg_write(machine, 0x070, 11);
	for (uint32_t queue = 0; queue < NET_QUEUE_COUNT; queue++) {
		reg_write(machine, 0x030, queue);
		reg_write(machine, 0x038, QUEUE_SIZE);
		reg_write(machine, 0x080, DESC(queue));
		reg_write(machine, 0x090, AVAIL(queue));
		reg_write(machine, 0x0a0, USED(queue));
		reg_write(machine, 0x044, 1);
		machine->offered[queue] = 0;
	}
	reg_write(machine, 0x070, 15);
}

static uint32_t take_length(struct machine *machine)
{
	static const uint32_t lengths[] = { 0,    1,     5,     7,         11,     12,        13,
		                            14,   25,    26,    46,        60,     1526,      0x1000,
		                            9000, 32768, 65535, 65562 - 1, 65562u, 65562 + 1, UINT32_MAX };

	return lengths[take(&machine->input, 1) % ARRAY_SIZE(lengths)];
}

static void take_bytes(struct machine *machine, unsigned char *to, size_t room)
{
	uint32_t size = take(&machine->input, 1) % 64;

	for (uint32_t i = 0; i < size && i < room; i++)
		to[i] = (unsigned char)take(&machine->input, 1);
}

/* A chain of up to 8 buffers, one behind the other in memory or all in one place. */
static void offer_chain(struct machine *machine, unsigned queue)
{
	struct input *input = &machine->input;
	uint32_t kind = take(input, 1);
	uint32_t count = kind % 8 + 1;
	uint16_t first = (uint16_t)(machine->offered[queue] * (kind & 8 ? 1 : count));
	uint32_t at = queue == NET_QUEUE_TX ? TX_DATA : RX_DATA + machine->offered[queue] % 4 * 0x4000u;
	unsigned char *avail = machine->ram + AVAIL(queue);

	for (uint32_t i = 0; i < count; i++) {
		uint32_t index = (first + i) % QUEUE_SIZE;
		struct desc desc = { at, take_length(machine), queue == NET_QUEUE_TX ? 0 : 2, 0 };

		desc.flags ^= (kind & 0x30) == 0x30 ? 2 : 0;
		desc.flags |= i + 1 < count ? 1 : 0;
		desc.next = (uint16_t)((index + 1) % QUEUE_SIZE);
		memcpy(machine->ram + DESC(queue) + index * sizeof(desc), &desc, sizeof(desc));
		at += kind & 0x40 ? 0 : desc.length % 0x11000;
	}
	first %= QUEUE_SIZE;
	if (queue == NET_QUEUE_TX)
		take_bytes(machine, machine->ram + TX_DATA, 64);
	memcpy(avail + 4 + machine->offered[queue]++ % QUEUE_SIZE * sizeof(first), &first, sizeof(first));
	memcpy(avail + 2, &machine->offered[queue], sizeof(first));
	if (!(kind & 0x80))
		reg_write(machine, 0x050, queue);
}

static void make_device(struct machine *machine)
{
	struct net_config config = { .id = "fuzz", .has_mac = true, .mtu = 1500 };
	int ends[2];

	/* The guest's address is all zeros: what memory holds at first. */
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) < 0)
		abort();
	if (machine->tap >= 0)
		close(machine->tap);
	machine->tap = ends[0];
	machine->device =
	        net_new_on(&config, ends[1], false, &machine->peer, &machine->memory, machine->loop, NULL);
	if (!machine->device)
		abort();
}

/* As a restore does: into a new device, from a state that may have been tampered with. */
static void save_and_restore(struct machine *machine)
{
	cleanup_buffer struct buffer state = BUFFER_INIT;

	if (virtio_pause(machine->device, NULL) < 0 || virtio_save(machine->device, &state, NULL) < 0)
		abort();
	virtio_free(machine->device);
	make_device(machine);
	state.data[take(&machine->input, 1) % state.size] ^= (char)take(&machine->input, 1);
	if (virtio_pause(machine->device, NULL) < 0)
		abort();
	(void)virtio_restore(machine->device, state.data, state.size, NULL);
	virtio_resume(machine->device);
}

/* --- the tap, the peer, the limits --- */

static void tap_give(struct machine *machine)
{
	size_t size = take_length(machine);

	memset(frame, 0, 64);
	take_bytes(machine, frame, 64);
	(void)send(machine->tap, frame, size < sizeof(frame) ? size : sizeof(frame), MSG_NOSIGNAL);
}

static void tap_take(struct machine *machine)
{
	while (recv(machine->tap, frame, sizeof(frame), 0) > 0)
		continue;
}

/* Looks at each byte of the frame, for ASan, and takes what is odd. */
static bool peer_take(void *context, const void *data, size_t size)
{
	struct machine *machine = context;
	unsigned sum = 0;

	for (size_t i = 0; i < size; i++)
		sum += ((const unsigned char *)data)[i];
	machine->answers += sum % 2;
	return sum % 2;
}

static size_t peer_give(void *context, void *to, size_t room)
{
	struct machine *machine = context;

	if (machine->answers == 0)
		return 0;
	machine->answers--;
	memset(to, 'p', room);
	return machine->answers % 2 ? room : 60;
}

static int peer_timeout(void *context)
{
	const struct machine *machine = context;

	return machine->timeout;
}

static void set_limits(struct machine *machine)
{
	struct token_bucket_config buckets[4];

	for (unsigned i = 0; i < 4; i++)
		buckets[i] = (struct token_bucket_config){ .size = take(&machine->input, 2),
			                                   .refill_time_ms = take(&machine->input, 1) };
	net_set_limits(machine->device, &buckets[0], &buckets[1], &buckets[2], &buckets[3]);
}

/* --- together --- */

static void write_memory(struct machine *machine)
{
	uint32_t offset = take(&machine->input, 2) % 0x4000;

	take_bytes(machine, machine->ram + offset, 64);
}

static void reset_or_restore(struct machine *machine)
{
	uint32_t what = take(&machine->input, 1);

	if (what % 4 == 0)
		save_and_restore(machine);
	else if (what % 4 == 1 && what / 4 % 16 == 0)
		(void)shutdown(machine->tap, SHUT_RDWR);
	else
		drive(machine, take(&machine->input, 4));
}

static void command(struct machine *machine)
{
	uint32_t offset;
	uint32_t value;

	switch (take(&machine->input, 1) % 12) {
	case 0:
	case 1:
		offer_chain(machine, NET_QUEUE_TX);
		break;
	case 2:
	case 3:
		offer_chain(machine, NET_QUEUE_RX);
		break;
	case 4:
		write_memory(machine);
		break;
	case 5:
		offset = take(&machine->input, 1) * 4 % VIRTIO_MMIO_WINDOW;
		virtio_mmio_read(machine->device, offset, &value, 4);
		reg_write(machine, offset, take(&machine->input, 4));
		break;
	case 6:
		reset_or_restore(machine);
		break;
	case 7:
	case 8:
		tap_give(machine);
		break;
	case 9:
		tap_take(machine);
		break;
	case 10:
		machine->answers += take(&machine->input, 1) % 8;
		machine->timeout = (int)(take(&machine->input, 1) % 4) - 1;
		reg_write(machine, 0x050, NET_QUEUE_RX);
		break;
	default:
		set_limits(machine);
		break;
	}
}

static void on_step(void *context, uint32_t events)
{
	struct machine *machine = context;

	(void)events;
	if (machine->input.size == 0)
		loop_stop(machine->loop);
	else
		command(machine);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct machine machine = { .input = { data, size }, .tap = -1, .timeout = -1 };

	log_init("fuzz_net", LOG_LEVEL_ERROR);
	machine.ram = calloc(1, MEMORY_SIZE);
	machine.memory = (struct guest_memory){ .regions = { { 0, MEMORY_SIZE, machine.ram } }, .count = 1 };
	machine.peer = (struct net_peer){ &machine, peer_take, peer_give, peer_timeout };
	machine.loop = loop_new(NULL);
	machine.step = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
	(void)signal(SIGPIPE, SIG_IGN);
	if (!machine.ram || !machine.loop || machine.step < 0)
		abort();
	make_device(&machine);
	drive(&machine, take(&machine.input, 4));
	machine.source = loop_watch(machine.loop, machine.step, EPOLLIN, on_step, &machine, NULL);
	if (!machine.source || loop_run(machine.loop) < 0)
		abort();
	loop_unwatch(machine.source);
	virtio_free(machine.device);
	loop_free(machine.loop);
	close(machine.tap);
	close(machine.step);
	free(machine.ram);
	return 0;
}
