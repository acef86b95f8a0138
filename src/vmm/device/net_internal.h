/* What the files of the network device share: net.c, net_receive.c, net_transmit.c. Private to vmm/device. */
#pragma once

#include "vmm/device/device.h"
#include "vmm/device/tap.h"
#include "vmm/device/virtqueue.h"

enum net_queue {
	NET_QUEUE_RX,
	NET_QUEUE_TX,
	NET_QUEUE_COUNT,
};

/* Features (5.1.3). What a guest takes from us is GUEST, what we take from it is HOST. */
#define NET_F_CSUM       (1ull << 0)
#define NET_F_GUEST_CSUM (1ull << 1)
#define NET_F_MTU        (1ull << 3)
#define NET_F_MAC        (1ull << 5)
#define NET_F_GUEST_TSO4 (1ull << 7)
#define NET_F_GUEST_TSO6 (1ull << 8)
#define NET_F_GUEST_UFO  (1ull << 10)
#define NET_F_HOST_TSO4  (1ull << 11)
#define NET_F_HOST_TSO6  (1ull << 12)
#define NET_F_HOST_UFO   (1ull << 14)
#define NET_F_MRG_RXBUF  (1ull << 15)

/* Before each frame, in both directions (5.1.6). */
struct net_header {
	uint8_t flags;
	uint8_t gso_type;
	uint16_t hdr_len;
	uint16_t gso_size;
	uint16_t csum_start;
	uint16_t csum_offset;
	uint16_t num_buffers;
};

#define NET_ETHERNET 14 /* bytes of destination, source, type */
#define NET_FRAME_MAX                                                                                        \
	65562 /* bytes with header: the largest that 5.1.6.3.1 wants room for, and more than 64 KiB */
#define NET_BATCH       256  /* frames in one go: then others have a turn on the device loop */
#define NET_POOL_IOV    1023 /* of IOV_MAX; one more is our own */

#define NET_CHECKSUMMED 1 /* VIRTIO_NET_HDR_F_NEEDS_CSUM: the sum is for the taker to fill in */

/* Receive buffers that were taken from the queue. Those that are left are given back before we leave it. */
struct net_pool {
	struct iovec iov[NET_POOL_IOV + 1];
	int iov_first;
	int iov_end;
	struct net_pool_chain {
		uint16_t head;
		int iov_count;
		uint32_t size;
	} chains[VIRTIO_QUEUE_SIZE];
	unsigned first;
	unsigned end;
	size_t size; /* bytes of all */
};

struct net {
	struct virtio_device device;
	char id[64];
	char tap_name[64];
	uint8_t mac[6];
	bool has_mac;
	uint16_t mtu;
	int fd;      /* -1: the interface has ended */
	bool is_tap; /* else something that takes and gives frames like one */
	struct loop_source *source;
	uint32_t watched; /* EPOLL* */
	const struct net_peer *peer;
	int peer_timer;
	struct loop_source *peer_source;
	bool peer_waited; /* its timer is set */
	struct rate_limiter rx_limiter;
	struct rate_limiter tx_limiter;
	bool starved; /* no receive buffers until the driver kicks */
	bool blocked; /* the tap takes no frames for now */
	bool down;    /* the tap is there, but down: said once */
	struct net_pool pool;
	unsigned char scratch[NET_FRAME_MAX]; /* what does not fit into receive buffers; frames from and for
	                                         the peer */
	struct net_metrics {
		uint64_t no_rx_avail_buffer;
		uint64_t no_tx_avail_buffer;
		uint64_t event_fails;
		uint64_t rx_queue_event_count;
		uint64_t rx_event_rate_limiter_count;
		uint64_t rx_rate_limiter_throttled;
		uint64_t rx_tap_event_count;
		uint64_t rx_bytes_count;
		uint64_t rx_packets_count;
		uint64_t rx_fails;
		uint64_t rx_count;
		uint64_t tap_read_fails;
		uint64_t tap_write_fails;
		uint64_t tx_bytes_count;
		uint64_t tx_malformed_frames;
		uint64_t tx_fails;
		uint64_t tx_count;
		uint64_t tx_packets_count;
		uint64_t tx_queue_event_count;
		uint64_t tx_rate_limiter_event_count;
		uint64_t tx_rate_limiter_throttled;
		uint64_t tx_spoofed_mac_count;
		uint64_t tx_remaining_reqs_count;
	} metrics;
};

/* --- net.c --- */

/*
 * A device on `fd` (owned, also on failure): a tap, or a socket that keeps messages apart, non-blocking,
 * which stands in for one in tests.
 */
struct virtio_device *net_new_on(const struct net_config *config, int fd, bool is_tap,
                                 const struct net_peer *peer, const struct guest_memory *memory,
                                 struct loop *loop, struct error *err);

/* Whether a queue may be looked at. */
bool net_may_run(const struct net *net, enum net_queue index);

/* Watch the tap for what can be handled now, and set the peer's timer. To be called after each change. */
void net_watch(struct net *net);

/* Look at a queue again, after others had their turn. */
void net_kick_later(struct net *net, enum net_queue index);

/* The tap failed for good with `code` while we wanted to `what`: the interface ends. */
void net_end(struct net *net, const char *what, int code);

/* Whether `header` asks for no more than what the driver agreed to, in that direction. */
bool net_header_allowed(const struct net *net, const struct net_header *header, bool to_guest);

/*
 * net_receive.c: from the peer and the tap to the guest; net_transmit.c: the other way. Each does what there
 * is to do now, up to a batch, and sees to it that it is called for the rest.
 */

void net_receive(struct net *net);
void net_transmit(struct net *net);
