/*
 * virtio-net (virtio 1.2 section 5.1) on a tap: one pair of queues, checksums and segmentation left to
 * whoever is last, mergeable receive buffers. Frames go between guest memory and the kernel without a copy of
 * ours.
 *
 * The device holds no frame: what cannot be handled now stays in the queue or in the tap. So nothing but the
 * queues and the driver's features is state.
 */
#include <errno.h>
#include <linux/if_tun.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/base.h"
#include "vmm/device/net_internal.h"
#include "vmm/device/virtio_internal.h"

#define MTU_MIN 68
#define MTU_MAX 65535
#define LINK_UP 1 /* VIRTIO_NET_S_LINK_UP */

/* How a frame is to be cut (5.1.6). */
enum net_gso {
	GSO_NONE = 0,
	GSO_TCPV4 = 1,
	GSO_UDP = 3,
	GSO_TCPV6 = 4,
};

/* Configuration space (5.1.4), as far as our features reach. */
struct net_config_space {
	uint8_t mac[6];
	uint16_t status;
	uint16_t max_virtqueue_pairs;
	uint16_t mtu;
};

static struct net *net_of(struct virtio_device *device)
{
	return (struct net *)device;
}

/* --- features and configuration --- */

static uint64_t net_features(struct virtio_device *device)
{
	const struct net *net = net_of(device);

	return NET_F_CSUM | NET_F_GUEST_CSUM | NET_F_GUEST_TSO4 | NET_F_GUEST_TSO6 | NET_F_GUEST_UFO |
	       NET_F_HOST_TSO4 | NET_F_HOST_TSO6 | NET_F_HOST_UFO | NET_F_MRG_RXBUF |
	       (net->has_mac ? NET_F_MAC : 0) | (net->mtu ? NET_F_MTU : 0);
}

static void net_config_read(struct virtio_device *device, uint32_t offset, void *data, unsigned size)
{
	const struct net *net = net_of(device);
	struct net_config_space space = { .status = LINK_UP, .max_virtqueue_pairs = 1, .mtu = net->mtu };

	if (net->has_mac)
		memcpy(space.mac, net->mac, sizeof(space.mac));
	if (checked_range(offset, size, sizeof(space)))
		memcpy(data, (char *)&space + offset, size);
}

bool net_header_allowed(const struct net *net, const struct net_header *header, bool to_guest)
{
	uint64_t features = net->device.driver_features;

	if ((header->flags & NET_CHECKSUMMED) && !(features & (to_guest ? NET_F_GUEST_CSUM : NET_F_CSUM)))
		return false;
	switch ((enum net_gso)header->gso_type) {
	case GSO_NONE:
		return true;
	case GSO_TCPV4:
		return features & (to_guest ? NET_F_GUEST_TSO4 : NET_F_HOST_TSO4);
	case GSO_TCPV6:
		return features & (to_guest ? NET_F_GUEST_TSO6 : NET_F_HOST_TSO6);
	case GSO_UDP:
		return features & (to_guest ? NET_F_GUEST_UFO : NET_F_HOST_UFO);
	default:
		return false;
	}
}

/* Let the kernel leave to the guest what its driver said that it can do. Segments want checksums (5.1.3.1).
 */
static void set_offloads(const struct net *net, uint64_t features)
{
	struct error err = { 0 };
	unsigned flags = 0;

	if (!net->is_tap || net->fd < 0)
		return;
	if (features & NET_F_GUEST_CSUM) {
		flags = TUN_F_CSUM;
		flags |= features & NET_F_GUEST_TSO4 ? TUN_F_TSO4 : 0;
		flags |= features & NET_F_GUEST_TSO6 ? TUN_F_TSO6 : 0;
		flags |= features & NET_F_GUEST_UFO ? TUN_F_UFO : 0;
	}
	/* Without them everything still works, only slower. */
	if (tap_set_offloads(net->fd, flags, &err) < 0)
		log_warn("network interface %s: %s: %s", net->id, net->tap_name, err.message);
}

/* --- the tap --- */

bool net_may_run(const struct net *net, enum net_queue index)
{
	const struct virtio_device *device = &net->device;

	return device->active && !device->paused && !device->broken && device->queues[index].ready;
}

static void watch_tap(struct net *net, uint32_t events)
{
	if (net->source && net->watched != events && loop_modify(net->source, events) == 0)
		net->watched = events;
}

static void set_peer_timer(struct net *net, bool may_give)
{
	struct itimerspec when = { 0 };
	int ms = may_give ? net->peer->timeout(net->peer->context) : -1;

	if (ms < 0 && !net->peer_waited)
		return;
	if (ms >= 0) {
		when.it_value.tv_sec = ms / 1000;
		when.it_value.tv_nsec = ms % 1000 * 1000000l;
		/* It has been asked just now: never at once again. */
		if (ms == 0)
			when.it_value.tv_nsec = 1000000;
	}
	net->peer_waited = ms >= 0;
	if (timerfd_settime(net->peer_timer, 0, &when, NULL) < 0)
		log_error("network interface %s: set a timer: %s", net->id, strerror(errno));
}

void net_watch(struct net *net)
{
	bool receiving = net_may_run(net, NET_QUEUE_RX) && !net->starved && !net->rx_limiter.waiting;
	bool sending = net_may_run(net, NET_QUEUE_TX) && net->blocked;

	watch_tap(net, (receiving ? EPOLLIN : 0u) | (sending ? EPOLLOUT : 0u));
	if (net->peer)
		set_peer_timer(net, receiving);
}

void net_kick_later(struct net *net, enum net_queue index)
{
	uint64_t one = 1;

	/* A full counter is a pending kick already. */
	if (write(net->device.queues[index].kick, &one, sizeof(one)) < 0)
		return;
}

void net_end(struct net *net, const char *what, int code)
{
	log_error("network interface %s ends: %s tap %s: %s", net->id, what, net->tap_name, strerror(code));
	loop_unwatch(net->source);
	net->source = NULL;
	close(net->fd);
	net->fd = -1;
	net->blocked = false;
}

static void on_tap(void *context, uint32_t events)
{
	struct net *net = context;

	net->metrics.rx_tap_event_count++;
	if ((events & (EPOLLERR | EPOLLHUP)) && !(events & EPOLLIN)) {
		net->metrics.event_fails++;
		net_end(net, "watch", ENODEV);
		/* Frames that waited for it go nowhere now. */
		net_transmit(net);
		return;
	}
	if (events & EPOLLOUT) {
		net->blocked = false;
		net_transmit(net);
	}
	if (events & EPOLLIN)
		net_receive(net);
}

/* --- what wakes it up besides --- */

static void on_rx_tokens(void *context)
{
	struct net *net = context;

	net->metrics.rx_event_rate_limiter_count++;
	net_receive(net);
}

static void on_tx_tokens(void *context)
{
	struct net *net = context;

	net->metrics.tx_rate_limiter_event_count++;
	net_transmit(net);
}

static void on_peer_timer(void *context, uint32_t events)
{
	struct net *net = context;
	uint64_t count;

	(void)events;
	if (read(net->peer_timer, &count, sizeof(count)) == (ssize_t)sizeof(count))
		net_receive(net);
}

static void net_kick(struct virtio_device *device, unsigned index)
{
	struct net *net = net_of(device);

	if (index == NET_QUEUE_RX) {
		net->metrics.rx_queue_event_count++;
		net_receive(net);
	} else {
		net->metrics.tx_queue_event_count++;
		net_transmit(net);
	}
}

void net_set_limits(struct virtio_device *device, const struct token_bucket_config *rx_bandwidth,
                    const struct token_bucket_config *rx_ops, const struct token_bucket_config *tx_bandwidth,
                    const struct token_bucket_config *tx_ops)
{
	rate_limiter_update(&net_of(device)->rx_limiter, rx_bandwidth, rx_ops);
	rate_limiter_update(&net_of(device)->tx_limiter, tx_bandwidth, tx_ops);
}

/* --- life --- */

static void net_activate(struct virtio_device *device)
{
	struct net *net = net_of(device);

	net->starved = false;
	net->blocked = false;
	set_offloads(net, device->driver_features);
	net_watch(net);
}

static void come_to_rest(struct net *net)
{
	watch_tap(net, 0);
	if (net->peer)
		set_peer_timer(net, false);
}

static void net_reset(struct virtio_device *device)
{
	come_to_rest(net_of(device));
	set_offloads(net_of(device), 0);
}

static int net_quiesce(struct virtio_device *device, struct error *err)
{
	(void)err;
	come_to_rest(net_of(device));
	return 0;
}

static void net_free(struct virtio_device *device)
{
	struct net *net = net_of(device);

	rate_limiter_fini(&net->rx_limiter);
	rate_limiter_fini(&net->tx_limiter);
	loop_unwatch(net->peer_source);
	if (net->peer_timer >= 0)
		close(net->peer_timer);
	loop_unwatch(net->source);
	if (net->fd >= 0)
		close(net->fd);
	virtio_fini(device);
	free(net);
}

#define METRIC(counter)                                                                                      \
	{                                                                                                    \
#counter, offsetof(struct net, metrics.counter)                                              \
	}
static const struct virtio_metric net_metrics[] = {
	METRIC(no_rx_avail_buffer),
	METRIC(no_tx_avail_buffer),
	METRIC(event_fails),
	METRIC(rx_queue_event_count),
	METRIC(rx_event_rate_limiter_count),
	METRIC(rx_rate_limiter_throttled),
	METRIC(rx_tap_event_count),
	METRIC(rx_bytes_count),
	METRIC(rx_packets_count),
	METRIC(rx_fails),
	METRIC(rx_count),
	METRIC(tap_read_fails),
	METRIC(tap_write_fails),
	METRIC(tx_bytes_count),
	METRIC(tx_malformed_frames),
	METRIC(tx_fails),
	METRIC(tx_count),
	METRIC(tx_packets_count),
	METRIC(tx_queue_event_count),
	METRIC(tx_rate_limiter_event_count),
	METRIC(tx_rate_limiter_throttled),
	METRIC(tx_spoofed_mac_count),
	METRIC(tx_remaining_reqs_count),
	{ 0 },
};

static const struct virtio_ops net_ops = {
	.name = "net",
	.id = VIRTIO_ID_NET,
	.queue_count = NET_QUEUE_COUNT,
	.features = net_features,
	.config_read = net_config_read,
	.activate = net_activate,
	.reset = net_reset,
	.kick = net_kick,
	.quiesce = net_quiesce,
	/* A restored driver's offloads are not yet those of our tap. */
	.resume = net_activate,
	.free = net_free,
	.metrics = net_metrics,
};

static int make_peer_timer(struct net *net, struct error *err)
{
	net->peer_timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (net->peer_timer < 0)
		return error_errno(err, errno, "make a timer of network interface %s", net->id);
	net->peer_source = loop_watch(net->device.loop, net->peer_timer, EPOLLIN, on_peer_timer, net, err);
	return net->peer_source ? 0 : -EIO;
}

static int connect_to(struct net *net, const struct net_peer *peer, struct error *err)
{
	net->source = loop_watch(net->device.loop, net->fd, 0, on_tap, net, err);
	if (!net->source)
		return -EIO;
	net->peer = peer;
	return peer ? make_peer_timer(net, err) : 0;
}

struct virtio_device *net_new_on(const struct net_config *config, int fd, bool is_tap,
                                 const struct net_peer *peer, const struct guest_memory *memory,
                                 struct loop *loop, struct error *err)
{
	struct net *net = calloc(1, sizeof(*net));

	if (!net) {
		close(fd);
		error_errno(err, ENOMEM, "make network interface %s", config->id);
		return NULL;
	}
	net->fd = fd;
	net->is_tap = is_tap;
	net->peer_timer = -1;
	(void)snprintf(net->id, sizeof(net->id), "%s", config->id);
	(void)snprintf(net->tap_name, sizeof(net->tap_name), "%s",
	               config->host_dev_name ? config->host_dev_name : "");
	memcpy(net->mac, config->mac, sizeof(net->mac));
	net->has_mac = config->has_mac;
	net->mtu = (uint16_t)config->mtu;
	rate_limiter_init(&net->rx_limiter, &config->rx_limits, loop, on_rx_tokens, net);
	rate_limiter_init(&net->tx_limiter, &config->tx_limits, loop, on_tx_tokens, net);
	if (virtio_init(&net->device, &net_ops, memory, loop, err) < 0 || connect_to(net, peer, err) < 0) {
		net_free(&net->device);
		return NULL;
	}
	return &net->device;
}

struct virtio_device *net_new(const struct net_config *config, const struct net_peer *peer,
                              const struct guest_memory *memory, struct loop *loop, struct error *err)
{
	int fd;

	if (config->mtu && (config->mtu < MTU_MIN || config->mtu > MTU_MAX)) {
		error_set(err, EINVAL, "network interface %s: an MTU of %u is not within %d and %d",
		          config->id, config->mtu, MTU_MIN, MTU_MAX);
		return NULL;
	}
	fd = tap_open(config->host_dev_name, err);
	if (fd < 0) {
		error_wrap(err, "network interface %s", config->id);
		return NULL;
	}
	return net_new_on(config, fd, true, peer, memory, loop, err);
}
