/*
 * What the two halves of the vsock device share: vsock.c (queues, packets, the listening socket) and
 * vsock_connection.c (one stream between a guest port and a unix socket).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/list.h"
#include "vmm/device/loop.h"

/* Packet header (virtio 1.2, 5.10.6). */
struct vsock_header {
	uint64_t src_cid;
	uint64_t dst_cid;
	uint32_t src_port;
	uint32_t dst_port;
	uint32_t len;
	uint16_t type;
	uint16_t op;
	uint32_t flags;
	uint32_t buf_alloc;
	uint32_t fwd_cnt;
} __attribute__((packed));

enum vsock_op {
	VSOCK_OP_REQUEST = 1,
	VSOCK_OP_RESPONSE = 2,
	VSOCK_OP_RST = 3,
	VSOCK_OP_SHUTDOWN = 4,
	VSOCK_OP_RW = 5,
	VSOCK_OP_CREDIT_UPDATE = 6,
	VSOCK_OP_CREDIT_REQUEST = 7,
};

#define VSOCK_TYPE_STREAM      1
#define VSOCK_SHUTDOWN_RECEIVE 1u /* the sender will receive no more */
#define VSOCK_SHUTDOWN_SEND    2u
#define VSOCK_SHUTDOWN_BOTH    3u

#define VSOCK_BUFFER           (64 * 1024) /* bytes that a connection keeps for a slow unix socket: our credit */

enum vsock_state {
	VSOCK_STATE_COMMAND,     /* from the host: its "CONNECT <port>\n" is awaited */
	VSOCK_STATE_REQUESTED,   /* from the host: the guest is asked */
	VSOCK_STATE_ESTABLISHED, /* data flows */
	VSOCK_STATE_DEAD,        /* only its last packet is still to be sent, if `reset` is set */
};

struct vsock_connection;

/* How a connection tells the device that it changed. Device loop only. */
struct vsock_events {
	/* It has something for the guest, or has died: vsock_connection_produce should be called, later. */
	void (*ready)(void *context, struct vsock_connection *connection);
	/* The host named its port: the connection needs its pair of ports and a place in the table. */
	int (*requested)(void *context, struct vsock_connection *connection, uint32_t guest_port);
	/* A change on its socket has been dealt with; what is ready can go out. It may be freed from here. */
	void (*settled)(void *context);
};

struct vsock_connection {
	struct list link;  /* in the device's table, by ports */
	struct list queue; /* among those with something for the guest */
	const struct vsock_events *events;
	void *context;
	enum vsock_state state;
	uint32_t host_port;
	uint32_t guest_port;
	int fd;
	struct loop_source *source;
	bool readable;           /* the socket may have data: set by an edge, cleared by EAGAIN */
	bool host_end;           /* the host sends no more */
	bool host_gone;          /* nor receives */
	uint32_t guest_shutdown; /* VSOCK_SHUTDOWN_* that the guest has sent */
	/* Packets that wait for room in the guest's receive queue. */
	bool request;
	bool response;
	bool reset;
	bool shutdown_sent;
	bool credit_update;
	bool credit_request;
	/* Flow control (5.10.6.3). Counters are free-running. */
	uint32_t peer_buf_alloc;
	uint32_t peer_fwd_cnt;
	uint32_t sent;      /* bytes given to the guest */
	uint32_t received;  /* bytes that came from the guest */
	uint32_t forwarded; /* of those, bytes written to the socket */
	uint32_t told;      /* value of `forwarded` that the guest knows */
	struct buffer out;  /* what the socket did not take yet */
};

/*
 * A stream on a connected non-blocking unix socket; takes `fd`. `state` is VSOCK_STATE_COMMAND for a host's
 * connection, VSOCK_STATE_ESTABLISHED for one the guest asked for. NULL with `err`.
 */
struct vsock_connection *vsock_connection_new(struct loop *loop, int fd, enum vsock_state state,
                                              const struct vsock_events *events, void *context,
                                              struct error *err);
void vsock_connection_free(struct vsock_connection *connection);

/*
 * A packet from the guest for this connection; `data` are the buffers behind its header. May end it (state
 * VSOCK_STATE_DEAD).
 */
void vsock_connection_receive(struct vsock_connection *connection, const struct vsock_header *header,
                              const struct iovec *data, int count);

/*
 * Make the next packet for the guest: op, flags, len and credit of `header`, and its data read straight into
 * `data`. False when there is none.
 */
bool vsock_connection_produce(struct vsock_connection *connection, struct vsock_header *header,
                              const struct iovec *data, int count);
