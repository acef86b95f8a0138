/*
 * volumes: files that outlive sandboxes, and the content API by which clients reach them. Opens the folder.
 *
 * Volumes are rows of the store (store.h: their names and tokens) and directories <data>/volumes/ID with
 * `files`, and `uploads` for what is not whole yet. Requests come as /volumecontent/ID/{path,dir,file} with
 * the volume's own token. What blocks runs on libuv's threads; the changes to one volume one after the other.
 *
 * A volume may use `size_max` bytes: each entry counts 4 KiB and each file its content rounded up to that. It
 * is measured when it is first written to after a start, and counted from then on.
 */
#pragma once

#include "api/api.h"

struct volumes;

/* `directory` is there and ours. What was to be removed before is. NULL with `err`. */
struct volumes *volumes_new(struct api *api, const char *directory, uint64_t size_max, struct error *err);

/* Make the directories of a new volume. 0 or -errno with `err`. */
int volumes_make(struct volumes *volumes, const char *id, struct error *err);

/* A volume's row is gone: refuse what is asked of it and remove its files, in the background. */
void volumes_drop(struct volumes *volumes, const char *id);

/* It is known what runs: remove what nobody can have open any more of files that have lost their names, in
 * the background, of volumes that no sandbox has mounted. */
void volumes_tidy(struct volumes *volumes);

/* Serve a request of the content API. False: it is none. */
bool volumes_serve(struct api *api, struct http_exchange *exchange);
