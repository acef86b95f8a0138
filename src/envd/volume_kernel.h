/*
 * volume_kernel: answers to the kernel, by its protocol on /dev/fuse (linux/fuse.h), and what they are made
 * of: attributes and directories as a volume tells them. An answer that the kernel does not want any more is
 * lost without a word.
 */
#pragma once

#include <linux/fuse.h>

#include "envd/volume_nodes.h"

#define VOLUME_VALID_SECONDS 1 /* that the kernel believes attributes and names */

/* `code` is a positive errno. */
void volume_kernel_error(int fd, uint64_t unique, int code);
/* 0 with `size` bytes. */
void volume_kernel_reply(int fd, uint64_t unique, const void *data, size_t size);

/* 0: it is open. Negative: the kernel does not want to know any more, and will not close it. */
int volume_kernel_reply_opened(int fd, uint64_t unique);

/* Whether they are ones that the kernel can be told of. */
bool volume_kernel_attributes_fit(const struct volume_attributes *attributes);

/* Each remembers in `node` what the kernel was told. The second tells whether it was: a lookup counts only
 * then. A hidden file has a link less than the volume says. */
void volume_kernel_reply_attributes(int fd, uint64_t unique, struct volume_node *node,
                                    const struct volume_attributes *attributes);
int volume_kernel_reply_entry(int fd, uint64_t unique, struct volume_node *node,
                              const struct volume_attributes *attributes, bool opened);

/* The kernel must ask for the attributes of `node` again. */
void volume_kernel_forget_attributes(int fd, const struct volume_node *node);

/*
 * Directories. The kernel is told of "." and ".." at the offsets 1 and 2, and of the volume's own behind
 * them. `offset` of the volume for one of the kernel's.
 */
uint64_t volume_kernel_directory_offset(uint64_t offset);

/* What the kernel asked for at `offset`, into `to` of `size` bytes, of a listing of the volume. Bytes, or
 * -EIO. */
int volume_kernel_list(uint64_t offset, const struct volume_node *node, const char *data, size_t data_size,
                       char *to, size_t size);
