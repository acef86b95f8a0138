/*
 * channel: a ZeroMQ socket on a libuv loop.
 *
 * ZeroMQ tells of events on a descriptor that is edge-triggered and also moved by our own sends, so besides
 * polling it every channel looks at its socket once per turn of the loop.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

#include "base/error.h"
#include "interpreter/message.h"

struct channel;

/* A multipart message. The frames are valid during the call, in which the channel may be closed. */
typedef void channel_message_fn(const struct jupyter_frame *frames, size_t count, void *context);

/*
 * Make a socket of `type` (ZMQ_DEALER, ZMQ_SUB: subscribed to all) in the ZeroMQ context `zmq` and connect it
 * to `endpoint`, which need not exist yet. NULL with `err` on failure.
 */
struct channel *channel_open(uv_loop_t *loop, void *zmq, int type, const char *endpoint,
                             channel_message_fn *on_message, void *context, struct error *err);

/* Queue a message; never blocks. 0 or a negative errno. */
int channel_send(struct channel *channel, const struct jupyter_frame *frames, size_t count);

/* Stop and start taking messages; meanwhile they wait in the sender. */
void channel_pause(struct channel *channel);
void channel_resume(struct channel *channel);

/* Close; no callback follows. The memory goes when the loop has closed the handles. NULL is allowed. */
void channel_close(struct channel *channel);
