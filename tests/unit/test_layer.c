/* Unit tests of layer: copy on write, stacking, discarding, durability, and files that lie. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/base.h"
#include "layer/layer.h"

#define DISK_BYTES (64 * 4096 + 512) /* the last block is not whole */

struct fixture {
	char directory[32];
	char base[64];
	char one[64];
	char two[64];
};

static int setup(void **state)
{
	static struct fixture fixture;
	static unsigned char image[DISK_BYTES];

	(void)snprintf(fixture.directory, sizeof(fixture.directory), "/tmp/atoll-layer-XXXXXX");
	assert_non_null(mkdtemp(fixture.directory));
	(void)snprintf(fixture.base, sizeof(fixture.base), "%s/base", fixture.directory);
	(void)snprintf(fixture.one, sizeof(fixture.one), "%s/one", fixture.directory);
	(void)snprintf(fixture.two, sizeof(fixture.two), "%s/two", fixture.directory);
	memset(image, 'b', sizeof(image));
	assert_int_equal(file_write_atomic(fixture.base, image, sizeof(image), 0600, NULL), 0);
	*state = &fixture;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *fixture = *state;

	return file_remove_tree(fixture->directory, NULL);
}

static void put(struct disk *disk, uint64_t offset, char byte, size_t size)
{
	static char data[DISK_BYTES];
	/* Three uneven pieces. */
	struct iovec iov[3] = { { data, size / 3 },
		                { data + size / 3, 0 },
		                { data + size / 3, size - size / 3 } };

	memset(data, byte, size);
	assert_int_equal(disk_writev(disk, iov, 3, offset), 0);
}

static void expect(struct disk *disk, uint64_t offset, char byte, size_t size)
{
	static char data[DISK_BYTES];
	struct iovec iov[2] = { { data, size / 2 }, { data + size / 2, size - size / 2 } };

	memset(data, '?', size);
	assert_int_equal(disk_readv(disk, iov, 2, offset), 0);
	for (size_t i = 0; i < size; i++) {
		if (data[i] != byte)
			fail_msg("byte %zu of the disk is '%c', not '%c'", (size_t)offset + i, data[i], byte);
	}
}

static struct disk *must_open(const char *base, const char *const *layers, unsigned count,
                              const char *overlay)
{
	struct error err = { 0 };
	struct disk *disk = disk_open(base, layers, count, overlay, false, &err);

	if (!disk)
		fail_msg("%s", err.message);
	return disk;
}

static void writes_go_to_the_top_and_nowhere_else(void **state)
{
	struct fixture *fixture = *state;
	struct disk *disk = must_open(fixture->base, NULL, 0, fixture->one);

	assert_int_equal(disk_size(disk), DISK_BYTES);
	assert_true(disk_writable(disk));
	expect(disk, 0, 'b', DISK_BYTES);
	put(disk, 4096, 'x', 8192);
	put(disk, 20480 + 512, 'y', 1024); /* inside a block */
	put(disk, DISK_BYTES - 512, 'z', 512);
	expect(disk, 0, 'b', 4096);
	expect(disk, 4096, 'x', 8192);
	expect(disk, 12288, 'b', 8192 + 512);
	expect(disk, 20480 + 512, 'y', 1024);
	expect(disk, 20480 + 1536, 'b', 512);
	expect(disk, DISK_BYTES - 512, 'z', 512);
	disk_close(disk);

	disk = must_open(fixture->base, NULL, 0, fixture->one);
	expect(disk, 4096, 'x', 8192);
	expect(disk, DISK_BYTES - 512, 'z', 512);
	disk_close(disk);
	disk = must_open(fixture->base, NULL, 0, NULL);
	expect(disk, 0, 'b', DISK_BYTES);
	disk_close(disk);
}

/* What lies where, for who reads and writes it by himself. */
static void ranges_are_mapped(void **state)
{
	struct fixture *fixture = *state;
	struct disk *disk = must_open(fixture->base, NULL, 0, fixture->one);
	struct disk_extent extents[3];
	char byte;

	put(disk, 8192, 'x', 4096);
	/* From the middle of a block of the base, over one of the top, to the end. */
	assert_int_equal(disk_map_read(disk, 4096 + 512, DISK_BYTES - 4608, extents, 3), 3);
	assert_int_equal(extents[0].offset, 4608);
	assert_int_equal(extents[0].length, 3584);
	assert_int_equal(extents[1].length, 4096);
	assert_int_equal(pread(extents[1].fd, &byte, 1, (off_t)extents[1].offset), 1);
	assert_int_equal(byte, 'x');
	assert_int_equal(extents[2].fd, extents[0].fd);
	assert_int_equal(extents[2].length, DISK_BYTES - 12288);
	assert_int_equal(disk_map_read(disk, 4096, 12288, extents, 2), -E2BIG);
	assert_int_equal(disk_map_read(disk, 0, DISK_BYTES + 1, extents, 3), -EINVAL);
	assert_int_equal(disk_map_read(disk, UINT64_MAX, 2, extents, 3), -EINVAL);
	/* Writes: only where the top has all of it. */
	assert_int_equal(disk_map_write(disk, 8192 + 512, 3584, extents), 0);
	assert_int_equal(pwrite(extents[0].fd, "w", 1, (off_t)extents[0].offset), 1);
	expect(disk, 8192 + 512, 'w', 1);
	assert_int_equal(disk_map_write(disk, 8192, 4097, extents), -EAGAIN);
	assert_int_equal(disk_map_write(disk, 4096, 8192, extents), -EAGAIN);
	assert_int_equal(disk_map_write(disk, DISK_BYTES, 1, extents), -EINVAL);
	disk_close(disk);
	disk = disk_open(fixture->base, NULL, 0, NULL, true, NULL);
	assert_non_null(disk);
	assert_int_equal(disk_map_write(disk, 0, 512, extents), -EROFS);
	disk_close(disk);
}

static void frozen_layers_stack(void **state)
{
	struct fixture *fixture = *state;
	const char *layers[] = { fixture->one };
	struct disk *disk = must_open(fixture->base, NULL, 0, fixture->one);
	struct stat before;
	struct stat after;

	put(disk, 0, '1', 8192);
	disk_close(disk);
	assert_int_equal(stat(fixture->one, &before), 0);
	disk = must_open(fixture->base, layers, 1, fixture->two);
	put(disk, 4096, '2', 8192);
	expect(disk, 0, '1', 4096);
	expect(disk, 4096, '2', 8192);
	expect(disk, 12288, 'b', 4096);
	disk_close(disk);
	assert_int_equal(stat(fixture->one, &after), 0);
	assert_int_equal(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
	/* Without a top layer nothing can be written. */
	disk = must_open(fixture->base, layers, 1, NULL);
	assert_false(disk_writable(disk));
	assert_int_equal(disk_discard(disk, 0, 4096), -EROFS);
	expect(disk, 0, '1', 8192);
	disk_close(disk);
}

static void a_discard_hides_what_lies_below(void **state)
{
	struct fixture *fixture = *state;
	struct disk *disk = must_open(fixture->base, NULL, 0, fixture->one);

	assert_int_equal(disk_discard(disk, 4096 - 512, 8192), 0);
	expect(disk, 0, 'b', 4096 - 512);
	expect(disk, 4096 - 512, '\0', 8192);
	expect(disk, 12288 - 512, 'b', 512);
	assert_int_equal(disk_discard(disk, 40960 + 512, 1024), 0);
	expect(disk, 40960 + 512, '\0', 1024);
	expect(disk, 40960 + 1536, 'b', 512);
	disk_close(disk);
	disk = must_open(fixture->base, NULL, 0, fixture->one);
	expect(disk, 4096 - 512, '\0', 8192);
	disk_close(disk);
}

static void what_was_not_flushed_is_old_not_torn(void **state)
{
	struct fixture *fixture = *state;
	const char *layers[] = { fixture->one };
	struct disk *disk = must_open(fixture->base, NULL, 0, fixture->one);
	struct disk *other;

	put(disk, 0, '1', 4096);
	assert_int_equal(disk_flush(disk), 0);
	put(disk, 4096, '2', 4096);
	/* Another look at the file is what a crash would leave: the flushed block, and not the other. */
	other = must_open(fixture->base, layers, 1, NULL);
	expect(other, 0, '1', 4096);
	expect(other, 4096, 'b', 4096);
	disk_close(other);
	disk_close(disk);
}

static void ranges_outside_are_refused(void **state)
{
	struct fixture *fixture = *state;
	struct disk *disk = must_open(fixture->base, NULL, 0, fixture->one);
	char byte[512];
	struct iovec iov = { byte, sizeof(byte) };

	assert_int_equal(disk_readv(disk, &iov, 1, DISK_BYTES), -EINVAL);
	assert_int_equal(disk_writev(disk, &iov, 1, DISK_BYTES - 511), -EINVAL);
	assert_int_equal(disk_readv(disk, &iov, 1, UINT64_MAX - 100), -EINVAL);
	assert_int_equal(disk_discard(disk, UINT64_MAX, 2), -EINVAL);
	disk_close(disk);
}

static void open_damaged(struct fixture *fixture, off_t at, const char *expected)
{
	struct error err = { 0 };
	struct disk *disk = must_open(fixture->base, NULL, 0, fixture->one);
	unsigned char byte;
	int fd;

	disk_close(disk);
	fd = open(fixture->one, O_RDWR | O_CLOEXEC);
	if (at < 0) {
		assert_int_equal(ftruncate(fd, -at), 0);
	} else {
		assert_int_equal(pread(fd, &byte, 1, at), 1);
		byte ^= 0x10;
		assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	}
	close(fd);
	assert_null(disk_open(fixture->base, NULL, 0, fixture->one, false, &err));
	assert_non_null(strstr(err.message, expected));
	assert_int_equal(unlink(fixture->one), 0);
}

static void layers_that_lie_are_refused(void **state)
{
	struct fixture *fixture = *state;
	struct error err = { 0 };

	open_damaged(fixture, 0, "not a disk layer");
	open_damaged(fixture, 8, "version");
	for (off_t at = 12; at < 36; at++)
		open_damaged(fixture, at, "corrupt");
	open_damaged(fixture, -20, "cut short");
	open_damaged(fixture, -5000, "cut short");
	assert_null(disk_open("/nonexistent", NULL, 0, NULL, false, &err));
	assert_non_null(strstr(err.message, "/nonexistent"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(writes_go_to_the_top_and_nowhere_else, setup, teardown),
		cmocka_unit_test_setup_teardown(ranges_are_mapped, setup, teardown),
		cmocka_unit_test_setup_teardown(frozen_layers_stack, setup, teardown),
		cmocka_unit_test_setup_teardown(a_discard_hides_what_lies_below, setup, teardown),
		cmocka_unit_test_setup_teardown(what_was_not_flushed_is_old_not_torn, setup, teardown),
		cmocka_unit_test_setup_teardown(ranges_outside_are_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(layers_that_lie_are_refused, setup, teardown),
	};

	return cmocka_run_group_tests_name("layer", tests, NULL, NULL);
}
