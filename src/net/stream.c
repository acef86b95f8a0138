#include "net/stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "net/stream_layer.h"

struct stream {
	union {
		uv_handle_t handle;
		uv_stream_t uv;
		uv_tcp_t tcp;
		uv_pipe_t pipe;
	};
	const struct stream_events *events;
	void *context;
	const struct stream_layer *layer; /* NULL: none */
	void *layer_state;
	stream_connect_fn *on_connect; /* until the connection stands */
	uv_connect_t connect;
	uv_shutdown_t shutdown;
	size_t pending; /* bytes in queued writes */
	int status;     /* what on_close will tell */
	bool close_after_writes;
	bool shutdown_wanted;
	bool shutdown_done;
	bool unopened; /* the handle never got a socket: nobody is told of its end */
};

struct stream_write {
	uv_write_t request;
	struct stream *stream;
	size_t size;
	char data[];
};

static const struct stream_events no_events = { 0 };

#define READ_SIZE (64 * 1024) /* bytes taken from the kernel at once */

static void on_closed(uv_handle_t *handle)
{
	struct stream *stream = handle->data;

	if (!stream->unopened && stream->events->on_close)
		stream->events->on_close(stream, stream->status, stream->context);
	if (stream->layer)
		stream->layer->free(stream->layer_state);
	free(stream);
}

static void stream_fail(struct stream *stream, int status)
{
	if (uv_is_closing(&stream->handle))
		return;
	stream->status = status;
	uv_close(&stream->handle, on_closed);
}

void stream_close(struct stream *stream)
{
	stream_fail(stream, 0);
}

static struct stream *stream_alloc(uv_loop_t *loop, bool tcp, struct error *err)
{
	struct stream *stream = calloc(1, sizeof(*stream));
	int ret;

	if (!stream) {
		error_errno(err, ENOMEM, "make a stream");
		return NULL;
	}
	ret = tcp ? uv_tcp_init(loop, &stream->tcp) : uv_pipe_init(loop, &stream->pipe, 0);
	if (ret < 0) {
		free(stream);
		error_errno(err, -ret, "make a stream");
		return NULL;
	}
	stream->handle.data = stream;
	stream->events = &no_events;
	return stream;
}

static void discard_unopened(struct stream *stream)
{
	stream->unopened = true;
	stream_close(stream);
}

struct stream *stream_new_fd(uv_loop_t *loop, int fd, struct error *err)
{
	struct stream *stream = stream_alloc(loop, false, err);
	int ret;

	if (!stream) {
		close(fd);
		return NULL;
	}
	/* A pipe handle only reads, writes, listens and shuts down: it serves any stream socket, vsock
	 * included. */
	ret = uv_pipe_open(&stream->pipe, fd);
	if (ret < 0) {
		close(fd);
		discard_unopened(stream);
		error_errno(err, -ret, "use descriptor as a stream");
		return NULL;
	}
	return stream;
}

struct stream *stream_accept(uv_stream_t *listener, struct error *err)
{
	bool tcp = listener->type == UV_TCP;
	struct stream *stream = stream_alloc(listener->loop, tcp, err);
	int ret;

	if (!stream)
		return NULL;
	ret = uv_accept(listener, &stream->uv);
	if (ret < 0) {
		discard_unopened(stream);
		error_errno(err, -ret, "accept");
		return NULL;
	}
	if (tcp)
		(void)uv_tcp_nodelay(&stream->tcp, 1);
	return stream;
}

static void on_connected(uv_connect_t *request, int status)
{
	struct stream *stream = request->data;
	stream_connect_fn *on_connect = stream->on_connect;
	void *context = stream->context;

	stream->on_connect = NULL;
	stream->context = NULL;
	if (status < 0) {
		stream->unopened = true;
		stream_fail(stream, status);
	} else if (stream->handle.type == UV_TCP) {
		(void)uv_tcp_nodelay(&stream->tcp, 1);
	}
	on_connect(stream, status, context);
}

static struct stream *connect_prepare(uv_loop_t *loop, bool tcp, stream_connect_fn *on_connect, void *context,
                                      struct error *err)
{
	struct stream *stream = stream_alloc(loop, tcp, err);

	if (!stream)
		return NULL;
	stream->on_connect = on_connect;
	stream->context = context;
	stream->connect.data = stream;
	return stream;
}

struct stream *stream_connect_unix(uv_loop_t *loop, const char *path, stream_connect_fn *on_connect,
                                   void *context, struct error *err)
{
	struct stream *stream;

	/* libuv would silently cut the path. */
	if (strlen(path) >= 108) {
		error_errno(err, ENAMETOOLONG, "connect to %s", path);
		return NULL;
	}
	stream = connect_prepare(loop, false, on_connect, context, err);
	if (stream)
		uv_pipe_connect(&stream->connect, &stream->pipe, path, on_connected);
	return stream;
}

struct stream *stream_connect_tcp(uv_loop_t *loop, const char *ip, uint16_t port,
                                  stream_connect_fn *on_connect, void *context, struct error *err)
{
	struct sockaddr_storage address;
	struct stream *stream;
	int ret;

	if (uv_ip4_addr(ip, port, (struct sockaddr_in *)&address) < 0 &&
	    uv_ip6_addr(ip, port, (struct sockaddr_in6 *)&address) < 0) {
		error_set(err, EINVAL, "connect to '%s': not a numeric address", ip);
		return NULL;
	}
	stream = connect_prepare(loop, true, on_connect, context, err);
	if (!stream)
		return NULL;
	ret = uv_tcp_connect(&stream->connect, &stream->tcp, (struct sockaddr *)&address, on_connected);
	if (ret < 0) {
		discard_unopened(stream);
		error_errno(err, -ret, "connect to %s port %u", ip, port);
		return NULL;
	}
	return stream;
}

void stream_set_events(struct stream *stream, const struct stream_events *events, void *context)
{
	stream->events = events ? events : &no_events;
	stream->context = context;
}

/* A process has one loop, and that reads one thing at a time: what it read into last is for the next. */
static char *spare;

static void give_read_buffer(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
	char *space = spare ? spare : malloc(READ_SIZE);

	(void)handle;
	(void)suggested;
	spare = NULL;
	/* Lives from here to the end of on_read. Without memory libuv reports ENOBUFS there. */
	*buffer = uv_buf_init(space, space ? READ_SIZE : 0);
}

void stream_set_layer(struct stream *stream, const struct stream_layer *layer, void *state)
{
	stream->layer = layer;
	stream->layer_state = state;
}

bool stream_is_secured(const struct stream *stream)
{
	return stream->layer != NULL;
}

bool stream_layer_deliver(struct stream *stream, const char *data, size_t size)
{
	if (!uv_is_closing(&stream->handle) && stream->events->on_data)
		stream->events->on_data(stream, data, size, stream->context);
	return !uv_is_closing(&stream->handle);
}

void stream_layer_deliver_end(struct stream *stream)
{
	if (uv_is_closing(&stream->handle))
		return;
	(void)uv_read_stop(&stream->uv);
	if (stream->events->on_end)
		stream->events->on_end(stream, stream->context);
}

static void layer_read(struct stream *stream, const char *data, size_t size)
{
	int ret = stream->layer->read(stream, stream->layer_state, data, size);

	if (ret < 0)
		stream_fail(stream, ret);
}

static void handle_read(uv_stream_t *uv, ssize_t got, const char *data)
{
	struct stream *stream = uv->data;

	if (got > 0) {
		if (stream->layer)
			layer_read(stream, data, (size_t)got);
		else if (stream->events->on_data)
			stream->events->on_data(stream, data, (size_t)got, stream->context);
	} else if (got == UV_EOF) {
		stream_layer_deliver_end(stream);
	} else if (got < 0) {
		stream_fail(stream, (int)got);
	}
}

static void on_read(uv_stream_t *uv, ssize_t got, const uv_buf_t *buffer)
{
	handle_read(uv, got, buffer->base);
	if (spare)
		free(buffer->base);
	else
		spare = buffer->base;
}

void stream_read_start(struct stream *stream)
{
	int ret;

	if (uv_is_closing(&stream->handle))
		return;
	ret = uv_read_start(&stream->uv, give_read_buffer, on_read);
	if (ret < 0 && ret != UV_EALREADY)
		stream_fail(stream, ret);
}

void stream_read_stop(struct stream *stream)
{
	if (!uv_is_closing(&stream->handle))
		(void)uv_read_stop(&stream->uv);
}

static void on_shut_down(uv_shutdown_t *request, int status)
{
	struct stream *stream = request->data;

	if (status < 0 && status != UV_ENOTCONN && status != UV_ECANCELED)
		stream_fail(stream, status);
}

/* What was asked to happen once the queue is empty. */
static void after_writes(struct stream *stream)
{
	if (uv_is_closing(&stream->handle))
		return;
	if (stream->close_after_writes) {
		stream_close(stream);
	} else if (stream->shutdown_wanted && !stream->shutdown_done) {
		stream->shutdown_done = true;
		stream->shutdown.data = stream;
		if (uv_shutdown(&stream->shutdown, &stream->uv, on_shut_down) < 0)
			stream_close(stream);
	}
}

static void on_written(uv_write_t *request, int status)
{
	struct stream_write *write = (struct stream_write *)request;
	struct stream *stream = write->stream;

	stream->pending -= write->size;
	free(write);
	if (status < 0) {
		stream_fail(stream, status);
		return;
	}
	if (stream->pending)
		return;
	if (!stream->close_after_writes && stream->events->on_drain)
		stream->events->on_drain(stream, stream->context);
	if (!stream->pending)
		after_writes(stream);
}

int stream_layer_send(struct stream *stream, const char *data, size_t size)
{
	const char *rest = data;
	struct stream_write *write;
	uv_buf_t buffer;
	int ret;

	if (uv_is_closing(&stream->handle))
		return -EPIPE;
	if (size && !stream->pending) {
		/* Most writes fit the socket's buffer: no copy, no wait. */
		buffer = uv_buf_init((char *)(uintptr_t)rest, (unsigned)(size < 1 << 30 ? size : 1 << 30));
		ret = uv_try_write(&stream->uv, &buffer, 1);
		if (ret < 0 && ret != UV_EAGAIN) {
			stream_fail(stream, ret);
			return ret;
		}
		if (ret > 0) {
			rest += ret;
			size -= (size_t)ret;
		}
	}
	if (!size)
		return 0;
	write = malloc(sizeof(*write) + size);
	if (!write) {
		stream_fail(stream, -ENOMEM);
		return -ENOMEM;
	}
	write->stream = stream;
	write->size = size;
	memcpy(write->data, rest, size);
	buffer = uv_buf_init(write->data, (unsigned)size);
	ret = uv_write(&write->request, &stream->uv, &buffer, 1, on_written);
	if (ret < 0) {
		free(write);
		stream_fail(stream, ret);
		return ret;
	}
	stream->pending += size;
	return 0;
}

int stream_write(struct stream *stream, const void *data, size_t size)
{
	int ret;

	if (!stream->layer)
		return stream_layer_send(stream, data, size);
	if (uv_is_closing(&stream->handle))
		return -EPIPE;
	ret = size ? stream->layer->write(stream, stream->layer_state, data, size) : 0;
	if (ret < 0)
		stream_fail(stream, ret);
	return ret;
}

size_t stream_pending(const struct stream *stream)
{
	return stream->pending;
}

static void layer_end(struct stream *stream)
{
	if (stream->layer && !stream->shutdown_wanted && !stream->close_after_writes &&
	    !uv_is_closing(&stream->handle))
		stream->layer->end(stream, stream->layer_state);
}

void stream_shutdown(struct stream *stream)
{
	layer_end(stream);
	stream->shutdown_wanted = true;
	if (!stream->pending)
		after_writes(stream);
}

void stream_close_after_writes(struct stream *stream)
{
	layer_end(stream);
	stream->close_after_writes = true;
	stream_read_stop(stream);
	if (!stream->pending)
		after_writes(stream);
}

/* --- splice --- */

struct splice_side {
	struct splice *splice;
	struct stream *stream; /* NULL once closed */
	struct splice_side *other;
	bool ended; /* the peer of this side sends no more */
};

struct splice {
	struct splice_side a;
	struct splice_side b;
	stream_spliced_fn *done; /* NULL: nobody asks */
	void *context;
};

static void splice_free(struct splice *splice)
{
	if (splice->done)
		splice->done(splice->context);
	free(splice);
}

static void splice_data(struct stream *stream, const char *data, size_t size, void *context)
{
	struct splice_side *side = context;

	if (!side->other->stream) {
		stream_close(stream);
		return;
	}
	(void)stream_write(side->other->stream, data, size);
	if (stream_pending(side->other->stream) > STREAM_HIGH_WATER)
		stream_read_stop(stream);
}

static void splice_end(struct stream *stream, void *context)
{
	struct splice_side *side = context;

	side->ended = true;
	if (!side->other->stream || side->other->ended) {
		stream_close_after_writes(stream);
		if (side->other->stream)
			stream_close_after_writes(side->other->stream);
		return;
	}
	stream_shutdown(side->other->stream);
}

static void splice_drain(struct stream *stream, void *context)
{
	struct splice_side *side = context;

	(void)stream;
	if (side->other->stream && !side->other->ended)
		stream_read_start(side->other->stream);
}

static void splice_close(struct stream *stream, int status, void *context)
{
	struct splice_side *side = context;

	(void)stream;
	side->stream = NULL;
	if (!side->other->stream) {
		splice_free(side->splice);
		return;
	}
	/* A clean end lets the other side finish what it still has to send; a broken one does not. */
	if (status == 0)
		stream_close_after_writes(side->other->stream);
	else
		stream_close(side->other->stream);
}

void stream_splice(struct stream *a, struct stream *b, const void *head, size_t head_size,
                   stream_spliced_fn *done, void *context)
{
	static const struct stream_events events = { splice_data, splice_end, splice_drain, splice_close };
	struct splice *splice = calloc(1, sizeof(*splice));

	if (!splice) {
		stream_set_events(a, NULL, NULL);
		stream_set_events(b, NULL, NULL);
		stream_close(a);
		stream_close(b);
		if (done)
			done(context);
		return;
	}
	splice->done = done;
	splice->context = context;
	splice->a = (struct splice_side){ .splice = splice, .stream = a, .other = &splice->b };
	splice->b = (struct splice_side){ .splice = splice, .stream = b, .other = &splice->a };
	stream_set_events(a, &events, &splice->a);
	stream_set_events(b, &events, &splice->b);
	if (head_size)
		(void)stream_write(b, head, head_size);
	stream_read_start(a);
	stream_read_start(b);
}
