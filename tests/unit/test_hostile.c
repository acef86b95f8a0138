/*
 * Hostile drivers, the same for every device: rings and chains that break the rules of virtio 1.2, registers
 * out of order, resets while there is work, floods. A device answers by the specification or is broken until
 * it is reset; it touches nothing but the guest's memory, and the others have their turn.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <sys/socket.h>

#include "driver.h"
#include "vmm/device/net_internal.h"
#include "vmm/device/vsock_internal.h"

#define MEMORY_SIZE   (1u << 20)
#define DESC_INDIRECT 4
#define CID           3

struct fixture {
	struct driver driver;
	const struct kind *kind;
	char directory[32];
	char path[64];
	int tap;
};

/* What a kind of device is, to a driver. */
struct kind {
	const char *name;
	void (*make)(struct fixture *fixture);
	uint32_t features;
	unsigned queues;
	unsigned popped; /* bits: queues that are looked at as soon as they are kicked */
};

/* --- the devices --- */

static void make_block(struct fixture *fixture)
{
	static const char image[65536];
	struct block_config config = { .id = "hostile", .path = fixture->path, .writeback = true };

	assert_int_equal(file_write_atomic(fixture->path, image, sizeof(image), 0600, NULL), 0);
	fixture->driver.device = block_new(&config, &fixture->driver.memory, fixture->driver.loop, NULL);
}

static void make_net(struct fixture *fixture)
{
	struct net_config config = { .id = "hostile", .host_dev_name = "tap0" };
	int ends[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
	fixture->tap = ends[0];
	fixture->driver.device = net_new_on(&config, ends[1], false, NULL, &fixture->driver.memory,
	                                    fixture->driver.loop, NULL);
}

static void make_rng(struct fixture *fixture)
{
	fixture->driver.device = rng_new(NULL, &fixture->driver.memory, fixture->driver.loop, NULL);
}

static void make_vsock(struct fixture *fixture)
{
	struct vsock_config config = { CID, fixture->path };

	fixture->driver.device = vsock_new(&config, &fixture->driver.memory, fixture->driver.loop, NULL);
}

static void make_balloon(struct fixture *fixture)
{
	struct balloon_config config = { .stats_polling_interval_s = 1,
		                         .free_page_hinting = true,
		                         .free_page_reporting = true };

	fixture->driver.device =
	        balloon_new(&config, false, &fixture->driver.memory, fixture->driver.loop, NULL);
}

static const struct kind kinds[] = {
	{ "block", make_block, 0, 1, 1 },
	{ "net", make_net, NET_F_MRG_RXBUF, 2, 3 },
	{ "rng", make_rng, 0, 1, 1 },
	{ "vsock", make_vsock, 0, 3, 2 },
	{ "balloon", make_balloon, 2 | 8 | 32, 5, 31 },
};

static void start(struct fixture *fixture, const struct kind *kind)
{
	*fixture = (struct fixture){ .kind = kind, .directory = "/tmp/atoll-hostile-XXXXXX", .tap = -1 };
	assert_non_null(mkdtemp(fixture->directory));
	(void)snprintf(fixture->path, sizeof(fixture->path), "%s/x", fixture->directory);
	driver_init(&fixture->driver, MEMORY_SIZE, -1);
	kind->make(fixture);
	assert_non_null(fixture->driver.device);
	driver_start(&fixture->driver);
}

static void stop(struct fixture *fixture)
{
	driver_fini(&fixture->driver);
	if (fixture->tap >= 0)
		close(fixture->tap);
	assert_int_equal(file_remove_tree(fixture->directory, NULL), 0);
}

static void drive(struct fixture *fixture)
{
	driver_drive(&fixture->driver, fixture->kind->features, fixture->kind->queues);
}

static void nothing(void *context)
{
	(void)context;
}

/* All that was kicked has been looked at: a kick of before is seen before what is called now ends. */
static void settle(struct fixture *fixture)
{
	for (int i = 0; i < 3; i++) {
		loop_call(fixture->driver.loop, nothing, NULL);
		(void)usleep(1000);
	}
}

static void expect_broken(struct fixture *fixture, unsigned queue, const char *what)
{
	driver_kick(&fixture->driver, queue);
	for (int i = 0; i < 120000 && !driver_broken(&fixture->driver); i++)
		(void)usleep(500);
	if (!driver_broken(&fixture->driver))
		fail_msg("queue %u of %s takes %s", queue, fixture->kind->name, what);
	/* A reset makes it well, and it then keeps quiet where there is nothing to do. */
	drive(fixture);
	driver_kick(&fixture->driver, queue);
	settle(fixture);
	assert_int_equal(driver_read(&fixture->driver, 0x070), 15);
}

/* --- chains --- */

static void jump(struct driver *driver, unsigned queue)
{
	driver->offered[queue] = DRIVER_QUEUE_SIZE;
	driver_offer(driver, queue, 0);
}

static void bad_chains_break_it(void **state)
{
	static const struct {
		const char *what;
		struct driver_desc descs[2];
		unsigned head;
	} rows[] = {
		{ "a loop of one", { { DRIVER_DATA, 16, DESC_NEXT, 0 } }, 0 },
		{ "a loop of two",
		  { { DRIVER_DATA, 16, DESC_NEXT, 1 }, { DRIVER_DATA, 16, DESC_NEXT, 0 } },
		  0 },
		{ "a buffer of no length", { { DRIVER_DATA, 0, 0, 0 } }, 0 },
		{ "a buffer over the end", { { DRIVER_BASE + MEMORY_SIZE - 8, 9, 0, 0 } }, 0 },
		{ "a buffer before the start", { { DRIVER_BASE - 8, 16, DESC_WRITE, 0 } }, 0 },
		{ "a buffer at the end", { { DRIVER_BASE + MEMORY_SIZE, 1, 0, 0 } }, 0 },
		{ "a buffer around the world", { { UINT64_MAX - 7, 16, DESC_WRITE, 0 } }, 0 },
		{ "a buffer of 4 GiB", { { DRIVER_DATA, UINT32_MAX, DESC_WRITE, 0 } }, 0 },
		{ "a head beyond the table", { { DRIVER_DATA, 16, 0, 0 } }, DRIVER_QUEUE_SIZE },
		{ "the last head there is", { { DRIVER_DATA, 16, 0, 0 } }, UINT16_MAX },
		{ "a next beyond the table", { { DRIVER_DATA, 16, DESC_NEXT, DRIVER_QUEUE_SIZE } }, 0 },
		{ "writable before readable",
		  { { DRIVER_DATA, 16, DESC_WRITE | DESC_NEXT, 1 }, { DRIVER_DATA, 16, 0, 0 } },
		  0 },
		{ "an indirect table, not agreed upon", { { DRIVER_DATA, 16, DESC_INDIRECT, 0 } }, 0 },
	};
	struct fixture fixture;

	(void)state;
	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
		start(&fixture, &kinds[k]);
		for (unsigned queue = 0; queue < kinds[k].queues; queue++) {
			if (!(kinds[k].popped & 1u << queue))
				continue;
			for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
				drive(&fixture);
				memcpy(driver_at(&fixture.driver, driver_ring(queue)), rows[i].descs,
				       sizeof(rows[i].descs));
				driver_offer(&fixture.driver, queue, rows[i].head);
				expect_broken(&fixture, queue, rows[i].what);
			}
			drive(&fixture);
			jump(&fixture.driver, queue);
			expect_broken(&fixture, queue, "a jump of the index");
		}
		stop(&fixture);
	}
}

/* Buffers over each other, and over the rings that name them: any answer is right but a stray access. */
static void overlapping_buffers_do_no_harm(void **state)
{
	struct fixture fixture;

	(void)state;
	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
		start(&fixture, &kinds[k]);
		for (unsigned round = 0; round < kinds[k].queues * 4; round++) {
			unsigned queue = round / 4;
			unsigned flags = round & 1 ? DESC_WRITE : 0;
			uint64_t address = round & 2 ? driver_ring(queue) : DRIVER_DATA;

			drive(&fixture);
			for (unsigned i = 0; i < 64; i++) {
				driver_desc(&fixture.driver, queue, 2 * i, address, 0x2800, flags | DESC_NEXT,
				            2 * i + 1);
				driver_desc(&fixture.driver, queue, 2 * i + 1, address, 0x2800, flags, 0);
				driver_offer(&fixture.driver, queue, 2 * i);
			}
			driver_kick(&fixture.driver, queue);
			if (fixture.tap >= 0)
				assert_true(send(fixture.tap, fixture.path, 64, MSG_NOSIGNAL) == 64);
			settle(&fixture);
			drive(&fixture);
			assert_int_equal(driver_read(&fixture.driver, 0x070), 15);
		}
		stop(&fixture);
	}
}

/* --- registers --- */

static void negotiate(struct driver *driver)
{
	driver_write(driver, 0x070, 0);
	driver_write(driver, 0x070, 3);
	driver_write(driver, 0x024, 1);
	driver_write(driver, 0x020, 1);
	driver_write(driver, 0x070, 11);
}

static void bad_rings_break_it(void **state)
{
	static const struct {
		uint32_t size;
		uint64_t desc;
		uint64_t avail;
		uint64_t used;
	} rows[] = {
		{ 0, DRIVER_BASE, DRIVER_BASE, DRIVER_BASE },
		{ 3, DRIVER_BASE, DRIVER_BASE, DRIVER_BASE },
		{ 512, DRIVER_BASE, DRIVER_BASE, DRIVER_BASE },
		{ 0x10010, DRIVER_BASE, DRIVER_BASE, DRIVER_BASE },
		{ 16, DRIVER_BASE + 8, DRIVER_BASE, DRIVER_BASE },
		{ 16, DRIVER_BASE, DRIVER_BASE + 1, DRIVER_BASE },
		{ 16, DRIVER_BASE, DRIVER_BASE, DRIVER_BASE + 2 },
		{ 16, DRIVER_BASE + MEMORY_SIZE - 240, DRIVER_BASE, DRIVER_BASE },
		{ 16, DRIVER_BASE, DRIVER_BASE + MEMORY_SIZE - 36, DRIVER_BASE },
		{ 16, DRIVER_BASE, DRIVER_BASE, DRIVER_BASE + MEMORY_SIZE - 132 },
		{ 16, UINT64_MAX - 15, DRIVER_BASE, DRIVER_BASE },
		{ 16, DRIVER_BASE, UINT64_MAX - 1, DRIVER_BASE },
		{ 16, DRIVER_BASE, DRIVER_BASE, UINT64_MAX - 3 },
		{ 16, 0, 0, 0 },
	};
	struct fixture fixture;

	(void)state;
	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
		struct driver *driver = &fixture.driver;

		start(&fixture, &kinds[k]);
		for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
			negotiate(driver);
			driver_write(driver, 0x030, kinds[k].queues - 1);
			driver_write(driver, 0x038, rows[i].size);
			driver_write(driver, 0x080, (uint32_t)rows[i].desc);
			driver_write(driver, 0x084, (uint32_t)(rows[i].desc >> 32));
			driver_write(driver, 0x090, (uint32_t)rows[i].avail);
			driver_write(driver, 0x094, (uint32_t)(rows[i].avail >> 32));
			driver_write(driver, 0x0a0, (uint32_t)rows[i].used);
			driver_write(driver, 0x0a4, (uint32_t)(rows[i].used >> 32));
			driver_write(driver, 0x044, 1);
			driver_write(driver, 0x070, 15);
			assert_true(driver_broken(driver));
			driver_kick(driver, kinds[k].queues - 1);
			settle(&fixture);
		}
		drive(&fixture);
		assert_int_equal(driver_read(driver, 0x070), 15);
		stop(&fixture);
	}
}

static void registers_out_of_order_do_nothing(void **state)
{
	struct fixture fixture;
	uint64_t wide = UINT64_MAX;

	(void)state;
	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
		struct driver *driver = &fixture.driver;

		start(&fixture, &kinds[k]);
		/* A queue before features; all of it before anything; a kick of what is not there. */
		driver_write(driver, 0x044, 1);
		assert_int_equal(driver_read(driver, 0x044), 0);
		driver_kick(driver, 0);
		driver_kick(driver, 99);
		driver_write(driver, 0x070, 4);
		assert_false(driver->device->active);
		/* Features after they were agreed upon; a queue's number beyond the last. */
		negotiate(driver);
		driver_write(driver, 0x024, 0);
		driver_write(driver, 0x020, UINT32_MAX);
		assert_int_equal(driver->device->driver_features, 1ull << 32);
		driver_write(driver, 0x030, kinds[k].queues);
		assert_int_equal(driver_read(driver, 0x034), 0);
		driver_write(driver, 0x044, 1);
		assert_int_equal(driver_read(driver, 0x044), 0);
		/* Rings that change while they are in use. */
		drive(&fixture);
		driver_write(driver, 0x030, 0);
		driver_write(driver, 0x044, 0);
		assert_int_equal(driver_read(driver, 0x044), 1);
		driver_write(driver, 0x080, 0xfffffff0);
		assert_int_equal(driver->device->queues[0].desc, driver_ring(0));
		/* Accesses of other widths than a register's, and between two of them. */
		for (unsigned size = 1; size <= 8; size *= 2) {
			for (uint32_t offset = 0; offset < 0x100; offset++)
				if (size != 4 || offset % 4)
					virtio_mmio_write(driver->device, offset, &wide, size);
		}
		assert_int_equal(driver_read(driver, 0x070), 15);
		settle(&fixture);
		assert_false(driver_broken(driver));
		stop(&fixture);
	}
}

/* --- under load --- */

static void resets_under_load_do_no_harm(void **state)
{
	struct fixture fixture;

	(void)state;
	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
		start(&fixture, &kinds[k]);
		for (unsigned round = 0; round < 100; round++) {
			drive(&fixture);
			for (unsigned queue = 0; queue < kinds[k].queues; queue++) {
				for (unsigned i = 0; i < 200; i++) {
					driver_desc(&fixture.driver, queue, i, DRIVER_DATA + i * 64, 64,
					            i & 1 ? DESC_WRITE : 0, 0);
					driver_offer(&fixture.driver, queue, i);
				}
				driver_kick(&fixture.driver, queue);
			}
			/* Now and then it has got further. */
			if (round % 4 == 0)
				loop_call(fixture.driver.loop, nothing, NULL);
		}
		drive(&fixture);
		settle(&fixture);
		assert_int_equal(driver_read(&fixture.driver, 0x070), 15);
		stop(&fixture);
	}
}

struct flood {
	struct driver *driver;
	unsigned queue;
	atomic_bool stop;
};

/* As many requests as fit, whatever was used. */
static void *run_flood(void *context)
{
	struct flood *flood = context;
	uint16_t *avail = driver_at(flood->driver, driver_ring(flood->queue) + 0x1000);
	const uint16_t *used = driver_at(flood->driver, driver_ring(flood->queue) + 0x2000);

	while (!atomic_load(&flood->stop)) {
		uint16_t index = __atomic_load_n(&used[1], __ATOMIC_ACQUIRE);

		__atomic_store_n(&avail[1], (uint16_t)(index + DRIVER_QUEUE_SIZE), __ATOMIC_RELEASE);
		driver_kick(flood->driver, flood->queue);
	}
	return NULL;
}

static uint16_t wait_some(struct driver *driver, unsigned queue)
{
	for (int i = 0; i < 120000 && !driver_used(driver, queue); i++)
		(void)usleep(500);
	assert_true(driver_used(driver, queue) > 0);
	return driver_used(driver, queue);
}

/* A reset of no connection, which a guest may send as often as it likes. */
static void floods_let_others_in(void **state)
{
	struct vsock_header header = { .src_cid = CID, .dst_cid = 2, .type = 1, .op = VSOCK_OP_RST };
	struct fixture fixture;
	struct flood flood = { .driver = &fixture.driver };
	pthread_t thread;

	(void)state;
	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
		bool vsock = kinds[k].make == make_vsock;

		if (!vsock && kinds[k].make != make_rng)
			continue;
		start(&fixture, &kinds[k]);
		drive(&fixture);
		memcpy(driver_at(&fixture.driver, DRIVER_DATA), &header, sizeof(header));
		flood.queue = vsock ? 1 : 0;
		driver_desc(&fixture.driver, flood.queue, 0, DRIVER_DATA, sizeof(header),
		            vsock ? 0 : DESC_WRITE, 0);
		atomic_store(&flood.stop, false);
		assert_int_equal(pthread_create(&thread, NULL, run_flood, &flood), 0);
		for (int i = 0; i < 200; i++)
			loop_call(fixture.driver.loop, nothing, NULL);
		/* A pause as well: vCPUs are stopped before, but nothing relies on it. */
		assert_int_equal(virtio_pause(fixture.driver.device, NULL), 0);
		virtio_resume(fixture.driver.device);
		/* The flood itself goes on. */
		for (int i = 0; i < 3; i++)
			fixture.driver.seen[flood.queue] += wait_some(&fixture.driver, flood.queue);
		atomic_store(&flood.stop, true);
		assert_int_equal(pthread_join(thread, NULL), 0);
		stop(&fixture);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bad_chains_break_it),
		cmocka_unit_test(overlapping_buffers_do_no_harm),
		cmocka_unit_test(bad_rings_break_it),
		cmocka_unit_test(registers_out_of_order_do_nothing),
		cmocka_unit_test(resets_under_load_do_no_harm),
		cmocka_unit_test(floods_let_others_in),
	};

	return cmocka_run_group_tests_name("hostile", tests, NULL, NULL);
}
