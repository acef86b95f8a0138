/* Unit tests of the metadata service's network: a guest made by hand, frame by frame, and a clock that
 * stands. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base.h"
#include "vmm/mmds/tcp.h"

#define SERVICE 0xa9fea9feu /* 169.254.169.254 */
#define GUEST   0x0a000002u
#define BIG     40000 /* characters of the value /big */
#define CLIENTS 31

static const uint8_t guest_mac[6] = { 2, 0, 0, 0, 0, 1 };
static const uint8_t service_mac[6] = { 0x06, 0x01, 0x23, 0x45, 0x67, 0x01 };
static int64_t now;
static struct mmds *mmds;
static struct net_peer *peer;

/* The guest's end of a connection. */
struct client {
	uint16_t port;
	uint32_t seq;
	uint32_t ack;
	uint16_t window;
	struct buffer got;
};

static int64_t fake_clock(void)
{
	return now;
}

static int set_up(void **state)
{
	static char document[BIG + 64];
	int size = snprintf(document, sizeof(document), "{\"a\":\"x\",\"big\":\"%0*d\"}", BIG, 7);

	(void)state;
	now = 1000000;
	mmds = mmds_new(0, fake_clock, NULL);
	if (!mmds || mmds_put(mmds, document, (size_t)size, NULL) < 0)
		return -1;
	peer = mmds_peer_new(mmds, guest_mac, NULL);
	return peer ? 0 : -1;
}

static int tear_down(void **state)
{
	(void)state;
	mmds_peer_free(peer);
	mmds_free(mmds);
	return 0;
}

/* --- frames --- */

static struct wire_ends ends_of_guest(void)
{
	struct wire_ends ends = { .source = GUEST, .target = SERVICE };

	memcpy(ends.source_mac, guest_mac, 6);
	memcpy(ends.target_mac, service_mac, 6);
	return ends;
}

/* As exact heap memory, so that ASan sees a read beyond. */
static bool take(const void *frame, size_t size)
{
	cleanup_free void *copy = malloc(size + 1);

	assert_non_null(copy);
	memcpy((char *)copy + 1, frame, size);
	return peer->take(peer->context, (char *)copy + 1, size);
}

static void send_segment(const struct tcp_segment *segment)
{
	struct wire_ends ends = ends_of_guest();
	uint8_t frame[2048];

	assert_true(take(frame, wire_write_tcp(frame, &ends, segment)));
}

/* The peer's next frame; false when it has none. */
static bool give(struct tcp_segment *segment)
{
	static uint8_t frame[1514];
	struct wire_ends ends;
	size_t size = peer->give(peer->context, frame, sizeof(frame));

	if (size == 0)
		return false;
	assert_in_range(size, WIRE_HEADERS, sizeof(frame));
	assert_int_equal(wire_read(frame, size, GUEST, &ends, segment), WIRE_TCP);
	assert_int_equal(ends.source, SERVICE);
	assert_memory_equal(ends.source_mac, service_mac, 6);
	assert_memory_equal(ends.target_mac, guest_mac, 6);
	return true;
}

static void assert_quiet(void)
{
	struct tcp_segment segment;

	assert_false(give(&segment));
}

/* --- a client --- */

static void say(const struct client *client, unsigned flags, const char *data)
{
	struct tcp_segment segment = {
		.source = client->port,
		.target = 80,
		.seq = client->seq,
		.ack = client->ack,
		.flags = (uint8_t)flags,
		.window = client->window,
		.data = (const uint8_t *)data,
		.size = strlen(data),
	};

	send_segment(&segment);
}

static void send_syn(struct client *client, uint16_t mss)
{
	struct tcp_segment segment = {
		.source = client->port,
		.target = 80,
		.seq = client->seq,
		.flags = TCP_SYN,
		.mss = mss,
	};

	segment.window = client->window;
	send_segment(&segment);
}

static struct client make_client(uint16_t port, uint16_t window)
{
	return (struct client){ .port = port, .seq = 0xfffffff0u, .window = window };
}

static struct client open_connection(uint16_t port, uint16_t mss, uint16_t window)
{
	struct client client = make_client(port, window);
	struct tcp_segment segment;

	send_syn(&client, mss);
	assert_true(give(&segment));
	assert_int_equal(segment.flags, TCP_SYN | TCP_ACK);
	assert_int_equal(segment.ack, client.seq + 1);
	assert_int_equal(segment.mss, TCP_MSS);
	assert_int_equal(segment.target, port);
	assert_int_equal(segment.window, MMDS_REQUEST_MAX);
	client.seq++;
	client.ack = segment.seq + 1;
	say(&client, TCP_ACK, "");
	assert_quiet();
	return client;
}

static void request(struct client *client, const char *text)
{
	say(client, TCP_ACK | TCP_PSH, text);
	client->seq += (uint32_t)strlen(text);
}

/* Take a segment in order. */
static void accept_segment(struct client *client, const struct tcp_segment *segment)
{
	assert_int_equal(segment->seq, client->ack);
	assert_int_equal(segment->ack, client->seq);
	assert_int_equal(buffer_append(&client->got, segment->data, segment->size), 0);
	client->ack += (uint32_t)segment->size + (segment->flags & TCP_FIN ? 1 : 0);
}

/* Whether all of an answer has come. */
static bool is_complete(const struct client *client)
{
	const char *end = client->got.data ? strstr(client->got.data, "\r\n\r\n") : NULL;
	const char *length = end ? strstr(client->got.data, "Content-Length: ") : NULL;

	return length &&
	       strtoul(length + 16, NULL, 10) == client->got.size - (size_t)(end + 4 - client->got.data);
}

static void assert_big(const struct client *client)
{
	assert_true(is_complete(client));
	assert_int_equal(strlen(strstr(client->got.data, "\r\n\r\n") + 4), BIG);
}

static void assert_answer(struct client *client, const char *body)
{
	assert_true(is_complete(client));
	assert_string_equal(strstr(client->got.data, "\r\n\r\n") + 4, body);
	buffer_clear(&client->got);
}

/* --- ARP, IPv4 --- */

static void test_arp(void **state)
{
	static const uint8_t ask[] = {
		255, 255, 255, 255, 255, 255, 2, 0,  0, 0, 0, 9, 8, 6, 0, 1, 8, 0,   6,   4,   0,
		1,   2,   0,   0,   0,   0,   9, 10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 169, 254, 169, 254,
	};
	static const uint8_t reply[] = {
		2, 0, 0, 0,    0,    9,    6, 1,   0x23, 0x45, 0x67, 1, 8, 6, 0, 1, 8, 0,  6, 4, 0,
		2, 6, 1, 0x23, 0x45, 0x67, 1, 169, 254,  169,  254,  2, 0, 0, 0, 0, 9, 10, 0, 0, 2,
	};
	uint8_t frame[sizeof(ask)];
	uint8_t got[64];

	(void)state;
	assert_int_equal(peer->give(peer->context, got, sizeof(got)), 0);
	for (size_t size = 0; size < sizeof(ask); size++)
		assert_false(take(ask, size));
	assert_true(take(ask, sizeof(ask)));
	assert_int_equal(peer->give(peer->context, got, 57), 0);
	assert_int_equal(peer->give(peer->context, got, sizeof(got)), sizeof(reply));
	assert_memory_equal(got, reply, sizeof(reply));
	assert_int_equal(peer->give(peer->context, got, sizeof(got)), 0);
	memcpy(frame, ask, sizeof(ask));
	frame[41]--; /* somebody else's address */
	assert_false(take(frame, sizeof(frame)));
	memcpy(frame, ask, sizeof(ask));
	frame[21] = 2; /* a reply */
	assert_true(take(frame, sizeof(frame)));
	assert_int_equal(peer->give(peer->context, got, sizeof(got)), 0);
}

static void put_sum(uint8_t *at, unsigned sum)
{
	at[0] = (uint8_t)(sum >> 8);
	at[1] = (uint8_t)sum;
}

/* Each byte of the headers wrong in turn: either not ours, or swallowed without an answer. */
static void test_checksums(void **state)
{
	struct wire_ends ends = ends_of_guest();
	struct tcp_segment syn = { .source = 1000, .target = 80, .seq = 1, .flags = TCP_SYN, .mss = 1460 };
	uint8_t frame[128];
	size_t size = wire_write_tcp(frame, &ends, &syn);

	(void)state;
	for (size_t i = 14; i < size; i++) {
		bool address = i >= 30 && i < 34;

		frame[i] ^= 0x10;
		assert_int_equal(take(frame, size), !address);
		assert_quiet();
		frame[i] ^= 0x10;
	}
	for (size_t cut = 0; cut < size; cut++) {
		assert_int_equal(take(frame, cut), cut >= 34);
		assert_quiet();
	}
	/* What a driver leaves that lets the device complete the checksum. */
	put_sum(frame + 50, wire_fold(wire_sum(6 + 24, frame + 26, 8)));
	assert_true(take(frame, size));
	assert_true(give(&syn));
	assert_int_equal(syn.flags, TCP_SYN | TCP_ACK);
}

/* A fragment, other protocols, options that go over their end. */
static void test_odd_packets(void **state)
{
	struct wire_ends ends = ends_of_guest();
	struct tcp_segment syn = { .source = 1000, .target = 80, .seq = 1, .flags = TCP_SYN, .mss = 1460 };
	static const struct {
		size_t at;
		uint8_t value;
	} odd[] = { { 20, 0x20 }, { 21, 1 }, { 23, 17 }, { 55, 0 }, { 55, 1 }, { 55, 5 }, { 46, 0x40 } };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(odd); i++) {
		uint8_t frame[128];
		size_t size = wire_write_tcp(frame, &ends, &syn);

		frame[odd[i].at] = odd[i].value;
		frame[24] = frame[25] = frame[50] = frame[51] = 0;
		put_sum(frame + 24, ~(unsigned)wire_fold(wire_sum(0, frame + 14, 20)));
		put_sum(frame + 50,
		        ~(unsigned)wire_fold(wire_sum(wire_sum(6 + 24, frame + 26, 8), frame + 34, 24)));
		assert_true(take(frame, size));
		assert_quiet();
	}
}

/* --- TCP --- */

#define GET_A   "GET /a HTTP/1.1\r\n\r\n"
#define GET_BIG "GET /big HTTP/1.1\r\n\r\n"
#define LAST_A  "GET /a HTTP/1.1\r\nConnection: close\r\n\r\n"

/* Two requests in pieces on one connection; the guest ends it. */
static void test_requests(void **state)
{
	struct client client = open_connection(1000, 1460, 64000);
	struct tcp_segment segment;

	(void)state;
	request(&client, "GET /a HT");
	assert_true(give(&segment));
	assert_int_equal(segment.window, MMDS_REQUEST_MAX - 9);
	accept_segment(&client, &segment);
	request(&client, "TP/1.1\r\n\r\n" GET_A);
	assert_true(give(&segment));
	accept_segment(&client, &segment);
	assert_answer(&client, "x");
	assert_quiet();
	say(&client, TCP_ACK, "");
	assert_true(give(&segment)); /* the second, which waited in the buffer */
	accept_segment(&client, &segment);
	assert_answer(&client, "x");
	say(&client, TCP_ACK | TCP_FIN, "");
	client.seq++;
	assert_true(give(&segment));
	assert_int_equal(segment.flags, TCP_FIN | TCP_ACK);
	accept_segment(&client, &segment);
	say(&client, TCP_ACK, "");
	assert_quiet();
	assert_int_equal(peer->timeout(peer->context), -1);
	say(&client, TCP_ACK, ""); /* it is gone */
	assert_true(give(&segment));
	assert_int_equal(segment.flags, TCP_RST);
	assert_int_equal(segment.seq, client.ack);
	buffer_fini(&client.got);
}

/* The service ends it, with FIN right behind the answer; the guest's FIN is acknowledged. */
static void test_close(void **state)
{
	struct client client = open_connection(1000, 1460, 64000);
	struct tcp_segment segment;

	(void)state;
	request(&client, LAST_A);
	assert_true(give(&segment));
	accept_segment(&client, &segment);
	assert_answer(&client, "x");
	assert_true(give(&segment));
	assert_int_equal(segment.flags, TCP_FIN | TCP_ACK);
	accept_segment(&client, &segment);
	request(&client, "more that nobody reads");
	assert_true(give(&segment));
	accept_segment(&client, &segment);
	say(&client, TCP_ACK | TCP_FIN, "");
	client.seq++;
	assert_true(give(&segment));
	assert_int_equal(segment.flags, TCP_ACK);
	accept_segment(&client, &segment);
	say(&client, TCP_ACK, "");
	assert_true(give(&segment));
	assert_int_equal(segment.flags, TCP_RST);
	buffer_fini(&client.got);
}

static void test_transfer(void **state)
{
	static const struct {
		uint16_t mss, window;
		size_t size; /* of a full segment */
	} cases[] = {
		{ 1460, 65535, 1460 },  { 1460, 3000, 1460 }, { 0, 65535, 536 }, { 1, 65535, 48 },
		{ 65535, 65535, 1460 }, { 1460, 100, 100 },   { 1460, 7, 7 },
	};
	struct tcp_segment segment;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct client client = open_connection((uint16_t)(1000 + i), cases[i].mss, cases[i].window);
		size_t largest = 0;

		request(&client, GET_BIG);
		while (!is_complete(&client)) {
			size_t burst = 0;

			while (give(&segment)) {
				accept_segment(&client, &segment);
				burst += segment.size;
				largest = segment.size > largest ? segment.size : largest;
			}
			assert_in_range(burst, 1, cases[i].window);
			say(&client, TCP_ACK, "");
		}
		assert_big(&client);
		assert_int_equal(largest, cases[i].size);
		buffer_fini(&client.got);
	}
}

/* Every third frame of either side is lost: the timer brings it all over. */
static void test_loss(void **state)
{
	struct client client = open_connection(1000, 1000, 5000);
	struct tcp_segment segment;
	unsigned count = 0;

	(void)state;
	request(&client, GET_BIG);
	for (unsigned round = 0; round < 1000 && !is_complete(&client); round++) {
		while (give(&segment)) {
			if (++count % 3 != 0 && segment.seq == client.ack)
				accept_segment(&client, &segment);
			if (++count % 3 != 0)
				say(&client, TCP_ACK, "");
		}
		if (peer->timeout(peer->context) > 0)
			now += peer->timeout(peer->context) * 1000;
	}
	assert_big(&client);
	buffer_fini(&client.got);
}

/* Three acknowledgements of the same: sent again without waiting for the timer, once. */
static void test_duplicates(void **state)
{
	struct client client = open_connection(1000, 1000, 5000);
	struct tcp_segment segment;

	(void)state;
	request(&client, GET_BIG);
	for (unsigned i = 0; i < 5; i++)
		assert_true(give(&segment));
	assert_quiet();
	for (unsigned i = 0; i < 2; i++)
		say(&client, TCP_ACK, "");
	/* The window that came with the request is the same: two say nothing yet. */
	assert_quiet();
	say(&client, TCP_ACK, "");
	for (unsigned i = 0; i < 5; i++) {
		assert_true(give(&segment));
		assert_int_equal(segment.seq, client.ack + 1000 * i);
	}
	for (unsigned i = 0; i < 9; i++)
		say(&client, TCP_ACK, "");
	assert_quiet();
}

static void test_retransmission(void **state)
{
	struct client client = make_client(1000, 64000);
	struct tcp_segment segment;

	(void)state;
	send_syn(&client, 1460);
	assert_int_equal(peer->timeout(peer->context), -1);
	assert_true(give(&segment));
	assert_int_equal(peer->timeout(peer->context), 1200);
	now += 1199999;
	assert_quiet();
	now += 1;
	assert_int_equal(peer->timeout(peer->context), 10);
	assert_true(give(&segment));
	assert_int_equal(segment.flags, TCP_SYN | TCP_ACK);
	send_syn(&client, 1460); /* theirs again: our answer was lost */
	client.seq++;
	client.ack = segment.seq + 1;
	say(&client, TCP_ACK, ""); /* or was not */
	assert_quiet();
	request(&client, GET_A);
	assert_true(give(&segment));
	for (unsigned i = 0; i < TCP_RETRIES_MAX; i++) {
		assert_quiet();
		now += TCP_RTO_US;
		assert_true(give(&segment));
		assert_int_equal(segment.seq, client.ack);
		assert_true(segment.size > 0);
	}
	now += TCP_RTO_US;
	assert_true(give(&segment));
	assert_int_equal(segment.flags, TCP_RST | TCP_ACK);
	assert_quiet();
	assert_int_equal(peer->timeout(peer->context), -1);
}

/* A closed window is asked again and again, one byte each, and nothing is lost when it opens. */
static void test_closed_window(void **state)
{
	struct client client = open_connection(1000, 1460, 0);
	struct tcp_segment segment;

	(void)state;
	request(&client, GET_A);
	assert_true(give(&segment));
	assert_int_equal(segment.size, 0);
	for (unsigned i = 0; i < 3 * TCP_RETRIES_MAX; i++) {
		assert_quiet();
		assert_in_range(peer->timeout(peer->context), 10, 1200);
		now += TCP_RTO_US;
		assert_true(give(&segment));
		assert_int_equal(segment.size, 1);
		assert_int_equal(segment.seq, client.ack);
		say(&client, TCP_ACK, "");
	}
	client.window = 1000;
	say(&client, TCP_ACK, "");
	while (give(&segment))
		accept_segment(&client, &segment);
	assert_answer(&client, "x");
	buffer_fini(&client.got);
}

/* What comes out of order is not kept, what comes twice not taken twice, what was never sent not
 * acknowledged. */
static void test_order(void **state)
{
	struct client client = open_connection(1000, 1460, 64000);
	struct client other = client;
	struct tcp_segment segment;

	(void)state;
	other.seq += 4;
	say(&other, TCP_ACK, "/a HTTP/1.1\r\n\r\n");
	assert_true(give(&segment));
	assert_int_equal(segment.ack, client.seq);
	other.seq += 100000;
	say(&other, TCP_ACK, "far beyond");
	assert_true(give(&segment));
	assert_int_equal(segment.ack, client.seq);
	other = client;
	request(&client, "GET /a ");
	say(&other, TCP_ACK, "GET /");
	say(&other, TCP_ACK, "GET /a HTTP/1.1\r\n\r\n");
	client.seq = other.seq + (uint32_t)strlen(GET_A);
	assert_true(give(&segment));
	accept_segment(&client, &segment);
	assert_answer(&client, "x");
	other = client;
	other.ack += 1;
	say(&other, TCP_ACK, "GET");
	assert_true(give(&segment));
	assert_int_equal(segment.ack, client.seq);
	assert_int_equal(segment.size, 0);
	say(&client, TCP_ACK, "");
	assert_quiet();
	buffer_fini(&client.got);
}

/* A guest that asks whether we are still there, with what we know already. */
static void test_keep_alive(void **state)
{
	struct client client = open_connection(1000, 1460, 64000);
	struct client old = client;
	struct tcp_segment segment;

	(void)state;
	old.seq--;
	say(&old, TCP_ACK, "");
	assert_true(give(&segment));
	assert_int_equal(segment.flags, TCP_ACK);
	assert_int_equal(segment.seq, client.ack);
	assert_int_equal(segment.ack, client.seq);
	assert_quiet();
}

/* The guest closes its side before it was answered: it gets all answers that it asked for. */
static void test_half_closed(void **state)
{
	struct client client = open_connection(1000, 1460, 64000);
	struct tcp_segment segment;

	(void)state;
	say(&client, TCP_ACK | TCP_FIN, GET_A GET_A);
	client.seq += (uint32_t)strlen(GET_A GET_A) + 1;
	for (unsigned i = 0; i < 2; i++) {
		assert_true(give(&segment));
		accept_segment(&client, &segment);
		assert_answer(&client, "x");
		say(&client, TCP_ACK, "");
	}
	assert_true(give(&segment));
	assert_int_equal(segment.flags, TCP_FIN | TCP_ACK);
	buffer_fini(&client.got);
}

/* Nobody else has our address. */
static void test_own_address(void **state)
{
	struct wire_ends ends = { .source = SERVICE, .target = SERVICE };
	struct tcp_segment syn = { .source = 80, .target = 80, .seq = 1, .flags = TCP_SYN };
	uint8_t frame[128];

	(void)state;
	assert_true(take(frame, wire_write_tcp(frame, &ends, &syn)));
	assert_quiet();
}

/* More than a request may have, and a window that is heeded until then. */
static void test_too_long(void **state)
{
	struct client client = open_connection(1000, 1460, 64000);
	struct tcp_segment segment;
	char piece[1001];

	(void)state;
	memset(piece, 'a', sizeof(piece) - 1);
	piece[1000] = '\0';
	for (unsigned i = 0; i < 4; i++) {
		request(&client, piece);
		assert_true(give(&segment));
		assert_int_equal(segment.flags, TCP_ACK);
		assert_int_equal(segment.ack, client.seq);
	}
	assert_int_equal(segment.window, 96);
	request(&client, piece);
	assert_true(give(&segment));
	assert_int_equal(segment.flags, TCP_RST | TCP_ACK);
	say(&client, TCP_ACK, "");
	assert_true(give(&segment));
	assert_int_equal(segment.flags, TCP_RST);
}

static void test_resets(void **state)
{
	struct client client = open_connection(1000, 1460, 64000);
	struct client other = client;
	struct tcp_segment segment;

	(void)state;
	other.seq += 5;
	say(&other, TCP_RST, ""); /* not exactly where we are: might be forged */
	assert_true(give(&segment));
	assert_int_equal(segment.flags, TCP_ACK);
	other.seq -= 50000;
	say(&other, TCP_RST, "");
	assert_quiet();
	send_syn(&other, 1460); /* a guest that began anew */
	assert_true(give(&segment));
	assert_int_equal(segment.flags, TCP_ACK);
	assert_int_equal(segment.ack, client.seq);
	say(&client, TCP_RST, "");
	assert_quiet();
	client = open_connection(1000, 1460, 64000);
	other = make_client(1001, 100);
	send_syn(&other, 1460);
	assert_true(give(&segment));
	other.seq++;
	other.ack = segment.seq + 2; /* not what we said */
	say(&other, TCP_ACK, "");
	assert_true(give(&segment));
	assert_int_equal(segment.flags & TCP_RST, TCP_RST);
	assert_int_equal(segment.seq, other.ack);
	/* No connection: RST where it is taken, none for an RST. */
	other.port = 2000;
	say(&other, TCP_FIN, "abc");
	assert_true(give(&segment));
	assert_int_equal(segment.flags, TCP_RST | TCP_ACK);
	assert_int_equal(segment.ack, other.seq + 4);
	say(&other, TCP_RST, "");
	assert_quiet();
}

static void test_other_port(void **state)
{
	struct tcp_segment syn = { .source = 1000, .target = 81, .seq = 5, .flags = TCP_SYN };
	struct tcp_segment segment;

	(void)state;
	for (unsigned i = 0; i < 200; i++)
		send_segment(&syn);
	for (unsigned i = 0; i < 100; i++) {
		assert_true(give(&segment));
		assert_int_equal(segment.flags, TCP_RST | TCP_ACK);
		assert_int_equal(segment.source, 81);
		assert_int_equal(segment.ack, 6);
	}
	assert_quiet();
}

/* 30 at once, in turn; one more is refused until one has been silent for long. */
static void test_many(void **state)
{
	struct client clients[CLIENTS];
	struct client more = make_client(5000, 64000);
	struct tcp_segment segment;
	uint16_t last = 0;

	(void)state;
	for (uint16_t i = 0; i < CLIENTS - 1; i++)
		clients[i] = open_connection((uint16_t)(1000 + i), 1460, 64000);
	send_syn(&more, 1460);
	assert_true(give(&segment));
	assert_int_equal(segment.flags, TCP_RST | TCP_ACK);
	for (unsigned i = 0; i < CLIENTS - 1; i++)
		request(&clients[i], GET_BIG);
	while (give(&segment)) {
		assert_int_not_equal(segment.target, last);
		last = segment.target;
		accept_segment(&clients[last - 1000], &segment);
		say(&clients[last - 1000], TCP_ACK, "");
	}
	for (unsigned i = 0; i < CLIENTS - 1; i++) {
		assert_big(&clients[i]);
		buffer_fini(&clients[i].got);
	}
	now += 11000000;
	for (unsigned i = 0; i < CLIENTS - 2; i++)
		say(&clients[i], TCP_ACK, "");
	(void)open_connection(5000, 1460, 64000);
	say(&clients[CLIENTS - 2], TCP_ACK, "");
	assert_true(give(&segment));
	assert_int_equal(segment.flags, TCP_RST);
	assert_int_equal(segment.target, 1000 + CLIENTS - 2);
}

/* A device with little room gets short segments. */
static void test_little_room(void **state)
{
	struct client client = open_connection(1000, 1460, 64000);
	uint8_t frame[100];

	(void)state;
	request(&client, GET_BIG);
	assert_int_equal(peer->give(peer->context, frame, WIRE_HEADERS), 0);
	assert_int_equal(peer->give(peer->context, frame, sizeof(frame)), sizeof(frame));
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_arp),           TEST(test_checksums),  TEST(test_odd_packets),
		TEST(test_requests),      TEST(test_close),      TEST(test_transfer),
		TEST(test_loss),          TEST(test_duplicates), TEST(test_retransmission),
		TEST(test_closed_window), TEST(test_order),      TEST(test_too_long),
		TEST(test_resets),        TEST(test_other_port), TEST(test_many),
		TEST(test_little_room),   TEST(test_keep_alive), TEST(test_half_closed),
		TEST(test_own_address),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
