/*
 * virtio-vsock (virtio 1.2 section 5.10) bridged to unix sockets by Firecracker's hybrid protocol: a host
 * connects to `uds_path` and says "CONNECT <port>\n"; a guest that connects to port P of the host reaches the
 * socket `uds_path`_P.
 *
 * Connections are not part of a snapshot. A restored guest is told so by a TRANSPORT_RESET event, and nothing
 * is given to it before it has taken note (it hands the event's buffer back), because its driver resets every
 * connection that it then has.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/base.h"
#include "vmm/device/device.h"
#include "vmm/device/virtio_internal.h"
#include "vmm/device/virtqueue.h"
#include "vmm/device/vsock_internal.h"

enum vsock_queue {
	QUEUE_RX,
	QUEUE_TX,
	QUEUE_EVENT,
	QUEUE_COUNT,
};

#define HOST_CID              2
#define EVENT_TRANSPORT_RESET 0
#define TABLE_SIZE            256 /* hash buckets */
#define CONNECTIONS_MAX       1023
#define REFUSALS_MAX          64 /* resets for packets of no connection that may wait; a driver gets no more */
#define HOST_PORT_FIRST       (1u << 30)
#define HOST_PORT_END         (1u << 31)
#define BACKLOG               128

/* A reset for a packet that belongs to no connection. */
struct refusal {
	uint32_t host_port;
	uint32_t guest_port;
	uint16_t type;
};

struct vsock {
	struct virtio_device device;
	uint64_t guest_cid;
	char *path;
	int listener;
	struct loop_source *source;
	struct list table[TABLE_SIZE];
	struct list commanding; /* connections whose CONNECT has not come yet */
	struct list ready;      /* connections with something for the guest, in turn */
	struct refusal refusals[REFUSALS_MAX];
	unsigned refusal_count;
	unsigned connection_count;
	uint32_t next_host_port;
	bool reset_event;        /* a TRANSPORT_RESET is to be sent ... */
	bool reset_noted;        /* ... and this is false until the guest has handled it: */
	uint16_t events_waiting; /* it then gives one buffer more than these */
};

static struct vsock *vsock_of(struct virtio_device *device)
{
	return (struct vsock *)device;
}

static void pump(struct vsock *vsock);

/* --- connections --- */

static struct list *bucket(struct vsock *vsock, uint32_t host_port, uint32_t guest_port)
{
	uint32_t hash = (host_port ^ guest_port * 2654435761u) * 2654435761u;

	return &vsock->table[hash >> 24];
}

static struct vsock_connection *find(struct vsock *vsock, uint32_t host_port, uint32_t guest_port)
{
	list_for_each (node, bucket(vsock, host_port, guest_port)) {
		struct vsock_connection *connection = list_entry(node, struct vsock_connection, link);

		if (connection->host_port == host_port && connection->guest_port == guest_port)
			return connection;
	}
	return NULL;
}

static void drop(struct vsock *vsock, struct vsock_connection *connection)
{
	vsock->connection_count--;
	vsock_connection_free(connection);
}

static void on_ready(void *context, struct vsock_connection *connection)
{
	struct vsock *vsock = context;

	if (list_empty(&connection->queue))
		list_append(&vsock->ready, &connection->queue);
}

static int on_requested(void *context, struct vsock_connection *connection, uint32_t guest_port)
{
	struct vsock *vsock = context;

	if (!vsock->device.active)
		return -EAGAIN;
	do {
		connection->host_port = vsock->next_host_port++;
		if (vsock->next_host_port == HOST_PORT_END)
			vsock->next_host_port = HOST_PORT_FIRST;
	} while (find(vsock, connection->host_port, guest_port));
	connection->guest_port = guest_port;
	list_remove(&connection->link);
	list_append(bucket(vsock, connection->host_port, guest_port), &connection->link);
	return 0;
}

static void on_settled(void *context)
{
	pump(context);
}

static const struct vsock_events connection_events = {
	.ready = on_ready,
	.requested = on_requested,
	.settled = on_settled,
};

static void on_listener(void *context, uint32_t events)
{
	struct vsock *vsock = context;
	struct vsock_connection *connection;
	struct error err;
	int fd;

	(void)events;
	while ((fd = accept4(vsock->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		if (vsock->connection_count == CONNECTIONS_MAX) {
			close(fd);
			continue;
		}
		connection = vsock_connection_new(vsock->device.loop, fd, VSOCK_STATE_COMMAND,
		                                  &connection_events, vsock, &err);
		if (!connection) {
			log_warn("vsock: %s", err.message);
			return;
		}
		vsock->connection_count++;
		list_append(&vsock->commanding, &connection->link);
	}
}

/* The guest asks for a port of the host: connect to the socket of that name. */
static struct vsock_connection *connect_host(struct vsock *vsock, uint32_t host_port)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct error err;
	int size = snprintf(address.sun_path, sizeof(address.sun_path), "%s_%u", vsock->path, host_port);
	int fd;

	if (size >= (int)sizeof(address.sun_path) || vsock->connection_count == CONNECTIONS_MAX)
		return NULL;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return NULL;
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		close(fd);
		return NULL;
	}
	return vsock_connection_new(vsock->device.loop, fd, VSOCK_STATE_ESTABLISHED, &connection_events,
	                            vsock, &err);
}

/* --- from the guest --- */

static void refuse(struct vsock *vsock, const struct vsock_header *header)
{
	if (header->op != VSOCK_OP_RST && vsock->refusal_count < REFUSALS_MAX)
		vsock->refusals[vsock->refusal_count++] =
		        (struct refusal){ header->dst_port, header->src_port, header->type };
}

static void on_guest_request(struct vsock *vsock, const struct vsock_header *header)
{
	struct vsock_connection *connection = connect_host(vsock, header->dst_port);

	if (!connection) {
		refuse(vsock, header);
		return;
	}
	vsock->connection_count++;
	connection->host_port = header->dst_port;
	connection->guest_port = header->src_port;
	connection->peer_buf_alloc = header->buf_alloc;
	connection->peer_fwd_cnt = header->fwd_cnt;
	connection->response = true;
	list_append(bucket(vsock, connection->host_port, connection->guest_port), &connection->link);
	on_ready(vsock, connection);
}

static void on_packet(struct vsock *vsock, const struct virtqueue_chain *chain)
{
	struct iovec data[VIRTQUEUE_CHAIN_MAX];
	struct vsock_header header;
	struct vsock_connection *connection;
	int count;

	if (iov_to_buffer(chain->iov, chain->readable, 0, &header, sizeof(header)) != sizeof(header) ||
	    header.src_cid != vsock->guest_cid)
		return;
	count = iov_slice(chain->iov, chain->readable, sizeof(header), header.len, data);
	if (header.dst_cid != HOST_CID || header.type != VSOCK_TYPE_STREAM ||
	    iov_size(data, count) != header.len) {
		refuse(vsock, &header);
		return;
	}
	connection = find(vsock, header.dst_port, header.src_port);
	if (connection)
		vsock_connection_receive(connection, &header, data, count);
	else if (header.op == VSOCK_OP_REQUEST)
		on_guest_request(vsock, &header);
	else
		refuse(vsock, &header);
}

static void receive_packets(struct vsock *vsock)
{
	struct virtio_device *device = &vsock->device;
	struct virtqueue *queue = &device->queues[QUEUE_TX];
	uint16_t first_used = queue->next_used;
	unsigned left = VIRTIO_BATCH;
	struct virtqueue_chain chain;

	do {
		while (left && virtqueue_pop(device, queue, &chain) > 0) {
			on_packet(vsock, &chain);
			virtqueue_push(device, queue, chain.head, 0);
			left--;
		}
	} while (left && !device->broken && virtqueue_enable_kick(device, queue));
	if (!left)
		virtio_kick_later(device, QUEUE_TX);
	virtqueue_notify(device, queue, first_used);
}

/* --- to the guest --- */

/* The next packet from whoever has one. False when nobody has. */
static bool next_packet(struct vsock *vsock, struct vsock_header *header, const struct iovec *data, int count)
{
	if (vsock->refusal_count) {
		struct refusal refusal = vsock->refusals[--vsock->refusal_count];

		header->src_port = refusal.host_port;
		header->dst_port = refusal.guest_port;
		header->type = refusal.type;
		header->op = VSOCK_OP_RST;
		return true;
	}
	while (!list_empty(&vsock->ready)) {
		struct vsock_connection *connection =
		        list_entry(vsock->ready.next, struct vsock_connection, queue);
		bool made;

		header->src_port = connection->host_port;
		header->dst_port = connection->guest_port;
		made = vsock_connection_produce(connection, header, data, count);
		list_remove(&connection->queue);
		/* To the end of the line, so that a busy stream does not starve the others. */
		if (made)
			list_append(&vsock->ready, &connection->queue);
		else if (connection->state == VSOCK_STATE_DEAD)
			drop(vsock, connection);
		if (made)
			return true;
	}
	return false;
}

/* Fill one receive buffer. False when there was no packet for it. */
static bool fill_buffer(struct vsock *vsock, const struct virtqueue_chain *chain, uint32_t *ret_size)
{
	const struct iovec *writable = chain->iov + chain->readable;
	struct vsock_header header = { .src_cid = HOST_CID,
		                       .dst_cid = vsock->guest_cid,
		                       .type = VSOCK_TYPE_STREAM };
	struct iovec data[VIRTQUEUE_CHAIN_MAX];
	int count = iov_slice(writable, chain->writable, sizeof(header), VSOCK_BUFFER, data);

	if (!next_packet(vsock, &header, data, count))
		return false;
	iov_from_buffer(writable, chain->writable, 0, &header, sizeof(header));
	*ret_size = (uint32_t)sizeof(header) + header.len;
	return true;
}

static bool may_send(const struct vsock *vsock)
{
	return vsock->device.active && !vsock->device.paused && !vsock->device.broken && vsock->reset_noted;
}

/* Give the guest packets as long as there are any and it has buffers; more than a batch only later. */
static void pump(struct vsock *vsock)
{
	struct virtio_device *device = &vsock->device;
	struct virtqueue *queue = &device->queues[QUEUE_RX];
	uint16_t first_used = queue->next_used;
	unsigned left = VIRTIO_BATCH;
	struct virtqueue_chain chain;

	if (!may_send(vsock) || !queue->ready)
		return;
	while (left && (vsock->refusal_count || !list_empty(&vsock->ready))) {
		uint32_t size;
		int ret = virtqueue_pop(device, queue, &chain);

		if (ret == 0 && virtqueue_enable_kick(device, queue))
			continue;
		if (ret <= 0)
			break;
		if (iov_size(chain.iov + chain.readable, chain.writable) <= sizeof(struct vsock_header)) {
			(void)virtio_break(device);
			return;
		}
		if (!fill_buffer(vsock, &chain, &size)) {
			virtqueue_unpop(queue);
			break;
		}
		virtqueue_push(device, queue, chain.head, size);
		left--;
	}
	if (!left)
		virtio_kick_later(device, QUEUE_RX);
	virtqueue_notify(device, queue, first_used);
}

/* Tell a restored guest that its connections are gone, as soon as it has a buffer for the event. */
static void send_reset_event(struct vsock *vsock)
{
	struct virtio_device *device = &vsock->device;
	struct virtqueue *queue = &device->queues[QUEUE_EVENT];
	uint16_t first_used = queue->next_used;
	uint32_t event = EVENT_TRANSPORT_RESET;
	struct virtqueue_chain chain;

	do {
		if (virtqueue_pop(device, queue, &chain) <= 0)
			continue;
		iov_from_buffer(chain.iov + chain.readable, chain.writable, 0, &event, sizeof(event));
		vsock->reset_event = false;
		vsock->events_waiting = virtqueue_waiting(device, queue);
		virtqueue_enable_kick_beyond(device, queue);
		virtqueue_push(device, queue, chain.head, sizeof(event));
		virtqueue_notify(device, queue, first_used);
		return;
	} while (!device->broken && virtqueue_enable_kick(device, queue));
}

static void event_kick(struct vsock *vsock)
{
	struct virtqueue *queue = &vsock->device.queues[QUEUE_EVENT];

	if (vsock->reset_event)
		send_reset_event(vsock);
	else if (!vsock->reset_noted && virtqueue_waiting(&vsock->device, queue) > vsock->events_waiting)
		vsock->reset_noted = true;
}

static void vsock_kick(struct virtio_device *device, unsigned index)
{
	struct vsock *vsock = vsock_of(device);

	if (index == QUEUE_TX)
		receive_packets(vsock);
	else if (index == QUEUE_EVENT)
		event_kick(vsock);
	pump(vsock);
}

/* --- the device --- */

static void vsock_config_read(struct virtio_device *device, uint32_t offset, void *data, unsigned size)
{
	uint64_t cid = vsock_of(device)->guest_cid;

	if (checked_range(offset, size, sizeof(cid)))
		memcpy(data, (char *)&cid + offset, size);
}

static void free_list(struct vsock *vsock, struct list *head)
{
	list_for_each_safe (node, head)
		drop(vsock, list_entry(node, struct vsock_connection, link));
}

static void vsock_reset(struct virtio_device *device)
{
	struct vsock *vsock = vsock_of(device);

	for (unsigned i = 0; i < TABLE_SIZE; i++)
		free_list(vsock, &vsock->table[i]);
	vsock->refusal_count = 0;
}

/* A driver that starts afresh has no connections to lose. */
static void vsock_activate(struct virtio_device *device)
{
	struct vsock *vsock = vsock_of(device);

	vsock->reset_event = false;
	vsock->reset_noted = true;
}

static int vsock_save(struct virtio_device *device, struct buffer *to, struct error *err)
{
	uint32_t next_host_port = vsock_of(device)->next_host_port;

	if (buffer_append(to, &next_host_port, sizeof(next_host_port)) < 0)
		return error_errno(err, ENOMEM, "save the vsock device");
	return 0;
}

static int vsock_restore(struct virtio_device *device, const void *data, size_t size, struct error *err)
{
	struct vsock *vsock = vsock_of(device);
	uint32_t next_host_port;

	if (size != sizeof(next_host_port))
		return error_set(err, EINVAL, "the saved vsock device has %zu bytes, not %zu", size,
		                 sizeof(next_host_port));
	memcpy(&next_host_port, data, sizeof(next_host_port));
	if (next_host_port < HOST_PORT_FIRST || next_host_port >= HOST_PORT_END)
		return error_set(err, EINVAL, "the saved vsock device has a bad port %u", next_host_port);
	vsock->next_host_port = next_host_port;
	vsock->reset_event = true;
	vsock->reset_noted = false;
	return 0;
}

static void vsock_resume(struct virtio_device *device)
{
	struct vsock *vsock = vsock_of(device);

	if (vsock->reset_event && device->queues[QUEUE_EVENT].ready)
		send_reset_event(vsock);
}

static void vsock_free(struct virtio_device *device)
{
	struct vsock *vsock = vsock_of(device);

	vsock_reset(device);
	free_list(vsock, &vsock->commanding);
	loop_unwatch(vsock->source);
	if (vsock->listener >= 0) {
		close(vsock->listener);
		(void)unlink(vsock->path);
	}
	virtio_fini(device);
	free(vsock->path);
	free(vsock);
}

static const struct virtio_ops vsock_ops = {
	.name = "vsock",
	.id = VIRTIO_ID_VSOCK,
	.queue_count = QUEUE_COUNT,
	.config_read = vsock_config_read,
	.activate = vsock_activate,
	.kick = vsock_kick,
	.reset = vsock_reset,
	.save = vsock_save,
	.restore = vsock_restore,
	.resume = vsock_resume,
	.free = vsock_free,
};

/* Bind and listen. An existing path is refused, as Firecracker refuses it: it may be another machine's. */
static int vsock_listen(struct vsock *vsock, struct error *err)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	size_t size = strlen(vsock->path);
	int fd;

	if (size >= sizeof(address.sun_path))
		return error_set(err, ENAMETOOLONG, "the vsock path %s is longer than %zu bytes", vsock->path,
		                 sizeof(address.sun_path) - 1);
	memcpy(address.sun_path, vsock->path, size);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_errno(err, errno, "make vsock %s", vsock->path);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		int code = errno;

		close(fd);
		return error_errno(err, code, "make vsock %s", vsock->path);
	}
	vsock->listener = fd;
	/* The group may connect: the control plane is in it. */
	if (chmod(vsock->path, 0660) < 0 || listen(fd, BACKLOG) < 0)
		return error_errno(err, errno, "make vsock %s", vsock->path);
	vsock->source = loop_watch(vsock->device.loop, fd, EPOLLIN, on_listener, vsock, err);
	return vsock->source ? 0 : -EIO;
}

struct virtio_device *vsock_new(const struct vsock_config *config, const struct guest_memory *memory,
                                struct loop *loop, struct error *err)
{
	struct vsock *vsock = calloc(1, sizeof(*vsock));

	if (!vsock) {
		error_errno(err, ENOMEM, "make the vsock device");
		return NULL;
	}
	vsock->listener = -1;
	vsock->guest_cid = config->guest_cid;
	vsock->next_host_port = HOST_PORT_FIRST;
	vsock->reset_noted = true;
	list_init(&vsock->commanding);
	list_init(&vsock->ready);
	for (unsigned i = 0; i < TABLE_SIZE; i++)
		list_init(&vsock->table[i]);
	vsock->path = strdup(config->uds_path);
	if (!vsock->path)
		error_errno(err, ENOMEM, "make the vsock device");
	if (virtio_init(&vsock->device, &vsock_ops, memory, loop, err) < 0 || !vsock->path ||
	    vsock_listen(vsock, err) < 0) {
		vsock_free(&vsock->device);
		return NULL;
	}
	return &vsock->device;
}
