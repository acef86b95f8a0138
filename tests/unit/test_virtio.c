/* Unit tests of the virtio devices: a driver in plain memory sets them up as Linux does, and then misbehaves.
 */
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <cmocka.h>

#include "base/base.h"
#include "vmm/device/device.h"
#include "vmm/device/virtio_internal.h"

#include "remake.h"

#define MEMORY_SIZE (1 << 20)
#define MEMORY_BASE 0x100000 /* not 0, so that a guest address is never by chance an offset */
#define DESC        (MEMORY_BASE + 0x1000)
#define AVAIL       (MEMORY_BASE + 0x3000)
#define USED        (MEMORY_BASE + 0x4000)
#define HEADER      (MEMORY_BASE + 0x6000)
#define STATUS      (MEMORY_BASE + 0x6100)
#define DATA        (MEMORY_BASE + 0x8000)
#define QUEUE_SIZE  16

#define DESC_NEXT   1
#define DESC_WRITE  2

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
	char image[64];
	char overlay[64];
	uint16_t avail_index;
	uint16_t used_seen;
};

static void *run_loop(void *context)
{
	(void)loop_run(context);
	return NULL;
}

static void *at(struct fixture *fixture, uint64_t gpa)
{
	return fixture->ram + (gpa - MEMORY_BASE);
}

static uint32_t reg_read(struct fixture *fixture, uint32_t offset)
{
	uint32_t value;

	virtio_mmio_read(fixture->device, offset, &value, 4);
	return value;
}

static void reg_write(struct fixture *fixture, uint32_t offset, uint32_t value)
{
	virtio_mmio_write(fixture->device, offset, &value, 4);
}

static void make_block(void *context)
{
	struct fixture *fixture = context;
	struct block_config config = { .id = "rootfs", .path = fixture->image, .writeback = true };

	config.overlay_path = fixture->overlay;
	fixture->device = block_new(&config, &fixture->memory, fixture->loop, NULL);
	assert_non_null(fixture->device);
}

/* Initialise as 3.1.1 says, with the features of page 1 (VERSION_1) and none of page 0 (so no EVENT_IDX). */
static void drive(struct fixture *fixture)
{
	reg_write(fixture, 0x070, 0);
	memset(at(fixture, DESC), 0, 0x4000);
	reg_write(fixture, 0x070, 1);
	reg_write(fixture, 0x070, 3);
	reg_write(fixture, 0x024, 1);
	reg_write(fixture, 0x020, 1);
	reg_write(fixture, 0x070, 11);
	assert_int_equal(reg_read(fixture, 0x070), 11);
	reg_write(fixture, 0x030, 0);
	reg_write(fixture, 0x038, QUEUE_SIZE);
	reg_write(fixture, 0x080, DESC);
	reg_write(fixture, 0x090, AVAIL);
	reg_write(fixture, 0x0a0, USED);
	reg_write(fixture, 0x044, 1);
	reg_write(fixture, 0x070, 15);
	fixture->avail_index = 0;
	fixture->used_seen = 0;
}

static int setup(void **state)
{
	struct fixture *fixture = calloc(1, sizeof(*fixture));
	char image[65536];

	fixture->ram = calloc(1, MEMORY_SIZE);
	fixture->memory = (struct guest_memory){ .regions = { { MEMORY_BASE, MEMORY_SIZE, fixture->ram } },
		                                 .count = 1 };
	fixture->loop = loop_new(NULL);
	assert_non_null(fixture->loop);
	(void)snprintf(fixture->directory, sizeof(fixture->directory), "/tmp/atoll-virtio-XXXXXX");
	assert_non_null(mkdtemp(fixture->directory));
	(void)snprintf(fixture->image, sizeof(fixture->image), "%s/image", fixture->directory);
	(void)snprintf(fixture->overlay, sizeof(fixture->overlay), "%s/overlay", fixture->directory);
	memset(image, 'i', sizeof(image));
	assert_int_equal(file_write_atomic(fixture->image, image, sizeof(image), 0600, NULL), 0);
	make_block(fixture);
	assert_int_equal(pthread_create(&fixture->thread, NULL, run_loop, fixture->loop), 0);
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

static void set_desc(struct fixture *fixture, unsigned index, uint64_t address, uint32_t length,
                     uint16_t flags, uint16_t next)
{
	((struct desc *)at(fixture, DESC))[index] = (struct desc){ address, length, flags, next };
}

static void offer(struct fixture *fixture, uint16_t head)
{
	uint16_t *avail = at(fixture, AVAIL);

	avail[2 + fixture->avail_index % QUEUE_SIZE] = head;
	__atomic_store_n(&avail[1], ++fixture->avail_index, __ATOMIC_RELEASE);
	reg_write(fixture, 0x050, 0);
}

/* Wait for the device to use one more buffer, or to complain. */
static bool wait_used(struct fixture *fixture)
{
	uint16_t *used = at(fixture, USED);

	for (int i = 0; i < 60000; i++) {
		if (__atomic_load_n(&used[1], __ATOMIC_ACQUIRE) != fixture->used_seen) {
			fixture->used_seen++;
			return true;
		}
		if (reg_read(fixture, 0x070) & 64)
			return false;
		(void)usleep(1000);
	}
	fail_msg("the device did nothing for 60 s");
	return false;
}

/* One request with one data buffer; returns the status byte. */
static int request(struct fixture *fixture, uint32_t type, uint64_t sector, uint32_t size, bool device_writes)
{
	uint32_t *header = at(fixture, HEADER);

	header[0] = type;
	header[1] = 0;
	memcpy(&header[2], &sector, sizeof(sector));
	*(unsigned char *)at(fixture, STATUS) = 0xff;
	set_desc(fixture, 0, HEADER, 16, DESC_NEXT, size ? 1 : 2);
	set_desc(fixture, 1, DATA, size, DESC_NEXT | (device_writes ? DESC_WRITE : 0), 2);
	set_desc(fixture, 2, STATUS, 1, DESC_WRITE, 0);
	offer(fixture, 0);
	assert_true(wait_used(fixture));
	return *(unsigned char *)at(fixture, STATUS);
}

static void the_registers_say_what_it_is(void **state)
{
	struct fixture *fixture = *state;
	uint64_t capacity;

	assert_int_equal(reg_read(fixture, 0x000), 0x74726976);
	assert_int_equal(reg_read(fixture, 0x004), 2);
	assert_int_equal(reg_read(fixture, 0x008), 2);
	reg_write(fixture, 0x014, 1);
	assert_int_equal(reg_read(fixture, 0x010), 1);
	reg_write(fixture, 0x014, 7);
	assert_int_equal(reg_read(fixture, 0x010), 0);
	virtio_mmio_read(fixture->device, 0x100, &capacity, 8);
	assert_int_equal(capacity, 128);
	virtio_mmio_read(fixture->device, 0xffc, &capacity, 8);
	assert_int_equal(capacity, 0);
}

static void blocks_are_read_and_written(void **state)
{
	struct fixture *fixture = *state;
	char *data = at(fixture, DATA);

	drive(fixture);
	assert_int_equal(request(fixture, 0, 0, 4096, true), 0);
	assert_int_equal(data[4095], 'i');
	memset(data, 'w', 4096);
	assert_int_equal(request(fixture, 1, 8, 4096, false), 0);
	assert_int_equal(request(fixture, 4, 0, 0, false), 0);
	memset(data, 0, 8192);
	assert_int_equal(request(fixture, 0, 7, 1024, true), 0);
	assert_int_equal(data[511], 'i');
	assert_int_equal(data[512], 'w');
	assert_int_equal(request(fixture, 8, 0, 20, true), 0);
	assert_string_equal(data, "rootfs");
	/* Sector 8, 8 sectors: gone. */
	memcpy(data, "\x08\0\0\0\0\0\0\0\x08\0\0\0\0\0\0\0", 16);
	assert_int_equal(request(fixture, 11, 0, 16, false), 0);
	assert_int_equal(request(fixture, 0, 8, 4096, true), 0);
	assert_int_equal(data[0], 0);
}

static void requests_outside_of_the_disk_fail(void **state)
{
	struct fixture *fixture = *state;

	drive(fixture);
	assert_int_equal(request(fixture, 0, 128, 512, true), 1);
	assert_int_equal(request(fixture, 0, UINT64_MAX / 512, 512, true), 1);
	assert_int_equal(request(fixture, 0, UINT64_MAX, 512, true), 1);
	assert_int_equal(request(fixture, 1, 127, 1024, false), 1);
	assert_int_equal(request(fixture, 0, 0, 100, true), 1);
	assert_int_equal(request(fixture, 99, 0, 512, true), 2);
	assert_int_equal(request(fixture, 0, 0, 512, true), 0);
}

static void expect_broken(struct fixture *fixture)
{
	reg_write(fixture, 0x050, 0);
	assert_false(wait_used(fixture));
	/* A reset makes it well again. */
	drive(fixture);
	assert_int_equal(request(fixture, 0, 0, 512, true), 0);
}

static void rule_breakers_break_only_their_device(void **state)
{
	struct fixture *fixture = *state;
	uint16_t *avail = at(fixture, AVAIL);

	drive(fixture);
	set_desc(fixture, 0, HEADER, 16, DESC_NEXT, 0); /* a loop */
	offer(fixture, 0);
	expect_broken(fixture);
	set_desc(fixture, 0, MEMORY_BASE + MEMORY_SIZE - 8, 16, 0, 0); /* over the end of memory */
	offer(fixture, 0);
	expect_broken(fixture);
	set_desc(fixture, 0, UINT64_MAX - 4, 16, 0, 0); /* around the end of the world */
	offer(fixture, 0);
	expect_broken(fixture);
	set_desc(fixture, 0, HEADER, 0, 0, 0); /* empty */
	offer(fixture, 0);
	expect_broken(fixture);
	offer(fixture, 5000); /* no such descriptor */
	expect_broken(fixture);
	set_desc(fixture, 0, HEADER, 16, DESC_NEXT, 9999);
	offer(fixture, 0);
	expect_broken(fixture);
	set_desc(fixture, 0, STATUS, 1, DESC_WRITE | DESC_NEXT, 1); /* writable before readable */
	set_desc(fixture, 1, HEADER, 16, 0, 0);
	offer(fixture, 0);
	expect_broken(fixture);
	set_desc(fixture, 0, HEADER, 16, 0, 0); /* no status byte */
	offer(fixture, 0);
	expect_broken(fixture);
	/* The index jumps. */
	__atomic_store_n(&avail[1], (uint16_t)(fixture->avail_index + 1000), __ATOMIC_RELAXED);
	expect_broken(fixture);
}

static void registers_out_of_order_do_no_harm(void **state)
{
	struct fixture *fixture = *state;

	reg_write(fixture, 0x070, 65); /* NEEDS_RESET is not the driver's to set */
	assert_int_equal(reg_read(fixture, 0x070), 1);
	reg_write(fixture, 0x070, 2); /* and no bit is taken back but all */
	assert_int_equal(reg_read(fixture, 0x070), 1);
	reg_write(fixture, 0x070, 15); /* DRIVER_OK with no features agreed */
	assert_int_equal(reg_read(fixture, 0x070) & 8, 0);
	reg_write(fixture, 0x070, 0);
	reg_write(fixture, 0x030, 99); /* no such queue */
	assert_int_equal(reg_read(fixture, 0x034), 0);
	reg_write(fixture, 0x044, 1);
	reg_write(fixture, 0x070, 3);
	reg_write(fixture, 0x024, 0);
	reg_write(fixture, 0x020, 0xffffffff); /* features that were never offered */
	reg_write(fixture, 0x024, 1);
	reg_write(fixture, 0x020, 1);
	reg_write(fixture, 0x070, 11);
	assert_int_equal(reg_read(fixture, 0x070) & 8, 0);
	/* Rings outside of memory. */
	reg_write(fixture, 0x070, 0);
	reg_write(fixture, 0x070, 3);
	reg_write(fixture, 0x024, 1);
	reg_write(fixture, 0x020, 1);
	reg_write(fixture, 0x070, 11);
	reg_write(fixture, 0x030, 0);
	reg_write(fixture, 0x038, QUEUE_SIZE);
	reg_write(fixture, 0x084, 0xffffffff);
	reg_write(fixture, 0x044, 1);
	reg_write(fixture, 0x070, 15);
	assert_int_equal(reg_read(fixture, 0x070) & 64, 64);
	drive(fixture);
	assert_int_equal(request(fixture, 0, 0, 512, true), 0);
}

/* The used ring begins in memory and ends behind it: what is behind must not even be noted as written. */
static void rings_over_the_end_mark_nothing(void **state)
{
	struct fixture *fixture = *state;
	/* Of exactly as many bytes as memory has pages for, for ASan. */
	uint8_t *dirty = calloc(1, MEMORY_SIZE / GUEST_PAGE / 8);

	assert_non_null(dirty);
	fixture->memory.dirty = dirty;
	drive(fixture);
	reg_write(fixture, 0x070, 0);
	reg_write(fixture, 0x070, 3);
	reg_write(fixture, 0x024, 1);
	reg_write(fixture, 0x020, 1);
	reg_write(fixture, 0x070, 11);
	reg_write(fixture, 0x038, 256);
	reg_write(fixture, 0x080, DESC);
	reg_write(fixture, 0x090, AVAIL);
	reg_write(fixture, 0x0a0, MEMORY_BASE + MEMORY_SIZE - 4);
	reg_write(fixture, 0x044, 1);
	reg_write(fixture, 0x070, 15);
	assert_int_equal(reg_read(fixture, 0x070) & 64, 64);
	drive(fixture);
	assert_int_equal(request(fixture, 0, 0, 512, true), 0);
	/* What was written is noted: used ring, data, status. The reset waits for whoever notes it. */
	reg_write(fixture, 0x070, 0);
	assert_true(dirty[4 / 8] & 1u << 4 % 8);
	assert_true(dirty[8 / 8] & 1u << 8 % 8);
	assert_true(dirty[6 / 8] & 1u << 6 % 8);
	fixture->memory.dirty = NULL;
	free(dirty);
}

/* An interrupt that was raised, but not delivered, when the state was saved. */
static void the_serial_port_raises_it_again(void **state)
{
	cleanup_buffer struct buffer saved = BUFFER_INIT;
	struct serial *serial = serial_new(-1, 0, NULL, NULL);
	struct serial *other = serial_new(-1, 0, NULL, NULL);
	uint64_t count;

	(void)state;
	assert_non_null(serial);
	assert_non_null(other);
	serial_notify(serial);
	assert_true(read(serial_irq(serial), &count, sizeof(count)) < 0);
	serial_write(serial, 1, 0x02);
	assert_int_equal(serial_save(serial, &saved, NULL), 0);
	assert_int_equal(serial_restore(other, saved.data, saved.size, NULL), 0);
	assert_true(read(serial_irq(other), &count, sizeof(count)) < 0);
	serial_notify(other);
	assert_int_equal(read(serial_irq(other), &count, sizeof(count)), sizeof(count));
	assert_int_equal(serial_read(other, 2) & 0x0f, 0x02);
	/* Once it was seen there is none. */
	serial_notify(other);
	assert_true(read(serial_irq(other), &count, sizeof(count)) < 0);
	serial_free(serial);
	serial_free(other);
}

#define RELAYS 1000

static void free_block(void *context)
{
	virtio_free(((struct fixture *)context)->device);
}

static void kick_and_count(void *context)
{
	struct fixture *fixture = context;

	virtio_kick(fixture->device, 0);
	fixture->used_seen = fixture->device->queues[0].next_used;
}

/*
 * A guest that has more and more to do, without a hand of its own: each sector that is read goes over the
 * ring and the request's header, and asks for the next. Others must have a turn all the same.
 */
static void a_flood_lets_others_in(void **state)
{
	struct fixture *fixture = *state;
	unsigned char *sectors = calloc(RELAYS, 512);
	const uint16_t *used;
	struct error err;

	assert_non_null(sectors);
	for (uint64_t n = 0; n < RELAYS; n++) {
		uint16_t index = (uint16_t)(n + 2 < RELAYS ? n + 2 : RELAYS);
		uint64_t next = n + 1;

		memcpy(sectors + n * 512 + 2, &index, sizeof(index));
		memcpy(sectors + n * 512 + 0x40 + 8, &next, sizeof(next));
	}
	loop_call(fixture->loop, free_block, fixture);
	assert_int_equal(unlink(fixture->overlay), 0);
	assert_int_equal(file_write_atomic(fixture->image, sectors, RELAYS * 512ul, 0600, &err), 0);
	free(sectors);
	loop_call(fixture->loop, make_block, fixture);
	drive(fixture);
	set_desc(fixture, 0, AVAIL + 0x40, 16, DESC_NEXT, 1);
	set_desc(fixture, 1, AVAIL, 512, DESC_NEXT | DESC_WRITE, 2);
	set_desc(fixture, 2, STATUS, 1, DESC_WRITE, 0);
	((uint16_t *)at(fixture, AVAIL))[1] = 1;
	loop_call(fixture->loop, kick_and_count, fixture);
	assert_int_equal(fixture->used_seen, VIRTIO_BATCH);
	/* It is not forgotten either. */
	used = (uint16_t *)at(fixture, USED) + 1;
	for (int i = 0; i < 60000 && __atomic_load_n(used, __ATOMIC_ACQUIRE) != RELAYS; i++)
		(void)usleep(1000);
	assert_int_equal(__atomic_load_n(used, __ATOMIC_ACQUIRE), RELAYS);
	assert_int_equal(reg_read(fixture, 0x070), 15);
}

struct borrow {
	struct loop *loop;
	int event;
	pthread_t thread;
	_Atomic bool borrowed;
	bool overlapped;
	bool nested;
};

static void on_borrow_event(void *context, uint32_t events)
{
	struct borrow *borrow = context;

	(void)events;
	borrow->overlapped |= borrow->borrowed;
	loop_stop(borrow->loop);
}

static void nested_call(void *context)
{
	((struct borrow *)context)->nested = true;
}

/* The loop's thread comes while a call is made in its place: there must not be two. */
static void call_in_its_place(void *context)
{
	struct borrow *borrow = context;

	borrow->borrowed = true;
	assert_int_equal(pthread_create(&borrow->thread, NULL, run_loop, borrow->loop), 0);
	(void)usleep(50000);
	loop_call(borrow->loop, nested_call, borrow);
	borrow->borrowed = false;
}

static void a_loop_has_one_thread_at_a_time(void **state)
{
	struct borrow borrow = { .loop = loop_new(NULL), .event = eventfd(1, EFD_CLOEXEC) };
	struct loop_source *source;

	(void)state;
	assert_non_null(borrow.loop);
	source = loop_watch(borrow.loop, borrow.event, EPOLLIN, on_borrow_event, &borrow, NULL);
	assert_non_null(source);
	loop_call(borrow.loop, call_in_its_place, &borrow);
	assert_int_equal(pthread_join(borrow.thread, NULL), 0);
	assert_true(borrow.nested);
	assert_false(borrow.overlapped);
	loop_unwatch(source);
	loop_free(borrow.loop);
	close(borrow.event);
}

static void state_survives_a_new_device(void **state)
{
	struct fixture *fixture = *state;
	struct remake remake = { fixture->loop, &fixture->device, make_block, fixture, BUFFER_INIT, 0 };

	drive(fixture);
	memset(at(fixture, DATA), 'w', 512);
	assert_int_equal(request(fixture, 1, 3, 512, false), 0);
	assert_int_equal(virtio_pause(fixture->device, NULL), 0);
	assert_int_equal(remake_device(&remake), 0);
	virtio_resume(fixture->device);
	assert_int_equal(request(fixture, 0, 3, 512, true), 0);
	assert_int_equal(*(char *)at(fixture, DATA), 'w');
	/* And state that lies is refused. */
	for (size_t i = 0; i < remake.saved.size; i++) {
		remake.saved.data[i] ^= 0x55;
		(void)remake_restore(&remake);
		remake.saved.data[i] ^= 0x55;
	}
	remake.saved.size = 20;
	assert_int_equal(remake_restore(&remake), -EINVAL);
	buffer_fini(&remake.saved);
	reg_write(fixture, 0x070, 0);
}

static void the_serial_port_is_bounded(void **state)
{
	int ends[2];
	char text[32];
	struct serial *serial;

	(void)state;
	assert_int_equal(pipe(ends), 0);
	serial = serial_new(ends[1], 5, NULL, NULL);
	assert_non_null(serial);
	for (const char *c = "hello, world"; *c; c++)
		serial_write(serial, 0, (uint8_t)*c);
	assert_int_equal(serial_read(serial, 5) & 0x60, 0x60);
	assert_int_equal(serial_read(serial, 2) & 0x0f, 0x01);
	serial_write(serial, 1, 0x02);
	assert_int_equal(serial_read(serial, 2) & 0x0f, 0x02);
	assert_int_equal(serial_read(serial, 2) & 0x0f, 0x01);
	serial_free(serial);
	assert_int_equal(read(ends[0], text, sizeof(text)), 5);
	assert_memory_equal(text, "hello", 5);
	close(ends[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_registers_say_what_it_is, setup, teardown),
		cmocka_unit_test_setup_teardown(blocks_are_read_and_written, setup, teardown),
		cmocka_unit_test_setup_teardown(requests_outside_of_the_disk_fail, setup, teardown),
		cmocka_unit_test_setup_teardown(rule_breakers_break_only_their_device, setup, teardown),
		cmocka_unit_test_setup_teardown(registers_out_of_order_do_no_harm, setup, teardown),
		cmocka_unit_test_setup_teardown(rings_over_the_end_mark_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(a_flood_lets_others_in, setup, teardown),
		cmocka_unit_test(a_loop_has_one_thread_at_a_time),
		cmocka_unit_test_setup_teardown(state_survives_a_new_device, setup, teardown),
		cmocka_unit_test(the_serial_port_is_bounded),
		cmocka_unit_test(the_serial_port_raises_it_again),
	};

	return cmocka_run_group_tests_name("virtio", tests, NULL, NULL);
}
