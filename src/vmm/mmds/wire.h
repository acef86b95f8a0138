/* wire: the frames of the metadata service: ARP, and TCP in IPv4 in Ethernet. Private to mmds and its tests.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WIRE_ARP_SIZE   42 /* bytes of an ARP frame */
#define WIRE_HEADERS    54 /* bytes of a TCP frame without options and data */
#define WIRE_MSS_OPTION 4

enum tcp_flag {
	TCP_FIN = 1,
	TCP_SYN = 2,
	TCP_RST = 4,
	TCP_PSH = 8,
	TCP_ACK = 16,
};

struct tcp_segment {
	uint16_t source;
	uint16_t target;
	uint32_t seq;
	uint32_t ack;
	uint8_t flags;
	uint16_t window;
	uint16_t mss; /* the option's value; 0: there is none */
	const uint8_t *data;
	size_t size;
};

/* Both ends of what goes over the wire, IPv4 addresses in host order. */
struct wire_ends {
	uint8_t source_mac[6];
	uint8_t target_mac[6];
	uint32_t source;
	uint32_t target;
};

enum wire_kind {
	WIRE_OTHER, /* not for our address */
	WIRE_BAD,   /* for our address, and nothing that could be answered */
	WIRE_ARP,   /* somebody asks who has our address */
	WIRE_TCP,
};

/*
 * What `frame` of any content is to the owner of `address`. Fills `ends` (all but target_mac for ARP) and,
 * for WIRE_TCP, `segment`, whose data points into the frame. The IPv4 header's checksum must be right, and
 * that of TCP either right or as a driver leaves it that counts on the device to complete it (the pseudo
 * header's sum: VIRTIO_NET_F_CSUM).
 */
enum wire_kind wire_read(const void *frame, size_t size, uint32_t address, struct wire_ends *ends,
                         struct tcp_segment *segment);

/* Write a reply that `ends->source` is at `ends->source_mac`: WIRE_ARP_SIZE bytes. */
size_t wire_write_arp(void *frame, const struct wire_ends *ends);

/* Write `segment`: WIRE_HEADERS, the MSS option if it has one, and its data. Returns the size. */
size_t wire_write_tcp(void *frame, const struct wire_ends *ends, const struct tcp_segment *segment);

/* The Internet checksum's sum (RFC 1071), going on from `sum`. Only the last piece may have an odd size. */
uint32_t wire_sum(uint32_t sum, const void *data, size_t size);
uint16_t wire_fold(uint32_t sum);
