/* net: frames from the peer and the tap to the guest. */
#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/base.h"
#include "vmm/device/net_internal.h"
#include "vmm/device/virtio_internal.h"

#define FRAME_USUAL    1526 /* bytes with header that a buffer holds where nothing is segmented (5.1.6.3.1) */
#define PEER_FRAME_MIN 60   /* the least room that a peer is asked to fill */

/* --- the pool of receive buffers --- */

static bool mergeable(const struct net *net)
{
	return net->device.driver_features & NET_F_MRG_RXBUF;
}

/* Bytes for the largest frame that should come. */
static size_t frame_room(const struct net *net)
{
	if (net->device.driver_features & (NET_F_GUEST_TSO4 | NET_F_GUEST_TSO6 | NET_F_GUEST_UFO))
		return NET_FRAME_MAX;
	return net->mtu + NET_ETHERNET + TAP_HEADER_SIZE > FRAME_USUAL
	               ? net->mtu + NET_ETHERNET + TAP_HEADER_SIZE
	               : FRAME_USUAL;
}

static unsigned pool_count(const struct net_pool *pool)
{
	return pool->end - pool->first;
}

static void pool_clear(struct net_pool *pool)
{
	pool->iov_first = pool->iov_end = 0;
	pool->first = pool->end = 0;
	pool->size = 0;
}

/* Make room for one more chain at the end. False: there is none. */
static bool pool_make_room(struct net_pool *pool)
{
	int iov_count = pool->iov_end - pool->iov_first;

	if (pool_count(pool) == ARRAY_SIZE(pool->chains) || iov_count + VIRTQUEUE_CHAIN_MAX > NET_POOL_IOV)
		return false;
	if (pool->end < ARRAY_SIZE(pool->chains) && pool->iov_end + VIRTQUEUE_CHAIN_MAX <= NET_POOL_IOV)
		return true;
	memmove(pool->iov, pool->iov + pool->iov_first, (size_t)iov_count * sizeof(pool->iov[0]));
	memmove(pool->chains, pool->chains + pool->first, pool_count(pool) * sizeof(pool->chains[0]));
	pool->end -= pool->first;
	pool->first = 0;
	pool->iov_first = 0;
	pool->iov_end = iov_count;
	return true;
}

/* A receive buffer is writable and has room for a header at least (5.1.6.3.1). */
static bool pool_add(struct net_pool *pool, const struct virtqueue_chain *chain)
{
	size_t size = iov_size(chain->iov, chain->writable);

	if (chain->readable || size < sizeof(struct net_header) || size > UINT32_MAX)
		return false;
	memcpy(pool->iov + pool->iov_end, chain->iov, (size_t)chain->writable * sizeof(chain->iov[0]));
	pool->iov_end += chain->writable;
	pool->chains[pool->end++] = (struct net_pool_chain){ chain->head, chain->writable, (uint32_t)size };
	pool->size += size;
	return true;
}

/* Take buffers until the next frame has room. False: the driver must give more first, or is broken. */
static bool pool_fill(struct net *net, struct virtqueue *queue)
{
	struct virtio_device *device = &net->device;
	struct net_pool *pool = &net->pool;
	size_t wanted = mergeable(net) ? frame_room(net) : 1;

	while (pool->size < wanted && pool_make_room(pool)) {
		struct virtqueue_chain chain;

		if (virtqueue_pop(device, queue, &chain) > 0) {
			if (!pool_add(pool, &chain))
				(void)virtio_break(device);
		} else if (!device->broken && !virtqueue_enable_kick(device, queue)) {
			/* Who has given all that his queue holds, cannot give more. */
			net->starved = pool_count(pool) < queue->size;
			break;
		}
		if (device->broken)
			return false;
	}
	net->metrics.no_rx_avail_buffer += net->starved;
	return !net->starved;
}

/* What was not used goes back, so that the queue alone says what there is. */
static void pool_give_back(struct net_pool *pool, struct virtqueue *queue)
{
	while (pool->end > pool->first) {
		virtqueue_unpop(queue);
		pool->end--;
	}
	pool_clear(pool);
}

/* A frame of `size` bytes lies in the pool's first buffers: complete its header and return them. */
static void pool_use(struct net *net, struct virtqueue *queue, struct net_header *header, size_t size)
{
	struct net_pool *pool = &net->pool;
	struct virtqueue_used used[ARRAY_SIZE(pool->chains)];
	const struct iovec *iov = pool->iov + pool->iov_first;
	int iov_count = pool->iov_end - pool->iov_first;
	uint16_t count = 0;

	for (size_t left = size; left; count++) {
		const struct net_pool_chain *chain = &pool->chains[pool->first++];
		uint32_t part = left < chain->size ? (uint32_t)left : chain->size;

		used[count] = (struct virtqueue_used){ chain->head, part };
		pool->iov_first += chain->iov_count;
		pool->size -= chain->size;
		left -= part;
	}
	header->num_buffers = count;
	iov_from_buffer(iov, iov_count, 0, header, sizeof(*header));
	virtqueue_push_all(&net->device, queue, used, count);
	net->metrics.rx_count++;
	net->metrics.rx_packets_count++;
	net->metrics.rx_bytes_count += size;
}

/* --- frames --- */

/* One frame of the peer. Its size with header, 0 when there is none. */
static size_t receive_from_peer(struct net *net, struct virtqueue *queue)
{
	struct net_pool *pool = &net->pool;
	struct net_header header = { 0 };
	size_t room = pool->size - sizeof(header);
	size_t size;

	if (room > sizeof(net->scratch))
		room = sizeof(net->scratch);
	if (room < PEER_FRAME_MIN)
		return 0;
	size = net->peer->give(net->peer->context, net->scratch, room);
	if (size == 0 || size > room)
		return 0;
	iov_from_buffer(pool->iov + pool->iov_first, pool->iov_end - pool->iov_first, sizeof(header),
	                net->scratch, size);
	size += sizeof(header);
	pool_use(net, queue, &header, size);
	return size;
}

/*
 * Read a frame from the tap into the pool, and what exceeds that into scratch. Its size, 0 when there is
 * none, or a negative errno for one that was lost.
 */
static ssize_t read_tap(struct net *net)
{
	struct net_pool *pool = &net->pool;
	ssize_t size;

	if (net->fd < 0)
		return 0;
	pool->iov[pool->iov_end] = (struct iovec){ net->scratch, sizeof(net->scratch) };
	size = TEMP_FAILURE_RETRY(
	        readv(net->fd, pool->iov + pool->iov_first, pool->iov_end - pool->iov_first + 1));
	if (size > 0)
		return size;
	if (size < 0 && errno == EAGAIN)
		return 0;
	net->metrics.tap_read_fails++;
	/* Memory that could not be had or written is the trouble of this frame only. */
	if (size < 0 && (errno == ENOMEM || errno == ENOBUFS || errno == EFAULT))
		return -errno;
	net_end(net, "read from", size < 0 ? errno : ENODEV);
	return 0;
}

/* One frame of the tap: its size with header, 0 when there is none, negative for one that was dropped. */
static ssize_t receive_from_tap(struct net *net, struct virtqueue *queue)
{
	struct net_pool *pool = &net->pool;
	struct net_header header;
	ssize_t size = read_tap(net);

	if (size == 0)
		return 0;
	if (size < (ssize_t)sizeof(header) + NET_ETHERNET || (size_t)size > pool->size) {
		net->metrics.rx_fails++;
		return -EMSGSIZE;
	}
	iov_to_buffer(pool->iov + pool->iov_first, pool->iov_end - pool->iov_first, 0, &header,
	              sizeof(header));
	/* A tap may still hold frames for the driver that was there before. */
	if (!net_header_allowed(net, &header, true)) {
		net->metrics.rx_fails++;
		return -EPROTO;
	}
	if (!(net->device.driver_features & NET_F_GUEST_CSUM))
		header.flags = 0;
	pool_use(net, queue, &header, (size_t)size);
	return size;
}

/* One frame. False: there is none, or it must wait. */
static bool receive_frame(struct net *net, struct virtqueue *queue, bool *peer_done)
{
	ssize_t size = 0;

	if (!pool_fill(net, queue))
		return false;
	/* What it costs is known when it has been read. */
	if (!rate_limiter_take(&net->rx_limiter, 0)) {
		net->metrics.rx_rate_limiter_throttled++;
		return false;
	}
	if (!*peer_done)
		size = (ssize_t)receive_from_peer(net, queue);
	if (size == 0) {
		*peer_done = true;
		size = receive_from_tap(net, queue);
	}
	if (size <= 0)
		rate_limiter_give_back(&net->rx_limiter, 0);
	else
		rate_limiter_charge(&net->rx_limiter, (uint64_t)size);
	return size != 0;
}

void net_receive(struct net *net)
{
	struct virtqueue *queue = &net->device.queues[NET_QUEUE_RX];
	uint16_t first_used = queue->next_used;
	bool peer_done = !net->peer;
	unsigned count = 0;

	if (net_may_run(net, NET_QUEUE_RX)) {
		net->starved = false;
		while (count < NET_BATCH && receive_frame(net, queue, &peer_done))
			count++;
		if (net->device.broken)
			pool_clear(&net->pool);
		else
			pool_give_back(&net->pool, queue);
		virtqueue_notify(&net->device, queue, first_used);
		if (count == NET_BATCH)
			net_kick_later(net, NET_QUEUE_RX);
	}
	net_watch(net);
}
