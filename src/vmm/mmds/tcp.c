/*
 * One TCP connection (RFC 9293), passive side only. Sequence numbers that we send:
 *
 *     unacknowledged <= next_send <= highest, and all of them up to
 *     answer_seq + answer.size, where FIN has its place once `closing` is set.
 *
 * A retransmission sets next_send back to unacknowledged, and sends all again from there as the window
 * allows.
 */
#include "vmm/mmds/tcp.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define DUPLICATES 3 /* acknowledgements that mean a loss (RFC 5681 3.2) */

/* a - b for sequence numbers less than 2^31 apart. */
static int32_t seq_diff(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b);
}

static size_t receive_room(const struct tcp_connection *connection)
{
	/* After the last answer what comes is thrown away. */
	return connection->closing ? sizeof(connection->received)
	                           : sizeof(connection->received) - connection->received_size;
}

/* Where FIN has its place. */
static uint32_t answer_end(const struct tcp_connection *connection)
{
	return connection->answer_seq + (uint32_t)connection->answer.size;
}

/* How many bytes the peer's window lets us send. */
static uint32_t send_room(const struct tcp_connection *connection)
{
	int32_t room = seq_diff(connection->unacknowledged + connection->window, connection->next_send);

	return room > 0 ? (uint32_t)room : 0;
}

static bool has_unsent_data(const struct tcp_connection *connection)
{
	return connection->established && seq_diff(answer_end(connection), connection->next_send) > 0;
}

/* Run the timer while something is on its way, or the peer's window is closed. */
static void set_timer(struct tcp_connection *connection)
{
	bool wanted = connection->unacknowledged != connection->highest ||
	              (has_unsent_data(connection) && send_room(connection) == 0);

	if (!wanted)
		connection->deadline = 0;
	else if (!connection->deadline)
		connection->deadline = connection->mmds->clock() + TCP_RTO_US;
}

static void check_done(struct tcp_connection *connection)
{
	if (connection->closing && connection->fin_received && !connection->ack_pending &&
	    connection->unacknowledged == answer_end(connection) + 1)
		connection->done = true;
}

struct tcp_connection *tcp_connection_new(struct mmds *mmds, uint32_t address, const struct tcp_segment *syn)
{
	struct tcp_connection *connection = calloc(1, sizeof(*connection));
	uint32_t start;

	if (!connection)
		return NULL;
	random_bytes(&start, sizeof(start));
	connection->mmds = mmds;
	connection->address = address;
	connection->port = syn->source;
	connection->mss = syn->mss ? syn->mss : TCP_MSS_DEFAULT;
	if (connection->mss > TCP_MSS)
		connection->mss = TCP_MSS;
	if (connection->mss < TCP_MSS_MINIMUM)
		connection->mss = TCP_MSS_MINIMUM;
	connection->first = syn->seq;
	connection->next_receive = syn->seq + 1;
	connection->unacknowledged = start;
	connection->next_send = start;
	connection->highest = start;
	connection->recover = start;
	connection->answer_seq = start + 1;
	connection->window = syn->window;
	connection->window_seq = syn->seq;
	connection->heard = mmds->clock();
	return connection;
}

void tcp_connection_free(struct tcp_connection *connection)
{
	if (!connection)
		return;
	buffer_fini(&connection->answer);
	free(connection);
}

/* --- receiving --- */

static void receive_reset(struct tcp_connection *connection, const struct tcp_segment *segment)
{
	int32_t ahead = seq_diff(segment->seq, connection->next_receive);

	/* RFC 5961 3.2: elsewhere in the window it may be forged, and the peer is asked. */
	if (ahead == 0)
		connection->done = true;
	else if (ahead > 0 && (size_t)ahead < receive_room(connection))
		connection->ack_pending = true;
}

static void receive_syn(struct tcp_connection *connection, const struct tcp_segment *segment)
{
	if (connection->established || segment->flags & TCP_ACK || segment->seq != connection->first) {
		connection->ack_pending = true; /* RFC 5961 4: a peer that began anew answers with RST */
		return;
	}
	connection->syn_sent = false;
	connection->next_send = connection->unacknowledged;
}

/* RFC 9293 3.10.7.4, first: whether any of the segment is where we are. */
static bool is_acceptable(const struct tcp_connection *connection, const struct tcp_segment *segment)
{
	int32_t ahead = seq_diff(segment->seq, connection->next_receive);
	int64_t end = ahead + (int64_t)segment->size + (segment->flags & TCP_FIN ? 1 : 0);

	return ahead >= 0 ? (size_t)ahead <= receive_room(connection) : end > 0;
}

/* What was acknowledged needs not be kept. */
static void forget_answer(struct tcp_connection *connection)
{
	if (connection->answer.size && seq_diff(connection->unacknowledged, answer_end(connection)) >= 0) {
		connection->answer_seq = answer_end(connection);
		buffer_fini(&connection->answer);
		connection->answer = (struct buffer)BUFFER_INIT;
	}
}

static void count_duplicate(struct tcp_connection *connection, const struct tcp_segment *segment)
{
	bool says_nothing = segment->size == 0 && !(segment->flags & TCP_FIN) &&
	                    segment->window == connection->window &&
	                    connection->unacknowledged != connection->highest;

	if (segment->window == 0)
		connection->retries = 0; /* it is there, and does not want any: keep on asking */
	connection->duplicates = says_nothing ? connection->duplicates + 1 : 0;
	if (connection->duplicates >= DUPLICATES &&
	    seq_diff(connection->unacknowledged, connection->recover) >= 0) {
		connection->duplicates = 0;
		connection->recover = connection->highest;
		connection->next_send = connection->unacknowledged;
	}
}

static void acknowledge_to(struct tcp_connection *connection, uint32_t ack)
{
	connection->unacknowledged = ack;
	if (seq_diff(connection->next_send, ack) < 0)
		connection->next_send = ack;
	connection->retries = 0;
	connection->duplicates = 0;
	connection->deadline = 0;
	connection->probe = false;
	forget_answer(connection);
}

/* False: the segment ends here. */
static bool receive_ack(struct tcp_connection *connection, const struct tcp_segment *segment)
{
	if (seq_diff(segment->ack, connection->highest) > 0) {
		connection->ack_pending = true;
		return false;
	}
	if (seq_diff(segment->ack, connection->unacknowledged) < 0)
		return true;
	if (segment->ack != connection->unacknowledged)
		acknowledge_to(connection, segment->ack);
	else
		count_duplicate(connection, segment);
	if (seq_diff(segment->seq, connection->window_seq) >= 0) {
		connection->window = segment->window;
		connection->window_seq = segment->seq;
	}
	return true;
}

/* The part of the segment that is new and fits; the peer sends the rest again. */
static void receive_data(struct tcp_connection *connection, const struct tcp_segment *segment)
{
	size_t known = (size_t)(connection->next_receive - segment->seq);
	size_t size;

	if (segment->size == 0 && !(segment->flags & TCP_FIN))
		return;
	connection->ack_pending = true;
	if (connection->fin_received || seq_diff(segment->seq, connection->next_receive) > 0)
		return;
	size = segment->size > known ? segment->size - known : 0;
	if (size > receive_room(connection))
		size = receive_room(connection);
	if (size && !connection->closing) {
		memcpy(connection->received + connection->received_size, segment->data + known, size);
		connection->received_size += size;
	}
	connection->next_receive += (uint32_t)size;
	if (segment->flags & TCP_FIN && connection->next_receive == segment->seq + (uint32_t)segment->size) {
		connection->next_receive++;
		connection->fin_received = true;
	}
}

/* Answer the next request that is there, one at a time. */
static void answer_next(struct tcp_connection *connection)
{
	ssize_t taken;
	bool close = false;

	if (connection->answer.size || connection->closing || connection->reset)
		return;
	taken = mmds_http_answer(connection->mmds, connection->received, connection->received_size,
	                         &connection->answer, &close);
	if (taken < 0) {
		buffer_clear(&connection->answer);
		connection->reset = true;
		return;
	}
	connection->received_size -= (size_t)taken;
	memmove(connection->received, connection->received + taken, connection->received_size);
	connection->closing = close || (taken == 0 && connection->fin_received);
	if (connection->closing)
		connection->received_size = 0;
}

void tcp_connection_receive(struct tcp_connection *connection, const struct tcp_segment *segment)
{
	if (connection->done || connection->reset)
		return;
	if (segment->flags & TCP_RST) {
		receive_reset(connection, segment);
		return;
	}
	if (segment->flags & TCP_SYN) {
		receive_syn(connection, segment);
		return;
	}
	if (!(segment->flags & TCP_ACK))
		return;
	if (!is_acceptable(connection, segment)) {
		connection->ack_pending = true;
		return;
	}
	if (!connection->established) {
		if (segment->ack != connection->answer_seq || segment->ack != connection->highest) {
			connection->next_send = segment->ack; /* RFC 9293 3.10.7.4: RST where the peer is */
			connection->reset = true;
			return;
		}
		connection->established = true;
	}
	connection->heard = connection->mmds->clock();
	if (receive_ack(connection, segment)) {
		receive_data(connection, segment);
		answer_next(connection);
	}
	set_timer(connection);
	check_done(connection);
}

/* --- sending --- */

static void expire(struct tcp_connection *connection)
{
	if (!connection->deadline || connection->mmds->clock() < connection->deadline)
		return;
	connection->deadline = 0;
	if (++connection->retries > TCP_RETRIES_MAX) {
		connection->reset = true;
		return;
	}
	connection->probe = connection->established && connection->window == 0;
	connection->duplicates = 0;
	connection->next_send = connection->unacknowledged;
	if (!connection->established)
		connection->syn_sent = false;
}

/* `size` sequence numbers from next_send on are on their way. */
static void sent(struct tcp_connection *connection, uint32_t size)
{
	connection->next_send += size;
	if (seq_diff(connection->next_send, connection->highest) > 0)
		connection->highest = connection->next_send;
}

static bool send_syn(struct tcp_connection *connection, struct tcp_segment *segment)
{
	segment->flags = TCP_SYN | TCP_ACK;
	segment->mss = TCP_MSS;
	connection->syn_sent = true;
	sent(connection, 1);
	return true;
}

static bool send_data(struct tcp_connection *connection, size_t room, struct tcp_segment *segment)
{
	size_t size = answer_end(connection) - connection->next_send;
	bool probe = connection->probe && send_room(connection) == 0;
	size_t window = probe ? 1 : send_room(connection);

	size = size < window ? size : window;
	size = size < connection->mss ? size : connection->mss;
	size = size < room ? size : room;
	if (size == 0)
		return false;
	segment->data =
	        (const uint8_t *)connection->answer.data + (connection->next_send - connection->answer_seq);
	segment->size = size;
	connection->probe = false;
	sent(connection, (uint32_t)size);
	if (connection->next_send == answer_end(connection))
		segment->flags |= TCP_PSH;
	/* A probe is most often thrown away: when the window opens, this byte goes first again. */
	if (probe)
		connection->next_send = segment->seq;
	return true;
}

static bool send_fin(struct tcp_connection *connection, struct tcp_segment *segment)
{
	if (!connection->closing || !connection->established ||
	    connection->next_send != answer_end(connection))
		return false;
	segment->flags |= TCP_FIN;
	sent(connection, 1);
	return true;
}

bool tcp_connection_send(struct tcp_connection *connection, size_t room, struct tcp_segment *segment)
{
	bool any;

	if (connection->done)
		return false;
	expire(connection);
	*segment = (struct tcp_segment){
		.target = connection->port,
		.seq = connection->next_send,
		.ack = connection->next_receive,
		.flags = TCP_ACK,
		.window = (uint16_t)receive_room(connection),
	};
	if (connection->reset) {
		segment->flags |= TCP_RST;
		connection->done = true;
		return true;
	}
	if (!connection->established) {
		if (!connection->syn_sent)
			any = send_syn(connection, segment);
		else
			any = connection->ack_pending;
	} else {
		any = (has_unsent_data(connection) && send_data(connection, room, segment)) ||
		      send_fin(connection, segment) || connection->ack_pending;
	}
	if (any)
		connection->ack_pending = false;
	set_timer(connection);
	check_done(connection);
	return any;
}
