/* One vsock stream: a guest port on one side, a unix socket on the other. See vsock_internal.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/base.h"
#include "vmm/device/virtqueue.h"
#include "vmm/device/vsock_internal.h"

#define COMMAND_MAX   32                 /* bytes of "CONNECT <port>\n" */
#define CREDIT_NOTICE (VSOCK_BUFFER / 2) /* tell the guest when this much was forwarded since */

/* Close the socket; `tell` sends the guest a reset as the last packet. */
static void die(struct vsock_connection *connection, bool tell)
{
	if (connection->state == VSOCK_STATE_DEAD)
		return;
	connection->state = VSOCK_STATE_DEAD;
	connection->reset = tell;
	loop_unwatch(connection->source);
	connection->source = NULL;
	close(connection->fd);
	connection->fd = -1;
	connection->events->ready(connection->context, connection);
}

/* Both directions are over on the guest's side and all it sent is delivered. */
static bool guest_is_done(const struct vsock_connection *connection)
{
	return connection->guest_shutdown == VSOCK_SHUTDOWN_BOTH && connection->out.size == 0;
}

static void note_forwarded(struct vsock_connection *connection, size_t size)
{
	connection->forwarded += (uint32_t)size;
	if (connection->forwarded - connection->told >= CREDIT_NOTICE && !connection->credit_update) {
		connection->credit_update = true;
		connection->events->ready(connection->context, connection);
	}
}

/* --- towards the host --- */

static void flush_out(struct vsock_connection *connection)
{
	while (connection->out.size) {
		ssize_t done = send(connection->fd, connection->out.data, connection->out.size,
		                    MSG_NOSIGNAL | MSG_DONTWAIT);

		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0 && errno == EAGAIN)
			return;
		if (done < 0) {
			die(connection, true);
			return;
		}
		buffer_consume(&connection->out, (size_t)done);
		note_forwarded(connection, (size_t)done);
	}
	buffer_fini(&connection->out);
	buffer_init(&connection->out, VSOCK_BUFFER);
	if (guest_is_done(connection))
		die(connection, true);
	else if (connection->guest_shutdown & VSOCK_SHUTDOWN_SEND)
		(void)shutdown(connection->fd, SHUT_WR);
}

/* `size` bytes of data came: what the socket does not take at once is kept, up to our credit. */
static void forward(struct vsock_connection *connection, const struct iovec *data, int count, size_t size)
{
	struct msghdr message = { .msg_iov = (struct iovec *)(uintptr_t)data, .msg_iovlen = (size_t)count };
	struct iovec rest[VIRTQUEUE_CHAIN_MAX];
	ssize_t done = 0;

	/* The guest sent more than it has credit for, or after it said it would send no more (5.10.6.3). */
	if ((connection->guest_shutdown & VSOCK_SHUTDOWN_SEND) ||
	    size > VSOCK_BUFFER - (connection->received - connection->forwarded)) {
		die(connection, true);
		return;
	}
	connection->received += (uint32_t)size;
	if (connection->out.size == 0) {
		do
			done = sendmsg(connection->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
		while (done < 0 && errno == EINTR);
		if (done < 0 && errno != EAGAIN) {
			die(connection, true);
			return;
		}
		if (done < 0)
			done = 0;
		note_forwarded(connection, (size_t)done);
	}
	count = iov_slice(data, count, (size_t)done, size, rest);
	for (int i = 0; i < count; i++) {
		if (buffer_append(&connection->out, rest[i].iov_base, rest[i].iov_len) < 0) {
			die(connection, true);
			return;
		}
	}
}

/* --- the host's side speaks --- */

/* Parse "CONNECT <port>\n" (any case). 0 when it is none. */
static uint32_t parse_command(const char *line)
{
	char *end;
	unsigned long port;

	if (strncasecmp(line, "CONNECT ", 8) != 0 || line[8] < '0' || line[8] > '9')
		return 0;
	errno = 0;
	port = strtoul(line + 8, &end, 10);
	if (errno || port == 0 || port >= UINT32_MAX || (*end && strcmp(end, "\r") != 0))
		return 0;
	return (uint32_t)port;
}

/* Take the command line off the socket, and not a byte of what follows it: that is the guest's. */
static void read_command(struct vsock_connection *connection)
{
	char line[COMMAND_MAX + 1];
	ssize_t seen = recv(connection->fd, line, COMMAND_MAX, MSG_PEEK | MSG_DONTWAIT);
	char *newline;
	uint32_t port;

	if (seen < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	newline = seen > 0 ? memchr(line, '\n', (size_t)seen) : NULL;
	if (!newline) {
		if (seen <= 0 || seen == COMMAND_MAX)
			die(connection, false);
		return;
	}
	if (recv(connection->fd, line, (size_t)(newline - line + 1), MSG_DONTWAIT) != newline - line + 1) {
		die(connection, false);
		return;
	}
	*newline = '\0';
	port = parse_command(line);
	if (port == 0 || connection->events->requested(connection->context, connection, port) < 0) {
		die(connection, false);
		return;
	}
	connection->state = VSOCK_STATE_REQUESTED;
	connection->request = true;
	connection->events->ready(connection->context, connection);
}

static void handle_socket(struct vsock_connection *connection, uint32_t events)
{
	if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		connection->readable = true;
	if (events & (EPOLLHUP | EPOLLERR))
		connection->host_gone = true;
	if (connection->state == VSOCK_STATE_COMMAND && connection->readable)
		read_command(connection);
	if (connection->state == VSOCK_STATE_REQUESTED && connection->host_gone)
		die(connection, true);
	if (connection->state != VSOCK_STATE_ESTABLISHED)
		return;
	if (events & EPOLLOUT)
		flush_out(connection);
	if (connection->state == VSOCK_STATE_ESTABLISHED && connection->readable)
		connection->events->ready(connection->context, connection);
}

static void on_socket(void *context, uint32_t events)
{
	struct vsock_connection *connection = context;
	const struct vsock_events *to = connection->events;
	void *to_context = connection->context;

	handle_socket(connection, events);
	to->settled(to_context);
}

/* --- the guest speaks --- */

static void on_response(struct vsock_connection *connection)
{
	char line[32];
	int size = snprintf(line, sizeof(line), "OK %u\n", connection->host_port);

	connection->state = VSOCK_STATE_ESTABLISHED;
	if (send(connection->fd, line, (size_t)size, MSG_NOSIGNAL | MSG_DONTWAIT) != size) {
		die(connection, true);
		return;
	}
	/* The host may have spoken behind its command, or hung up, before its edge meant anything. */
	connection->readable = true;
	connection->events->ready(connection->context, connection);
}

static void on_shutdown(struct vsock_connection *connection, uint32_t flags)
{
	connection->guest_shutdown |= flags & VSOCK_SHUTDOWN_BOTH;
	if (guest_is_done(connection))
		die(connection, true);
	else if ((connection->guest_shutdown & VSOCK_SHUTDOWN_SEND) && connection->out.size == 0)
		(void)shutdown(connection->fd, SHUT_WR);
}

static void receive_established(struct vsock_connection *connection, const struct vsock_header *header,
                                const struct iovec *data, int count)
{
	switch ((enum vsock_op)header->op) {
	case VSOCK_OP_RW:
		forward(connection, data, count, iov_size(data, count));
		break;
	case VSOCK_OP_SHUTDOWN:
		on_shutdown(connection, header->flags);
		break;
	case VSOCK_OP_CREDIT_REQUEST:
		connection->credit_update = true;
		connection->events->ready(connection->context, connection);
		break;
	case VSOCK_OP_CREDIT_UPDATE:
		connection->events->ready(connection->context, connection);
		break;
	case VSOCK_OP_REQUEST:
	case VSOCK_OP_RESPONSE:
	case VSOCK_OP_RST:
	default:
		die(connection, true);
		break;
	}
}

void vsock_connection_receive(struct vsock_connection *connection, const struct vsock_header *header,
                              const struct iovec *data, int count)
{
	connection->peer_buf_alloc = header->buf_alloc;
	connection->peer_fwd_cnt = header->fwd_cnt;
	if (header->op == VSOCK_OP_RST)
		die(connection, false);
	else if (connection->state == VSOCK_STATE_ESTABLISHED)
		receive_established(connection, header, data, count);
	else if (connection->state == VSOCK_STATE_REQUESTED && header->op == VSOCK_OP_RESPONSE)
		on_response(connection);
	else
		die(connection, true);
}

/* --- towards the guest --- */

static uint32_t peer_credit(const struct vsock_connection *connection)
{
	uint32_t in_flight = connection->sent - connection->peer_fwd_cnt;

	return in_flight < connection->peer_buf_alloc ? connection->peer_buf_alloc - in_flight : 0;
}

static void host_ended(struct vsock_connection *connection)
{
	connection->host_end = true;
	connection->readable = false;
}

/* Read from the socket into the guest's buffers. False when nothing came. */
static bool produce_data(struct vsock_connection *connection, struct vsock_header *header,
                         const struct iovec *data, int count)
{
	struct iovec limited[VIRTQUEUE_CHAIN_MAX];
	uint32_t credit = peer_credit(connection);
	struct msghdr message = { .msg_iov = limited };
	ssize_t got;

	if (!connection->readable || connection->host_end)
		return false;
	if (connection->guest_shutdown & VSOCK_SHUTDOWN_RECEIVE) {
		host_ended(connection);
		return false;
	}
	if (credit == 0) {
		/* Ask once; the answer makes the connection ready again. */
		if (connection->credit_request)
			return false;
		connection->credit_request = true;
		header->op = VSOCK_OP_CREDIT_REQUEST;
		return true;
	}
	connection->credit_request = false;
	message.msg_iovlen = (size_t)iov_slice(data, count, 0, credit, limited);
	do
		got = recvmsg(connection->fd, &message, MSG_DONTWAIT);
	while (got < 0 && errno == EINTR);
	if (got < 0 && errno == EAGAIN) {
		connection->readable = false;
		return false;
	}
	if (got <= 0) {
		host_ended(connection);
		connection->host_gone = connection->host_gone || got < 0;
		return false;
	}
	connection->sent += (uint32_t)got;
	header->op = VSOCK_OP_RW;
	header->len = (uint32_t)got;
	return true;
}

static bool produce_shutdown(struct vsock_connection *connection, struct vsock_header *header)
{
	if (!connection->host_end)
		return false;
	if (connection->host_gone) {
		header->op = VSOCK_OP_SHUTDOWN;
		header->flags = VSOCK_SHUTDOWN_BOTH;
		/* The guest may still read what it has; its own end, and a reset for it, come without us. */
		die(connection, false);
		return true;
	}
	if (connection->shutdown_sent)
		return false;
	connection->shutdown_sent = true;
	header->op = VSOCK_OP_SHUTDOWN;
	header->flags = VSOCK_SHUTDOWN_SEND;
	return true;
}

static bool take(bool *flag, struct vsock_header *header, enum vsock_op op)
{
	if (!*flag)
		return false;
	*flag = false;
	header->op = (uint16_t)op;
	return true;
}

bool vsock_connection_produce(struct vsock_connection *connection, struct vsock_header *header,
                              const struct iovec *data, int count)
{
	bool made =
	        take(&connection->reset, header, VSOCK_OP_RST) ||
	        (connection->state != VSOCK_STATE_DEAD &&
	         (take(&connection->request, header, VSOCK_OP_REQUEST) ||
	          take(&connection->response, header, VSOCK_OP_RESPONSE) ||
	          take(&connection->credit_update, header, VSOCK_OP_CREDIT_UPDATE) ||
	          (connection->state == VSOCK_STATE_ESTABLISHED &&
	           (produce_data(connection, header, data, count) || produce_shutdown(connection, header)))));

	if (made) {
		header->buf_alloc = VSOCK_BUFFER;
		header->fwd_cnt = connection->forwarded;
		connection->told = connection->forwarded;
		connection->credit_update = false;
	}
	return made;
}

/* --- life --- */

struct vsock_connection *vsock_connection_new(struct loop *loop, int fd, enum vsock_state state,
                                              const struct vsock_events *events, void *context,
                                              struct error *err)
{
	struct vsock_connection *connection = calloc(1, sizeof(*connection));

	if (!connection) {
		close(fd);
		error_errno(err, ENOMEM, "make a vsock connection");
		return NULL;
	}
	*connection =
	        (struct vsock_connection){ .events = events, .context = context, .state = state, .fd = fd };
	list_init(&connection->link);
	list_init(&connection->queue);
	buffer_init(&connection->out, VSOCK_BUFFER);
	/* Edges only: whether to look again is remembered in `readable`, which saves a call per packet. */
	connection->source =
	        loop_watch(loop, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, on_socket, connection, err);
	if (!connection->source) {
		close(fd);
		free(connection);
		return NULL;
	}
	return connection;
}

void vsock_connection_free(struct vsock_connection *connection)
{
	list_remove(&connection->link);
	list_remove(&connection->queue);
	loop_unwatch(connection->source);
	if (connection->fd >= 0)
		close(connection->fd);
	buffer_fini(&connection->out);
	free(connection);
}
