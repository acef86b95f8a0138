/*
 * tcp: one connection from a guest to the metadata service, which listens only. A guest is one hop away and
 * its frames neither overtake each other nor get lost but by its own lack of room: so there is flow control
 * and retransmission, but no congestion control, and nothing is kept out of order. Private to mmds.
 */
#pragma once

#include "vmm/mmds/mmds_internal.h"
#include "vmm/mmds/wire.h"

#define TCP_MSS         1460
#define TCP_MSS_DEFAULT 536 /* of a peer that says none (RFC 9293 3.7.1) */
#define TCP_MSS_MINIMUM 48
#define TCP_RTO_US      1200000
#define TCP_RETRIES_MAX 15

struct tcp_connection {
	struct mmds *mmds;
	uint32_t address; /* of the peer, as `port` */
	uint16_t port;
	uint16_t mss; /* most bytes of data per segment */
	bool established;
	bool syn_sent;    /* SYN-ACK, and not again since */
	bool ack_pending; /* something is to be acknowledged */
	bool reset;       /* RST is to be sent, and that is the end */
	bool probe;       /* ask a peer with a closed window */
	bool closing;     /* no more answers: FIN comes behind the last */
	bool fin_received;
	bool done; /* to be freed */

	uint32_t first; /* the peer's first sequence number */
	uint32_t next_receive;
	char received[MMDS_REQUEST_MAX];
	size_t received_size;

	uint32_t unacknowledged; /* the first that the peer has not acknowledged */
	uint32_t next_send;      /* goes back for retransmission */
	uint32_t highest;        /* behind the last that was ever sent */
	uint32_t window;         /* of the peer, from `unacknowledged` on */
	uint32_t window_seq;     /* of the segment that said so */
	uint32_t recover;        /* no second fast retransmission before this is acknowledged */
	unsigned duplicates;     /* acknowledgements in a row that say nothing new */
	struct buffer answer;    /* what is being sent */
	uint32_t answer_seq;     /* of its first byte; of FIN when it is empty */

	int64_t deadline; /* retransmission or probe; 0: none */
	unsigned retries;
	int64_t heard; /* when the peer last said something that was understood */
};

/* A connection for the SYN that came from `address`. NULL when out of memory. */
struct tcp_connection *tcp_connection_new(struct mmds *mmds, uint32_t address, const struct tcp_segment *syn);
void tcp_connection_free(struct tcp_connection *connection);

/* A segment that came for it. */
void tcp_connection_receive(struct tcp_connection *connection, const struct tcp_segment *segment);

/*
 * Its next segment, with at most `room` bytes behind the header (WIRE_MSS_OPTION or more); its data is the
 * connection's. False: there is none.
 */
bool tcp_connection_send(struct tcp_connection *connection, size_t room, struct tcp_segment *segment);
