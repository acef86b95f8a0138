/*
 * Fuzz the metadata service as a hostile guest: frames of any content, segments that are right but for what
 * one byte says, HTTP in any pieces, time that passes, a device with little room. Each command is a byte that
 * says what, and its operands. Connections know where they are, so that the input need not guess sequence
 * numbers.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "fuzz.h"
#include "vmm/mmds/tcp.h"

#define SERVICE    0xa9fea9feu /* 169.254.169.254 */
#define GUEST      0x0a000002u
#define CLIENTS    4
#define FRAME_MAX  65562
#define MANY       64 /* frames that one command takes */
#define FIRST_PORT 1000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The guest's end of a connection. */
struct client {
	uint32_t seq;
	uint32_t ack;
};

static struct {
	struct input input;
	struct mmds *mmds;
	struct net_peer *peer;
	struct client clients[CLIENTS];
} guest;

static int64_t now;

static int64_t fake_clock(void)
{
	return now;
}

static const char *const texts[] = {
	"GET / HTTP/1.1\r\n\r\n",
	"GET /latest/meta-data/a HTTP/1.0\r\nAccept: application/json\r\n\r\n",
	"GET /big HTTP/1.1\r\nConnection: close\r\n\r\n",
	"PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: 60\r\n\r\n",
	"PUT /x HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
	"X-metadata-token: ",
	"\r\n\r\n",
	"GET /list/1",
};

/* In memory of exactly its size, for ASan. */
static void take_frame(const void *frame, size_t size)
{
	void *copy = malloc(size ? size : 1);

	if (!copy)
		abort();
	if (size)
		memcpy(copy, frame, size);
	(void)guest.peer->take(guest.peer->context, copy, size);
	free(copy);
}

static void raw_frame(void)
{
	size_t size = take(&guest.input, 1);
	uint8_t frame[256];

	for (size_t i = 0; i < size; i++)
		frame[i] = (uint8_t)take(&guest.input, 1);
	take_frame(frame, size);
}

static void send_segment(struct tcp_segment *segment, uint32_t odd)
{
	static uint8_t frame[FRAME_MAX];
	struct wire_ends ends = { .source = GUEST, .target = SERVICE };
	size_t size = wire_write_tcp(frame, &ends, segment);

	if (odd & 1)
		frame[take(&guest.input, 1) % size] ^= (uint8_t)take(&guest.input, 1);
	if (odd & 2) {
		/* An odd header with a checksum that is right: left to the device. */
		uint16_t sum = wire_fold(wire_sum(6 + (uint32_t)size - 34, frame + 26, 8));

		frame[46] = (uint8_t)take(&guest.input, 1);
		if (size > 55)
			frame[55] = (uint8_t)take(&guest.input, 1);
		frame[50] = (uint8_t)(sum >> 8);
		frame[51] = (uint8_t)sum;
	}
	if (odd & 4)
		size -= take(&guest.input, 1) % size;
	take_frame(frame, size);
}

static void segment(void)
{
	static char bytes[0xff00];
	uint32_t who = take(&guest.input, 1);
	uint32_t odd = take(&guest.input, 1);
	struct client *client = &guest.clients[who % CLIENTS];
	struct tcp_segment made = {
		.source = (uint16_t)(FIRST_PORT + who),
		.target = 80,
		.seq = client->seq,
		.ack = client->ack,
		.flags = take(&guest.input, 1) & 0x1f,
		.window = (uint16_t)(take(&guest.input, 1) * 257),
	};

	if (made.flags & TCP_SYN)
		made.mss = (uint16_t)(take(&guest.input, 1) * 16);
	made.data = (const uint8_t *)bytes;
	if (odd & 8)
		made.size = take(&guest.input, 1) * 255;
	if (odd & 16) {
		const char *text = texts[take(&guest.input, 1) % ARRAY_SIZE(texts)];

		made.data = (const uint8_t *)text;
		made.size = strlen(text);
	}
	if (odd & 32)
		made.seq += take(&guest.input, 1) * 97 - 97 * 128;
	if (odd & 64)
		made.ack += take(&guest.input, 1) * 97 - 97 * 128;
	if (!(odd & 128))
		client->seq +=
		        (uint32_t)made.size + (made.flags & TCP_SYN ? 1 : 0) + (made.flags & TCP_FIN ? 1 : 0);
	send_segment(&made, odd);
}

/* Read what comes, and hold it to what a receiver may expect. */
static void receive(void)
{
	uint32_t count = take(&guest.input, 1);
	size_t room = count & 128 ? take(&guest.input, 1) : 1526;
	bool heed = !(count & 64);

	for (uint32_t i = 0; i < count % MANY + 1; i++) {
		uint8_t *frame = malloc(room ? room : 1);
		struct wire_ends ends;
		struct tcp_segment got;
		size_t size = guest.peer->give(guest.peer->context, frame, room);

		if (!frame || size > room)
			abort();
		if (size > WIRE_ARP_SIZE) {
			if (wire_read(frame, size, GUEST, &ends, &got) != WIRE_TCP)
				abort();
			if (heed && (uint16_t)(got.target - FIRST_PORT) < CLIENTS)
				guest.clients[got.target - FIRST_PORT].ack =
				        got.seq + (uint32_t)got.size +
				        (got.flags & (TCP_SYN | TCP_FIN) ? 1 : 0);
		}
		free(frame);
		if (size == 0)
			break;
	}
}

static void pass_time(void)
{
	int timeout = guest.peer->timeout(guest.peer->context);
	uint32_t kind = take(&guest.input, 1);

	if (timeout < -1 || timeout > 1200)
		abort();
	now += kind & 1 ? (int64_t)kind * 100000 : timeout * 1000;
}

static void configure(void)
{
	struct mmds_config config = MMDS_CONFIG_INIT;
	uint32_t kind = take(&guest.input, 1);

	config.version = kind & 1 ? MMDS_V2 : MMDS_V1;
	config.imds_compat = kind & 2;
	(void)mmds_configure(guest.mmds, &config, NULL);
	if (kind & 4)
		(void)mmds_patch(guest.mmds, "{\"latest\":{\"meta-data\":{\"a\":null}}}", 36, NULL);
}

/* The whole input as what one connection sends, in pieces. */
static void http(void)
{
	cleanup_buffer struct buffer answer = BUFFER_INIT;
	const char *data = (const char *)guest.input.data;
	bool close = false;
	ssize_t taken = 1;

	while (guest.input.size && taken > 0 && !close) {
		char *copy = malloc(guest.input.size);

		if (!copy)
			abort();
		memcpy(copy, data, guest.input.size);
		taken = mmds_http_answer(guest.mmds, copy, guest.input.size, &answer, &close);
		if (taken > (ssize_t)guest.input.size)
			abort();
		free(copy);
		if (taken > 0) {
			data += taken;
			guest.input.size -= (size_t)taken;
		}
	}
	guest.input.size = 0;
}

static void step(void)
{
	switch (take(&guest.input, 1) % 8) {
	case 0:
		raw_frame();
		break;
	case 1:
		pass_time();
		break;
	case 2:
		configure();
		break;
	case 3:
	case 4:
		receive();
		break;
	case 5:
		http();
		break;
	default:
		segment();
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t mac[6] = { 2, 0, 0, 0, 0, 1 };
	static char document[9000];
	int length = snprintf(
	        document, sizeof(document),
	        "{\"latest\":{\"meta-data\":{\"a\":\"b\",\"c\":{}}},\"list\":[1,\"x\"],\"big\":\"%08000d\"}",
	        1);

	now = 1;
	memset(&guest, 0, sizeof(guest));
	guest.input = (struct input){ data, size };
	guest.mmds = mmds_new(0, fake_clock, NULL);
	guest.peer = guest.mmds ? mmds_peer_new(guest.mmds, mac, NULL) : NULL;
	if (!guest.peer || mmds_put(guest.mmds, document, (size_t)length, NULL) < 0)
		abort();
	while (guest.input.size)
		step();
	mmds_peer_free(guest.peer);
	mmds_free(guest.mmds);
	return 0;
}
