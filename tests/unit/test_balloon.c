/* The balloon: pages that really leave, statistics that come, and drivers that lie. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "driver.h"
#include "remake.h"

#define MIB         (1u << 20)
#define PAGE        4096u
#define MEMORY_SIZE (16 * MIB)
#define LIST        (DRIVER_DATA)           /* a list of page numbers, or statistics */
#define PAGES       (DRIVER_BASE + 4 * MIB) /* pages that the tests give away */
#define PFN(n)      ((uint32_t)(PAGES / PAGE) + (n))

#define F_STATS     2u
#define F_HINT      8u
#define F_POISON    16u
#define F_REPORT    32u

#define INFLATE     0
#define DEFLATE     1

struct fixture {
	struct driver driver;
	struct balloon_config config;
	bool file_backed;
	int file;
};

static void make_balloon(void *context)
{
	struct fixture *fixture = context;

	fixture->driver.device = balloon_new(&fixture->config, fixture->file_backed, &fixture->driver.memory,
	                                     fixture->driver.loop, NULL);
	assert_non_null(fixture->driver.device);
}

static struct fixture *start(const struct balloon_config *config, bool file_backed)
{
	struct fixture *fixture = calloc(1, sizeof(*fixture));
	char page[PAGE];

	assert_non_null(fixture);
	fixture->config = *config;
	fixture->file_backed = file_backed;
	fixture->file = -1;
	if (file_backed) {
		fixture->file = memfd_create("memory", MFD_CLOEXEC);
		assert_true(fixture->file >= 0);
		memset(page, 'f', sizeof(page));
		for (off_t at = 0; at < MEMORY_SIZE; at += PAGE)
			assert_int_equal(pwrite(fixture->file, page, PAGE, at), PAGE);
	}
	driver_init(&fixture->driver, MEMORY_SIZE, fixture->file);
	make_balloon(fixture);
	driver_start(&fixture->driver);
	return fixture;
}

static void stop(struct fixture *fixture)
{
	driver_fini(&fixture->driver);
	if (fixture->file >= 0)
		close(fixture->file);
	free(fixture);
}

/* Pages of the given range that take memory of this process's own. */
static unsigned resident(struct fixture *fixture, uint64_t gpa, unsigned count)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uintptr_t host = (uintptr_t)driver_at(&fixture->driver, gpa);
	unsigned found = 0;

	assert_true(fd >= 0);
	for (unsigned i = 0; i < count; i++) {
		uint64_t entry;

		assert_int_equal(pread(fd, &entry, sizeof(entry), (off_t)((host / PAGE + i) * sizeof(entry))),
		                 sizeof(entry));
		/* Present (63), and not a page of a file (61). */
		found += (entry >> 63) && !(entry >> 61 & 1);
	}
	close(fd);
	return found;
}

static int give(struct fixture *fixture, unsigned queue, const void *data, uint32_t size, unsigned flags)
{
	memcpy(driver_at(&fixture->driver, LIST), data, size);
	driver_desc(&fixture->driver, queue, 0, LIST, size, flags, 0);
	driver_offer(&fixture->driver, queue, 0);
	driver_kick(&fixture->driver, queue);
	return driver_wait(&fixture->driver, queue);
}

static char byte_at(struct fixture *fixture, uint64_t gpa)
{
	return *(volatile char *)driver_at(&fixture->driver, gpa);
}

/* --- inflate and deflate --- */

static void inflate(bool file_backed)
{
	struct balloon_config config = { .amount_mib = 1 };
	struct fixture *fixture = start(&config, file_backed);
	struct driver *driver = &fixture->driver;
	/* In disorder, one twice, one away from the others. */
	uint32_t list[] = { PFN(3), PFN(1), PFN(2), PFN(1), PFN(9) };

	driver_drive(driver, 0, 2);
	memset(driver_at(driver, PAGES), 'x', 16 * PAGE);
	assert_int_equal(resident(fixture, PAGES, 16), 16);
	assert_int_equal(give(fixture, INFLATE, list, sizeof(list), 0), 0);
	assert_int_equal(resident(fixture, PAGES, 16), 12);
	assert_int_equal(byte_at(fixture, PAGES), 'x');
	assert_int_equal(byte_at(fixture, PAGES + PAGE), file_backed ? 'f' : 0);
	assert_int_equal(byte_at(fixture, PAGES + 4 * PAGE), 'x');
	assert_int_equal(byte_at(fixture, PAGES + 9 * PAGE + PAGE - 1), file_backed ? 'f' : 0);
	/* Deflated pages can be used again. */
	assert_int_equal(give(fixture, DEFLATE, list, sizeof(list), 0), 0);
	memset(driver_at(driver, PAGES + PAGE), 'y', PAGE);
	assert_int_equal(byte_at(fixture, PAGES + PAGE), 'y');
	assert_int_equal(driver_metric(driver, "inflate_count") >= 1, 1);
	assert_int_equal(driver_metric(driver, "deflate_count") >= 1, 1);
	assert_int_equal(driver_metric(driver, "event_fails"), 0);
	stop(fixture);
}

static void inflated_pages_are_freed(void **state)
{
	(void)state;
	inflate(false);
}

static void inflated_pages_of_a_file_are_freed(void **state)
{
	(void)state;
	inflate(true);
}

/* More lists than one kick takes are all taken. */
static void many_lists_are_taken(void **state)
{
	struct balloon_config config = { .amount_mib = 8 };
	struct fixture *fixture = start(&config, false);
	struct driver *driver = &fixture->driver;

	(void)state;
	driver_drive(driver, 0, 2);
	memset(driver_at(driver, PAGES), 'x', 200 * PAGE);
	for (unsigned i = 0; i < 200; i++) {
		uint32_t *list = driver_at(driver, LIST + i * 8ull);

		*list = PFN(i);
		driver_desc(driver, INFLATE, i, LIST + i * 8ull, 4, 0, 0);
		driver_offer(driver, INFLATE, i);
	}
	driver_kick(driver, INFLATE);
	for (int i = 0; i < 200; i++)
		assert_int_equal(driver_wait(driver, INFLATE), i);
	assert_int_equal(resident(fixture, PAGES, 200), 0);
	assert_true(driver_metric(driver, "inflate_count") >= 200 / 16);
	stop(fixture);
}

static void expect_broken(struct fixture *fixture, unsigned queue, const void *data, uint32_t size,
                          unsigned flags, uint32_t features, unsigned queues)
{
	driver_drive(&fixture->driver, features, queues);
	assert_int_equal(give(fixture, queue, data, size, flags), -1);
	driver_drive(&fixture->driver, features, queues);
	assert_false(driver_broken(&fixture->driver));
}

static void lists_that_lie_break_the_device(void **state)
{
	struct balloon_config config = { .amount_mib = 1 };
	struct fixture *fixture = start(&config, false);
	uint32_t behind = PFN(0) + MEMORY_SIZE / PAGE;
	uint32_t last = (DRIVER_BASE + MEMORY_SIZE) / PAGE - 1;
	uint32_t below[] = { DRIVER_BASE / PAGE - 1, DRIVER_BASE / PAGE + 100 };
	uint32_t over[] = { last, last + 1 };
	uint32_t far = UINT32_MAX;
	static const uint32_t long_list[4097];

	(void)state;
	expect_broken(fixture, INFLATE, &behind, 4, 0, 0, 2);
	expect_broken(fixture, INFLATE, below, 8, 0, 0, 2);
	expect_broken(fixture, INFLATE, over, 8, 0, 0, 2);
	expect_broken(fixture, INFLATE, &far, 4, 0, 0, 2);
	expect_broken(fixture, INFLATE, &last, 3, 0, 0, 2);
	expect_broken(fixture, INFLATE, &last, 4, DESC_WRITE, 0, 2);
	expect_broken(fixture, INFLATE, long_list, sizeof(long_list), 0, 0, 2);
	expect_broken(fixture, DEFLATE, long_list, sizeof(long_list), 0, 0, 2);
	expect_broken(fixture, DEFLATE, over, 5, 0, 0, 2);
	assert_true(driver_metric(&fixture->driver, "event_fails") >= 9);
	assert_int_equal(give(fixture, INFLATE, &last, 4, 0), 0);
	stop(fixture);
}

/* --- reporting --- */

static void report(struct fixture *fixture, unsigned queue, uint64_t gpa, uint32_t size)
{
	driver_desc(&fixture->driver, queue, 0, gpa, size, DESC_WRITE, 0);
	driver_offer(&fixture->driver, queue, 0);
	driver_kick(&fixture->driver, queue);
}

static void reported_pages_are_freed(void **state)
{
	struct balloon_config config = { .free_page_reporting = true };
	struct fixture *fixture = start(&config, false);
	struct driver *driver = &fixture->driver;
	static const struct {
		uint64_t gpa;
		uint32_t size;
	} bad[] = {
		{ PAGES + 1, PAGE }, { PAGES, PAGE + 1 }, { PAGES, 100 }, { DRIVER_BASE, MEMORY_SIZE + PAGE }
	};

	(void)state;
	driver_drive(driver, F_REPORT, 3);
	memset(driver_at(driver, PAGES), 'x', 4 * MIB);
	report(fixture, 2, PAGES + PAGE, 4 * MIB - 2 * PAGE);
	assert_int_equal(driver_wait(driver, 2), 0);
	assert_int_equal(resident(fixture, PAGES, 1024), 2);
	assert_int_equal(byte_at(fixture, PAGES + PAGE), 0);
	assert_int_equal(driver_metric(driver, "free_page_report_count"), 1);
	assert_int_equal(driver_metric(driver, "free_page_report_freed"), 4 * MIB - 2 * PAGE);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		report(fixture, 2, bad[i].gpa, bad[i].size);
		assert_int_equal(driver_wait(driver, 2), -1);
		driver_drive(driver, F_REPORT, 3);
	}
	/* Ranges of one request that are more than there is. */
	driver_desc(driver, 2, 0, PAGES, 8 * MIB, DESC_WRITE | DESC_NEXT, 1);
	driver_desc(driver, 2, 1, PAGES, 12 * MIB, DESC_WRITE, 0);
	driver_offer(driver, 2, 0);
	driver_kick(driver, 2);
	assert_int_equal(driver_wait(driver, 2), -1);
	stop(fixture);
}

/* Over a file: where zeros are agreed everything stays; else whole blocks become zeros, and parts the file's.
 */
static void reported_pages_of_a_file(void **state)
{
	struct balloon_config config = { .free_page_reporting = true };
	struct fixture *fixture = start(&config, true);
	struct driver *driver = &fixture->driver;

	(void)state;
	driver_drive(driver, F_REPORT | F_POISON, 3);
	memset(driver_at(driver, PAGES), 'x', 8 * MIB);
	report(fixture, 2, PAGES + PAGE, 6 * MIB);
	assert_int_equal(driver_wait(driver, 2), 0);
	assert_int_equal(byte_at(fixture, PAGES + PAGE), 'x');
	assert_int_equal(byte_at(fixture, PAGES + 2 * MIB), 'x');
	driver_drive(driver, F_REPORT, 3);
	for (int i = 0; i < 2; i++) {
		report(fixture, 2, PAGES + PAGE, 6 * MIB);
		assert_int_equal(driver_wait(driver, 2), 0);
	}
	assert_int_equal(resident(fixture, PAGES + 2 * MIB, 1024), 0);
	assert_int_equal(byte_at(fixture, PAGES), 'x');
	assert_int_equal(byte_at(fixture, PAGES + 2 * MIB), 0);
	assert_int_equal(byte_at(fixture, PAGES + 6 * MIB - 1), 0);
	assert_int_equal(byte_at(fixture, PAGES + 6 * MIB + PAGE), 'x');
	/* A small range within what is anonymous now. */
	memset(driver_at(driver, PAGES + 2 * MIB), 'z', 2 * PAGE);
	report(fixture, 2, PAGES + 2 * MIB, PAGE);
	assert_int_equal(driver_wait(driver, 2), 0);
	assert_int_equal(byte_at(fixture, PAGES + 2 * MIB), 0);
	assert_int_equal(byte_at(fixture, PAGES + 2 * MIB + PAGE), 'z');
	stop(fixture);
}

static void poisoned_pages_stay(void **state)
{
	struct balloon_config config = { .free_page_reporting = true };
	struct fixture *fixture = start(&config, false);
	struct driver *driver = &fixture->driver;

	(void)state;
	driver_drive(driver, F_REPORT | F_POISON, 3);
	driver_write(driver, 0x10c, 0xaaaaaaaa);
	memset(driver_at(driver, PAGES), 0xaa, 2 * MIB);
	report(fixture, 2, PAGES, 2 * MIB);
	assert_int_equal(driver_wait(driver, 2), 0);
	assert_int_equal((unsigned char)byte_at(fixture, PAGES + MIB), 0xaa);
	assert_int_equal(driver_metric(driver, "free_page_report_freed"), 0);
	stop(fixture);
}

/* --- what the API asks for --- */

struct call {
	struct fixture *fixture;
	int (*function)(struct call *call);
	unsigned value;
	struct balloon_stats stats;
	struct balloon_hinting hinting;
	int ret;
};

static void call_on_loop(void *context)
{
	struct call *call = context;

	call->ret = call->function(call);
}

static int on_loop(struct call *call, int (*function)(struct call *call), unsigned value)
{
	call->function = function;
	call->value = value;
	loop_call(call->fixture->driver.loop, call_on_loop, call);
	return call->ret;
}

static int set_amount(struct call *call)
{
	struct error err;

	return balloon_set_amount(call->fixture->driver.device, call->value, &err);
}

static int set_interval(struct call *call)
{
	struct error err;

	return balloon_set_interval(call->fixture->driver.device, call->value, &err);
}

static int get_stats(struct call *call)
{
	struct error err;

	return balloon_get_stats(call->fixture->driver.device, &call->stats, &err);
}

static int start_hinting(struct call *call)
{
	struct error err;

	return balloon_start_hinting(call->fixture->driver.device, call->value, &err);
}

static int stop_hinting(struct call *call)
{
	struct error err;

	return balloon_stop_hinting(call->fixture->driver.device, &err);
}

static int get_hinting(struct call *call)
{
	struct error err;

	return balloon_get_hinting(call->fixture->driver.device, &call->hinting, &err);
}

static void another_amount_is_told(void **state)
{
	struct balloon_config config = { .amount_mib = 3 };
	struct fixture *fixture = start(&config, false);
	struct driver *driver = &fixture->driver;
	struct call call = { .fixture = fixture };
	uint64_t interrupts;
	uint32_t generation;

	(void)state;
	driver_drive(driver, 0, 2);
	assert_int_equal(driver_read(driver, 0x100), 768);
	generation = driver_read(driver, 0x0fc);
	assert_int_equal(driver_read(driver, 0x060), 0);
	assert_int_equal(on_loop(&call, set_amount, 16), 0);
	assert_int_equal(driver_read(driver, 0x100), 4096);
	assert_int_equal(driver_read(driver, 0x060), 2);
	assert_int_equal(read(driver->device->irq, &interrupts, 8), 8);
	assert_true(driver_read(driver, 0x0fc) != generation);
	assert_int_equal(on_loop(&call, set_amount, 17), -EINVAL);
	assert_int_equal(on_loop(&call, set_amount, UINT32_MAX), -EINVAL);
	assert_int_equal(driver_read(driver, 0x100), 4096);
	/* The driver owns `actual`, and nothing else. */
	driver_write(driver, 0x104, 77);
	driver_write(driver, 0x100, 78);
	assert_int_equal(driver_read(driver, 0x104), 77);
	assert_int_equal(driver_read(driver, 0x100), 4096);
	driver_write(driver, 0x070, 0);
	assert_int_equal(driver_read(driver, 0x104), 0);
	/* No statistics, no hints. */
	assert_int_equal(on_loop(&call, set_interval, 1), -EINVAL);
	assert_int_equal(on_loop(&call, get_stats, 0), -EINVAL);
	assert_int_equal(on_loop(&call, start_hinting, 1), -EINVAL);
	assert_int_equal(on_loop(&call, get_hinting, 0), -EINVAL);
	config.amount_mib = 17;
	assert_null(balloon_new(&config, false, &driver->memory, driver->loop, NULL));
	stop(fixture);
}

/* --- statistics --- */

struct statistic {
	uint16_t tag;
	uint64_t value;
} __attribute__((packed));

static void offer_stats(struct fixture *fixture, unsigned head, const struct statistic *stats, uint32_t size)
{
	memcpy(driver_at(&fixture->driver, LIST), stats, size);
	driver_desc(&fixture->driver, 2, head, LIST, size, 0, 0);
	driver_offer(&fixture->driver, 2, head);
	driver_kick(&fixture->driver, 2);
}

/* Wait until `count` updates were seen, and get what they said. */
static void wait_updates(struct call *call, uint64_t count)
{
	for (int i = 0; i < 60000; i++) {
		if (driver_metric(&call->fixture->driver, "stats_updates_count") >= count) {
			assert_int_equal(on_loop(call, get_stats, 0), 0);
			return;
		}
		(void)usleep(1000);
	}
	fail_msg("no statistics were taken");
}

static void statistics_come_each_interval(void **state)
{
	struct balloon_config config = { .stats_polling_interval_s = 4, .free_page_reporting = true };
	struct fixture *fixture = start(&config, false);
	struct driver *driver = &fixture->driver;
	struct call call = { .fixture = fixture };
	struct statistic stats[] = { { 4, 1000 }, { 99, 1 }, { 5, 2000 }, { 15, 7 } };
	uint64_t updates;
	int64_t begin;

	(void)state;
	driver_drive(driver, F_STATS | F_REPORT, 4);
	updates = driver_metric(driver, "stats_updates_count");
	begin = time_monotonic_us();
	offer_stats(fixture, 5, stats, sizeof(stats));
	wait_updates(&call, updates + 1);
	assert_int_equal(call.stats.present, 1u << 4 | 1u << 5 | 1u << 15);
	assert_int_equal(call.stats.values[BALLOON_FREE_MEMORY], 1000);
	assert_int_equal(call.stats.values[BALLOON_TOTAL_MEMORY], 2000);
	assert_int_equal(call.stats.values[BALLOON_DIRECT_RECLAIM], 7);
	assert_int_equal(driver_metric(driver, "stats_update_fails"), 1);
	/* The buffer is held until the interval is over. */
	assert_int_equal(driver_wait(driver, 2), 5);
	assert_in_range(time_monotonic_us() - begin, 2000000, 20000000);
	/* And at once when another interval is set; not held twice. */
	stats[0].value = 1;
	offer_stats(fixture, 6, stats, 10);
	wait_updates(&call, updates + 2);
	assert_int_equal(on_loop(&call, set_interval, 1000), 0);
	assert_int_equal(driver_wait(driver, 2), 6);
	assert_int_equal(on_loop(&call, get_stats, 0), 0);
	assert_int_equal(call.stats.values[BALLOON_FREE_MEMORY], 1);
	assert_int_equal(call.stats.values[BALLOON_TOTAL_MEMORY], 2000);
	assert_int_equal(on_loop(&call, set_interval, 0), -EINVAL);
	/* A second buffer sends the first back; odd sizes are counted, and huge ones refused. */
	offer_stats(fixture, 7, stats, 10);
	wait_updates(&call, updates + 3);
	offer_stats(fixture, 8, stats, 13);
	assert_int_equal(driver_wait(driver, 2), 7);
	assert_int_equal(driver_metric(driver, "stats_update_fails"), 2);
	driver_desc(driver, 2, 0, LIST, MIB, 0, 0);
	driver_offer(driver, 2, 0);
	driver_kick(driver, 2);
	while (!driver_broken(driver))
		(void)usleep(1000);
	driver_drive(driver, F_STATS | F_REPORT, 4);
	assert_int_equal(on_loop(&call, get_stats, 0), 0);
	assert_int_equal(call.stats.present, 0);
	/* The report queue comes behind the statistics, or in their place when those were not agreed. */
	report(fixture, 3, PAGES, PAGE);
	assert_int_equal(driver_wait(driver, 3), 0);
	driver_drive(driver, F_REPORT, 3);
	report(fixture, 2, PAGES, PAGE);
	assert_int_equal(driver_wait(driver, 2), 0);
	stop(fixture);
}

/* --- hinting --- */

static void send_hint_command(struct fixture *fixture, uint32_t command)
{
	assert_int_equal(give(fixture, 2, &command, sizeof(command), 0), 0);
}

static void hints_count_while_their_run_lasts(void **state)
{
	struct balloon_config config = { .free_page_hinting = true };
	struct fixture *fixture = start(&config, false);
	struct driver *driver = &fixture->driver;
	struct call call = { .fixture = fixture };
	uint32_t run;

	(void)state;
	assert_int_equal(on_loop(&call, start_hinting, 1), -EINVAL);
	driver_drive(driver, F_HINT, 3);
	memset(driver_at(driver, PAGES), 'x', 2 * MIB);
	report(fixture, 2, PAGES, PAGE);
	assert_int_equal(driver_wait(driver, 2), 0);
	assert_int_equal(byte_at(fixture, PAGES), 'x');
	assert_int_equal(on_loop(&call, start_hinting, 1), 0);
	assert_int_equal(driver_read(driver, 0x060), 3);
	run = driver_read(driver, 0x108);
	assert_true(run >= 2);
	/* Of another run. */
	send_hint_command(fixture, run + 1);
	report(fixture, 2, PAGES, PAGE);
	assert_int_equal(driver_wait(driver, 2), 0);
	assert_int_equal(byte_at(fixture, PAGES), 'x');
	send_hint_command(fixture, run);
	report(fixture, 2, PAGES, PAGE);
	assert_int_equal(driver_wait(driver, 2), 0);
	assert_int_equal(byte_at(fixture, PAGES), 0);
	assert_int_equal(driver_metric(driver, "free_page_hint_freed"), PAGE);
	assert_int_equal(on_loop(&call, get_hinting, 0), 0);
	assert_int_equal(call.hinting.host_cmd, run);
	assert_int_equal(call.hinting.guest_cmd, run);
	/* The end is acknowledged, and later pages are none of this run's. */
	send_hint_command(fixture, 0);
	assert_int_equal(driver_read(driver, 0x108), 1);
	report(fixture, 2, PAGES + PAGE, PAGE);
	assert_int_equal(driver_wait(driver, 2), 0);
	assert_int_equal(byte_at(fixture, PAGES + PAGE), 'x');
	/* By hand. */
	assert_int_equal(on_loop(&call, start_hinting, 0), 0);
	assert_int_equal(driver_read(driver, 0x108), run + 1);
	send_hint_command(fixture, 0);
	assert_int_equal(driver_read(driver, 0x108), run + 1);
	assert_int_equal(on_loop(&call, stop_hinting, 0), 0);
	assert_int_equal(driver_read(driver, 0x108), 1);
	expect_broken(fixture, 2, "12345", 5, 0, F_HINT, 3);
	assert_int_equal(driver_read(driver, 0x108), 0);
	stop(fixture);
}

/* --- state --- */

static void state_survives_a_new_device(void **state)
{
	struct balloon_config config = { .amount_mib = 2, .stats_polling_interval_s = 1000 };
	struct fixture *fixture = start(&config, false);
	struct driver *driver = &fixture->driver;
	struct call call = { .fixture = fixture };
	struct remake remake = { driver->loop, &driver->device, make_balloon, fixture, BUFFER_INIT, 0 };
	struct statistic stats[] = { { 0, 11 }, { 7, 12 } };
	uint64_t updates;

	(void)state;
	driver_drive(driver, F_STATS, 3);
	updates = driver_metric(driver, "stats_updates_count");
	offer_stats(fixture, 9, stats, sizeof(stats));
	wait_updates(&call, updates + 1);
	driver_write(driver, 0x104, 99);
	assert_int_equal(on_loop(&call, set_amount, 5), 0);
	assert_int_equal(virtio_pause(driver->device, NULL), 0);
	assert_int_equal(remake_device(&remake), 0);
	virtio_resume(driver->device);
	assert_int_equal(on_loop(&call, get_stats, 0), 0);
	assert_int_equal(call.stats.target_mib, 5);
	assert_int_equal(call.stats.actual_pages, 99);
	assert_int_equal(call.stats.present, 1u << 0 | 1u << 7);
	assert_int_equal(call.stats.values[7], 12);
	/* The held buffer comes back. */
	assert_int_equal(on_loop(&call, set_interval, 2000), 0);
	assert_int_equal(driver_wait(driver, 2), 9);
	/* State that lies is refused, or does no harm. */
	for (size_t i = 0; i < remake.saved.size; i++) {
		remake.saved.data[i] ^= 0x55;
		(void)remake_restore(&remake);
		remake.saved.data[i] ^= 0x55;
	}
	remake.saved.size--;
	assert_int_equal(remake_restore(&remake), -EINVAL);
	buffer_fini(&remake.saved);
	driver_write(driver, 0x070, 0);
	stop(fixture);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(inflated_pages_are_freed),
		cmocka_unit_test(inflated_pages_of_a_file_are_freed),
		cmocka_unit_test(many_lists_are_taken),
		cmocka_unit_test(lists_that_lie_break_the_device),
		cmocka_unit_test(reported_pages_are_freed),
		cmocka_unit_test(reported_pages_of_a_file),
		cmocka_unit_test(poisoned_pages_stay),
		cmocka_unit_test(another_amount_is_told),
		cmocka_unit_test(statistics_come_each_interval),
		cmocka_unit_test(hints_count_while_their_run_lasts),
		cmocka_unit_test(state_survives_a_new_device),
	};

	return cmocka_run_group_tests_name("balloon", tests, NULL, NULL);
}
