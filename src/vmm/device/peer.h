/*
 * peer: somebody in the monitor whom a guest can reach over a network interface. It sees each frame that the
 * guest sends, before the tap does.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct net_peer {
	void *context;
	/* True: the frame (Ethernet, without virtio header) was for it, and goes no further. Device loop. */
	bool (*take)(void *context, const void *frame, size_t size);
	/* Its next frame for the guest into `frame` of `room` bytes: the size, 0 when there is none. */
	size_t (*give)(void *context, void *frame, size_t room);
	/* Milliseconds until `give` should be asked again though nothing came (retransmission); -1: not. */
	int (*timeout)(void *context);
};
