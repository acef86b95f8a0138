/*
 * volume_server: a mounted volume as a file system, in a process of its own: the kernel asks by /dev/fuse,
 * and is answered from what the volume answers (volume_link.h).
 */
#pragma once

#include <uv.h>

#include "envd/volume_link.h"

#define VOLUME_WRITE_MAX VOLUME_DATA_MAX

/* Serve the mount whose /dev/fuse is `fd` (non-blocking, taken) until it is gone, which stops the loop. */
int volume_server_start(uv_loop_t *loop, int fd, struct volume_link *link, struct error *err);
