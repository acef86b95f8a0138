#include "interpreter/channel.h"

#include <errno.h>
#include <stdlib.h>
#include <zmq.h>

#include "base/base.h"

enum {
	CHANNEL_FRAMES_MAX = 64,      /* more frames of one message are dropped */
	CHANNEL_MESSAGES_A_TURN = 64, /* so that one busy kernel does not starve the loop */
	CHANNEL_RECONNECT_MS = 5,
};

struct channel {
	void *socket;
	uv_poll_t poll;
	uv_prepare_t prepare;
	uv_idle_t idle; /* runs while messages are left for the next turn */
	channel_message_fn *on_message;
	void *context;
	int open_handles;
	bool paused;
	bool closed;
};

/* Receive one message and hand it on. False when there is none. */
static bool channel_receive(struct channel *channel)
{
	zmq_msg_t parts[CHANNEL_FRAMES_MAX], extra;
	struct jupyter_frame frames[CHANNEL_FRAMES_MAX];
	size_t count = 0;
	bool more = true;

	while (more) {
		zmq_msg_t *part = count < CHANNEL_FRAMES_MAX ? &parts[count] : &extra;

		zmq_msg_init(part);
		if (zmq_msg_recv(part, channel->socket, ZMQ_DONTWAIT) < 0) {
			zmq_msg_close(part);
			break;
		}
		more = zmq_msg_more(part);
		if (part == &extra) {
			zmq_msg_close(part);
			continue;
		}
		frames[count++] = (struct jupyter_frame){ zmq_msg_data(part), zmq_msg_size(part) };
	}
	if (count > 0 && !more)
		channel->on_message(frames, count, channel->context);
	for (size_t i = 0; i < count; i++)
		zmq_msg_close(&parts[i]);
	return count > 0;
}

static void channel_on_idle(uv_idle_t *idle)
{
	(void)idle; /* its being active keeps the loop from sleeping; the prepare handle does the work */
}

static void channel_drain(struct channel *channel)
{
	int left = CHANNEL_MESSAGES_A_TURN;

	while (!channel->closed && !channel->paused && left > 0 && channel_receive(channel))
		left--;
	if (channel->closed)
		return;
	if (left == 0)
		uv_idle_start(&channel->idle, channel_on_idle);
	else
		uv_idle_stop(&channel->idle);
}

static void channel_on_poll(uv_poll_t *poll, int status, int events)
{
	(void)status;
	(void)events;
	channel_drain(poll->data);
}

static void channel_on_prepare(uv_prepare_t *prepare)
{
	channel_drain(prepare->data);
}

static int channel_configure(struct channel *channel, int type)
{
	int none = 0, reconnect = CHANNEL_RECONNECT_MS;

	/* No limit on queued messages: a kernel's message that is dropped would be an execution that never
	 * ends. */
	if (zmq_setsockopt(channel->socket, ZMQ_LINGER, &none, sizeof(none)) < 0 ||
	    zmq_setsockopt(channel->socket, ZMQ_SNDHWM, &none, sizeof(none)) < 0 ||
	    zmq_setsockopt(channel->socket, ZMQ_RCVHWM, &none, sizeof(none)) < 0 ||
	    zmq_setsockopt(channel->socket, ZMQ_RECONNECT_IVL, &reconnect, sizeof(reconnect)) < 0)
		return -zmq_errno();
	if (type == ZMQ_SUB && zmq_setsockopt(channel->socket, ZMQ_SUBSCRIBE, "", 0) < 0)
		return -zmq_errno();
	return 0;
}

static int channel_watch(struct channel *channel, uv_loop_t *loop)
{
	size_t size = sizeof(int);
	int fd = -1, rc;

	if (zmq_getsockopt(channel->socket, ZMQ_FD, &fd, &size) < 0)
		return -zmq_errno();
	rc = uv_poll_init(loop, &channel->poll, fd);
	if (rc < 0)
		return rc;
	uv_prepare_init(loop, &channel->prepare);
	uv_idle_init(loop, &channel->idle);
	channel->poll.data = channel;
	channel->prepare.data = channel;
	channel->idle.data = channel;
	channel->open_handles = 3;
	uv_poll_start(&channel->poll, UV_READABLE, channel_on_poll);
	uv_prepare_start(&channel->prepare, channel_on_prepare);
	return 0;
}

struct channel *channel_open(uv_loop_t *loop, void *zmq, int type, const char *endpoint,
                             channel_message_fn *on_message, void *context, struct error *err)
{
	struct channel *channel = calloc(1, sizeof(*channel));
	int rc = -ENOMEM;

	if (channel) {
		channel->on_message = on_message;
		channel->context = context;
		channel->socket = zmq_socket(zmq, type);
		rc = channel->socket ? channel_configure(channel, type) : -zmq_errno();
	}
	if (rc == 0 && zmq_connect(channel->socket, endpoint) < 0)
		rc = -zmq_errno();
	if (rc == 0)
		rc = channel_watch(channel, loop);
	if (rc == 0)
		return channel;
	error_set(err, -rc, "connect to %s: %s", endpoint, zmq_strerror(-rc));
	if (channel && channel->socket)
		zmq_close(channel->socket);
	free(channel);
	return NULL;
}

int channel_send(struct channel *channel, const struct jupyter_frame *frames, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		int flags = ZMQ_DONTWAIT | (i + 1 < count ? ZMQ_SNDMORE : 0);

		if (zmq_send(channel->socket, frames[i].data, frames[i].size, flags) < 0)
			return -zmq_errno();
	}
	return 0;
}

void channel_pause(struct channel *channel)
{
	channel->paused = true;
	uv_idle_stop(&channel->idle);
}

void channel_resume(struct channel *channel)
{
	if (!channel->paused)
		return;
	channel->paused = false;
	uv_idle_start(&channel->idle, channel_on_idle); /* the next turn looks for what came meanwhile */
}

static void channel_on_closed(uv_handle_t *handle)
{
	struct channel *channel = handle->data;

	if (--channel->open_handles > 0)
		return;
	zmq_close(channel->socket);
	free(channel);
}

void channel_close(struct channel *channel)
{
	if (!channel || channel->closed)
		return;
	channel->closed = true;
	uv_close((uv_handle_t *)&channel->poll, channel_on_closed);
	uv_close((uv_handle_t *)&channel->prepare, channel_on_closed);
	uv_close((uv_handle_t *)&channel->idle, channel_on_closed);
}
