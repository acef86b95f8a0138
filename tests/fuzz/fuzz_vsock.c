/*
 * Fuzz the vsock device: hostile are the guest's packets (ports, lengths, operations out of turn, credit),
 * its rings and registers, and what was saved; and a host program that connects, writes, reads and leaves
 * when it likes. Each command is a byte that says what, and its operands. Commands run on the device loop,
 * between what the sockets have to tell.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/base.h"
#include "fuzz.h"
#include "vmm/device/device.h"
#include "vmm/device/vsock_internal.h"

#define MEMORY_SIZE  0x40000
#define QUEUE_SIZE   16
#define QUEUES       3
#define RX           0
#define TX           1
#define EVENT        2
#define DESC(queue)  ((queue)*0x1000u)
#define AVAIL(queue) ((queue)*0x1000u + 0x400)
#define USED(queue)  ((queue)*0x1000u + 0x800)
#define EVENTS       0x3000u
#define TX_HEADER    0x4000u
#define TX_DATA      0x20000u
#define RX_BUFFERS   0x8000u /* 0x1000 apart */
#define CID          3
#define HOST_PORT    52 /* has a listening socket */
#define SOCKETS      4

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
	uint16_t offered[QUEUES];
	int listener;
	int sockets[SOCKETS]; /* the host's programs */
};

static char directory[] = "/tmp/atoll-fuzz-XXXXXX";
static char path[64];
static char port_path[80];

static void remove_directory(void)
{
	(void)rmdir(directory);
}

static void make_directory(void)
{
	if (path[0])
		return;
	if (!mkdtemp(directory))
		abort();
	(void)atexit(remove_directory);
	(void)snprintf(path, sizeof(path), "%s/v", directory);
	(void)snprintf(port_path, sizeof(port_path), "%s_%d", path, HOST_PORT);
}

/* --- the guest --- */

static void reg_write(struct machine *machine, uint32_t offset, uint32_t value)
{
	virtio_mmio_write(machine->device, offset, &value, 4);
}

static void drive(struct machine *machine)
{
	reg_write(machine, 0x070, 0);
	memset(machine->ram, 0, MEMORY_SIZE);
	reg_write(machine, 0x070, 3);
	reg_write(machine, 0x024, 1);
	reg_write(machine, 0x020, 1);
	reg_write(machine, 0x070, 11);
	for (uint32_t queue = 0; queue < QUEUES; queue++) {
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

static void set_desc(struct machine *machine, unsigned queue, unsigned index, struct desc desc)
{
	memcpy(machine->ram + DESC(queue) + index * sizeof(desc), &desc, sizeof(desc));
}

static void offer(struct machine *machine, unsigned queue, uint16_t head)
{
	unsigned char *avail = machine->ram + AVAIL(queue);

	memcpy(avail + 4 + machine->offered[queue]++ % QUEUE_SIZE * sizeof(head), &head, sizeof(head));
	memcpy(avail + 2, &machine->offered[queue], sizeof(head));
	reg_write(machine, 0x050, queue);
}

static void offer_receive(struct machine *machine)
{
	uint16_t index = machine->offered[RX] % QUEUE_SIZE;
	uint32_t kind = take(&machine->input, 1);
	/* Mostly room for data; now and then hardly for a header. */
	uint32_t length = kind % 8 ? 0x1000 : (uint32_t)sizeof(struct vsock_header) + kind / 8 % 4;

	set_desc(machine, RX, index, (struct desc){ RX_BUFFERS + index * 0x1000u, length, 2, 0 });
	offer(machine, RX, index);
}

static void offer_event(struct machine *machine)
{
	uint16_t index = machine->offered[EVENT] % QUEUE_SIZE;

	set_desc(machine, EVENT, index,
	         (struct desc){ EVENTS + index * 16u, take(&machine->input, 1) % 9, 2, 0 });
	offer(machine, EVENT, index);
}

static uint32_t take_length(struct machine *machine)
{
	static const uint32_t lengths[] = {
		0, 1, 100, 4096, VSOCK_BUFFER - 1, VSOCK_BUFFER, VSOCK_BUFFER + 1, UINT32_MAX
	};

	return lengths[take(&machine->input, 1) % ARRAY_SIZE(lengths)];
}

static uint32_t take_port(struct machine *machine)
{
	uint32_t kind = take(&machine->input, 1);

	/* Those that connections from the host get, the one that listens, and one that does not. */
	return kind % 4 == 0 ? HOST_PORT : kind % 4 == 1 ? kind : (1u << 30) + kind / 4 % 8;
}

static void send_packet(struct machine *machine)
{
	struct input *input = &machine->input;
	struct vsock_header header = { .src_cid = CID, .dst_cid = 2, .type = VSOCK_TYPE_STREAM };
	uint32_t odd = take(input, 1);
	uint32_t length;

	header.op = (uint16_t)(take(input, 1) % 9);
	header.dst_port = take_port(machine);
	header.src_port = 1000 + take(input, 1) % 4;
	header.len = header.op == VSOCK_OP_RW ? take_length(machine) : 0;
	header.flags = take(input, 1);
	header.buf_alloc = take_length(machine);
	header.fwd_cnt = take(input, 2);
	length = header.len > VSOCK_BUFFER + 1 ? 64 : header.len;
	/* One bit of `odd` per thing that is wrong. */
	header.src_cid += odd & 1;
	header.dst_cid += odd >> 1 & 1;
	header.type = (uint16_t)(header.type + (odd >> 2 & 1));
	header.len += odd >> 3 & 1;
	length += odd >> 4 & 1;
	memcpy(machine->ram + TX_HEADER, &header, sizeof(header));
	if (odd >> 5 & 1) {
		/* The header in two pieces, the second with the beginning of what should be data. */
		set_desc(machine, TX, 0, (struct desc){ TX_HEADER, 20, 1, 1 });
		set_desc(machine, TX, 1,
		         (struct desc){ TX_HEADER + 20, (uint32_t)sizeof(header) - 20 + length / 2, 1, 2 });
		set_desc(machine, TX, 2, (struct desc){ TX_DATA, length - length / 2, 0, 0 });
	} else {
		set_desc(machine, TX, 0,
		         (struct desc){ TX_HEADER, sizeof(header) - (odd >> 6 & 1), length ? 1 : 0, 1 });
		set_desc(machine, TX, 1, (struct desc){ TX_DATA, length, 0, 0 });
	}
	offer(machine, TX, 0);
}

static void write_memory(struct machine *machine)
{
	uint32_t offset = take(&machine->input, 2);
	uint32_t size = take(&machine->input, 1) % 32;

	for (uint32_t i = 0; i < size; i++)
		machine->ram[offset + i] = (unsigned char)take(&machine->input, 1);
}

static void make_device(struct machine *machine)
{
	struct vsock_config config = { CID, path };

	machine->device = vsock_new(&config, &machine->memory, machine->loop, NULL);
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

/* --- the host --- */

static int listen_on_port(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	(void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", port_path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 8) < 0)
		abort();
	return fd;
}

static void replace_socket(int *slot, int fd)
{
	if (*slot >= 0)
		close(*slot);
	*slot = fd;
}

static void host_connect(struct machine *machine, int *slot)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	char line[32];
	int size = snprintf(line, sizeof(line), "CONNECT %u\n", 1000 + take(&machine->input, 1) % 4);

	(void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	if (fd < 0)
		abort();
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 && take(&machine->input, 1) % 4)
		(void)send(fd, line, (size_t)size, MSG_NOSIGNAL);
	replace_socket(slot, fd);
}

static void host_write(struct machine *machine, int fd)
{
	static const char zeros[0x20000];
	char text[64];
	size_t size = take(&machine->input, 1);

	if (size >= sizeof(text)) {
		(void)send(fd, zeros, size * 512, MSG_NOSIGNAL | MSG_DONTWAIT);
		return;
	}
	for (size_t i = 0; i < size; i++)
		text[i] = (char)take(&machine->input, 1);
	(void)send(fd, text, size, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void host_act(struct machine *machine)
{
	uint32_t what = take(&machine->input, 1);
	int *slot = &machine->sockets[what / 8 % SOCKETS];
	char data[4096];

	switch (what % 8) {
	case 0:
	case 1:
		host_connect(machine, slot);
		break;
	case 2:
		replace_socket(slot, accept4(machine->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC));
		break;
	case 3:
		while (recv(*slot, data, sizeof(data), MSG_DONTWAIT) > 0)
			continue;
		break;
	case 4:
		replace_socket(slot, -1);
		break;
	case 5:
		(void)shutdown(*slot, take(&machine->input, 1) % 3);
		break;
	default:
		host_write(machine, *slot);
		break;
	}
}

/* --- together --- */

static void on_step(void *context, uint32_t events)
{
	struct machine *machine = context;
	uint32_t offset;
	uint32_t value;

	(void)events;
	if (machine->input.size == 0) {
		loop_stop(machine->loop);
		return;
	}
	switch (take(&machine->input, 1) % 12) {
	case 0:
	case 1:
	case 2:
		send_packet(machine);
		break;
	case 3:
	case 4:
		offer_receive(machine);
		break;
	case 5:
		offer_event(machine);
		break;
	case 6:
		write_memory(machine);
		break;
	case 7:
		offset = take(&machine->input, 1) * 4 % VIRTIO_MMIO_WINDOW;
		virtio_mmio_read(machine->device, offset, &value, 4);
		reg_write(machine, offset, take(&machine->input, 4));
		break;
	case 8:
		if (take(&machine->input, 1) % 2)
			save_and_restore(machine);
		else
			drive(machine);
		break;
	default:
		host_act(machine);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct machine machine = { .input = { data, size }, .sockets = { -1, -1, -1, -1 } };

	make_directory();
	machine.ram = calloc(1, MEMORY_SIZE);
	machine.memory = (struct guest_memory){ .regions = { { 0, MEMORY_SIZE, machine.ram } }, .count = 1 };
	machine.loop = loop_new(NULL);
	machine.listener = listen_on_port();
	machine.step = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!machine.ram || !machine.loop || machine.step < 0)
		abort();
	make_device(&machine);
	drive(&machine);
	machine.source = loop_watch(machine.loop, machine.step, EPOLLIN, on_step, &machine, NULL);
	if (!machine.source || loop_run(machine.loop) < 0)
		abort();
	loop_unwatch(machine.source);
	virtio_free(machine.device);
	loop_free(machine.loop);
	for (unsigned i = 0; i < SOCKETS; i++)
		replace_socket(&machine.sockets[i], -1);
	close(machine.step);
	close(machine.listener);
	(void)unlink(port_path);
	free(machine.ram);
	return 0;
}
