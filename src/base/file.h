/* file: whole files and directories. Paths are used as given; every descriptor is close-on-exec. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buffer.h"
#include "base/error.h"

/* Append all of `path` to `to` (whose limit bounds it). */
int file_read(const char *path, struct buffer *to, struct error *err);

/*
 * Replace `path` by `data` so that a crash leaves the old content or the new: written to a file beside it,
 * synced, renamed, and the directory synced.
 */
int file_write_atomic(const char *path, const void *data, size_t size, mode_t mode, struct error *err);

/* Remove what processes that died in file_write_atomic() have left in a directory that only we write to. */
void file_remove_temporaries(const char *directory);

/* What has been renamed, linked or removed in a directory, or by this name in its directory, is so after a
 * crash of the host as well. */
int file_sync_directory(const char *path, struct error *err);
int file_sync_parent(const char *path, struct error *err);

/* Make `path` and its missing parents; those that exist stay as they are. */
int file_make_directories(const char *path, mode_t mode, struct error *err);

/* Whether `path` is absolute and normalised: "/" and names, none of them "", ".", ".." or too long for one.
 * "/" alone is. */
bool file_path_is_plain(const char *path);

/* Remove `path` and, when it is a directory, all below it without following symbolic links. Missing is
 * success. */
int file_remove_tree(const char *path, struct error *err);

/* Write or read exactly `size` bytes, going on after EINTR and short counts. 0, negative errno, -EPIPE at
 * early end. */
int fd_write_all(int fd, const void *data, size_t size);
int fd_read_all(int fd, void *data, size_t size);

/* The same at `offset` of a file, whose position stays. */
int fd_pwrite_all(int fd, const void *data, size_t size, uint64_t offset);
int fd_pread_all(int fd, void *data, size_t size, uint64_t offset);
