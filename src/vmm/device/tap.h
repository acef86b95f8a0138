/* tap: the host's side of a network interface. Private to vmm/device. */
#pragma once

#include <stdbool.h>

#include "base/error.h"

#define TAP_HEADER_SIZE 12 /* bytes of virtio_net_hdr before each frame, num_buffers included (5.1.6) */

/*
 * Open the tap `name` of this network namespace, which must exist and be free: non-blocking, one frame with
 * its header per read and write. The descriptor, or a negative errno with `err`.
 */
int tap_open(const char *name, struct error *err);

/* What the reader of a tap takes from it, as TUN_F_* flags: checksums to be filled in, segments to be cut. */
int tap_set_offloads(int fd, unsigned flags, struct error *err);

/* Whether the kernel still has the tap behind `fd`, though it refuses frames. */
bool tap_exists(int fd);
