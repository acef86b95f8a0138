/* Block devices with both engines: the same results, many requests at once, flushes, resets, limits. */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <cmocka.h>

#include "driver.h"
#include "remake.h"

#define KIB          1024u
#define MIB          (1024 * KIB)
#define SECTOR       512
#define PAGE         4096u
#define DISK_SIZE    (4 * MIB)
#define MEMORY_SIZE  (8 * MIB)
#define SLOTS        80         /* requests that can be prepared at once, three descriptors each */
#define SLOT_SIZE    (64 * KIB) /* header, status, and from one page on data */
#define DATA_MAX     (SLOT_SIZE - PAGE)
#define TOLERANCE_PC 5

#define T_IN         0
#define T_OUT        1
#define T_FLUSH      4
#define T_DISCARD    11

struct fixture {
	struct driver driver;
	struct block_config config;
	char directory[32];
	char image[64];
	char layer[64];
	char overlay[64];
	char other[64];
};

static void make_block(void *context)
{
	struct fixture *fixture = context;
	struct error err;

	fixture->driver.device =
	        block_new(&fixture->config, &fixture->driver.memory, fixture->driver.loop, &err);
	assert_non_null(fixture->driver.device);
}

/* What the image holds at first: each page says which it is. */
static void fill_page(unsigned char page[PAGE], unsigned number)
{
	for (unsigned i = 0; i < PAGE; i++)
		page[i] = (unsigned char)(number * 7 + i / SECTOR);
}

static void make_image(const char *path, size_t size)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	unsigned char page[PAGE];

	assert_true(fd >= 0);
	for (unsigned i = 0; i < size / PAGE; i++) {
		fill_page(page, i);
		assert_int_equal(pwrite(fd, page, PAGE, (off_t)i * PAGE), PAGE);
	}
	close(fd);
}

static struct fixture *prepare(enum block_engine engine)
{
	struct fixture *fixture = calloc(1, sizeof(*fixture));

	assert_non_null(fixture);
	(void)snprintf(fixture->directory, sizeof(fixture->directory), "/tmp/atoll-block-XXXXXX");
	assert_non_null(mkdtemp(fixture->directory));
	(void)snprintf(fixture->image, sizeof(fixture->image), "%s/image", fixture->directory);
	(void)snprintf(fixture->layer, sizeof(fixture->layer), "%s/layer", fixture->directory);
	(void)snprintf(fixture->overlay, sizeof(fixture->overlay), "%s/overlay", fixture->directory);
	(void)snprintf(fixture->other, sizeof(fixture->other), "%s/other", fixture->directory);
	make_image(fixture->image, DISK_SIZE);
	driver_init(&fixture->driver, MEMORY_SIZE, -1);
	fixture->config = (struct block_config){
		.id = "drive", .path = fixture->image, .writeback = true, .engine = engine
	};
	return fixture;
}

static void start(struct fixture *fixture)
{
	make_block(fixture);
	driver_start(&fixture->driver);
	driver_drive(&fixture->driver, 0, 1);
}

static void stop(struct fixture *fixture)
{
	driver_fini(&fixture->driver);
	assert_int_equal(file_remove_tree(fixture->directory, NULL), 0);
	free(fixture);
}

/* --- requests --- */

static unsigned char *slot(struct fixture *fixture, unsigned index)
{
	return driver_at(&fixture->driver, DRIVER_DATA + (uint64_t)index * SLOT_SIZE);
}

static unsigned char *slot_data(struct fixture *fixture, unsigned index)
{
	return slot(fixture, index) + PAGE;
}

static unsigned char slot_status(struct fixture *fixture, unsigned index)
{
	return slot(fixture, index)[64];
}

/* Put a request into the ring; its head is 3 * index. */
static void offer(struct fixture *fixture, unsigned index, uint32_t type, uint64_t sector, uint32_t size)
{
	struct driver *driver = &fixture->driver;
	uint64_t gpa = DRIVER_DATA + (uint64_t)index * SLOT_SIZE;
	uint32_t header[4] = { type, 0, (uint32_t)sector, (uint32_t)(sector >> 32) };
	unsigned head = 3 * index;

	memcpy(slot(fixture, index), header, sizeof(header));
	slot(fixture, index)[64] = 0xff;
	driver_desc(driver, 0, head, gpa, 16, DESC_NEXT, size ? head + 1 : head + 2);
	driver_desc(driver, 0, head + 1, gpa + PAGE, size, DESC_NEXT | (type == T_IN ? DESC_WRITE : 0),
	            head + 2);
	driver_desc(driver, 0, head + 2, gpa + 64, 1, DESC_WRITE, 0);
	driver_offer(driver, 0, head);
}

static int request(struct fixture *fixture, uint32_t type, uint64_t sector, uint32_t size)
{
	offer(fixture, 0, type, sector, size);
	driver_kick(&fixture->driver, 0);
	assert_int_equal(driver_wait(&fixture->driver, 0), 0);
	return slot_status(fixture, 0);
}

static int discard(struct fixture *fixture, uint64_t sector, uint32_t sectors)
{
	uint32_t range[4] = { (uint32_t)sector, (uint32_t)(sector >> 32), sectors, 0 };

	memcpy(slot_data(fixture, 0), range, sizeof(range));
	return request(fixture, T_DISCARD, 0, sizeof(range));
}

/* --- the same results --- */

static uint32_t draw(uint32_t *seed, uint32_t limit)
{
	*seed = *seed * 1664525 + 1013904223;
	return (*seed >> 8) % limit;
}

/* One step of a random driver, whose disk is `model`. */
static void random_step(struct fixture *fixture, unsigned char *model, uint32_t *seed)
{
	uint32_t sectors = 1 + draw(seed, draw(seed, 2) ? 8 : DATA_MAX / SECTOR - 1);
	uint32_t sector = draw(seed, DISK_SIZE / SECTOR - sectors);
	unsigned char *data = slot_data(fixture, 0);
	size_t size = (size_t)sectors * SECTOR;

	switch (draw(seed, 8)) {
	case 0:
		assert_int_equal(discard(fixture, sector, sectors), 0);
		memset(model + (size_t)sector * SECTOR, 0, size);
		break;
	case 1:
		assert_int_equal(request(fixture, T_FLUSH, 0, 0), 0);
		break;
	case 2:
	case 3:
	case 4:
		memset(data, (int)draw(seed, 256), size);
		memcpy(model + (size_t)sector * SECTOR, data, size);
		assert_int_equal(request(fixture, T_OUT, sector, (uint32_t)size), 0);
		break;
	default:
		assert_int_equal(request(fixture, T_IN, sector, (uint32_t)size), 0);
		assert_memory_equal(data, model + (size_t)sector * SECTOR, size);
		break;
	}
}

static void run_random(enum block_engine engine, bool layered)
{
	struct fixture *fixture = prepare(engine);
	unsigned char *model = malloc(DISK_SIZE);
	uint32_t seed = 1;

	assert_non_null(model);
	for (unsigned i = 0; i < DISK_SIZE / PAGE; i++)
		fill_page(model + (size_t)i * PAGE, i);
	if (layered)
		fixture->config.overlay_path = fixture->layer;
	start(fixture);
	for (int i = 0; i < 300; i++)
		random_step(fixture, model, &seed);
	/* What was the top is now a frozen layer, and there is a new one. */
	if (layered) {
		driver_fini(&fixture->driver);
		driver_init(&fixture->driver, MEMORY_SIZE, -1);
		fixture->config.layers[fixture->config.layer_count++] = fixture->layer;
		fixture->config.overlay_path = fixture->overlay;
		start(fixture);
	}
	for (int i = 0; i < 500; i++)
		random_step(fixture, model, &seed);
	for (uint32_t at = 0; at < DISK_SIZE; at += 32 * KIB) {
		assert_int_equal(request(fixture, T_IN, at / SECTOR, 32 * KIB), 0);
		assert_memory_equal(slot_data(fixture, 0), model + at, 32 * KIB);
	}
	free(model);
	stop(fixture);
}

/* Every test of this kind is run for both engines. */
#define BOTH(name)                                                                                           \
	static void name##_sync(void **state)                                                                \
	{                                                                                                    \
		(void)state;                                                                                 \
		name(BLOCK_ENGINE_SYNC);                                                                     \
	}                                                                                                    \
	static void name##_async(void **state)                                                               \
	{                                                                                                    \
		(void)state;                                                                                 \
		name(BLOCK_ENGINE_ASYNC);                                                                    \
	}

static void a_raw_disk_keeps_what_it_is_given(enum block_engine engine)
{
	run_random(engine, false);
}
BOTH(a_raw_disk_keeps_what_it_is_given)

static void a_layered_disk_keeps_what_it_is_given(enum block_engine engine)
{
	run_random(engine, true);
}
BOTH(a_layered_disk_keeps_what_it_is_given)

/* --- many at once --- */

static void wait_all(struct fixture *fixture, unsigned count, bool seen[SLOTS])
{
	memset(seen, 0, SLOTS * sizeof(seen[0]));
	for (unsigned i = 0; i < count; i++) {
		int head = driver_wait(&fixture->driver, 0);

		assert_true(head >= 0 && head % 3 == 0 && head / 3 < SLOTS && !seen[head / 3]);
		seen[head / 3] = true;
		assert_int_equal(slot_status(fixture, (unsigned)head / 3), 0);
	}
}

static void many_requests_go_at_once(enum block_engine engine)
{
	struct fixture *fixture = prepare(engine);
	unsigned char page[PAGE];
	bool seen[SLOTS];

	start(fixture);
	for (unsigned round = 0; round < 10; round++) {
		for (unsigned i = 0; i < SLOTS; i++) {
			fill_page(slot_data(fixture, i), i + 1000 * round);
			offer(fixture, i, T_OUT, i * 8, PAGE);
		}
		driver_kick(&fixture->driver, 0);
		wait_all(fixture, SLOTS, seen);
		for (unsigned i = 0; i < SLOTS; i++) {
			memset(slot_data(fixture, i), 0, PAGE);
			offer(fixture, i, T_IN, i * 8, PAGE);
		}
		driver_kick(&fixture->driver, 0);
		wait_all(fixture, SLOTS, seen);
		for (unsigned i = 0; i < SLOTS; i++) {
			fill_page(page, i + 1000 * round);
			assert_memory_equal(slot_data(fixture, i), page, PAGE);
		}
	}
	/* More than the engine takes: it really was asked. */
	assert_int_equal(driver_metric(&fixture->driver, "io_engine_throttled_events") > 0,
	                 engine == BLOCK_ENGINE_ASYNC);
	assert_int_equal(driver_metric(&fixture->driver, "read_count"), 10 * SLOTS);
	assert_int_equal(driver_metric(&fixture->driver, "write_bytes"), 10 * SLOTS * PAGE);
	stop(fixture);
}
BOTH(many_requests_go_at_once)

/* A flush is used after all writes that were offered before it. */
static void a_flush_waits_for_writes(enum block_engine engine)
{
	struct fixture *fixture = prepare(engine);

	start(fixture);
	for (unsigned round = 0; round < 50; round++) {
		bool flushed = false;

		for (unsigned i = 0; i < 40; i++)
			offer(fixture, i, T_OUT, i * 100, 32 * KIB);
		offer(fixture, 40, T_FLUSH, 0, 0);
		for (unsigned i = 41; i < 60; i++)
			offer(fixture, i, T_OUT, i * 100, 32 * KIB);
		driver_kick(&fixture->driver, 0);
		for (unsigned i = 0; i < 60; i++) {
			int head = driver_wait(&fixture->driver, 0);

			assert_true(head >= 0);
			assert_int_equal(slot_status(fixture, (unsigned)head / 3), 0);
			if (head == 3 * 40) {
				assert_int_equal(i, 40);
				flushed = true;
			}
			assert_true(flushed == (head >= 3 * 40));
		}
	}
	assert_int_equal(driver_metric(&fixture->driver, "flush_count"), 50);
	stop(fixture);
}
BOTH(a_flush_waits_for_writes)

/* After a reset the memory is the driver's alone. */
static void a_reset_ends_all_requests(enum block_engine engine)
{
	struct fixture *fixture = prepare(engine);
	struct driver *driver = &fixture->driver;

	start(fixture);
	for (unsigned round = 0; round < 50; round++) {
		int fd = open(fixture->image, O_RDONLY | O_CLOEXEC);

		/* Out of the cache, so that reads take their time. */
		assert_true(fd >= 0 && fdatasync(fd) == 0);
		(void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
		close(fd);
		for (unsigned i = 0; i < SLOTS; i++)
			offer(fixture, i, T_IN, i * 97, 32 * KIB);
		driver_kick(driver, 0);
		driver_write(driver, 0x070, 0);
		assert_int_equal(driver_read(driver, 0x070), 0);
		memset(driver->ram, 0x5a, driver->size);
		(void)usleep(2000);
		/* All bytes are the first and each is like the next. */
		if (driver->ram[0] != 0x5a || memcmp(driver->ram, driver->ram + 1, driver->size - 1) != 0)
			fail_msg("the device wrote after its reset");
		driver_drive(driver, 0, 1);
		assert_int_equal(request(fixture, T_IN, 0, PAGE), 0);
	}
	stop(fixture);
}
BOTH(a_reset_ends_all_requests)

/* Freed with requests in flight: nothing may come after. */
static void it_can_be_freed_under_load(enum block_engine engine)
{
	for (int round = 0; round < 10; round++) {
		struct fixture *fixture = prepare(engine);

		start(fixture);
		for (unsigned i = 0; i < SLOTS; i++)
			offer(fixture, i, T_OUT, i * 97, 32 * KIB);
		driver_kick(&fixture->driver, 0);
		stop(fixture);
	}
}
BOTH(it_can_be_freed_under_load)

/* --- pausing --- */

static void a_pause_waits_for_all(enum block_engine engine)
{
	struct fixture *fixture = prepare(engine);
	struct driver *driver = &fixture->driver;
	struct remake remake = { driver->loop, &driver->device, make_block, fixture, BUFFER_INIT, 0 };
	bool seen[SLOTS];

	start(fixture);
	for (unsigned i = 0; i < SLOTS; i++) {
		memset(slot_data(fixture, i), 'p', 32 * KIB);
		offer(fixture, i, i % 2 ? T_OUT : T_IN, i * 97, 32 * KIB);
	}
	driver_kick(driver, 0);
	assert_int_equal(virtio_pause(driver->device, NULL), 0);
	assert_int_equal(remake_device(&remake), 0);
	virtio_resume(driver->device);
	wait_all(fixture, SLOTS, seen);
	buffer_fini(&remake.saved);
	stop(fixture);
}
BOTH(a_pause_waits_for_all)

/* --- limits --- */

/* Requests that were done, by those that should have been in the time that really passed. */
static double share(struct fixture *fixture, uint32_t size, double per_second)
{
	uint64_t done = 0;
	int64_t begin = time_monotonic_us();
	int64_t end;

	do {
		int head = driver_wait(&fixture->driver, 0);

		assert_true(head >= 0);
		done++;
		offer(fixture, (unsigned)head / 3, T_IN, 0, size);
		driver_kick(&fixture->driver, 0);
		end = time_monotonic_us();
	} while (end - begin < 2000000);
	return (double)done * 1e6 / (per_second * (double)(end - begin));
}

static bool is_near(double seen)
{
	return seen * 100 >= 100 - TOLERANCE_PC && seen * 100 <= 100 + TOLERANCE_PC;
}

/* A stall of the machine spoils a measurement, a wrong limit all of them. */
static void measure(struct fixture *fixture, uint32_t size, double per_second)
{
	double seen = 0;

	/* First the full bucket is emptied: by many at once, as one after the other a slow machine may ask
	 * for less than the limit. It holds a second's worth, so that none is lost while others have the
	 * processor. */
	for (unsigned i = 0; i < SLOTS; i++)
		offer(fixture, i, T_IN, i, size);
	driver_kick(&fixture->driver, 0);
	while (driver_metric(&fixture->driver, "rate_limiter_throttled_events") == 0) {
		for (unsigned i = 0; i < SLOTS; i++) {
			int head = driver_wait(&fixture->driver, 0);

			assert_true(head >= 0);
			offer(fixture, (unsigned)head / 3, T_IN, 0, size);
		}
		driver_kick(&fixture->driver, 0);
	}
	for (int i = 0; i < 8 && !is_near(seen); i++)
		seen = share(fixture, size, per_second);
	if (!is_near(seen))
		fail_msg("%.2f of the limit is not within %d %%", seen, TOLERANCE_PC);
}

static void bandwidth_is_limited(enum block_engine engine)
{
	struct fixture *fixture = prepare(engine);

	fixture->config.limits.bandwidth =
	        (struct token_bucket_config){ .size = 2 * MIB, .refill_time_ms = 1000 };
	start(fixture);
	measure(fixture, PAGE, 2.0 * MIB / PAGE);
	stop(fixture);
}
BOTH(bandwidth_is_limited)

static void operations_are_limited(enum block_engine engine)
{
	struct fixture *fixture = prepare(engine);

	fixture->config.limits.ops = (struct token_bucket_config){ .size = 500, .refill_time_ms = 1000 };
	start(fixture);
	measure(fixture, PAGE, 500);
	stop(fixture);
}
BOTH(operations_are_limited)

/* --- another image --- */

struct set_path {
	struct fixture *fixture;
	const char *path;
	int ret;
};

static void set_path_on_loop(void *context)
{
	struct set_path *call = context;
	struct error err;

	call->ret = block_set_path(call->fixture->driver.device, call->path, &err);
}

static int set_path(struct fixture *fixture, const char *path)
{
	struct set_path call = { fixture, path, 0 };

	loop_call(fixture->driver.loop, set_path_on_loop, &call);
	return call.ret;
}

static void another_image_takes_its_place(enum block_engine engine)
{
	struct fixture *fixture = prepare(engine);
	struct driver *driver = &fixture->driver;
	bool seen[SLOTS];
	char byte;
	int fd;

	start(fixture);
	make_image(fixture->other, PAGE * 8);
	assert_int_equal(driver_read(driver, 0x100), DISK_SIZE / SECTOR);
	for (unsigned i = 0; i < SLOTS; i++) {
		memset(slot_data(fixture, i), 'o', PAGE);
		offer(fixture, i, T_OUT, i * 8, PAGE);
	}
	driver_kick(driver, 0);
	wait_all(fixture, SLOTS, seen);
	driver_write(driver, 0x064, 3);
	assert_int_equal(set_path(fixture, fixture->other), 0);
	assert_int_equal(driver_read(driver, 0x060) & 2, 2);
	assert_int_equal(driver_read(driver, 0x100), 64);
	assert_int_equal(request(fixture, T_IN, 56, PAGE), 0);
	assert_int_equal(slot_data(fixture, 0)[0], 7 * 7);
	assert_int_equal(request(fixture, T_IN, 64, PAGE), 1);
	fd = open(fixture->image, O_RDONLY | O_CLOEXEC);
	assert_int_equal(pread(fd, &byte, 1, (SLOTS - 1) * PAGE), 1);
	assert_int_equal(byte, 'o');
	close(fd);
	/* What cannot be opened changes nothing. */
	assert_true(set_path(fixture, "/nowhere/image") < 0);
	assert_true(set_path(fixture, "/dev/null") < 0);
	assert_int_equal(driver_read(driver, 0x100), 64);
	assert_int_equal(request(fixture, T_IN, 0, PAGE), 0);
	assert_int_equal(driver_metric(driver, "update_count"), 1);
	assert_int_equal(driver_metric(driver, "update_fails"), 2);
	stop(fixture);

	/* With layers it makes no sense. */
	fixture = prepare(engine);
	fixture->config.overlay_path = fixture->overlay;
	start(fixture);
	assert_int_equal(set_path(fixture, fixture->image), -EINVAL);
	stop(fixture);
}
BOTH(another_image_takes_its_place)

/* While requests are in flight: each is carried out on one of the two. */
/* The overlay becomes a layer under a new one, as a fork does it; the frozen file is not written to any more.
 */
static void freeze_on_loop(void *context)
{
	struct set_path *call = context;
	struct block_config config = call->fixture->config;
	struct error err;

	config.layers[config.layer_count++] = config.overlay_path;
	config.overlay_path = call->path;
	call->ret = block_set_stack(call->fixture->driver.device, &config, &err);
	if (call->ret == 0)
		call->fixture->config = config;
}

static void a_disk_is_frozen_while_it_is_used(enum block_engine engine)
{
	struct fixture *fixture = prepare(engine);
	struct set_path call = { fixture, fixture->layer, 0 };
	cleanup_buffer struct buffer before = BUFFER_INIT;
	cleanup_buffer struct buffer after = BUFFER_INIT;
	struct error err;

	fixture->config.overlay_path = fixture->overlay;
	start(fixture);
	for (unsigned page = 0; page < 4; page++) {
		memset(slot_data(fixture, 0), 'a', PAGE);
		assert_int_equal(request(fixture, T_OUT, page * 8, PAGE), 0);
	}
	loop_call(fixture->driver.loop, freeze_on_loop, &call);
	assert_int_equal(call.ret, 0);
	assert_int_equal(file_read(fixture->overlay, &before, &err), 0);
	memset(slot_data(fixture, 0), 'b', PAGE);
	assert_int_equal(request(fixture, T_OUT, 8, PAGE), 0);
	assert_int_equal(request(fixture, T_FLUSH, 0, 0), 0);
	assert_int_equal(request(fixture, T_IN, 0, PAGE), 0);
	assert_int_equal(slot_data(fixture, 0)[0], 'a');
	assert_int_equal(request(fixture, T_IN, 8, PAGE), 0);
	assert_int_equal(slot_data(fixture, 0)[0], 'b');
	assert_int_equal(file_read(fixture->overlay, &after, &err), 0);
	assert_int_equal(before.size, after.size);
	assert_memory_equal(before.data, after.data, before.size);
	/* A stack that cannot be opened leaves the drive as it was. */
	call.path = "/nowhere/overlay";
	loop_call(fixture->driver.loop, freeze_on_loop, &call);
	assert_true(call.ret < 0);
	assert_int_equal(request(fixture, T_IN, 8, PAGE), 0);
	assert_int_equal(slot_data(fixture, 0)[0], 'b');
	stop(fixture);
}
BOTH(a_disk_is_frozen_while_it_is_used)

static void images_change_under_load(enum block_engine engine)
{
	struct fixture *fixture = prepare(engine);
	bool seen[SLOTS];

	make_image(fixture->other, DISK_SIZE);
	start(fixture);
	for (int round = 0; round < 50; round++) {
		for (unsigned i = 0; i < SLOTS; i++)
			offer(fixture, i, i % 7 == 3 ? T_FLUSH : T_IN, i * 8, i % 7 == 3 ? 0 : PAGE);
		driver_kick(&fixture->driver, 0);
		assert_int_equal(set_path(fixture, round % 2 ? fixture->image : fixture->other), 0);
		wait_all(fixture, SLOTS, seen);
		for (unsigned i = 0; i < SLOTS; i++)
			if (i % 7 != 3)
				assert_int_equal(slot_data(fixture, i)[0], (unsigned char)(i * 7));
	}
	stop(fixture);
}
BOTH(images_change_under_load)

/* --- what cannot be done --- */

static void what_cannot_be_done_fails(enum block_engine engine)
{
	struct fixture *fixture = prepare(engine);
	int fd;

	fixture->config.read_only = true;
	start(fixture);
	driver_write(&fixture->driver, 0x014, 0);
	assert_int_equal(driver_read(&fixture->driver, 0x010) & (1 << 5 | 1 << 13), 1 << 5);
	assert_int_equal(request(fixture, T_OUT, 0, PAGE), 1);
	assert_int_equal(discard(fixture, 0, 8), 1);
	assert_int_equal(request(fixture, T_IN, 0, PAGE), 0);
	assert_int_equal(request(fixture, T_IN, DISK_SIZE / SECTOR - 1, PAGE), 1);
	assert_int_equal(request(fixture, T_IN, UINT64_MAX, PAGE), 1);
	assert_int_equal(request(fixture, T_IN, 0, 100), 1);
	assert_int_equal(request(fixture, T_IN, 0, 0), 0);
	assert_int_equal(request(fixture, 99, 0, PAGE), 2);
	/* An image that is cut under us: an error, not a hang. */
	fd = open(fixture->image, O_RDWR | O_CLOEXEC);
	assert_int_equal(ftruncate(fd, 2 * PAGE), 0);
	close(fd);
	assert_int_equal(request(fixture, T_IN, 8, 2 * PAGE), 1);
	assert_int_equal(request(fixture, T_IN, 800, PAGE), 1);
	assert_int_equal(request(fixture, T_IN, 8, PAGE), 0);
	assert_true(driver_metric(&fixture->driver, "execute_fails") > 0);
	stop(fixture);
}
BOTH(what_cannot_be_done_fails)

/* A thread that the kernel refuses io_uring makes the device. */
static void *make_without_io_uring(void *context)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { ARRAY_SIZE(filter), filter };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
		return (void *)1;
	make_block(context);
	return NULL;
}

static void a_kernel_without_io_uring_will_do(void **state)
{
	struct fixture *fixture = prepare(BLOCK_ENGINE_ASYNC);
	bool seen[SLOTS];
	pthread_t thread;
	void *failed;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, make_without_io_uring, fixture), 0);
	assert_int_equal(pthread_join(thread, &failed), 0);
	assert_null(failed);
	driver_start(&fixture->driver);
	driver_drive(&fixture->driver, 0, 1);
	for (unsigned i = 0; i < SLOTS; i++)
		offer(fixture, i, T_IN, i * 8, PAGE);
	driver_kick(&fixture->driver, 0);
	wait_all(fixture, SLOTS, seen);
	assert_int_equal(driver_metric(&fixture->driver, "io_engine_throttled_events"), 0);
	assert_int_equal(slot_data(fixture, 3)[0], 21);
	stop(fixture);
}

int main(void)
{
#define TESTS(name) cmocka_unit_test(name##_sync), cmocka_unit_test(name##_async)
	const struct CMUnitTest tests[] = {
		TESTS(a_raw_disk_keeps_what_it_is_given),
		TESTS(a_layered_disk_keeps_what_it_is_given),
		TESTS(many_requests_go_at_once),
		TESTS(a_flush_waits_for_writes),
		TESTS(a_reset_ends_all_requests),
		TESTS(it_can_be_freed_under_load),
		TESTS(a_pause_waits_for_all),
		TESTS(bandwidth_is_limited),
		TESTS(operations_are_limited),
		TESTS(another_image_takes_its_place),
		TESTS(a_disk_is_frozen_while_it_is_used),
		TESTS(images_change_under_load),
		TESTS(what_cannot_be_done_fails),
		cmocka_unit_test(a_kernel_without_io_uring_will_do),
	};

	return cmocka_run_group_tests_name("block", tests, NULL, NULL);
}
