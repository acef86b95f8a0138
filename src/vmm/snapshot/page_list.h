/*
 * page_list: extents in a file, with a head that tells what they are and guards them: the table behind the
 * pages of a memory layer, and a recorded working set. Private to snapshot/.
 */
#pragma once

#include "base/error.h"
#include "vmm/snapshot/extents.h"

#define PAGE_LIST_MAGIC_SIZE 8

/*
 * Write the list to `fd` at *offset, which moves behind it. `magic` has 8 bytes with its NUL; `memory_size`
 * is that of the memory (bytes) whose pages are listed. 0 or -errno.
 */
int page_list_write(int fd, uint64_t *offset, const char *magic, uint64_t memory_size,
                    const struct extents *extents);

/*
 * Read and check the list at *offset, which moves behind it: magic, version, memory size, order, ranges and
 * checksum. `ret` is empty before. `what` names the file in messages. 0, -EINVAL or -errno with `err`.
 */
int page_list_read(int fd, uint64_t *offset, const char *magic, uint64_t memory_size, const char *what,
                   struct extents *ret, struct error *err);

/* Refuse a file that goes on behind its last list. */
int page_list_end(int fd, uint64_t offset, const char *what, struct error *err);
