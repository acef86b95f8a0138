/* Unit tests of the vsock device: a driver in plain memory on one side, unix sockets on the other. */
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cmocka.h>

#include "base/base.h"
#include "vmm/device/device.h"
#include "vmm/device/vsock_internal.h"

#include "remake.h"

#define MEMORY_SIZE   (1 << 20)
#define QUEUE_SIZE    16
#define RX            0
#define TX            1
#define EVENT         2
#define RINGS(queue)  ((uint64_t)(queue)*0x10000 + 0x1000)
#define DESC(queue)   RINGS(queue)
#define AVAIL(queue)  (RINGS(queue) + 0x1000)
#define USED(queue)   (RINGS(queue) + 0x2000)
#define BUFFERS       0x40000 /* receive buffers, 0x2000 apart */
#define EVENTS        0x70000
#define TX_HEADER     0x80000
#define TX_DATA       0x81000
#define BUFFER_SIZE   (4096 + sizeof(struct vsock_header))
#define CID           3
#define DEFAULT_ALLOC 65536

struct desc {
	uint64_t address;
	uint32_t length;
	uint16_t flags;
	uint16_t next;
};

struct fixture {
	unsigned char *ram;
	struct guest_memory memory;
	struct loop *loop;
	pthread_t thread;
	struct virtio_device *device;
	char directory[32];
	char path[64];
	uint16_t offered[3];
	uint16_t seen[3];
	uint32_t alloc;
	uint32_t forwarded;
};

static void *run_loop(void *context)
{
	(void)loop_run(context);
	return NULL;
}

static void *at(struct fixture *fixture, uint64_t gpa)
{
	return fixture->ram + gpa;
}

static void reg_write(struct fixture *fixture, uint32_t offset, uint32_t value)
{
	virtio_mmio_write(fixture->device, offset, &value, 4);
}

static void offer(struct fixture *fixture, unsigned queue, uint16_t head)
{
	uint16_t *avail = at(fixture, AVAIL(queue));

	avail[2 + fixture->offered[queue] % QUEUE_SIZE] = head;
	__atomic_store_n(&avail[1], ++fixture->offered[queue], __ATOMIC_RELEASE);
	reg_write(fixture, 0x050, queue);
}

static void set_desc(struct fixture *fixture, unsigned queue, unsigned index, struct desc desc)
{
	((struct desc *)at(fixture, DESC(queue)))[index] = desc;
}

static bool used_soon(struct fixture *fixture, unsigned queue, int milliseconds)
{
	uint16_t *used = at(fixture, USED(queue));

	for (int i = 0; i < milliseconds; i++) {
		if (__atomic_load_n(&used[1], __ATOMIC_ACQUIRE) != fixture->seen[queue])
			return true;
		(void)usleep(1000);
	}
	return false;
}

/* The head of the next used buffer. */
static uint32_t take_used(struct fixture *fixture, unsigned queue)
{
	uint32_t *ring = at(fixture, USED(queue) + 4);

	assert_true(used_soon(fixture, queue, 60000));
	return ring[2 * (fixture->seen[queue]++ % QUEUE_SIZE)];
}

static void drive(struct fixture *fixture)
{
	reg_write(fixture, 0x070, 0);
	memset(fixture->ram, 0, MEMORY_SIZE);
	reg_write(fixture, 0x070, 3);
	reg_write(fixture, 0x024, 1);
	reg_write(fixture, 0x020, 1);
	reg_write(fixture, 0x070, 11);
	for (unsigned queue = 0; queue < 3; queue++) {
		reg_write(fixture, 0x030, queue);
		reg_write(fixture, 0x038, QUEUE_SIZE);
		reg_write(fixture, 0x080, (uint32_t)DESC(queue));
		reg_write(fixture, 0x090, (uint32_t)AVAIL(queue));
		reg_write(fixture, 0x0a0, (uint32_t)USED(queue));
		reg_write(fixture, 0x044, 1);
		fixture->offered[queue] = 0;
		fixture->seen[queue] = 0;
	}
	reg_write(fixture, 0x070, 15);
	for (uint16_t i = 0; i < 8; i++) {
		set_desc(fixture, RX, i, (struct desc){ BUFFERS + i * 0x2000u, BUFFER_SIZE, 2, 0 });
		offer(fixture, RX, i);
		set_desc(fixture, EVENT, i, (struct desc){ EVENTS + i * 16u, 4, 2, 0 });
		offer(fixture, EVENT, i);
	}
	fixture->alloc = DEFAULT_ALLOC;
	fixture->forwarded = 0;
}

static void make_device(void *context)
{
	struct fixture *fixture = context;
	struct vsock_config config = { CID, fixture->path };
	struct error err = { 0 };

	fixture->device = vsock_new(&config, &fixture->memory, fixture->loop, &err);
	if (!fixture->device)
		fail_msg("%s", err.message);
}

static int setup(void **state)
{
	struct fixture *fixture = calloc(1, sizeof(*fixture));

	fixture->ram = calloc(1, MEMORY_SIZE);
	fixture->memory =
	        (struct guest_memory){ .regions = { { 0, MEMORY_SIZE, fixture->ram } }, .count = 1 };
	fixture->loop = loop_new(NULL);
	assert_non_null(fixture->loop);
	(void)snprintf(fixture->directory, sizeof(fixture->directory), "/tmp/atoll-vsock-XXXXXX");
	assert_non_null(mkdtemp(fixture->directory));
	(void)snprintf(fixture->path, sizeof(fixture->path), "%s/v", fixture->directory);
	make_device(fixture);
	assert_int_equal(pthread_create(&fixture->thread, NULL, run_loop, fixture->loop), 0);
	drive(fixture);
	*state = fixture;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *fixture = *state;

	loop_stop(fixture->loop);
	(void)pthread_join(fixture->thread, NULL);
	virtio_free(fixture->device);
	loop_free(fixture->loop);
	assert_int_equal(file_remove_tree(fixture->directory, NULL), 0);
	free(fixture->ram);
	free(fixture);
	return 0;
}

/* --- the guest's side --- */

static void send_raw(struct fixture *fixture, const struct vsock_header *header, uint32_t header_size,
                     const void *data, uint32_t size)
{
	memcpy(at(fixture, TX_HEADER), header, sizeof(*header));
	if (size)
		memcpy(at(fixture, TX_DATA), data, size);
	set_desc(fixture, TX, 0, (struct desc){ TX_HEADER, header_size, size ? 1 : 0, 1 });
	set_desc(fixture, TX, 1, (struct desc){ TX_DATA, size, 0, 0 });
	offer(fixture, TX, 0);
	(void)take_used(fixture, TX);
}

static struct vsock_header make_header(struct fixture *fixture, uint32_t host_port, uint32_t guest_port,
                                       uint16_t op)
{
	return (struct vsock_header){ .src_cid = CID,
		                      .dst_cid = 2,
		                      .src_port = guest_port,
		                      .dst_port = host_port,
		                      .type = 1,
		                      .op = op,
		                      .buf_alloc = fixture->alloc,
		                      .fwd_cnt = fixture->forwarded };
}

static void send_packet(struct fixture *fixture, uint32_t host_port, uint32_t guest_port, uint16_t op,
                        uint32_t flags, const void *data, uint32_t size)
{
	struct vsock_header header = make_header(fixture, host_port, guest_port, op);

	header.flags = flags;
	header.len = size;
	send_raw(fixture, &header, sizeof(header), data, size);
}

/* Take the next packet from the device, and give its buffer back. */
static struct vsock_header take_packet(struct fixture *fixture, char data[4096])
{
	struct vsock_header header;
	uint32_t head = take_used(fixture, RX);
	const unsigned char *buffer = at(fixture, BUFFERS + head * 0x2000u);

	memcpy(&header, buffer, sizeof(header));
	assert_true(header.len <= 4096);
	if (data)
		memcpy(data, buffer + sizeof(header), header.len);
	assert_int_equal(header.src_cid, 2);
	assert_int_equal(header.dst_cid, CID);
	offer(fixture, RX, (uint16_t)head);
	return header;
}

static struct vsock_header expect_packet(struct fixture *fixture, uint16_t op)
{
	struct vsock_header header = take_packet(fixture, NULL);

	assert_int_equal(header.op, op);
	return header;
}

/* --- the host's side --- */

static int host_connect(struct fixture *fixture, const char *command)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct timeval patience = { .tv_sec = 60 };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	(void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", fixture->path);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	assert_int_equal(fd_write_all(fd, command, strlen(command)), 0);
	return fd;
}

static void expect_bytes(int fd, const char *text)
{
	char got[64] = { 0 };

	assert_int_equal(fd_read_all(fd, got, strlen(text)), 0);
	assert_string_equal(got, text);
}

static void expect_end(int fd)
{
	char byte;

	assert_int_equal(read(fd, &byte, 1), 0);
}

/* Connect from the host to guest port 52. */
static int establish(struct fixture *fixture, uint32_t *ret_host_port)
{
	int fd = host_connect(fixture, "CONNECT 52\n");
	struct vsock_header header = expect_packet(fixture, VSOCK_OP_REQUEST);
	char line[32];

	assert_int_equal(header.dst_port, 52);
	*ret_host_port = header.src_port;
	send_packet(fixture, header.src_port, 52, VSOCK_OP_RESPONSE, 0, NULL, 0);
	(void)snprintf(line, sizeof(line), "OK %u\n", header.src_port);
	expect_bytes(fd, line);
	return fd;
}

static void the_host_talks_to_the_guest(void **state)
{
	struct fixture *fixture = *state;
	uint32_t port;
	int fd = establish(fixture, &port);
	struct vsock_header header;
	char data[4096];

	assert_int_equal(fd_write_all(fd, "hello", 5), 0);
	header = take_packet(fixture, data);
	assert_int_equal(header.op, VSOCK_OP_RW);
	assert_int_equal(header.len, 5);
	assert_memory_equal(data, "hello", 5);
	send_packet(fixture, port, 52, VSOCK_OP_RW, 0, "world", 5);
	expect_bytes(fd, "world");
	assert_int_equal(shutdown(fd, SHUT_WR), 0);
	header = expect_packet(fixture, VSOCK_OP_SHUTDOWN);
	assert_int_equal(header.flags, VSOCK_SHUTDOWN_SEND);
	assert_int_equal(header.fwd_cnt, 5);
	/* Half-closed: the guest still speaks. */
	send_packet(fixture, port, 52, VSOCK_OP_RW, 0, "bye", 3);
	expect_bytes(fd, "bye");
	send_packet(fixture, port, 52, VSOCK_OP_SHUTDOWN, VSOCK_SHUTDOWN_BOTH, NULL, 0);
	(void)expect_packet(fixture, VSOCK_OP_RST);
	expect_end(fd);
	close(fd);
}

static void what_follows_the_command_is_not_lost(void **state)
{
	struct fixture *fixture = *state;
	int fd = host_connect(fixture, "connect 1024\nGET /");
	struct vsock_header header = expect_packet(fixture, VSOCK_OP_REQUEST);
	char data[4096];

	assert_int_equal(header.dst_port, 1024);
	send_packet(fixture, header.src_port, 1024, VSOCK_OP_RESPONSE, 0, NULL, 0);
	header = take_packet(fixture, data);
	assert_int_equal(header.op, VSOCK_OP_RW);
	assert_int_equal(header.len, 5);
	assert_memory_equal(data, "GET /", 5);
	/* The host hangs up for good: the guest hears of it after the data. */
	assert_int_equal(fd_write_all(fd, "!", 1), 0);
	close(fd);
	header = take_packet(fixture, data);
	assert_int_equal(header.op, VSOCK_OP_RW);
	header = expect_packet(fixture, VSOCK_OP_SHUTDOWN);
	assert_int_equal(header.flags, VSOCK_SHUTDOWN_BOTH);
}

static void bad_commands_and_refusals_close(void **state)
{
	static const char *const bad[] = { "HELLO 52\n",   "CONNECT \n",
		                           "CONNECT 0\n",  "CONNECT 99999999999\n",
		                           "CONNECT 5x\n", "CONNECT 11111111111111111111111111111111\n" };
	struct fixture *fixture = *state;
	struct vsock_header header;
	int fd;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		char byte;

		fd = host_connect(fixture, bad[i]);
		/* A socket that is closed with unread data may answer with a reset instead of an end. */
		assert_true(read(fd, &byte, 1) <= 0);
		close(fd);
	}
	fd = host_connect(fixture, "CONNECT 7\n");
	header = expect_packet(fixture, VSOCK_OP_REQUEST);
	send_packet(fixture, header.src_port, 7, VSOCK_OP_RST, 0, NULL, 0);
	expect_end(fd);
	close(fd);
	assert_false(used_soon(fixture, RX, 20));
}

static void the_guest_reaches_host_sockets(void **state)
{
	struct fixture *fixture = *state;
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int listener = socket(AF_UNIX, SOCK_STREAM, 0);
	struct vsock_header header;
	int fd;

	send_packet(fixture, 9, 1000, VSOCK_OP_REQUEST, 0, NULL, 0);
	header = expect_packet(fixture, VSOCK_OP_RST);
	assert_int_equal(header.src_port, 9);
	assert_int_equal(header.dst_port, 1000);
	(void)snprintf(address.sun_path, sizeof(address.sun_path), "%s_9", fixture->path);
	assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(listener, 1), 0);
	send_packet(fixture, 9, 1000, VSOCK_OP_REQUEST, 0, NULL, 0);
	(void)expect_packet(fixture, VSOCK_OP_RESPONSE);
	fd = accept(listener, NULL, NULL);
	send_packet(fixture, 9, 1000, VSOCK_OP_RW, 0, "ping", 4);
	expect_bytes(fd, "ping");
	send_packet(fixture, 9, 1000, VSOCK_OP_SHUTDOWN, VSOCK_SHUTDOWN_SEND, NULL, 0);
	expect_end(fd);
	assert_int_equal(fd_write_all(fd, "pong", 4), 0);
	(void)expect_packet(fixture, VSOCK_OP_RW);
	close(fd);
	(void)expect_packet(fixture, VSOCK_OP_SHUTDOWN);
	close(listener);
}

static void the_guests_credit_is_kept(void **state)
{
	struct fixture *fixture = *state;
	struct vsock_header header;
	uint32_t port;
	int fd;

	fixture->alloc = 10;
	fd = establish(fixture, &port);
	assert_int_equal(fd_write_all(fd, "0123456789abcdefghij", 20), 0);
	header = expect_packet(fixture, VSOCK_OP_RW);
	assert_int_equal(header.len, 10);
	(void)expect_packet(fixture, VSOCK_OP_CREDIT_REQUEST);
	assert_false(used_soon(fixture, RX, 20));
	fixture->forwarded = 4;
	send_packet(fixture, port, 52, VSOCK_OP_CREDIT_UPDATE, 0, NULL, 0);
	header = expect_packet(fixture, VSOCK_OP_RW);
	assert_int_equal(header.len, 4);
	(void)expect_packet(fixture, VSOCK_OP_CREDIT_REQUEST);
	fixture->forwarded = 14;
	send_packet(fixture, port, 52, VSOCK_OP_CREDIT_UPDATE, 0, NULL, 0);
	header = expect_packet(fixture, VSOCK_OP_RW);
	assert_int_equal(header.len, 6);
	send_packet(fixture, port, 52, VSOCK_OP_CREDIT_REQUEST, 0, NULL, 0);
	header = expect_packet(fixture, VSOCK_OP_CREDIT_UPDATE);
	assert_int_equal(header.buf_alloc, VSOCK_BUFFER);
	/* A guest that lies about what it took gets no more than its buffer. */
	fixture->forwarded = 5000;
	send_packet(fixture, port, 52, VSOCK_OP_CREDIT_UPDATE, 0, NULL, 0);
	assert_int_equal(fd_write_all(fd, "x", 1), 0);
	(void)expect_packet(fixture, VSOCK_OP_CREDIT_REQUEST);
	close(fd);
}

static void a_guest_beyond_its_credit_is_cut_off(void **state)
{
	static char block[32768];
	struct fixture *fixture = *state;
	uint32_t port;
	int fd = establish(fixture, &port);

	for (int i = 0; i < 64 && !used_soon(fixture, RX, 1); i++)
		send_packet(fixture, port, 52, VSOCK_OP_RW, 0, block, sizeof(block));
	for (;;) {
		struct vsock_header header = take_packet(fixture, NULL);

		if (header.op == VSOCK_OP_RST)
			break;
		assert_int_equal(header.op, VSOCK_OP_CREDIT_UPDATE);
		while (!used_soon(fixture, RX, 1))
			send_packet(fixture, port, 52, VSOCK_OP_RW, 0, block, sizeof(block));
	}
	close(fd);
}

static void a_slow_host_loses_no_byte(void **state)
{
	static unsigned char block[16384];
	struct fixture *fixture = *state;
	uint32_t sent = 0;
	uint32_t told = 0;
	uint32_t port;
	int fd = establish(fixture, &port);

	for (size_t i = 0; i < sizeof(block); i++)
		block[i] = (unsigned char)(i * 7 + i / 251);
	/* Until our credit is used up and the host has read nothing: it takes more than fits into the device.
	 */
	for (int quiet = 0; quiet < (sent > VSOCK_BUFFER ? 3 : 3000);) {
		if (sent - told + sizeof(block) <= VSOCK_BUFFER) {
			send_packet(fixture, port, 52, VSOCK_OP_RW, 0, block, sizeof(block));
			sent += (uint32_t)sizeof(block);
			quiet = 0;
		} else if (used_soon(fixture, RX, 20)) {
			told = expect_packet(fixture, VSOCK_OP_CREDIT_UPDATE).fwd_cnt;
		} else {
			quiet++;
		}
	}
	assert_true(sent > VSOCK_BUFFER);
	for (uint32_t got = 0; got < sent; got += (uint32_t)sizeof(block)) {
		unsigned char part[sizeof(block)];

		assert_int_equal(fd_read_all(fd, part, sizeof(part)), 0);
		assert_memory_equal(part, block, sizeof(block));
	}
	send_packet(fixture, port, 52, VSOCK_OP_SHUTDOWN, VSOCK_SHUTDOWN_BOTH, NULL, 0);
	while (take_packet(fixture, NULL).op != VSOCK_OP_RST)
		continue;
	expect_end(fd);
	close(fd);
}

static void nonsense_is_refused_or_ignored(void **state)
{
	struct fixture *fixture = *state;
	struct vsock_header header = make_header(fixture, 5, 6, VSOCK_OP_RW);

	send_raw(fixture, &header, 20, NULL, 0); /* too short for a header */
	header.src_cid = 77;                     /* not who it is */
	send_raw(fixture, &header, sizeof(header), NULL, 0);
	assert_false(used_soon(fixture, RX, 20));
	header.src_cid = CID;
	header.len = 4000; /* more than there is */
	send_raw(fixture, &header, sizeof(header), "x", 1);
	(void)expect_packet(fixture, VSOCK_OP_RST);
	header.len = 0;
	header.type = 2; /* no datagrams */
	send_raw(fixture, &header, sizeof(header), NULL, 0);
	assert_int_equal(expect_packet(fixture, VSOCK_OP_RST).type, 2);
	header.type = 1;
	header.op = 99;
	send_raw(fixture, &header, sizeof(header), NULL, 0);
	(void)expect_packet(fixture, VSOCK_OP_RST);
	header.op = VSOCK_OP_RST; /* a reset is never answered */
	send_raw(fixture, &header, sizeof(header), NULL, 0);
	assert_false(used_soon(fixture, RX, 20));
	assert_int_equal(fixture->device->status & 64, 0);
}

static void a_restored_guest_hears_of_it_first(void **state)
{
	struct fixture *fixture = *state;
	struct remake remake = { fixture->loop, &fixture->device, make_device, fixture, BUFFER_INIT, 0 };
	uint32_t event;
	uint32_t head;
	uint32_t port;
	int fd = establish(fixture, &port);
	int later;

	assert_int_equal(virtio_pause(fixture->device, NULL), 0);
	assert_int_equal(remake_device(&remake), 0);
	expect_end(fd);
	later = host_connect(fixture, "CONNECT 52\n");
	memset(at(fixture, EVENTS), 0xff, 64);
	virtio_resume(fixture->device);
	head = take_used(fixture, EVENT);
	memcpy(&event, at(fixture, EVENTS + head * 16u), sizeof(event));
	assert_int_equal(event, 0);
	assert_false(used_soon(fixture, RX, 50));
	offer(fixture, EVENT, (uint16_t)head);
	(void)expect_packet(fixture, VSOCK_OP_REQUEST);
	close(fd);
	close(later);
	remake.saved.size--;
	assert_int_equal(remake_restore(&remake), -EINVAL);
	buffer_fini(&remake.saved);
	reg_write(fixture, 0x070, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_host_talks_to_the_guest, setup, teardown),
		cmocka_unit_test_setup_teardown(what_follows_the_command_is_not_lost, setup, teardown),
		cmocka_unit_test_setup_teardown(bad_commands_and_refusals_close, setup, teardown),
		cmocka_unit_test_setup_teardown(the_guest_reaches_host_sockets, setup, teardown),
		cmocka_unit_test_setup_teardown(the_guests_credit_is_kept, setup, teardown),
		cmocka_unit_test_setup_teardown(a_guest_beyond_its_credit_is_cut_off, setup, teardown),
		cmocka_unit_test_setup_teardown(a_slow_host_loses_no_byte, setup, teardown),
		cmocka_unit_test_setup_teardown(nonsense_is_refused_or_ignored, setup, teardown),
		cmocka_unit_test_setup_teardown(a_restored_guest_hears_of_it_first, setup, teardown),
	};

	return cmocka_run_group_tests_name("vsock", tests, NULL, NULL);
}
