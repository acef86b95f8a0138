/*
 * Fuzz the reading of memory: hostile are layers over a memory file, and a recorded working set, as somebody
 * might upload them. The input describes their lists of pages, and how the files around those lie; checksums
 * are made to fit where it says so. A stack that is opened must have exactly the pages that its lists say.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/base.h"
#include "fuzz.h"
#include "vmm/snapshot/image.h"

#define PAGE       4096u
#define PAGES      64u
#define SIZE       (PAGES * PAGE)
#define LAYERS     4u
#define EXTENTS    16u
#define LIMIT      (PAGES / 2 * PAGE)
#define BASE_PAGE  0x80
#define LIST_BYTES (sizeof(struct head) + (EXTENTS + 1) * sizeof(struct run))

/* What is wrong with a list. */
enum {
	LIST_BAD_CRC = 1,
	LIST_BAD_MAGIC = 2,
	LIST_BAD_VERSION = 4,
	LIST_BAD_SIZE = 8,
	LIST_CUT = 16,
	LIST_LONG = 32,
	LIST_BAD_COUNT = 64,
	LIST_WIDE = 128, /* numbers of any size */
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* As page_list.c writes it. */
struct head {
	char magic[8];
	uint32_t version;
	uint32_t crc;
	uint64_t memory_size;
	uint64_t count;
};

struct run {
	uint64_t first;
	uint64_t count;
};

struct file {
	int fd; /* in memory */
	char path[64];
	bool valid;
	bool has[PAGES];
};

static struct file base;
static struct file layers[LAYERS];
static struct file set;

static void make_file(struct file *file)
{
	file->fd = memfd_create("image", MFD_CLOEXEC);
	if (file->fd < 0)
		abort();
	(void)snprintf(file->path, sizeof(file->path), "/proc/self/fd/%d", file->fd);
}

static void write_at(const struct file *file, const void *data, size_t size, size_t offset)
{
	if (pwrite(file->fd, data, size, (off_t)offset) != (ssize_t)size)
		abort();
}

static void make_files(void)
{
	static unsigned char page[PAGE];

	if (base.path[0])
		return;
	make_file(&base);
	make_file(&set);
	for (unsigned i = 0; i < LAYERS; i++)
		make_file(&layers[i]);
	for (unsigned i = 0; i < PAGES; i++) {
		memset(page, (int)(BASE_PAGE + i), sizeof(page));
		write_at(&base, page, sizeof(page), (size_t)i * PAGE);
	}
}

static uint64_t take_number(struct input *input, bool wide)
{
	uint64_t number = take(input, 1);

	if (wide)
		number |= (uint64_t)take(input, 4) << (take(input, 1) % 33);
	return number;
}

/* Whether runs are in order and inside, and which pages they have. */
static bool runs_valid(const struct run *runs, size_t count, bool has[PAGES])
{
	uint64_t end = 0;

	memset(has, 0, PAGES * sizeof(has[0]));
	for (size_t i = 0; i < count; i++) {
		if (runs[i].first < end || runs[i].count == 0 || runs[i].first > PAGES ||
		    runs[i].count > PAGES - runs[i].first)
			return false;
		end = runs[i].first + runs[i].count;
		for (uint64_t page = runs[i].first; page < end; page++)
			has[page] = true;
	}
	return true;
}

/* Write a list as the input says, at *offset. What is in it comes back in `file`. */
static void write_list(struct input *input, struct file *file, const char *magic, size_t *offset)
{
	uint32_t flags = take(input, 1);
	struct head head = { .version = 1, .memory_size = SIZE };
	struct run runs[EXTENTS + 1] = { 0 };
	size_t count = take(input, 1) % EXTENTS;
	size_t size = sizeof(head) + count * sizeof(runs[0]);
	unsigned char bytes[LIST_BYTES];

	memcpy(head.magic, magic, sizeof(head.magic));
	head.count = count;
	for (size_t i = 0; i < count; i++) {
		runs[i].first = take_number(input, flags & LIST_WIDE);
		runs[i].count = take_number(input, flags & LIST_WIDE);
	}
	head.magic[take(input, 1) % 8] ^= flags & LIST_BAD_MAGIC ? 1 : 0;
	head.version += flags & LIST_BAD_VERSION ? 1 : 0;
	head.memory_size += flags & LIST_BAD_SIZE ? PAGE : 0;
	if (flags & LIST_BAD_COUNT)
		head.count += 1 + take_number(input, true);
	head.crc = crc32c(crc32c(0, &head, sizeof(head)), runs, count * sizeof(runs[0]));
	head.crc ^= flags & LIST_BAD_CRC ? 1 : 0;
	memcpy(bytes, &head, sizeof(head));
	memcpy(bytes + sizeof(head), runs, count * sizeof(runs[0]));
	if (flags & LIST_CUT)
		size -= 1 + take(input, 1) % size;
	write_at(file, bytes, size, *offset);
	if (flags & LIST_LONG)
		write_at(file, "x", 1, *offset + size++);
	*offset += size;
	file->valid = runs_valid(runs, count, file->has) && !(flags & ~(uint32_t)LIST_WIDE) && file->valid;
}

static void write_layer(struct input *input, struct file *file, unsigned number)
{
	static unsigned char page[PAGE];
	size_t offset = SIZE;

	if (ftruncate(file->fd, 0) < 0)
		abort();
	file->valid = true;
	/* Now and then the pages themselves are not all there. */
	if (take(input, 1) == 0xff) {
		offset -= take(input, 2);
		file->valid = offset == SIZE;
	}
	write_list(input, file, "ATOLLML", &offset);
	memset(page, (int)number + 1, sizeof(page));
	for (unsigned i = 0; i < PAGES && file->valid; i++)
		if (file->has[i])
			write_at(file, page, sizeof(page), (size_t)i * PAGE);
}

static void check_stack(const struct image *image, unsigned count)
{
	const unsigned char *host = image_host(image);

	for (unsigned i = 0; i < PAGES; i++) {
		unsigned want = BASE_PAGE + i;

		for (unsigned layer = 0; layer < count; layer++)
			if (layers[layer].has[i])
				want = layer + 1;
		if (host[i * PAGE] != want || host[i * PAGE + PAGE - 1] != want)
			abort();
	}
}

/* A list for pages that are written, and one for those that are read. */
static void prefault(struct input *input, const struct image *image)
{
	size_t offset = 0;
	uint64_t pages = 0;
	int ret;

	if (ftruncate(set.fd, 0) < 0)
		abort();
	set.valid = true;
	write_list(input, &set, "ATOLLWW", &offset);
	write_list(input, &set, "ATOLLWR", &offset);
	ret = image_prefault(image, set.path, LIMIT, &pages, NULL);
	if ((ret == 0) != set.valid || pages > LIMIT / PAGE)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = { data, size };
	struct image_config config = { .size = SIZE };
	struct image *image;
	bool valid = true;

	make_files();
	config.base_path = base.path;
	config.layer_count = take(&input, 1) % (LAYERS + 1);
	for (unsigned i = 0; i < config.layer_count; i++) {
		write_layer(&input, &layers[i], i);
		config.layers[i] = layers[i].path;
		valid &= layers[i].valid;
	}
	image = image_open(&config, NULL);
	if ((image != NULL) != valid)
		abort();
	if (image) {
		prefault(&input, image);
		check_stack(image, config.layer_count);
		/* What a hostile set has mapped changes nothing. */
		image_close(image);
	}
	return 0;
}
