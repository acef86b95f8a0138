/*
 * The service as a neighbour on one network interface: it answers ARP for its address and listens on TCP port
 * 80 there. What else is sent to that address is swallowed, so that nothing of it leaves the machine.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "vmm/mmds/tcp.h"

#define PORT            80
#define CONNECTIONS_MAX 30
#define RESETS_MAX      100
#define IDLE_US         10000000 /* one silent for so long may have to make room for another */
#define POLL_MS         10       /* a timer that nobody heeded is not shorter than this */

static const uint8_t service_mac[6] = { 0x06, 0x01, 0x23, 0x45, 0x67, 0x01 };

/* An RST for a segment that belongs to no connection. */
struct reset {
	uint32_t address;
	struct tcp_segment segment;
};

struct peer {
	struct net_peer face;
	struct mmds *mmds;
	uint32_t address;
	uint8_t guest_mac[6]; /* as the last frame said */
	bool arp_pending;     /* a reply for the last who asked: */
	struct wire_ends asked;
	struct tcp_connection *connections[CONNECTIONS_MAX]; /* NULL: free */
	size_t turn;                                         /* whose frame is next, for fairness */
	struct reset resets[RESETS_MAX];
	size_t reset_count;
};

/* --- from the guest --- */

static void refuse(struct peer *peer, uint32_t address, const struct tcp_segment *segment)
{
	struct reset *reset;

	if (segment->flags & TCP_RST || peer->reset_count == RESETS_MAX)
		return;
	reset = &peer->resets[peer->reset_count++];
	reset->address = address;
	reset->segment = (struct tcp_segment){
		.source = segment->target,
		.target = segment->source,
		.flags = TCP_RST,
	};
	if (segment->flags & TCP_ACK) {
		reset->segment.seq = segment->ack;
		return;
	}
	reset->segment.flags |= TCP_ACK;
	reset->segment.ack = segment->seq + (uint32_t)segment->size + (segment->flags & TCP_SYN ? 1 : 0) +
	                     (segment->flags & TCP_FIN ? 1 : 0);
}

static void drop(struct tcp_connection **slot)
{
	tcp_connection_free(*slot);
	*slot = NULL;
}

static struct tcp_connection **find_connection(struct peer *peer, uint32_t address, uint16_t port)
{
	for (size_t i = 0; i < CONNECTIONS_MAX; i++) {
		struct tcp_connection *connection = peer->connections[i];

		if (connection && connection->address == address && connection->port == port)
			return &peer->connections[i];
	}
	return NULL;
}

/* A place for a connection: a free one, or that of the one which was silent longest. NULL: all are busy. */
static struct tcp_connection **find_room(struct peer *peer)
{
	struct tcp_connection **idle = NULL;

	for (size_t i = 0; i < CONNECTIONS_MAX; i++) {
		struct tcp_connection **slot = &peer->connections[i];

		if (!*slot)
			return slot;
		if (!idle || (*slot)->heard < (*idle)->heard)
			idle = slot;
	}
	if (peer->mmds->clock() - (*idle)->heard <= IDLE_US)
		return NULL;
	drop(idle);
	return idle;
}

static void take_segment(struct peer *peer, uint32_t address, const struct tcp_segment *segment)
{
	struct tcp_connection **slot = NULL;

	if (segment->target == PORT)
		slot = find_connection(peer, address, segment->source);
	if (slot) {
		tcp_connection_receive(*slot, segment);
		if ((*slot)->done)
			drop(slot);
		return;
	}
	if (segment->target == PORT && (segment->flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) == TCP_SYN)
		slot = find_room(peer);
	if (slot)
		*slot = tcp_connection_new(peer->mmds, address, segment);
	if (!slot || !*slot)
		refuse(peer, address, segment);
}

static bool peer_take(void *context, const void *frame, size_t size)
{
	struct peer *peer = context;
	struct wire_ends ends;
	struct tcp_segment segment;

	switch (wire_read(frame, size, peer->address, &ends, &segment)) {
	case WIRE_OTHER:
		return false;
	case WIRE_ARP:
		memcpy(peer->guest_mac, ends.source_mac, sizeof(peer->guest_mac));
		peer->asked = ends;
		peer->arp_pending = true;
		return true;
	case WIRE_TCP:
		memcpy(peer->guest_mac, ends.source_mac, sizeof(peer->guest_mac));
		take_segment(peer, ends.source, &segment);
		return true;
	case WIRE_BAD:
		break;
	}
	return true;
}

/* --- to the guest --- */

static size_t give_segment(const struct peer *peer, uint32_t address, struct tcp_segment *segment,
                           void *frame)
{
	struct wire_ends ends = { .source = peer->address, .target = address };

	memcpy(ends.source_mac, service_mac, sizeof(service_mac));
	memcpy(ends.target_mac, peer->guest_mac, sizeof(peer->guest_mac));
	return wire_write_tcp(frame, &ends, segment);
}

static size_t give_arp(struct peer *peer, void *frame)
{
	struct wire_ends ends = { .source = peer->address, .target = peer->asked.source };

	memcpy(ends.source_mac, service_mac, sizeof(service_mac));
	memcpy(ends.target_mac, peer->asked.source_mac, sizeof(ends.target_mac));
	peer->arp_pending = false;
	return wire_write_arp(frame, &ends);
}

static size_t give_reset(struct peer *peer, void *frame)
{
	struct reset reset = peer->resets[0];

	peer->reset_count--;
	memmove(peer->resets, peer->resets + 1, peer->reset_count * sizeof(reset));
	return give_segment(peer, reset.address, &reset.segment, frame);
}

static size_t peer_give(void *context, void *frame, size_t room)
{
	struct peer *peer = context;
	struct tcp_segment segment;

	if (room < WIRE_HEADERS + WIRE_MSS_OPTION)
		return 0;
	if (peer->arp_pending)
		return give_arp(peer, frame);
	if (peer->reset_count)
		return give_reset(peer, frame);
	for (size_t i = 0; i < CONNECTIONS_MAX; i++) {
		struct tcp_connection **slot = &peer->connections[(peer->turn + i) % CONNECTIONS_MAX];
		size_t size = 0;

		if (*slot && tcp_connection_send(*slot, room - WIRE_HEADERS, &segment)) {
			segment.source = PORT;
			size = give_segment(peer, (*slot)->address, &segment, frame);
		}
		if (*slot && (*slot)->done)
			drop(slot);
		if (size) {
			peer->turn = (peer->turn + i + 1) % CONNECTIONS_MAX;
			return size;
		}
	}
	return 0;
}

static int peer_timeout(void *context)
{
	struct peer *peer = context;
	int64_t first = 0;
	int64_t left;

	for (size_t i = 0; i < CONNECTIONS_MAX; i++) {
		struct tcp_connection *connection = peer->connections[i];

		if (connection && connection->deadline && (!first || connection->deadline < first))
			first = connection->deadline;
	}
	if (!first)
		return -1;
	left = (first - peer->mmds->clock() + 999) / 1000;
	return left > POLL_MS ? (int)left : POLL_MS;
}

struct net_peer *mmds_peer_new(struct mmds *mmds, const uint8_t guest_mac[6], struct error *err)
{
	struct peer *peer = calloc(1, sizeof(*peer));
	struct mmds_config config;

	if (!peer) {
		error_set(err, ENOMEM, "make the metadata service's network peer: out of memory");
		return NULL;
	}
	mmds_get_config(mmds, &config);
	peer->mmds = mmds;
	for (size_t i = 0; i < sizeof(config.address); i++)
		peer->address = peer->address << 8 | config.address[i];
	memcpy(peer->guest_mac, guest_mac, sizeof(peer->guest_mac));
	peer->face = (struct net_peer){
		.context = peer,
		.take = peer_take,
		.give = peer_give,
		.timeout = peer_timeout,
	};
	return &peer->face;
}

void mmds_peer_free(struct net_peer *face)
{
	struct peer *peer = face ? face->context : NULL;

	if (!peer)
		return;
	for (size_t i = 0; i < CONNECTIONS_MAX; i++)
		tcp_connection_free(peer->connections[i]);
	free(peer);
}
