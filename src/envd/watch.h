/* watch: tells of changes in a directory, and with `recursive` below it, by inotify. */
#pragma once

#include <jansson.h>
#include <uv.h>

#include "base/base.h"

struct watch;

struct watch_options {
	bool recursive;
	bool include_entry; /* events of what exists carry its filesystem.EntryInfo */
	bool allow_network; /* also where changes by others are not seen: NFS, SMB, FUSE */
};

/* A filesystem.FilesystemEvent; the reference is the callee's. It may free the watch. */
typedef void watch_event_fn(void *context, json_t *event);

/*
 * Watch the directory `path`. NULL with `err`: ENOENT, ENOTDIR, EINVAL for a network mount, ENOSPC when there
 * are too many directories.
 */
struct watch *watch_new(uv_loop_t *loop, const char *path, const struct watch_options *options,
                        watch_event_fn *on_event, void *context, struct error *err);

/* No event comes after this. NULL does nothing. */
void watch_free(struct watch *watch);
