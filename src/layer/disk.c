/*
 * A disk layer file:
 *
 *     0                 header, little endian: magic "ATOLLDL1", version u32, block size u32, disk size u64,
 *                       offset of the data u64, CRC-32 of the header with this field zero u32
 *     4096              bitmap: bit N is set when the layer holds block N (least significant bit first)
 *     data offset       block N at data offset + N * block size; never-written blocks are holes
 *
 * A discarded block is one that the layer holds and that is a hole: it hides what lies below.
 *
 * The bitmap is mapped. In the top layer the mapping is private: bits that are set stay in memory until
 * disk_flush has made the data durable, and only then are written. So a power cut shows a block old or new,
 * never half made. A frozen layer's mapping is shared by all sandboxes that stand on it.
 */
#include "layer/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"

#define LAYER_MAGIC         "ATOLLDL1"
#define LAYER_VERSION       1
#define LAYER_BITMAP_OFFSET 4096
#define BITMAP_PAGE         4096 /* bytes: unit in which the bitmap is written */
#define DISK_IOV_MAX        64   /* scattered buffers per system call */

struct layer_header {
	char magic[8];
	uint32_t version;
	uint32_t block_size;
	uint64_t disk_size;
	uint64_t data_offset;
	uint32_t crc;
	uint32_t reserved;
};

struct layer_file {
	int fd;
	uint64_t data_offset;
	unsigned char *bitmap; /* NULL in the raw base, which holds every block */
	size_t bitmap_size;    /* bytes, whole pages */
};

struct disk {
	struct layer_file files[DISK_LAYERS_MAX + 2]; /* lowest first */
	unsigned count;
	uint64_t size;
	bool writable;
	bool has_overlay;
	unsigned char *bitmap_dirty; /* one byte per page of the top bitmap: not yet written */
};

static uint64_t block_count(uint64_t size)
{
	return size / DISK_BLOCK_SIZE + (size % DISK_BLOCK_SIZE != 0);
}

static size_t bitmap_bytes(uint64_t size)
{
	uint64_t bytes = (block_count(size) + 7) / 8;

	return (size_t)((bytes + BITMAP_PAGE - 1) / BITMAP_PAGE * BITMAP_PAGE);
}

static struct layer_file *top_file(struct disk *disk)
{
	return &disk->files[disk->count - 1];
}

static bool file_holds(const struct layer_file *file, uint64_t block)
{
	return !file->bitmap || (file->bitmap[block / 8] >> (block % 8) & 1);
}

/* --- opening --- */

static int header_check(const struct layer_header *header, uint64_t disk_size, const char *path,
                        struct error *err)
{
	struct layer_header copy = *header;

	if (memcmp(header->magic, LAYER_MAGIC, sizeof(header->magic)) != 0)
		return error_set(err, EINVAL, "%s is not a disk layer", path);
	if (header->version != LAYER_VERSION)
		return error_set(err, EINVAL, "%s: layer version %u is not supported", path, header->version);
	copy.crc = 0;
	if (crc32c(0, &copy, sizeof(copy)) != header->crc)
		return error_set(err, EINVAL, "%s: the layer's header is corrupt", path);
	if (header->block_size != DISK_BLOCK_SIZE || header->disk_size != disk_size)
		return error_set(err, EINVAL, "%s: the layer belongs to a disk of another size", path);
	if (header->data_offset != LAYER_BITMAP_OFFSET + bitmap_bytes(disk_size))
		return error_set(err, EINVAL, "%s: the layer's header is corrupt", path);
	return 0;
}

static int layer_map(struct disk *disk, int fd, bool top, const char *path, struct error *err)
{
	struct layer_file *file = &disk->files[disk->count];
	size_t size = bitmap_bytes(disk->size);
	struct layer_header header;
	struct stat st;
	void *bitmap;
	int ret;

	if (pread(fd, &header, sizeof(header), 0) != (ssize_t)sizeof(header))
		return error_set(err, EINVAL, "%s: the layer is cut short", path);
	ret = header_check(&header, disk->size, path, err);
	if (ret < 0)
		return ret;
	if (fstat(fd, &st) < 0)
		return error_errno(err, errno, "%s", path);
	/* Shorter, and reading the bitmap would raise SIGBUS. */
	if ((uint64_t)st.st_size < header.data_offset)
		return error_set(err, EINVAL, "%s: the layer is cut short", path);
	bitmap = mmap(NULL, size, top ? PROT_READ | PROT_WRITE : PROT_READ, top ? MAP_PRIVATE : MAP_SHARED,
	              fd, LAYER_BITMAP_OFFSET);
	if (bitmap == MAP_FAILED)
		return error_errno(err, errno, "map the bitmap of %s", path);
	*file = (struct layer_file){ fd, header.data_offset, bitmap, size };
	disk->count++;
	return 0;
}

static int layer_create(int fd, uint64_t disk_size, const char *path, struct error *err)
{
	struct layer_header header = { .magic = LAYER_MAGIC,
		                       .version = LAYER_VERSION,
		                       .block_size = DISK_BLOCK_SIZE,
		                       .disk_size = disk_size,
		                       .data_offset = LAYER_BITMAP_OFFSET + bitmap_bytes(disk_size) };
	uint64_t file_size;

	header.crc = crc32c(0, &header, sizeof(header));
	if (!checked_add(header.data_offset, block_count(disk_size) * DISK_BLOCK_SIZE, &file_size) ||
	    file_size > INT64_MAX)
		return error_set(err, EFBIG, "%s: a disk of %llu bytes is too large", path,
		                 (unsigned long long)disk_size);
	if (ftruncate(fd, (off_t)file_size) < 0 ||
	    pwrite(fd, &header, sizeof(header), 0) != (ssize_t)sizeof(header))
		return error_errno(err, errno, "make layer %s", path);
	return 0;
}

static int open_base(struct disk *disk, const char *path, bool writable, struct error *err)
{
	cleanup_close int fd = open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return error_errno(err, errno, "open disk image %s", path);
	if (!S_ISREG(st.st_mode) || st.st_size <= 0 || st.st_size % 512 != 0)
		return error_set(err, EINVAL,
		                 "disk image %s must be a regular file of a multiple of 512 bytes", path);
	disk->size = (uint64_t)st.st_size;
	disk->files[disk->count++] = (struct layer_file){ .fd = TAKE_FD(fd) };
	return 0;
}

static int open_frozen(struct disk *disk, const char *path, struct error *err)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	int ret;

	if (fd < 0)
		return error_errno(err, errno, "open layer %s", path);
	ret = layer_map(disk, fd, false, path, err);
	if (ret == 0)
		fd = -1;
	return ret;
}

static int open_overlay(struct disk *disk, const char *path, struct error *err)
{
	cleanup_close int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	struct stat st;
	int ret;

	if (fd < 0 || fstat(fd, &st) < 0)
		return error_errno(err, errno, "open layer %s", path);
	if (st.st_size == 0) {
		ret = layer_create(fd, disk->size, path, err);
		if (ret < 0)
			return ret;
	}
	ret = layer_map(disk, fd, true, path, err);
	if (ret < 0)
		return ret;
	fd = -1;
	disk->has_overlay = true;
	disk->bitmap_dirty = calloc(1, top_file(disk)->bitmap_size / BITMAP_PAGE);
	return disk->bitmap_dirty ? 0 : error_errno(err, ENOMEM, "open layer %s", path);
}

struct disk *disk_open(const char *base, const char *const *layers, unsigned layer_count, const char *overlay,
                       bool read_only, struct error *err)
{
	struct disk *disk;
	int ret;

	if (layer_count > DISK_LAYERS_MAX) {
		error_set(err, E2BIG, "a disk has at most %d layers", DISK_LAYERS_MAX);
		return NULL;
	}
	disk = calloc(1, sizeof(*disk));
	if (!disk) {
		error_errno(err, ENOMEM, "open disk %s", base);
		return NULL;
	}
	disk->writable = !read_only && (overlay || layer_count == 0);
	ret = open_base(disk, base, disk->writable && !overlay, err);
	for (unsigned i = 0; ret == 0 && i < layer_count; i++)
		ret = open_frozen(disk, layers[i], err);
	if (ret == 0 && overlay)
		ret = open_overlay(disk, overlay, err);
	if (ret < 0) {
		disk_close(disk);
		return NULL;
	}
	return disk;
}

void disk_close(struct disk *disk)
{
	if (!disk)
		return;
	if (disk->writable && disk->bitmap_dirty)
		(void)disk_flush(disk);
	for (unsigned i = 0; i < disk->count; i++) {
		if (disk->files[i].bitmap)
			(void)munmap(disk->files[i].bitmap, disk->files[i].bitmap_size);
		close(disk->files[i].fd);
	}
	free(disk->bitmap_dirty);
	free(disk);
}

uint64_t disk_size(const struct disk *disk)
{
	return disk->size;
}

bool disk_writable(const struct disk *disk)
{
	return disk->writable;
}

/* --- scattered I/O --- */

/* A place in a list of buffers. */
struct cursor {
	const struct iovec *iov;
	int count;
	size_t used; /* of the first */
};

/* Fill `out` with up to `length` bytes from the cursor, without moving it; returns how many entries. */
static int cursor_slice(const struct cursor *cursor, uint64_t length, struct iovec *out)
{
	int n = 0;

	for (int i = 0; i < cursor->count && length && n < DISK_IOV_MAX; i++) {
		size_t skip = i == 0 ? cursor->used : 0;
		size_t size = cursor->iov[i].iov_len - skip;

		if (size == 0)
			continue;
		if (size > length)
			size = (size_t)length;
		out[n++] = (struct iovec){ (char *)cursor->iov[i].iov_base + skip, size };
		length -= size;
	}
	return n;
}

static void cursor_advance(struct cursor *cursor, uint64_t length)
{
	while (length && cursor->count) {
		size_t size = cursor->iov->iov_len - cursor->used;

		if (length < size) {
			cursor->used += (size_t)length;
			return;
		}
		length -= size;
		cursor->iov++;
		cursor->count--;
		cursor->used = 0;
	}
}

static int cursor_transfer(struct cursor *cursor, int fd, uint64_t offset, uint64_t length, bool write)
{
	while (length) {
		struct iovec part[DISK_IOV_MAX];
		int count = cursor_slice(cursor, length, part);
		ssize_t done = write ? pwritev(fd, part, count, (off_t)offset)
		                     : preadv(fd, part, count, (off_t)offset);

		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return -errno;
		if (done == 0)
			return -EIO;
		cursor_advance(cursor, (uint64_t)done);
		offset += (uint64_t)done;
		length -= (uint64_t)done;
	}
	return 0;
}

static uint64_t iov_length(const struct iovec *iov, int count)
{
	uint64_t length = 0;

	for (int i = 0; i < count; i++)
		length += iov[i].iov_len;
	return length;
}

static int range_check(const struct disk *disk, uint64_t offset, uint64_t length)
{
	return checked_range(offset, length, disk->size) ? 0 : -EINVAL;
}

static unsigned block_source(const struct disk *disk, uint64_t block)
{
	unsigned source = disk->count - 1;

	while (source > 0 && !file_holds(&disk->files[source], block))
		source--;
	return source;
}

/* The first part of a range that lies in one file, as far as neighbours come from the same layer. */
static struct disk_extent first_extent(const struct disk *disk, uint64_t offset, uint64_t length)
{
	uint64_t block = offset / DISK_BLOCK_SIZE;
	uint64_t run = DISK_BLOCK_SIZE - offset % DISK_BLOCK_SIZE;
	unsigned source = block_source(disk, block);

	while (run < length && block_source(disk, ++block) == source)
		run += DISK_BLOCK_SIZE;
	return (struct disk_extent){ .fd = disk->files[source].fd,
		                     .offset = disk->files[source].data_offset + offset,
		                     .length = run < length ? run : length };
}

int disk_readv(struct disk *disk, const struct iovec *iov, int count, uint64_t offset)
{
	struct cursor cursor = { iov, count, 0 };
	uint64_t length = iov_length(iov, count);
	int ret = range_check(disk, offset, length);

	while (ret == 0 && length) {
		struct disk_extent extent = first_extent(disk, offset, length);

		ret = cursor_transfer(&cursor, extent.fd, extent.offset, extent.length, false);
		offset += extent.length;
		length -= extent.length;
	}
	return ret;
}

int disk_map_read(const struct disk *disk, uint64_t offset, uint64_t length, struct disk_extent *extents,
                  int max)
{
	int count = 0;

	if (range_check(disk, offset, length) < 0)
		return -EINVAL;
	while (length) {
		if (count == max)
			return -E2BIG;
		extents[count] = first_extent(disk, offset, length);
		offset += extents[count].length;
		length -= extents[count++].length;
	}
	return count;
}

int disk_map_write(const struct disk *disk, uint64_t offset, uint64_t length, struct disk_extent *ret)
{
	const struct layer_file *top = &disk->files[disk->count - 1];
	int err = disk->writable ? range_check(disk, offset, length) : -EROFS;

	if (err < 0)
		return err;
	for (uint64_t block = offset / DISK_BLOCK_SIZE; block < block_count(offset + length); block++)
		if (!file_holds(top, block))
			return -EAGAIN;
	*ret = (struct disk_extent){ top->fd, top->data_offset + offset, length };
	return 0;
}

static void mark_held(struct disk *disk, uint64_t block)
{
	struct layer_file *top = top_file(disk);

	if (file_holds(top, block))
		return;
	top->bitmap[block / 8] |= (unsigned char)(1u << block % 8);
	disk->bitmap_dirty[block / 8 / BITMAP_PAGE] = 1;
}

/* Bring a block that will be written in part into the top layer. */
static int copy_up(struct disk *disk, uint64_t block)
{
	struct layer_file *top = top_file(disk);
	unsigned char data[DISK_BLOCK_SIZE];
	uint64_t offset = block * DISK_BLOCK_SIZE;
	uint64_t size = disk->size - offset < sizeof(data) ? disk->size - offset : sizeof(data);
	struct iovec iov = { data, (size_t)size };
	struct cursor cursor = { &iov, 1, 0 };
	int ret;

	if (file_holds(top, block))
		return 0;
	ret = disk_readv(disk, &iov, 1, offset);
	if (ret == 0)
		ret = cursor_transfer(&cursor, top->fd, top->data_offset + offset, size, true);
	if (ret == 0)
		mark_held(disk, block);
	return ret;
}

/* Copy up the blocks at both ends of a range that does not cover them whole. */
static int copy_up_ends(struct disk *disk, uint64_t offset, uint64_t length)
{
	uint64_t end = offset + length;
	int ret = 0;

	if (offset % DISK_BLOCK_SIZE)
		ret = copy_up(disk, offset / DISK_BLOCK_SIZE);
	if (ret == 0 && end % DISK_BLOCK_SIZE && end != disk->size)
		ret = copy_up(disk, end / DISK_BLOCK_SIZE);
	return ret;
}

int disk_writev(struct disk *disk, const struct iovec *iov, int count, uint64_t offset)
{
	struct cursor cursor = { iov, count, 0 };
	uint64_t length = iov_length(iov, count);
	struct layer_file *top = top_file(disk);
	int ret = disk->writable ? range_check(disk, offset, length) : -EROFS;

	if (ret < 0 || length == 0)
		return ret;
	if (disk->has_overlay)
		ret = copy_up_ends(disk, offset, length);
	if (ret == 0)
		ret = cursor_transfer(&cursor, top->fd, top->data_offset + offset, length, true);
	if (ret < 0 || !disk->has_overlay)
		return ret;
	for (uint64_t block = offset / DISK_BLOCK_SIZE; block < block_count(offset + length); block++)
		mark_held(disk, block);
	return 0;
}

int disk_flush(struct disk *disk)
{
	struct layer_file *top = top_file(disk);
	size_t pages = disk->has_overlay ? top->bitmap_size / BITMAP_PAGE : 0;
	bool written = false;

	if (!disk->writable)
		return 0;
	if (fdatasync(top->fd) < 0)
		return -errno;
	for (size_t page = 0; page < pages; page++) {
		off_t at = (off_t)(page * BITMAP_PAGE);

		if (!disk->bitmap_dirty[page])
			continue;
		if (pwrite(top->fd, top->bitmap + at, BITMAP_PAGE, LAYER_BITMAP_OFFSET + at) != BITMAP_PAGE)
			return errno ? -errno : -EIO;
		disk->bitmap_dirty[page] = 0;
		written = true;
	}
	return written && fdatasync(top->fd) < 0 ? -errno : 0;
}

/* Write zeros over a range that is less than a block. */
static int zero_part(struct disk *disk, uint64_t offset, uint64_t length)
{
	static const unsigned char zeros[DISK_BLOCK_SIZE];
	struct iovec iov = { (void *)(uintptr_t)zeros, (size_t)length };

	return length ? disk_writev(disk, &iov, 1, offset) : 0;
}

int disk_discard(struct disk *disk, uint64_t offset, uint64_t length)
{
	struct layer_file *top = top_file(disk);
	uint64_t end = offset + length;
	uint64_t first = block_count(offset);  /* first whole block */
	uint64_t last = end / DISK_BLOCK_SIZE; /* behind the last whole block */
	int ret = disk->writable ? range_check(disk, offset, length) : -EROFS;

	if (ret < 0)
		return ret;
	if (last <= first) {
		uint64_t edge = first * DISK_BLOCK_SIZE;
		uint64_t part = edge > offset && edge < end ? edge - offset : length;

		ret = zero_part(disk, offset, part);
		return ret < 0 ? ret : zero_part(disk, offset + part, length - part);
	}
	ret = zero_part(disk, offset, first * DISK_BLOCK_SIZE - offset);
	if (ret == 0)
		ret = zero_part(disk, last * DISK_BLOCK_SIZE, end - last * DISK_BLOCK_SIZE);
	if (ret == 0 && fallocate(top->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
	                          (off_t)(top->data_offset + first * DISK_BLOCK_SIZE),
	                          (off_t)((last - first) * DISK_BLOCK_SIZE)) < 0)
		ret = -errno;
	for (uint64_t block = first; ret == 0 && disk->has_overlay && block < last; block++)
		mark_held(disk, block);
	return ret;
}
