/*
 * stream: a connected byte stream (TCP, unix or vsock socket) on a libuv loop, with counted writes.
 *
 * Reading starts when asked and can be stopped for back-pressure. Writes are copied and queued;
 * stream_pending() tells how much waits, on_drain when nothing does any more. Closing is asynchronous:
 * on_close is the last call that a stream makes, and the stream frees itself after it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "base/error.h"

struct stream;

/* All may be NULL but on_close. `context` is what stream_set_events was given. */
struct stream_events {
	/* Bytes arrived. They are valid during the call only. */
	void (*on_data)(struct stream *stream, const char *data, size_t size, void *context);
	/* The peer sends no more (half-close). Writing is still possible. */
	void (*on_end)(struct stream *stream, void *context);
	/* All that was queued has been written. */
	void (*on_drain)(struct stream *stream, void *context);
	/* The stream is gone. `status` is 0 after stream_close, or the negative errno that ended it. */
	void (*on_close)(struct stream *stream, int status, void *context);
};

/* Most bytes a writer should queue before it waits for on_drain. */
#define STREAM_HIGH_WATER (256 * 1024)

/* Wrap a connected non-blocking stream socket; takes `fd` (closed on failure too). NULL with `err` on
 * failure. */
struct stream *stream_new_fd(uv_loop_t *loop, int fd, struct error *err);

/* Accept from a listening handle inside its connection callback. NULL with `err` on failure. */
struct stream *stream_accept(uv_stream_t *listener, struct error *err);

/*
 * Begin to connect. `on_connect` is called once: with status 0 the stream is ready; otherwise status is a
 * negative errno and the stream closes itself (on_close is not called). stream_close before that cancels:
 * on_connect is called with -ECANCELED.
 */
typedef void stream_connect_fn(struct stream *stream, int status, void *context);
struct stream *stream_connect_unix(uv_loop_t *loop, const char *path, stream_connect_fn *on_connect,
                                   void *context, struct error *err);
struct stream *stream_connect_tcp(uv_loop_t *loop, const char *ip, uint16_t port,
                                  stream_connect_fn *on_connect, void *context, struct error *err);

void stream_set_events(struct stream *stream, const struct stream_events *events, void *context);

/* Whether TLS stands between it and its socket. */
bool stream_is_secured(const struct stream *stream);

/* Start and stop reading. Idempotent. */
void stream_read_start(struct stream *stream);
void stream_read_stop(struct stream *stream);

/* Queue a copy of `data`. An error closes the stream by itself, so callers may ignore the result. */
int stream_write(struct stream *stream, const void *data, size_t size);

/* Bytes queued and not yet written. */
size_t stream_pending(const struct stream *stream);

/* Send what is queued, then half-close our side. */
void stream_shutdown(struct stream *stream);

/* Close after what is queued has been written. */
void stream_close_after_writes(struct stream *stream);

/* Close now. Idempotent. */
void stream_close(struct stream *stream);

/*
 * Join two streams both ways with back-pressure and half-close, until both have ended or one fails. Takes
 * both. `head` is what was already read from `a` and goes to `b` first. `done` (NULL: nobody) is called once
 * when both are closed.
 */
typedef void stream_spliced_fn(void *context);
void stream_splice(struct stream *a, struct stream *b, const void *head, size_t head_size,
                   stream_spliced_fn *done, void *context);
