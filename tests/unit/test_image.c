/* image: memory files, layers over them, working sets, page fault handlers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/base.h"
#include "vmm/snapshot/extents.h"
#include "vmm/snapshot/image.h"

#define PAGES 4096
#define SIZE  ((uint64_t)PAGES * PAGE)

struct fixture {
	char directory[64];
	char base[128];
	char layers[3][128];
	char other[128];
};

static int setup(void **state)
{
	struct fixture *fixture = calloc(1, sizeof(*fixture));

	assert_non_null(fixture);
	(void)snprintf(fixture->directory, sizeof(fixture->directory), "/tmp/atoll-image-XXXXXX");
	assert_non_null(mkdtemp(fixture->directory));
	(void)snprintf(fixture->base, sizeof(fixture->base), "%s/base", fixture->directory);
	(void)snprintf(fixture->other, sizeof(fixture->other), "%s/other", fixture->directory);
	for (int i = 0; i < 3; i++)
		(void)snprintf(fixture->layers[i], sizeof(fixture->layers[i]), "%s/layer%d",
		               fixture->directory, i);
	*state = fixture;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *fixture = *state;

	assert_int_equal(file_remove_tree(fixture->directory, NULL), 0);
	free(fixture);
	return 0;
}

/* --- helpers --- */

static struct image *open_stack(struct fixture *fixture, unsigned layers)
{
	struct image_config config = { .size = SIZE, .base_path = fixture->base, .layer_count = layers };
	struct error err = { 0 };
	struct image *image;

	for (unsigned i = 0; i < layers; i++)
		config.layers[i] = fixture->layers[i];
	image = image_open(&config, &err);
	if (!image)
		fail_msg("%s", err.message);
	return image;
}

static void fill(struct image *image, uint64_t first, uint64_t count, int value)
{
	memset(image_host(image) + first * PAGE, value, count * PAGE);
}

static void assert_filled(const struct image *image, uint64_t first, uint64_t count, int value)
{
	const unsigned char *host = image_host(image) + first * PAGE;

	for (uint64_t i = 0; i < count * PAGE; i++)
		if (host[i] != value)
			fail_msg("page %llu has %d, not %d", (unsigned long long)(first + i / PAGE), host[i],
			         value);
}

/* A fresh memory with pages 100 to 199 'a' and the last 'z', written as the base file. */
static void make_base(struct fixture *fixture)
{
	struct image_config config = { .size = SIZE };
	struct error err = { 0 };
	struct image *image = image_open(&config, &err);

	assert_non_null(image);
	fill(image, 100, 100, 'a');
	fill(image, PAGES - 1, 1, 'z');
	fill(image, 300, 1, 0); /* touched, but zero */
	assert_int_equal(image_write_full(image, fixture->base, &err), 0);
	image_close(image);
}

/* --- tests --- */

static void extents_are_sets(void **state)
{
	cleanup_extents struct extents one = { 0 };
	cleanup_extents struct extents two = { 0 };
	cleanup_extents struct extents left = { 0 };
	cleanup_extents struct extents all = { 0 };

	(void)state;
	/* one: 0-9, 20-29, 40-49; two: 5-24, 26, 60. */
	assert_int_equal(
	        extents_append(&one, 0, 10) + extents_append(&one, 20, 10) + extents_append(&one, 40, 10), 0);
	assert_int_equal(
	        extents_append(&two, 5, 20) + extents_append(&two, 26, 1) + extents_append(&two, 60, 1), 0);
	assert_int_equal(extents_subtract(&one, &two, &left), 0);
	assert_int_equal(extents_unite(&one, &two, &all), 0);
	for (uint64_t page = 0; page < 70; page++) {
		bool in_one = extents_contain(&one, page);
		bool in_two = extents_contain(&two, page);

		assert_int_equal(extents_contain(&left, page), in_one && !in_two);
		assert_int_equal(extents_contain(&all, page), in_one || in_two);
	}
	/* Neighbours have become one: 0-29, 40-49, 60. */
	assert_int_equal(all.count, 3);
}

static void full_files_are_sparse_and_exact(void **state)
{
	struct fixture *fixture = *state;
	struct image_config wrong = { .size = 2 * SIZE, .base_path = fixture->base };
	struct error err = { 0 };
	struct image *image;
	struct stat st;

	make_base(fixture);
	assert_int_equal(stat(fixture->base, &st), 0);
	assert_int_equal(st.st_size, SIZE);
	assert_true(st.st_blocks * 512 < 120 * PAGE);
	image = open_stack(fixture, 0);
	assert_filled(image, 0, 100, 0);
	assert_filled(image, 100, 100, 'a');
	assert_filled(image, PAGES - 1, 1, 'z');
	/* Writing to the mapping leaves the file alone, and a full copy has both. */
	fill(image, 150, 10, 'b');
	fill(image, 500, 1, 'c');
	assert_int_equal(image_write_full(image, fixture->other, &err), 0);
	image_close(image);
	image = open_stack(fixture, 0);
	assert_filled(image, 100, 100, 'a');
	image_close(image);
	(void)strcpy(fixture->base, fixture->other);
	image = open_stack(fixture, 0);
	assert_filled(image, 140, 10, 'a');
	assert_filled(image, 150, 10, 'b');
	assert_filled(image, 160, 40, 'a');
	assert_filled(image, 500, 1, 'c');
	assert_filled(image, PAGES - 1, 1, 'z');
	image_close(image);
	assert_int_equal(stat(fixture->other, &st), 0);
	assert_true(st.st_blocks * 512 < 130 * PAGE);
	assert_null(image_open(&wrong, &err));
	assert_non_null(strstr(err.message, "the machine has"));
}

/* Layer 0: 110-159 'b'. Layer 1: 120-124 'c', zeros at 130-134, 1000-1099 'd'. Layer 2: 1010 'e'. */
static void make_layers(struct fixture *fixture)
{
	struct error err = { 0 };
	struct image *image;

	make_base(fixture);
	image = open_stack(fixture, 0);
	fill(image, 110, 50, 'b');
	assert_int_equal(image_write_layer(image, NULL, fixture->layers[0], &err), 0);
	image_close(image);
	image = open_stack(fixture, 1);
	fill(image, 120, 5, 'c');
	fill(image, 130, 5, 0);
	fill(image, 1000, 100, 'd');
	assert_int_equal(image_write_layer(image, NULL, fixture->layers[1], &err), 0);
	image_close(image);
	image = open_stack(fixture, 2);
	fill(image, 1010, 1, 'e');
	assert_int_equal(image_write_layer(image, NULL, fixture->layers[2], &err), 0);
	image_close(image);
}

static void assert_stack(const struct image *image)
{
	assert_filled(image, 100, 10, 'a');
	assert_filled(image, 110, 10, 'b');
	assert_filled(image, 120, 5, 'c');
	assert_filled(image, 125, 5, 'b');
	assert_filled(image, 130, 5, 0);
	assert_filled(image, 135, 25, 'b');
	assert_filled(image, 160, 40, 'a');
	assert_filled(image, 1000, 10, 'd');
	assert_filled(image, 1010, 1, 'e');
	assert_filled(image, 1011, 89, 'd');
	assert_filled(image, 1100, 100, 0);
	assert_filled(image, PAGES - 1, 1, 'z');
}

static void layers_lie_over_each_other(void **state)
{
	struct fixture *fixture = *state;
	struct error err = { 0 };
	struct image *image;
	struct stat st;

	make_layers(fixture);
	image = open_stack(fixture, 3);
	assert_stack(image);
	/* The stack as one file is the same memory. */
	assert_int_equal(image_write_full(image, fixture->other, &err), 0);
	image_close(image);
	(void)strcpy(fixture->base, fixture->other);
	image = open_stack(fixture, 0);
	assert_stack(image);
	image_close(image);
	/* A layer holds what differs, not the memory. */
	assert_int_equal(stat(fixture->layers[2], &st), 0);
	assert_true(st.st_blocks * 512 < 20 * PAGE);
}

/* With a list of dirty pages just those are in the layer. */
static void layers_of_named_pages(void **state)
{
	struct fixture *fixture = *state;
	uint8_t dirty[PAGES / 8] = { 0 };
	struct error err = { 0 };
	struct image *image;

	make_base(fixture);
	image = open_stack(fixture, 0);
	fill(image, 400, 2, 'x');
	dirty[401 / 8] |= 1 << 401 % 8;
	assert_int_equal(image_write_layer(image, dirty, fixture->layers[0], &err), 0);
	image_close(image);
	image = open_stack(fixture, 1);
	assert_filled(image, 400, 1, 0);
	assert_filled(image, 401, 1, 'x');
	image_close(image);
}

static void damage(const char *path, off_t at, const char *bytes, size_t size)
{
	int fd = open(path, O_WRONLY);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, bytes, size, at), size);
	close(fd);
}

static void damaged_layers_are_refused(void **state)
{
	struct fixture *fixture = *state;
	struct image_config config = { .size = SIZE, .base_path = fixture->base, .layer_count = 1 };
	cleanup_buffer struct buffer good = BUFFER_INIT;
	struct error err = { 0 };

	make_layers(fixture);
	config.layers[0] = fixture->layers[1];
	assert_int_equal(file_read(fixture->layers[1], &good, &err), 0);
	assert_true(good.size > SIZE);
	/* Each byte of the table counts, and each byte that is missing or too many. */
	for (size_t at = SIZE; at < good.size; at++) {
		char flipped = (char)(good.data[at] ^ 1);

		damage(fixture->layers[1], (off_t)at, &flipped, 1);
		assert_null(image_open(&config, &err));
		assert_int_equal(err.code, EINVAL);
		damage(fixture->layers[1], (off_t)at, good.data + at, 1);
		assert_int_equal(truncate(fixture->layers[1], (off_t)at), 0);
		assert_null(image_open(&config, &err));
		damage(fixture->layers[1], (off_t)at, good.data + at, good.size - at);
	}
	damage(fixture->layers[1], (off_t)good.size, "", 1);
	assert_null(image_open(&config, &err));
	assert_int_equal(truncate(fixture->layers[1], (off_t)good.size), 0);
	/* A long file costs nothing when it is sparse: its table must not be read before it is known to be
	 * one. */
	damage(fixture->layers[1], (off_t)SIZE + 24, (const char *)&(uint64_t){ 1u << 30 }, 8);
	assert_int_equal(truncate(fixture->layers[1], (off_t)SIZE + 32 + (16ll << 30)), 0);
	assert_null(image_open(&config, &err));
	assert_non_null(strstr(err.message, "more runs"));
	/* A full file is no layer; a layer of a smaller machine is none of ours. */
	config.layers[0] = fixture->base;
	assert_null(image_open(&config, &err));
	config.base_path = NULL;
	assert_null(image_open(&config, &err));
}

static void what_cannot_be_written_fails(void **state)
{
	struct fixture *fixture = *state;
	struct error err = { 0 };
	struct image *image;
	char path[256];

	make_base(fixture);
	image = open_stack(fixture, 0);
	(void)snprintf(path, sizeof(path), "%s/none/file", fixture->directory);
	assert_int_equal(image_write_full(image, path, &err), -ENOENT);
	assert_int_equal(image_write_layer(image, NULL, path, &err), -ENOENT);
	assert_int_equal(image_record(image, path, &err), -ENOENT);
	image_close(image);
}

static void working_sets_are_mapped_ahead(void **state)
{
	struct fixture *fixture = *state;
	struct error err = { 0 };
	struct image *image;
	uint64_t pages = 0;
	unsigned char present[PAGES];
	unsigned char seen = 0;

	make_base(fixture);
	image = open_stack(fixture, 0);
	for (int i = 100; i < 200; i++)
		seen |= image_host(image)[(uint64_t)i * PAGE];
	fill(image, 600, 5, 'w');
	assert_int_equal(seen, 'a');
	assert_int_equal(image_record(image, fixture->other, &err), 0);
	image_close(image);

	image = open_stack(fixture, 0);
	assert_int_equal(image_prefault(image, fixture->other, SIZE, &pages, &err), 0);
	assert_true(pages >= 105);
	assert_int_equal(mincore(image_host(image) + 600ul * PAGE, 5ul * PAGE, present), 0);
	for (int i = 0; i < 5; i++)
		assert_true(present[i] & 1);
	assert_filled(image, 600, 5, 0);
	assert_filled(image, 100, 100, 'a');
	image_close(image);

	image = open_stack(fixture, 0);
	assert_int_equal(image_prefault(image, fixture->other, 7 * PAGE, &pages, &err), 0);
	assert_int_equal(pages, 7);
	damage(fixture->other, 20, "x", 1);
	assert_int_equal(image_prefault(image, fixture->other, SIZE, &pages, &err), -EINVAL);
	image_close(image);
}

/* --- a page fault handler --- */

struct handler {
	char path[128];
	int listener;
	int uffd;
	char message[512];
};

/* Page N is filled with N % 251. */
static void serve_fault(int uffd, uint64_t base)
{
	struct uffd_msg event;
	unsigned char page[PAGE];
	struct uffdio_copy copy;

	if (read(uffd, &event, sizeof(event)) != sizeof(event) || event.event != UFFD_EVENT_PAGEFAULT)
		return;
	copy = (struct uffdio_copy){ .dst = event.arg.pagefault.address & ~(uint64_t)(PAGE - 1),
		                     .src = (uintptr_t)page,
		                     .len = PAGE };
	memset(page, (int)((copy.dst - base) / PAGE % 251), PAGE);
	(void)ioctl(uffd, UFFDIO_COPY, &copy);
}

static void *run_handler(void *context)
{
	struct handler *handler = context;
	int socket = accept(handler->listener, NULL, NULL);
	char control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = { handler->message, sizeof(handler->message) - 1 };
	struct msghdr message = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)
	};
	unsigned long long base = 0;

	if (recvmsg(socket, &message, 0) <= 0 || !CMSG_FIRSTHDR(&message))
		return NULL;
	memcpy(&handler->uffd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
	(void)sscanf(handler->message, "[{\"base_host_virt_addr\":%llu", &base);
	(void)fcntl(handler->uffd, F_SETFL, 0);
	for (int i = 0; i < PAGES; i++)
		serve_fault(handler->uffd, base);
	close(socket);
	return NULL;
}

static void a_handler_fills_pages(void **state)
{
	struct fixture *fixture = *state;
	struct handler handler = { .uffd = -1 };
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct image_config config = { .size = SIZE, .uffd_path = handler.path };
	struct error err = { 0 };
	struct image *image;
	pthread_t thread;

	(void)snprintf(handler.path, sizeof(handler.path), "%s/h", fixture->directory);
	assert_null(image_open(&config, &err));
	assert_int_equal(err.code == ENOENT || err.code == EPERM || err.code == ENOSYS, 1);
	if (err.code != ENOENT)
		skip(); /* no userfaultfd for this user, or in this kernel */
	(void)snprintf(address.sun_path, sizeof(address.sun_path), "%.100s", handler.path);
	handler.listener = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(handler.listener, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(handler.listener, 1), 0);
	assert_int_equal(pthread_create(&thread, NULL, run_handler, &handler), 0);
	image = image_open(&config, &err);
	if (!image)
		fail_msg("%s", err.message);
	assert_filled(image, 7, 1, 7);
	assert_filled(image, 300, 1, 300 % 251);
	assert_filled(image, PAGES - 1, 1, (PAGES - 1) % 251);
	/* A full file has the pages that nobody has touched, too. */
	assert_int_equal(image_write_full(image, fixture->other, &err), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_non_null(strstr(handler.message, "\"page_size\":4096"));
	close(handler.uffd);
	close(handler.listener);
	image_close(image);
	(void)strcpy(fixture->base, fixture->other);
	image = open_stack(fixture, 0);
	for (int page = 0; page < PAGES; page++)
		assert_filled(image, (uint64_t)page, 1, page % 251);
	image_close(image);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(extents_are_sets),
		cmocka_unit_test_setup_teardown(full_files_are_sparse_and_exact, setup, teardown),
		cmocka_unit_test_setup_teardown(layers_lie_over_each_other, setup, teardown),
		cmocka_unit_test_setup_teardown(layers_of_named_pages, setup, teardown),
		cmocka_unit_test_setup_teardown(damaged_layers_are_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(what_cannot_be_written_fails, setup, teardown),
		cmocka_unit_test_setup_teardown(working_sets_are_mapped_ahead, setup, teardown),
		cmocka_unit_test_setup_teardown(a_handler_fills_pages, setup, teardown),
	};

	return cmocka_run_group_tests_name("image", tests, NULL, NULL);
}
