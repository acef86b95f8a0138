#include "envd/volume_kernel.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>

#define DOTS       2 /* offsets that "." and ".." take */
#define ERRNO_LAST 511

static int put(int fd, uint64_t unique, int code, const void *data, size_t size)
{
	const struct fuse_out_header head = { .len = (uint32_t)(sizeof(head) + size),
		                              .error = code,
		                              .unique = unique };
	const struct iovec parts[] = { { .iov_base = (void *)(uintptr_t)&head, .iov_len = sizeof(head) },
		                       { .iov_base = (void *)(uintptr_t)data, .iov_len = size } };

	return writev(fd, parts, size ? 2 : 1) < 0 ? -errno : 0;
}

void volume_kernel_error(int fd, uint64_t unique, int code)
{
	(void)put(fd, unique, code <= 0 || code > ERRNO_LAST ? -EIO : -code, NULL, 0);
}

void volume_kernel_reply(int fd, uint64_t unique, const void *data, size_t size)
{
	(void)put(fd, unique, 0, data, size);
}

int volume_kernel_reply_opened(int fd, uint64_t unique)
{
	const struct fuse_open_out out = { 0 };

	return put(fd, unique, 0, &out, sizeof(out));
}

/* --- attributes --- */

bool volume_kernel_attributes_fit(const struct volume_attributes *attributes)
{
	mode_t mode = attributes->mode;

	return attributes->id && attributes->size <= INT64_MAX &&
	       (S_ISDIR(mode) || S_ISREG(mode) || S_ISLNK(mode));
}

static void split_time(int64_t time_ns, uint64_t *ret_seconds, uint32_t *ret_ns)
{
	int64_t seconds = time_ns / 1000000000;
	int64_t rest = time_ns % 1000000000;

	*ret_seconds = (uint64_t)(rest < 0 ? seconds - 1 : seconds);
	*ret_ns = (uint32_t)(rest < 0 ? rest + 1000000000 : rest);
}

static struct fuse_attr translate(struct volume_node *node, const struct volume_attributes *from)
{
	struct fuse_attr attr = {
		.ino = from->id,
		.size = from->size,
		.blocks = from->blocks,
		.mode = from->mode,
		.nlink = from->links - (node->hidden && from->links),
		.uid = from->uid,
		.gid = from->gid,
	};

	split_time(from->atime_ns, &attr.atime, &attr.atimensec);
	split_time(from->mtime_ns, &attr.mtime, &attr.mtimensec);
	split_time(from->ctime_ns, &attr.ctime, &attr.ctimensec);
	node->size = from->size;
	node->mtime_ns = from->mtime_ns;
	return attr;
}

void volume_kernel_reply_attributes(int fd, uint64_t unique, struct volume_node *node,
                                    const struct volume_attributes *attributes)
{
	const struct fuse_attr_out out = { .attr_valid = VOLUME_VALID_SECONDS,
		                           .attr = translate(node, attributes) };

	(void)put(fd, unique, 0, &out, sizeof(out));
}

int volume_kernel_reply_entry(int fd, uint64_t unique, struct volume_node *node,
                              const struct volume_attributes *attributes, bool opened)
{
	const struct {
		struct fuse_entry_out entry;
		struct fuse_open_out open;
	} out = {
		.entry = { .nodeid = node->id,
		           .entry_valid = VOLUME_VALID_SECONDS,
		           .attr_valid = VOLUME_VALID_SECONDS,
		           .attr = translate(node, attributes) },
	};

	return put(fd, unique, 0, &out, opened ? sizeof(out) : sizeof(out.entry));
}

void volume_kernel_forget_attributes(int fd, const struct volume_node *node)
{
	const struct fuse_notify_inval_inode_out out = { .ino = node->id, .off = -1 };

	(void)put(fd, 0, FUSE_NOTIFY_INVAL_INODE, &out, sizeof(out));
}

/* --- directories --- */

uint64_t volume_kernel_directory_offset(uint64_t offset)
{
	if (offset == INT64_MAX)
		return offset;
	return offset < DOTS ? 0 : offset - DOTS;
}

/* The inverse: file systems use the last number for the end, and none right before it. */
static uint64_t offset_to_kernel(uint64_t next)
{
	return next >= INT64_MAX - DOTS ? INT64_MAX : next + DOTS;
}

/* 0: there is no space for it. */
static size_t add_entry(char *to, size_t size, const struct fuse_dirent *entry, const char *name)
{
	size_t used = FUSE_DIRENT_SIZE(entry);

	if (used > size)
		return 0;
	memset(to, 0, used);
	memcpy(to, entry, FUSE_NAME_OFFSET);
	memcpy(to + FUSE_NAME_OFFSET, name, entry->namelen);
	return used;
}

static size_t add_dots(uint64_t offset, const struct volume_node *node, char *to, size_t size)
{
	const struct volume_node *above = node->parent ? node->parent : node;
	size_t used = 0;

	for (uint32_t i = (uint32_t)offset; i < DOTS; i++) {
		const struct fuse_dirent entry = { .ino = i == 0 ? node->file : above->file,
			                           .off = i + 1,
			                           .namelen = i + 1,
			                           .type = DT_DIR };

		used += add_entry(to + used, size - used, &entry, "..");
	}
	return used;
}

int volume_kernel_list(uint64_t offset, const struct volume_node *node, const char *data, size_t data_size,
                       char *to, size_t size)
{
	size_t used = offset < DOTS ? add_dots(offset, node, to, size) : 0;
	size_t at = 0;

	for (;;) {
		struct volume_entry entry;
		const char *name;
		int got = volume_entry_read(data + at, data_size - at, &entry, &name, NULL);
		struct fuse_dirent dirent;
		size_t more;

		if (got < 0 || (got > 0 && entry.next > INT64_MAX))
			return -EIO;
		if (got == 0)
			return (int)used;
		dirent = (struct fuse_dirent){ .ino = entry.id,
			                       .off = offset_to_kernel(entry.next),
			                       .namelen = entry.name_size,
			                       .type = IFTODT(entry.mode) };
		more = add_entry(to + used, size - used, &dirent, name);
		if (more == 0)
			return (int)used;
		used += more;
		at += (size_t)got;
	}
}
