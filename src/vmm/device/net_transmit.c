/* net: frames from the guest to the peer or the tap. */
#include <errno.h>
#include <net/ethernet.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/base.h"
#include "vmm/device/net_internal.h"

#define IPV4_HEADER      20
#define IPV4_DESTINATION (NET_ETHERNET + 16) /* where it lies in a frame */

/*
 * What is decided upon is read once: header, addresses, and the IPv4 header. It goes out from this copy, and
 * the rest of the frame from the guest's memory.
 */
struct head {
	struct net_header header;
	uint8_t frame[NET_ETHERNET + IPV4_HEADER];
	size_t size;       /* of both together */
	size_t frame_size; /* of the whole frame, without header */
};

enum outcome {
	FRAME_DONE,  /* sent, or dropped: either way its buffers go back */
	FRAME_PEER,  /* the peer took it */
	FRAME_WAITS, /* the tap takes it later */
};

/* --- the peer --- */

/* The peer's is a link-local IPv4 address (RFC 3927), asked for by ARP; and everybody's is a broadcast. */
static bool may_be_for_peer(const struct head *head)
{
	uint16_t type = (uint16_t)(head->frame[12] << 8 | head->frame[13]);

	if (type == ETHERTYPE_ARP || (head->frame[0] & 1))
		return true;
	return type == ETHERTYPE_IP && head->size == sizeof(head->header) + sizeof(head->frame) &&
	       head->frame[IPV4_DESTINATION] == 169 && head->frame[IPV4_DESTINATION + 1] == 254;
}

/* Fill in the checksum that the driver left out (5.1.6.2), as a network card would. */
static void complete_checksum(const struct net_header *header, unsigned char *frame, size_t size)
{
	size_t at = (size_t)header->csum_start + header->csum_offset;
	uint64_t sum = 0;

	if (!(header->flags & NET_CHECKSUMMED) || at + 2 > size)
		return;
	for (size_t i = header->csum_start; i < size; i++)
		sum += (i - header->csum_start) % 2 ? frame[i] : (uint64_t)frame[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	frame[at] = (unsigned char)(~sum >> 8);
	frame[at + 1] = (unsigned char)~sum;
}

static bool peer_takes(struct net *net, const struct head *head, const struct virtqueue_chain *chain)
{
	size_t in_head = head->size - sizeof(head->header);

	if (!net->peer || !may_be_for_peer(head))
		return false;
	memcpy(net->scratch, head->frame, in_head);
	iov_to_buffer(chain->iov, chain->readable, head->size, net->scratch + in_head,
	              head->frame_size - in_head);
	complete_checksum(&head->header, net->scratch, head->frame_size);
	return net->peer->take(net->peer->context, net->scratch, head->frame_size);
}

/* --- the tap --- */

/* The tap did not take a frame. True: it may do so later. */
static bool tap_refused(struct net *net, int code)
{
	switch (code) {
	case EAGAIN:
		return true;
	case EINVAL:
	case EMSGSIZE:
	case EFAULT:
	case ENOMEM:
	case ENOBUFS:
		/* The trouble of this frame only. */
		break;
	default:
		if (code != EIO || !tap_exists(net->fd)) {
			net_end(net, "write to", code);
			break;
		}
		/* So says a tap whose link was taken down: its frames are lost like a pulled cable's. */
		if (!net->down)
			log_warn("network interface %s: tap %s is down", net->id, net->tap_name);
		net->down = true;
		break;
	}
	net->metrics.tap_write_fails++;
	return false;
}

static enum outcome write_tap(struct net *net, struct head *head, const struct virtqueue_chain *chain)
{
	struct iovec iov[1 + VIRTQUEUE_CHAIN_MAX];
	size_t size = sizeof(head->header) + head->frame_size;
	int count = 1;

	if (net->fd < 0) {
		net->metrics.tx_fails++;
		return FRAME_DONE;
	}
	iov[0] = (struct iovec){ head, head->size };
	count += iov_slice(chain->iov, chain->readable, head->size, size - head->size, iov + 1);
	if (TEMP_FAILURE_RETRY(writev(net->fd, iov, count)) < 0) {
		if (tap_refused(net, errno))
			return FRAME_WAITS;
		net->metrics.tx_fails++;
		return FRAME_DONE;
	}
	net->down = false;
	net->metrics.tx_count++;
	net->metrics.tx_packets_count++;
	net->metrics.tx_bytes_count += size;
	return FRAME_DONE;
}

/* --- the queue --- */

/* A frame is readable, and has a header and addresses at least. */
static bool chain_is_frame(const struct virtqueue_chain *chain, size_t size)
{
	return chain->writable == 0 && size >= sizeof(struct net_header) + NET_ETHERNET &&
	       size <= NET_FRAME_MAX;
}

static enum outcome send_frame(struct net *net, const struct virtqueue_chain *chain, size_t size)
{
	struct head head = { .frame_size = size - sizeof(head.header) };

	head.size = iov_to_buffer(chain->iov, chain->readable, 0, &head,
	                          sizeof(head.header) + sizeof(head.frame));
	if (!net_header_allowed(net, &head.header, false)) {
		net->metrics.tx_malformed_frames++;
		return FRAME_DONE;
	}
	head.header.flags &= NET_CHECKSUMMED;
	if (peer_takes(net, &head, chain))
		return FRAME_PEER;
	/* Counted only, as in Firecracker: a bridge in the guest is no crime. Who filters does so at the tap.
	 */
	if (net->has_mac && memcmp(head.frame + ETH_ALEN, net->mac, ETH_ALEN) != 0)
		net->metrics.tx_spoofed_mac_count++;
	return write_tap(net, &head, chain);
}

/* Send one frame and return its buffers. False: it must wait, and is back in the queue. */
static bool transmit_frame(struct net *net, struct virtqueue *queue, const struct virtqueue_chain *chain,
                           bool *peer_took)
{
	size_t size = iov_size(chain->iov, chain->readable);
	enum outcome outcome = FRAME_DONE;

	if (!chain_is_frame(chain, size)) {
		net->metrics.tx_malformed_frames++;
	} else if (!rate_limiter_take(&net->tx_limiter, size)) {
		net->metrics.tx_rate_limiter_throttled++;
		outcome = FRAME_WAITS;
	} else {
		outcome = send_frame(net, chain, size);
		net->blocked = outcome == FRAME_WAITS;
		/* The limits are those of the network, which the peer is not on. */
		if (outcome != FRAME_DONE)
			rate_limiter_give_back(&net->tx_limiter, size);
	}
	if (outcome == FRAME_WAITS) {
		virtqueue_unpop(queue);
		return false;
	}
	*peer_took |= outcome == FRAME_PEER;
	virtqueue_push(&net->device, queue, chain->head, 0);
	return true;
}

/* Send what is in the queue, up to a batch; we shall be called for the rest. */
static void transmit_batch(struct net *net, struct virtqueue *queue, bool *peer_took)
{
	struct virtio_device *device = &net->device;
	struct virtqueue_chain chain;
	unsigned left = NET_BATCH;
	bool going = true;

	do {
		while (going && left && virtqueue_pop(device, queue, &chain) > 0) {
			going = transmit_frame(net, queue, &chain, peer_took);
			left--;
		}
	} while (going && left && !device->broken && virtqueue_enable_kick(device, queue));
	if (left == 0)
		net_kick_later(net, NET_QUEUE_TX);
	net->metrics.no_tx_avail_buffer += left == NET_BATCH;
}

void net_transmit(struct net *net)
{
	struct virtqueue *queue = &net->device.queues[NET_QUEUE_TX];
	uint16_t first_used = queue->next_used;
	bool peer_took = false;

	if (net_may_run(net, NET_QUEUE_TX)) {
		net->metrics.tx_remaining_reqs_count += virtqueue_waiting(&net->device, queue);
		transmit_batch(net, queue, &peer_took);
		virtqueue_notify(&net->device, queue, first_used);
	}
	/* It may have something to answer. */
	if (peer_took)
		net_receive(net);
	else
		net_watch(net);
}
