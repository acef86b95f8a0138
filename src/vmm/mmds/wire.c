/* Frames taken apart and put together: Ethernet, ARP (RFC 826), IPv4 (RFC 791), TCP (RFC 9293). */
#include "vmm/mmds/wire.h"

#include <string.h>

#define ETHERNET      14
#define ETHER_IPV4    0x0800
#define ETHER_ARP     0x0806
#define ARP_SIZE      28
#define ARP_REQUEST   1
#define ARP_REPLY     2
#define IPV4_HEADER   20
#define IPV4_DONT     0x4000 /* fragment */
#define IPV4_FRAGMENT 0x3fff /* more fragments, or an offset */
#define PROTOCOL_TCP  6
#define TCP_HEADER    20
#define OPTION_END    0
#define OPTION_NOP    1
#define OPTION_MSS    2

static uint16_t get16(const uint8_t *at)
{
	return (uint16_t)(at[0] << 8 | at[1]);
}

static uint32_t get32(const uint8_t *at)
{
	return (uint32_t)get16(at) << 16 | get16(at + 2);
}

static void put16(uint8_t *at, unsigned value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static void put32(uint8_t *at, uint32_t value)
{
	put16(at, value >> 16);
	put16(at + 2, value & 0xffff);
}

uint32_t wire_sum(uint32_t sum, const void *data, size_t size)
{
	const uint8_t *at = data;
	uint64_t total = sum;

	for (; size > 1; at += 2, size -= 2)
		total += get16(at);
	if (size)
		total += (uint32_t)*at << 8;
	while (total >> 32)
		total = (total & 0xffffffff) + (total >> 32);
	return (uint32_t)total;
}

uint16_t wire_fold(uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

static uint32_t pseudo_sum(const uint8_t *packet, size_t size)
{
	return wire_sum(PROTOCOL_TCP + (uint32_t)size, packet + 12, 8);
}

/* --- reading --- */

static enum wire_kind read_arp(const uint8_t *arp, size_t size, uint32_t address, struct wire_ends *ends)
{
	static const uint8_t ethernet_ipv4[] = { 0, 1, 8, 0, 6, 4 };

	if (size < ARP_SIZE || get32(arp + 24) != address)
		return WIRE_OTHER;
	if (memcmp(arp, ethernet_ipv4, sizeof(ethernet_ipv4)) != 0 || get16(arp + 6) != ARP_REQUEST)
		return WIRE_BAD;
	memcpy(ends->source_mac, arp + 8, 6);
	ends->source = get32(arp + 14);
	ends->target = address;
	return WIRE_ARP;
}

/* False for options that go over their end. */
static bool read_options(const uint8_t *options, size_t size, uint16_t *mss)
{
	while (size && *options != OPTION_END) {
		size_t length = 1;

		if (*options != OPTION_NOP) {
			if (size < 2 || options[1] < 2 || options[1] > size)
				return false;
			length = options[1];
			if (*options == OPTION_MSS && length == WIRE_MSS_OPTION)
				*mss = get16(options + 2);
		}
		options += length;
		size -= length;
	}
	return true;
}

static enum wire_kind read_tcp(const uint8_t *packet, const uint8_t *tcp, size_t size,
                               struct tcp_segment *segment)
{
	size_t header;
	uint16_t pseudo;

	if (size < TCP_HEADER)
		return WIRE_BAD;
	header = (size_t)(tcp[12] >> 4) * 4;
	if (header < TCP_HEADER || header > size)
		return WIRE_BAD;
	pseudo = wire_fold(pseudo_sum(packet, size));
	if (get16(tcp + 16) != pseudo && wire_fold(wire_sum(pseudo, tcp, size)) != 0xffff)
		return WIRE_BAD;
	*segment = (struct tcp_segment){
		.source = get16(tcp),
		.target = get16(tcp + 2),
		.seq = get32(tcp + 4),
		.ack = get32(tcp + 8),
		.flags = tcp[13] & 0x1f,
		.window = get16(tcp + 14),
		.data = tcp + header,
		.size = size - header,
	};
	return read_options(tcp + TCP_HEADER, header - TCP_HEADER, &segment->mss) ? WIRE_TCP : WIRE_BAD;
}

static enum wire_kind read_ipv4(const uint8_t *packet, size_t size, uint32_t address, struct wire_ends *ends,
                                struct tcp_segment *segment)
{
	size_t header;
	size_t total;

	/* Whatever else is wrong with a packet, if it is for our address it should not get out of the
	 * machine. */
	if (size < IPV4_HEADER || get32(packet + 16) != address)
		return WIRE_OTHER;
	header = (size_t)(packet[0] & 15) * 4;
	total = get16(packet + 2);
	if (packet[0] >> 4 != 4 || header < IPV4_HEADER || total < header || total > size ||
	    wire_fold(wire_sum(0, packet, header)) != 0xffff)
		return WIRE_BAD;
	if (get16(packet + 6) & IPV4_FRAGMENT || packet[9] != PROTOCOL_TCP || get32(packet + 12) == address)
		return WIRE_BAD;
	ends->source = get32(packet + 12);
	ends->target = address;
	return read_tcp(packet, packet + header, total - header, segment);
}

enum wire_kind wire_read(const void *frame, size_t size, uint32_t address, struct wire_ends *ends,
                         struct tcp_segment *segment)
{
	const uint8_t *at = frame;

	if (size < ETHERNET)
		return WIRE_OTHER;
	memcpy(ends->target_mac, at, 6);
	memcpy(ends->source_mac, at + 6, 6);
	if (get16(at + 12) == ETHER_ARP)
		return read_arp(at + ETHERNET, size - ETHERNET, address, ends);
	if (get16(at + 12) == ETHER_IPV4)
		return read_ipv4(at + ETHERNET, size - ETHERNET, address, ends, segment);
	return WIRE_OTHER;
}

/* --- writing --- */

static uint8_t *write_ethernet(uint8_t *frame, const struct wire_ends *ends, unsigned type)
{
	memcpy(frame, ends->target_mac, 6);
	memcpy(frame + 6, ends->source_mac, 6);
	put16(frame + 12, type);
	return frame + ETHERNET;
}

size_t wire_write_arp(void *frame, const struct wire_ends *ends)
{
	uint8_t *arp = write_ethernet(frame, ends, ETHER_ARP);

	put16(arp, 1);
	put16(arp + 2, ETHER_IPV4);
	arp[4] = 6;
	arp[5] = 4;
	put16(arp + 6, ARP_REPLY);
	memcpy(arp + 8, ends->source_mac, 6);
	put32(arp + 14, ends->source);
	memcpy(arp + 18, ends->target_mac, 6);
	put32(arp + 24, ends->target);
	return WIRE_ARP_SIZE;
}

static void write_ipv4(uint8_t *packet, const struct wire_ends *ends, size_t total)
{
	memset(packet, 0, IPV4_HEADER);
	packet[0] = 0x45;
	put16(packet + 2, (unsigned)total);
	put16(packet + 6, IPV4_DONT);
	packet[8] = 64; /* hops */
	packet[9] = PROTOCOL_TCP;
	put32(packet + 12, ends->source);
	put32(packet + 16, ends->target);
	put16(packet + 10, 0xffffu ^ wire_fold(wire_sum(0, packet, IPV4_HEADER)));
}

size_t wire_write_tcp(void *frame, const struct wire_ends *ends, const struct tcp_segment *segment)
{
	size_t header = TCP_HEADER + (segment->mss ? WIRE_MSS_OPTION : 0);
	size_t size = header + segment->size;
	uint8_t *packet = write_ethernet(frame, ends, ETHER_IPV4);
	uint8_t *tcp = packet + IPV4_HEADER;

	write_ipv4(packet, ends, IPV4_HEADER + size);
	put16(tcp, segment->source);
	put16(tcp + 2, segment->target);
	put32(tcp + 4, segment->seq);
	put32(tcp + 8, segment->ack);
	tcp[12] = (uint8_t)(header / 4 << 4);
	tcp[13] = segment->flags;
	put16(tcp + 14, segment->window);
	put32(tcp + 16, 0); /* checksum, urgent pointer */
	if (segment->mss) {
		tcp[20] = OPTION_MSS;
		tcp[21] = WIRE_MSS_OPTION;
		put16(tcp + 22, segment->mss);
	}
	if (segment->size)
		memcpy(tcp + header, segment->data, segment->size);
	put16(tcp + 16, 0xffffu ^ wire_fold(wire_sum(pseudo_sum(packet, size), tcp, size)));
	return (size_t)(tcp - (uint8_t *)frame) + size;
}
