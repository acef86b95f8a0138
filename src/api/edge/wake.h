/*
 * wake: paused sandboxes that traffic wakes. However many requests wait for one, the node is asked once.
 */
#pragma once

#include "api/api.h"

struct record;

enum wake_outcome {
	WAKE_UP = 1, /* it runs */
	WAKE_GONE,   /* it is no more, or could not be woken */
	WAKE_BUSY,   /* it changes its state, and did not come to an end with it in time */
	WAKE_FULL,   /* no room for one more that runs */
};

typedef void wake_done_fn(struct api *api, struct http_exchange *exchange, const char *id, unsigned port,
                          enum wake_outcome outcome);

/* Hold an exchange until the sandbox runs or cannot; `done` is called then, unless the client has left
 * meanwhile. False: no memory. */
bool wake_wait(struct api *api, const struct record *record, struct http_exchange *exchange, unsigned port,
               wake_done_fn *done);
