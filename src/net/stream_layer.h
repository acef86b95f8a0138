/*
 * stream_layer: what stands between a stream's user and its socket, as TLS does. Private to net.
 *
 * The layer is asked to write what the user writes and given what the socket reads; it sends and delivers by
 * the functions below. Each may close the stream; its memory lives at least until the loop's next turn.
 */
#pragma once

#include "net/stream.h"

struct stream_layer {
	/* 0, or a negative errno that ends the stream. */
	int (*write)(struct stream *stream, void *state, const char *data, size_t size);
	int (*read)(struct stream *stream, void *state, const char *data, size_t size);
	/* Say to the peer that no more is coming. */
	void (*end)(struct stream *stream, void *state);
	void (*free)(void *state);
};

/* Put it in; `state` is freed with the stream. */
void stream_set_layer(struct stream *stream, const struct stream_layer *layer, void *state);

/* To the socket, past the layer. 0, or a negative errno: the stream is closing. */
int stream_layer_send(struct stream *stream, const char *data, size_t size);

/* To the user. False: he has closed the stream. */
bool stream_layer_deliver(struct stream *stream, const char *data, size_t size);

/* The peer sends no more. */
void stream_layer_deliver_end(struct stream *stream);
