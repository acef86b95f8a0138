/* Unit tests of the network device: a driver made by hand, a socket or a real tap on the other side. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>

#include "net_driver.h"
#include "net_tap.h"
#include "remake.h"

#define KIB          1024ull
#define MEASURE_US   2000000
#define TOLERANCE_PC 5
#define FRAME        1000u /* bytes with header, where any size does */

static void *run_loop(void *context)
{
	(void)loop_run(context);
	return NULL;
}

static void make_net(void *context)
{
	struct fixture *fixture = context;
	int ends[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
	if (fixture->tap >= 0)
		close(fixture->tap);
	fixture->tap = ends[0];
	fixture->device = net_new_on(&fixture->config, ends[1], false, fixture->peer, &fixture->memory,
	                             fixture->loop, NULL);
	assert_non_null(fixture->device);
}

static struct fixture *new_fixture(void)
{
	struct fixture *fixture = calloc(1, sizeof(*fixture));

	fixture->ram = calloc(1, MEMORY_SIZE);
	fixture->memory = (struct guest_memory){ .regions = { { MEMORY_BASE, MEMORY_SIZE, fixture->ram } },
		                                 .count = 1 };
	fixture->loop = loop_new(NULL);
	assert_non_null(fixture->loop);
	fixture->tap = -1;
	fixture->config =
	        (struct net_config){ .id = "eth0", .host_dev_name = "tap0", .has_mac = true, .mtu = 1400 };
	memcpy(fixture->config.mac, guest_mac, sizeof(guest_mac));
	return fixture;
}

static void start(struct fixture *fixture)
{
	assert_int_equal(pthread_create(&fixture->thread, NULL, run_loop, fixture->loop), 0);
}

static int setup(void **state)
{
	struct fixture *fixture = new_fixture();

	make_net(fixture);
	start(fixture);
	*state = fixture;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *fixture = *state;

	loop_stop(fixture->loop);
	(void)pthread_join(fixture->thread, NULL);
	virtio_free(fixture->device);
	loop_free(fixture->loop);
	if (fixture->tap >= 0)
		close(fixture->tap);
	free(fixture->ram);
	free(fixture);
	return 0;
}

/* Wait for the next frame that leaves the device. */
static size_t tap_take(struct fixture *fixture, unsigned char *frame, size_t room)
{
	struct pollfd wait = { .fd = fixture->tap, .events = POLLIN };
	ssize_t size;

	assert_int_equal(poll(&wait, 1, 60000), 1);
	size = recv(fixture->tap, frame, room, 0);
	assert_true(size > 0);
	return (size_t)size;
}

static void tap_give(struct fixture *fixture, const void *frame, size_t size)
{
	assert_int_equal(send(fixture->tap, frame, size, 0), size);
}

static void expect_sent(struct fixture *fixture, const unsigned char *frame, size_t size)
{
	static unsigned char got[NET_FRAME_MAX + 1];

	assert_int_equal(tap_take(fixture, got, sizeof(got)), size);
	assert_memory_equal(got, frame, size);
}

static void test_what_it_is(void **state)
{
	struct fixture *fixture = *state;
	unsigned char space[12];

	assert_int_equal(reg_read(fixture, 0x008), 1);
	reg_write(fixture, 0x014, 0);
	assert_int_equal(reg_read(fixture, 0x010) & ~(1u << 29), 0xdda3 | 1u << 3);
	for (unsigned i = 0; i < sizeof(space); i += 4)
		virtio_mmio_read(fixture->device, 0x100 + i, space + i, 4);
	assert_memory_equal(space, guest_mac, 6);
	assert_int_equal(space[6], 1);
	assert_int_equal(space[10] | space[11] << 8, 1400);
	virtio_mmio_read(fixture->device, 0x10c, space, 4);
	assert_memory_equal(space, "\0\0\0\0", 4);
}

static void test_bad_configuration(void **state)
{
	struct fixture *fixture = *state;
	struct net_config config = fixture->config;
	struct error err;

	config.mtu = 67;
	assert_null(net_new(&config, NULL, &fixture->memory, fixture->loop, &err));
	assert_non_null(strstr(err.message, "67"));
	config.mtu = 65536;
	assert_null(net_new(&config, NULL, &fixture->memory, fixture->loop, &err));
	config.mtu = 0;
	config.host_dev_name = "a-name-of-16-chr";
	assert_null(net_new(&config, NULL, &fixture->memory, fixture->loop, &err));
	assert_non_null(strstr(err.message, "a-name-of-16-chr"));
	config.host_dev_name = NULL;
	assert_null(net_new(&config, NULL, &fixture->memory, fixture->loop, &err));
}

static void test_transmit(void **state)
{
	struct fixture *fixture = *state;
	uint64_t gpa = TX_DATA + TX_SIZE;
	unsigned char *frame;

	drive(fixture, FEATURES_ALL);
	frame = tx_frame(fixture, 0, FRAME, 3);
	offer(fixture, TX, 0);
	/* Another in pieces: within the header, the addresses, and the rest. */
	make_frame(at(fixture, gpa), FRAME, 77);
	set_desc(fixture, TX, 1, (struct desc){ gpa, 5, DESC_NEXT, 2 });
	set_desc(fixture, TX, 2, (struct desc){ gpa + 5, 10, DESC_NEXT, 3 });
	set_desc(fixture, TX, 3, (struct desc){ gpa + 15, 20, DESC_NEXT, 4 });
	set_desc(fixture, TX, 4, (struct desc){ gpa + 35, FRAME - 35, 0, 0 });
	offer(fixture, TX, 1);
	kick(fixture, TX);
	expect_sent(fixture, frame, FRAME);
	expect_sent(fixture, at(fixture, gpa), FRAME);
	assert_int_equal(wait_used(fixture, TX).head, 0);
	assert_int_equal(wait_used(fixture, TX).head, 1);
	/* The smallest that there is. */
	frame = tx_frame(fixture, 0, HEADER_SIZE + NET_ETHERNET, 1);
	offer(fixture, TX, 0);
	kick(fixture, TX);
	expect_sent(fixture, frame, HEADER_SIZE + NET_ETHERNET);
	assert_int_equal(wait_used(fixture, TX).head, 0);
	assert_int_equal(metric_of(fixture, "tx_packets_count"), 3);
	assert_int_equal(metric_of(fixture, "tx_bytes_count"), 2 * FRAME + 26);
}

/* Take a frame that the device put into receive buffers: its size, header included. */
static size_t rx_take(struct fixture *fixture, unsigned char *frame, unsigned *ret_buffers)
{
	size_t size = 0;
	unsigned buffers = 1;

	for (unsigned i = 0; i < buffers; i++) {
		struct used_element element = wait_used(fixture, RX);
		const unsigned char *data = at(fixture, RX_DATA + element.head * RX_SIZE);

		assert_true(element.length > 0 && element.length <= RX_SIZE);
		/* The buffers of a frame come at once: for all but the first there is nothing to wait for. */
		if (i == 0)
			buffers = data[10] | (unsigned)data[11] << 8;
		memcpy(frame + size, data, element.length);
		size += element.length;
	}
	*ret_buffers = buffers;
	return size;
}

static void test_receive(void **state)
{
	struct fixture *fixture = *state;
	unsigned char frame[FRAME];
	unsigned char got[2 * RX_SIZE];
	unsigned buffers;

	for (unsigned round = 0; round < 2; round++) {
		drive(fixture, round ? FEATURES_ALL : 0);
		make_frame(frame, sizeof(frame), 9);
		frame[10] = 0xff; /* must be overwritten */
		frame[0] = 2;     /* data valid: only for who takes checksums */
		offer_rx(fixture, 64);
		tap_give(fixture, frame, sizeof(frame));
		assert_int_equal(rx_take(fixture, got, &buffers), sizeof(frame));
		assert_int_equal(buffers, 1);
		assert_int_equal(got[0], round ? 2 : 0);
		assert_memory_equal(got + HEADER_SIZE, frame + HEADER_SIZE, sizeof(frame) - HEADER_SIZE);
	}
	/* Whatever is not for this driver: a runt, segments that it does not take, more than it has room for.
	 */
	drive(fixture, 0);
	offer_rx(fixture, 64);
	tap_give(fixture, frame, HEADER_SIZE + NET_ETHERNET - 1);
	frame[1] = 1;
	tap_give(fixture, frame, sizeof(frame));
	frame[0] = 1;
	frame[1] = 0;
	tap_give(fixture, frame, sizeof(frame));
	memset(got, 0, sizeof(got));
	tap_give(fixture, got, RX_SIZE + 1);
	make_frame(frame, sizeof(frame), 10);
	tap_give(fixture, frame, sizeof(frame));
	assert_int_equal(rx_take(fixture, got, &buffers), sizeof(frame));
	assert_memory_equal(got + HEADER_SIZE, frame + HEADER_SIZE, sizeof(frame) - HEADER_SIZE);
	assert_int_equal(metric_of(fixture, "rx_fails"), 4);
	assert_int_equal(metric_of(fixture, "rx_packets_count"), 3);
}

static void test_mergeable(void **state)
{
	static unsigned char frame[NET_FRAME_MAX];
	static unsigned char got[NET_FRAME_MAX + RX_SIZE];
	struct fixture *fixture = *state;
	unsigned buffers;

	drive(fixture, FEATURES_ALL);
	offer_rx(fixture, QUEUE_SIZE);
	for (unsigned round = 0; round < 20; round++) {
		size_t size = round % 2 ? FRAME : sizeof(frame);

		make_frame(frame, size, round);
		if (size > FRAME)
			frame[1] = 1;
		tap_give(fixture, frame, size);
		assert_int_equal(rx_take(fixture, got, &buffers), size);
		assert_int_equal(buffers, (size + RX_SIZE - 1) / RX_SIZE);
		assert_int_equal(got[1], frame[1]);
		assert_memory_equal(got + HEADER_SIZE, frame + HEADER_SIZE, size - HEADER_SIZE);
		offer_rx(fixture, buffers);
	}
	assert_int_equal(metric_of(fixture, "rx_fails"), 0);
}

/* No frame is lost for want of buffers, and nobody spins meanwhile. */
static void test_no_buffers(void **state)
{
	struct fixture *fixture = *state;
	unsigned char frame[FRAME];
	unsigned char got[RX_SIZE];
	unsigned buffers;
	uint64_t events;

	drive(fixture, NET_F_MRG_RXBUF);
	for (unsigned i = 0; i < 10; i++) {
		make_frame(frame, sizeof(frame), i);
		tap_give(fixture, frame, sizeof(frame));
	}
	for (int i = 0; i < 60000 && metric_of(fixture, "no_rx_avail_buffer") == 0; i++)
		(void)usleep(1000);
	(void)usleep(50000);
	events = metric_of(fixture, "rx_tap_event_count");
	(void)usleep(100000);
	assert_int_equal(metric_of(fixture, "rx_tap_event_count"), events);
	assert_true(metric_of(fixture, "no_rx_avail_buffer") > 0);
	for (unsigned i = 0; i < 10; i++) {
		offer_rx(fixture, 1 + i % 3);
		make_frame(frame, sizeof(frame), i);
		assert_int_equal(rx_take(fixture, got, &buffers), sizeof(frame));
		assert_memory_equal(got + HEADER_SIZE, frame + HEADER_SIZE, sizeof(frame) - HEADER_SIZE);
	}
	/* A driver of large segments must have room for the largest before anything is read. */
	drive(fixture, FEATURES_ALL);
	offer_rx(fixture, 10);
	tap_give(fixture, frame, sizeof(frame));
	(void)usleep(50000);
	assert_int_equal(metric_of(fixture, "rx_packets_count"), 10);
	offer_rx(fixture, 40);
	assert_int_equal(rx_take(fixture, got, &buffers), sizeof(frame));
	assert_int_equal(metric_of(fixture, "rx_fails"), 0);
}

/* A tap that is full holds frames up, and loses none. */
static void test_blocked(void **state)
{
	struct fixture *fixture = *state;
	unsigned char frame[TX_SIZE];
	unsigned sent = 0;

	drive(fixture, 0);
	for (unsigned round = 0; round < 4; round++) {
		for (unsigned i = 0; i < QUEUE_SIZE; i++) {
			(void)tx_frame(fixture, i, TX_SIZE, round * QUEUE_SIZE + i);
			offer(fixture, TX, (uint16_t)i);
		}
		kick(fixture, TX);
		(void)usleep(20000);
		for (unsigned i = 0; i < QUEUE_SIZE; i++, sent++) {
			make_frame(frame, sizeof(frame), sent);
			expect_sent(fixture, frame, sizeof(frame));
			assert_int_equal(wait_used(fixture, TX).head, i);
		}
	}
	assert_int_equal(metric_of(fixture, "tx_packets_count"), sent);
	assert_int_equal(metric_of(fixture, "tx_fails"), 0);
}

/* --- event indices (2.7.10) --- */

/* Kick as Linux does: only if the device asked for one at an entry that is new. */
static void kick_if_wanted(struct fixture *fixture, unsigned queue, uint16_t before)
{
	const uint16_t *event = (const uint16_t *)((char *)at(fixture, USED(queue)) + 4 + 8 * QUEUE_SIZE);
	uint16_t now = fixture->offered[queue];

	if ((uint16_t)(now - __atomic_load_n(event, __ATOMIC_SEQ_CST) - 1) < (uint16_t)(now - before))
		kick(fixture, queue);
}

/* A driver that kicks no more than it must: batches, and waits for buffers, must not get stuck. */
static void test_event_index(void **state)
{
	struct fixture *fixture = *state;
	unsigned char frame[FRAME];
	struct used_element element;
	unsigned sent = 0;
	unsigned received = 0;
	int64_t end_us = time_monotonic_us() + 120000000;

	drive(fixture, NET_F_MRG_RXBUF | 1u << 29);
	make_frame(frame, sizeof(frame), 1);
	/* So small that the socket takes a whole batch. */
	for (unsigned i = 0; i < QUEUE_SIZE; i++) {
		(void)tx_frame(fixture, i, 60, i);
		offer(fixture, TX, (uint16_t)i);
	}
	kick(fixture, TX);
	while ((sent < 5000 || received < 5000) && time_monotonic_us() < end_us) {
		uint16_t before = fixture->offered[TX];

		while (recv(fixture->tap, frame, sizeof(frame), 0) > 0)
			sent++;
		while (next_used(fixture, TX, &element))
			offer(fixture, TX, (uint16_t)element.head);
		kick_if_wanted(fixture, TX, before);
		while (send(fixture->tap, frame, sizeof(frame), 0) > 0)
			continue;
		while (next_used(fixture, RX, &element))
			received++;
		before = fixture->offered[RX];
		while ((uint16_t)(fixture->offered[RX] - fixture->seen[RX]) < 8) {
			uint16_t index = fixture->offered[RX] % QUEUE_SIZE;

			set_desc(fixture, RX, index,
			         (struct desc){ RX_DATA + index * RX_SIZE, RX_SIZE, DESC_WRITE, 0 });
			offer(fixture, RX, index);
		}
		kick_if_wanted(fixture, RX, before);
	}
	assert_true(sent >= 5000);
	assert_true(received >= 5000);
}

/* --- hostile drivers --- */

static void test_malformed(void **state)
{
	struct fixture *fixture = *state;
	unsigned char *frame;

	drive(fixture, NET_F_CSUM);
	/* Header only; addresses cut short; too large; writable; segments and sums that were not agreed upon.
	 */
	set_desc(fixture, TX, 0, (struct desc){ TX_DATA, HEADER_SIZE, 0, 0 });
	offer(fixture, TX, 0);
	set_desc(fixture, TX, 1, (struct desc){ TX_DATA, HEADER_SIZE + NET_ETHERNET - 1, 0, 0 });
	offer(fixture, TX, 1);
	set_desc(fixture, TX, 2, (struct desc){ TX_DATA, NET_FRAME_MAX + 1, 0, 0 });
	offer(fixture, TX, 2);
	set_desc(fixture, TX, 3, (struct desc){ TX_DATA, FRAME, DESC_WRITE, 0 });
	offer(fixture, TX, 3);
	frame = tx_frame(fixture, 4, FRAME, 1);
	frame[1] = 1;
	offer(fixture, TX, 4);
	frame = tx_frame(fixture, 5, FRAME, 1);
	frame[1] = 0x81;
	offer(fixture, TX, 5);
	frame = tx_frame(fixture, 6, FRAME, 2);
	frame[0] = 1;
	offer(fixture, TX, 6);
	kick(fixture, TX);
	expect_sent(fixture, frame, FRAME);
	for (unsigned i = 0; i < 7; i++)
		assert_int_equal(wait_used(fixture, TX).head, i);
	assert_int_equal(metric_of(fixture, "tx_malformed_frames"), 6);
	assert_int_equal(metric_of(fixture, "tx_packets_count"), 1);
}

static void test_broken(void **state)
{
	static const struct {
		unsigned queue;
		struct desc desc;
	} rows[] = {
		{ TX, { TX_DATA, 0, 0, 0 } },                                      /* of no length */
		{ TX, { MEMORY_BASE + MEMORY_SIZE - 8, 100, 0, 0 } },              /* beyond memory */
		{ TX, { TX_DATA, 100, DESC_NEXT, 0 } },                            /* a loop */
		{ RX, { RX_DATA, 0, DESC_WRITE, 0 } },                             /* of no length */
		{ RX, { RX_DATA, HEADER_SIZE - 1, DESC_WRITE, 0 } },               /* no room for a header */
		{ RX, { RX_DATA, RX_SIZE, 0, 0 } },                                /* not writable */
		{ RX, { MEMORY_BASE + MEMORY_SIZE - 8, RX_SIZE, DESC_WRITE, 0 } }, /* beyond memory */
	};
	struct fixture *fixture = *state;
	unsigned char frame[FRAME];
	unsigned char got[RX_SIZE];
	unsigned buffers;

	make_frame(frame, sizeof(frame), 5);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		drive(fixture, FEATURES_ALL);
		set_desc(fixture, rows[i].queue, 0, rows[i].desc);
		offer(fixture, rows[i].queue, 0);
		kick(fixture, rows[i].queue);
		wait_broken(fixture);
		/* Frames that come meanwhile wait in the tap; a reset makes it well again. */
		tap_give(fixture, frame, sizeof(frame));
		drive(fixture, FEATURES_ALL);
		offer_rx(fixture, 100);
		assert_int_equal(rx_take(fixture, got, &buffers), sizeof(frame));
	}
}

static void test_spoofed(void **state)
{
	struct fixture *fixture = *state;
	unsigned char *frames[4];

	drive(fixture, 0);
	for (unsigned i = 0; i < 4; i++) {
		frames[i] = tx_frame(fixture, i, FRAME, i);
		frames[i][HEADER_SIZE + 11] ^= i < 3;
		offer(fixture, TX, (uint16_t)i);
	}
	kick(fixture, TX);
	for (unsigned i = 0; i < 4; i++)
		expect_sent(fixture, frames[i], FRAME);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(wait_used(fixture, TX).head, i);
	assert_int_equal(metric_of(fixture, "tx_spoofed_mac_count"), 3);
}

/* Traffic both ways from a thread of its own, until told to stop. */
struct traffic {
	int tap;
	atomic_bool stop;
};

static void *run_traffic(void *context)
{
	struct traffic *traffic = context;
	unsigned char frame[FRAME];
	unsigned char got[TX_SIZE];

	make_frame(frame, sizeof(frame), 1);
	while (!atomic_load(&traffic->stop)) {
		if (send(traffic->tap, frame, sizeof(frame), MSG_NOSIGNAL) < 0)
			(void)usleep(500);
		while (recv(traffic->tap, got, sizeof(got), 0) > 0)
			continue;
	}
	return NULL;
}

static void test_reset_under_traffic(void **state)
{
	struct fixture *fixture = *state;
	struct traffic traffic = { .tap = fixture->tap };
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, run_traffic, &traffic), 0);
	for (unsigned round = 0; round < 100; round++) {
		drive(fixture, round % 2 ? FEATURES_ALL : 0);
		offer_rx(fixture, 200);
		for (unsigned i = 0; i < 100; i++) {
			(void)tx_frame(fixture, i, FRAME, i);
			offer(fixture, TX, (uint16_t)i);
		}
		kick(fixture, TX);
		if (round % 3 == 0)
			(void)wait_used(fixture, TX);
		if (round % 5 == 0)
			(void)wait_used(fixture, RX);
	}
	(void)wait_used(fixture, TX);
	(void)wait_used(fixture, RX);
	atomic_store(&traffic.stop, true);
	(void)pthread_join(thread, NULL);
	assert_int_equal(metric_of(fixture, "tx_malformed_frames"), 0);
}

/* The other end is gone: that is the end of the interface, not of the device. */
static void test_tap_gone(void **state)
{
	struct fixture *fixture = *state;

	drive(fixture, 0);
	offer_rx(fixture, 4);
	(void)metric_of(fixture, "rx_fails");
	close(fixture->tap);
	fixture->tap = -1;
	for (uint16_t i = 0; i < 5; i++) {
		(void)tx_frame(fixture, i, FRAME, i);
		offer(fixture, TX, i);
		kick(fixture, TX);
		assert_int_equal(wait_used(fixture, TX).head, i);
	}
	assert_int_equal(metric_of(fixture, "tx_fails"), 5);
	assert_int_equal(metric_of(fixture, "tx_packets_count"), 0);
	drive(fixture, 0);
	assert_int_equal(reg_read(fixture, 0x070), 15);
}

/* --- limits --- */

/* Always one more frame for the guest, and buffers for it. What came is counted. */
static uint64_t pump_rx(struct fixture *fixture)
{
	unsigned char frame[FRAME];
	struct used_element element;
	uint64_t count = 0;

	make_frame(frame, sizeof(frame), 1);
	while (send(fixture->tap, frame, sizeof(frame), 0) > 0)
		continue;
	while (next_used(fixture, RX, &element))
		count++;
	offer_rx(fixture, (unsigned)count);
	return count;
}

/* Always one more frame of the guest. What arrived is counted. */
static uint64_t pump_tx(struct fixture *fixture)
{
	unsigned char got[TX_SIZE];
	struct used_element element;
	uint64_t count = 0;

	while (recv(fixture->tap, got, sizeof(got), 0) > 0)
		count++;
	while (next_used(fixture, TX, &element))
		offer(fixture, TX, (uint16_t)element.head);
	kick(fixture, TX);
	return count;
}

/* Until nothing is left of what had gathered, as it does when the machine was busy elsewhere. */
static uint64_t pump_dry(struct fixture *fixture, uint64_t (*pump)(struct fixture *))
{
	uint64_t count;
	uint64_t total = 0;
	unsigned rounds = 0;

	do {
		count = pump(fixture);
		(void)metric_of(fixture, "rx_count"); /* the loop has its turn */
		count += pump(fixture);
		total += count;
	} while (count > 8 && ++rounds < 1000); /* a slow machine gets more in each of them, for ever */
	return total;
}

/* Frames per second, by the time that really passed. */
static double pump_for(struct fixture *fixture, uint64_t (*pump)(struct fixture *), int64_t duration_us)
{
	int64_t begin_us = time_monotonic_us();
	uint64_t count = 0;

	while (time_monotonic_us() - begin_us < duration_us) {
		count += pump(fixture);
		(void)usleep(500);
	}
	count += pump_dry(fixture, pump);
	return (double)count * 1e6 / (double)(time_monotonic_us() - begin_us);
}

struct limits {
	struct virtio_device *device;
	const struct token_bucket_config *config[4]; /* as net_set_limits takes them */
};

static void set_limits(void *context)
{
	const struct limits *limits = context;

	net_set_limits(limits->device, limits->config[0], limits->config[1], limits->config[2],
	               limits->config[3]);
}

static bool is_near(double seen, double wanted)
{
	return seen >= wanted * (100 - TOLERANCE_PC) / 100 && seen <= wanted * (100 + TOLERANCE_PC) / 100;
}

static void check_rate(struct fixture *fixture, uint64_t (*pump)(struct fixture *), double wanted)
{
	double seen = 0;

	/* What is there at once, and a little more, before the measurement. A stall of the machine spoils
	 * one, a wrong limit all of them. */
	(void)pump_for(fixture, pump, MEASURE_US / 8);
	for (int i = 0; i < 8 && !is_near(seen, wanted); i++)
		seen = pump_for(fixture, pump, MEASURE_US);
	if (!is_near(seen, wanted))
		fail_msg("%.0f frames per second are not within %d %% of %.0f", seen, TOLERANCE_PC, wanted);
}

static void test_limits(void **state)
{
	const struct token_bucket_config bytes = { .size = 1000 * KIB, .refill_time_ms = 1000 };
	const struct token_bucket_config ops = { .size = 500, .refill_time_ms = 1000 };
	const struct token_bucket_config none = { 0 };
	struct fixture *fixture = *state;
	struct limits limits = { fixture->device, { &bytes, &none, &bytes, &none } };

	drive(fixture, NET_F_MRG_RXBUF);
	loop_call(fixture->loop, set_limits, &limits);
	offer_rx(fixture, QUEUE_SIZE);
	for (unsigned i = 0; i < QUEUE_SIZE; i++) {
		(void)tx_frame(fixture, i, FRAME, i);
		offer(fixture, TX, (uint16_t)i);
	}
	check_rate(fixture, pump_rx, 1000.0 * KIB / FRAME);
	check_rate(fixture, pump_tx, 1000.0 * KIB / FRAME);
	assert_true(metric_of(fixture, "rx_rate_limiter_throttled") > 0);
	assert_true(metric_of(fixture, "tx_rate_limiter_throttled") > 0);
	/* The others, at run time; what is not named stays. */
	limits = (struct limits){ fixture->device, { NULL, &ops, &none, &ops } };
	loop_call(fixture->loop, set_limits, &limits);
	check_rate(fixture, pump_rx, 500);
	check_rate(fixture, pump_tx, 500);
}

static uint64_t pump_some(struct fixture *fixture, uint64_t (*pump)(struct fixture *))
{
	uint64_t count = 0;

	for (int i = 0; i < 50; i++) {
		count += pump(fixture);
		(void)usleep(2000);
	}
	return count;
}

static void pump_many(struct fixture *fixture, uint64_t (*pump)(struct fixture *))
{
	uint64_t count = 0;

	for (int i = 0; i < 600 && count <= 100; i++)
		count += pump_some(fixture, pump);
	assert_true(count > 100);
}

/* Who waits for ever by the old limit goes on by the new one; and the two ways do not share theirs. */
static void test_update(void **state)
{
	/* One token more in half an hour, which would let a whole frame pass. */
	const struct token_bucket_config little = { .size = 2 * FRAME, .refill_time_ms = 3600000000 };
	const struct token_bucket_config none = { 0 };
	struct fixture *fixture = *state;
	struct limits limits = { fixture->device, { &little, NULL, &little, NULL } };

	drive(fixture, NET_F_MRG_RXBUF);
	loop_call(fixture->loop, set_limits, &limits);
	offer_rx(fixture, QUEUE_SIZE);
	for (unsigned i = 0; i < QUEUE_SIZE; i++) {
		(void)tx_frame(fixture, i, FRAME, i);
		offer(fixture, TX, (uint16_t)i);
	}
	(void)pump_some(fixture, pump_tx);
	(void)pump_some(fixture, pump_rx);
	wait_metric(fixture, "tx_packets_count", 2);
	wait_metric(fixture, "rx_packets_count", 2);
	limits = (struct limits){ fixture->device, { NULL, NULL, &none, NULL } };
	loop_call(fixture->loop, set_limits, &limits);
	pump_many(fixture, pump_tx);
	(void)pump_some(fixture, pump_rx);
	assert_int_equal(metric_of(fixture, "rx_packets_count"), 2);
	limits = (struct limits){ fixture->device, { &none, NULL, NULL, NULL } };
	loop_call(fixture->loop, set_limits, &limits);
	pump_many(fixture, pump_rx);
}

/* --- save and restore --- */

static void test_save_and_restore(void **state)
{
	struct fixture *fixture = *state;
	struct remake remake = { fixture->loop, &fixture->device, make_net, fixture, BUFFER_INIT, 0 };
	unsigned char frame[FRAME];
	unsigned char got[RX_SIZE];
	unsigned buffers;

	drive(fixture, NET_F_MRG_RXBUF);
	offer_rx(fixture, 64);
	make_frame(frame, sizeof(frame), 1);
	tap_give(fixture, frame, sizeof(frame));
	assert_int_equal(rx_take(fixture, got, &buffers), sizeof(frame));
	assert_int_equal(virtio_pause(fixture->device, NULL), 0);
	/* Nothing moves while it is paused; but nothing of the guest is lost. */
	tap_give(fixture, frame, sizeof(frame));
	(void)tx_frame(fixture, 0, FRAME, 2);
	offer(fixture, TX, 0);
	kick(fixture, TX);
	(void)usleep(20000);
	assert_int_equal(metric_of(fixture, "rx_packets_count"), 1);
	assert_int_equal(metric_of(fixture, "tx_packets_count"), 0);
	assert_int_equal(remake_device(&remake), 0);
	virtio_resume(fixture->device);
	expect_sent(fixture, at(fixture, TX_DATA), FRAME);
	assert_int_equal(wait_used(fixture, TX).head, 0);
	for (unsigned i = 0; i < 63; i++) {
		make_frame(frame, sizeof(frame), i);
		tap_give(fixture, frame, sizeof(frame));
		assert_int_equal(rx_take(fixture, got, &buffers), sizeof(frame));
		assert_memory_equal(got + HEADER_SIZE, frame + HEADER_SIZE, sizeof(frame) - HEADER_SIZE);
	}
	/* State that lies is refused, or harms nobody. */
	for (size_t i = 0; i < remake.saved.size; i++) {
		remake.saved.data[i] ^= 0x55;
		if (remake_restore(&remake) == 0)
			virtio_resume(fixture->device);
		remake.saved.data[i] ^= 0x55;
	}
	buffer_fini(&remake.saved);
	drive(fixture, 0);
}

/* --- the peer --- */

struct fake_peer {
	unsigned seen;
	bool takes;
	unsigned char last[TX_SIZE];
	size_t last_size;
	unsigned answers; /* to be given */
	int64_t delay_us; /* after a frame that it takes, one more answer comes so much later; 0: none */
	int64_t due_us;
};

static bool fake_take(void *context, const void *frame, size_t size)
{
	struct fake_peer *peer = context;

	peer->seen++;
	if (!peer->takes)
		return false;
	memcpy(peer->last, frame, size);
	peer->last_size = size;
	peer->answers++;
	if (peer->delay_us)
		peer->due_us = time_monotonic_us() + peer->delay_us;
	return true;
}

static size_t fake_give(void *context, void *frame, size_t room)
{
	struct fake_peer *peer = context;

	if (peer->due_us && time_monotonic_us() >= peer->due_us) {
		peer->due_us = 0;
		peer->answers++;
	}
	if (peer->answers == 0 || room < 100)
		return 0;
	peer->answers--;
	memset(frame, 'p', 100);
	return 100;
}

static int fake_timeout(void *context)
{
	const struct fake_peer *peer = context;
	int64_t left_us = peer->due_us - time_monotonic_us();

	return peer->due_us == 0 ? -1 : left_us < 0 ? 0 : (int)(left_us / 1000 + 1);
}

/* A device beside the fixture's: with a peer. */
static int setup_peer(void **state)
{
	struct fixture *fixture = new_fixture();
	struct net_peer *peer = calloc(1, sizeof(*peer));

	*peer = (struct net_peer){ calloc(1, sizeof(struct fake_peer)), fake_take, fake_give, fake_timeout };
	fixture->peer = peer;
	make_net(fixture);
	start(fixture);
	*state = fixture;
	return 0;
}

static int teardown_peer(void **state)
{
	struct fixture *fixture = *state;
	struct net_peer *peer = (struct net_peer *)(uintptr_t)fixture->peer;

	(void)teardown(state);
	free(peer->context);
	free(peer);
	return 0;
}

static void send_to_peer(struct fixture *fixture, bool arp)
{
	unsigned char *frame = tx_frame(fixture, 0, FRAME, 4);

	memcpy(frame + HEADER_SIZE + 12, arp ? "\x08\x06" : "\x08\x00", 2);
	memcpy(frame + HEADER_SIZE + 30, "\xa9\xfe\xa9\xfe", 4);
	if (!arp) {
		frame[0] = 1;
		frame[6] = 34;
		frame[8] = 16;
	}
	offer(fixture, TX, 0);
	kick(fixture, TX);
	assert_int_equal(wait_used(fixture, TX).head, 0);
}

static void test_peer_takes(void **state)
{
	struct fixture *fixture = *state;
	struct fake_peer *peer = fixture->peer->context;
	unsigned char got[RX_SIZE];
	unsigned char frame[FRAME];
	unsigned buffers;
	uint32_t sum = 0;

	drive(fixture, NET_F_CSUM);
	/* What cannot be for it, it does not see; what it does not take goes on. */
	(void)tx_frame(fixture, 0, FRAME, 1);
	offer(fixture, TX, 0);
	kick(fixture, TX);
	expect_sent(fixture, at(fixture, TX_DATA), FRAME);
	assert_int_equal(wait_used(fixture, TX).head, 0);
	assert_int_equal(peer->seen, 0);
	send_to_peer(fixture, true);
	expect_sent(fixture, at(fixture, TX_DATA), FRAME);
	assert_int_equal(peer->seen, 1);
	/* What it takes is whole, and its checksum right. */
	peer->takes = true;
	send_to_peer(fixture, false);
	assert_int_equal(peer->seen, 2);
	assert_int_equal(peer->last_size, FRAME - HEADER_SIZE);
	make_frame(frame, FRAME, 4);
	assert_memory_equal(peer->last + 52, frame + HEADER_SIZE + 52, FRAME - HEADER_SIZE - 52);
	for (size_t i = 34; i < peer->last_size; i++)
		sum += i % 2 ? peer->last[i] : (uint32_t)peer->last[i] << 8;
	/* Linux puts the sum of the pseudo header there beforehand; here it was what the frame's bytes are.
	 */
	sum -= (uint32_t)(peer->last[50] << 8 | peer->last[51]);
	sum += (uint32_t)(frame[HEADER_SIZE + 50] << 8 | frame[HEADER_SIZE + 51]);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	assert_int_equal((uint16_t)~sum, peer->last[50] << 8 | peer->last[51]);
	/* Its answer waits for a buffer, and goes before what the tap has. */
	make_frame(frame, FRAME, 8);
	tap_give(fixture, frame, FRAME);
	(void)usleep(20000);
	offer_rx(fixture, 4);
	assert_int_equal(rx_take(fixture, got, &buffers), HEADER_SIZE + 100);
	assert_memory_equal(got, "\0\0\0\0\0\0\0\0\0\0\1\0pppp", 16);
	assert_int_equal(rx_take(fixture, got, &buffers), FRAME);
	assert_int_equal(metric_of(fixture, "tx_packets_count"), 2);
}

static void test_peer_timer(void **state)
{
	struct fixture *fixture = *state;
	struct fake_peer *peer = fixture->peer->context;
	unsigned char got[RX_SIZE];
	bool at_once = false;
	unsigned buffers;
	uint64_t before;
	int64_t begin_us;

	peer->takes = true;
	peer->delay_us = 2000000;
	drive(fixture, 0);
	/* A stall of the machine spoils a round, an answer that waits for the timer all of them. */
	for (int i = 0; i < 4 && !at_once; i++) {
		offer_rx(fixture, 2);
		begin_us = time_monotonic_us();
		send_to_peer(fixture, true);
		assert_int_equal(rx_take(fixture, got, &buffers), HEADER_SIZE + 100);
		at_once = time_monotonic_us() - begin_us < 1900000;
		assert_int_equal(rx_take(fixture, got, &buffers), HEADER_SIZE + 100);
		assert_true(time_monotonic_us() - begin_us >= 2000000);
	}
	assert_true(at_once);
	/* It is not asked while the machine is paused. (Where it was due before: once more.) */
	peer->delay_us = 1500000;
	for (;;) {
		offer_rx(fixture, 2);
		before = metric_of(fixture, "rx_packets_count");
		begin_us = time_monotonic_us();
		send_to_peer(fixture, true);
		(void)rx_take(fixture, got, &buffers);
		assert_int_equal(virtio_pause(fixture->device, NULL), 0);
		if (time_monotonic_us() - begin_us < 1500000)
			break;
		virtio_resume(fixture->device);
		(void)rx_take(fixture, got, &buffers);
	}
	(void)usleep(1600000);
	assert_int_equal(metric_of(fixture, "rx_packets_count"), before + 1);
	virtio_resume(fixture->device);
	(void)rx_take(fixture, got, &buffers);
}

/* --- a real tap --- */

static bool have_taps;

static void net_remake_on_tap(void *context)
{
	struct fixture *fixture = context;
	struct error err = { 0 };

	fixture->device = net_new(&fixture->config, NULL, &fixture->memory, fixture->loop, &err);
	if (!fixture->device)
		fail_msg("%s", err.message);
}

static void test_missing_tap(void **state)
{
	struct fixture *fixture = *state;
	struct net_config config = { .id = "eth7", .host_dev_name = "missing0" };
	struct error err = { 0 };

	if (!have_taps)
		skip();
	assert_null(net_new(&config, NULL, &fixture->memory, fixture->loop, &err));
	assert_int_equal(err.code, ENODEV);
	assert_non_null(strstr(err.message, "eth7"));
	assert_non_null(strstr(err.message, "no tap missing0"));
	assert_int_equal(if_nametoindex("missing0"), 0);
	config.host_dev_name = "lo";
	assert_null(net_new(&config, NULL, &fixture->memory, fixture->loop, &err));
	assert_non_null(strstr(err.message, "lo is not a tap"));
}

static void expect_offloads(bool wanted)
{
	assert_int_equal(tap_leaves("tap0", ETHTOOL_GTXCSUM), wanted);
	assert_int_equal(tap_leaves("tap0", ETHTOOL_GTSO), wanted);
}

static void tap_traffic(struct fixture *fixture, int host)
{
	struct pollfd wait = { .fd = host, .events = POLLIN };
	unsigned char *frame = tx_frame(fixture, 0, FRAME, 1);
	unsigned char got[RX_SIZE];
	struct used_element element;
	bool came = false;

	offer(fixture, TX, 0);
	kick(fixture, TX);
	assert_int_equal(poll(&wait, 1, 60000), 1);
	assert_int_equal(recv(host, got, sizeof(got), 0), FRAME - HEADER_SIZE);
	assert_memory_equal(got, frame + HEADER_SIZE, FRAME - HEADER_SIZE);
	assert_int_equal(wait_used(fixture, TX).head, 0);
	/* The host's kernel says things of its own, and drops what comes before it has noticed that the link
	 * is up. */
	for (int i = 0; i < 300; i++) {
		const unsigned char *data;

		assert_int_equal(send(host, frame + HEADER_SIZE, FRAME - HEADER_SIZE, 0),
		                 FRAME - HEADER_SIZE);
		(void)usleep((unsigned)i * 1000u);
		while (next_used(fixture, RX, &element)) {
			data = at(fixture, RX_DATA + element.head * RX_SIZE);
			came |= element.length == FRAME &&
			        memcmp(data + HEADER_SIZE, frame + HEADER_SIZE, FRAME - HEADER_SIZE) == 0;
			offer_rx(fixture, 1);
		}
		if (came)
			return;
	}
	fail_msg("a frame of the host did not come");
}

static void test_tap(void **state)
{
	struct fixture *fixture = new_fixture();
	struct remake remake = {
		fixture->loop, &fixture->device, net_remake_on_tap, fixture, BUFFER_INIT, 0
	};
	struct error err = { 0 };
	int host;

	(void)state;
	if (!have_taps || tap_make("tap0") < 0) {
		virtio_free(fixture->device);
		loop_free(fixture->loop);
		free(fixture->ram);
		free(fixture);
		skip();
	}
	host = tap_packet_socket("tap0");
	assert_true(host >= 0);
	net_remake_on_tap(fixture);
	assert_null(net_new(&fixture->config, NULL, &fixture->memory, fixture->loop, &err));
	assert_non_null(strstr(err.message, "tap0 is in use"));
	start(fixture);
	expect_offloads(false);
	drive(fixture, FEATURES_ALL);
	expect_offloads(true);
	offer_rx(fixture, 100);
	tap_traffic(fixture, host);
	/* Another device on the same tap, restored: it asks for the offloads that the driver agreed to. */
	assert_int_equal(virtio_pause(fixture->device, NULL), 0);
	assert_int_equal(remake_device(&remake), 0);
	expect_offloads(false);
	virtio_resume(fixture->device);
	expect_offloads(true);
	tap_traffic(fixture, host);
	/* Down and up again: frames are lost meanwhile, no more. */
	assert_int_equal(tap_set_up("tap0", false), 0);
	(void)tx_frame(fixture, 0, FRAME, 1);
	offer(fixture, TX, 0);
	kick(fixture, TX);
	(void)wait_used(fixture, TX);
	assert_int_equal(metric_of(fixture, "tap_write_fails"), 1);
	assert_int_equal(tap_set_up("tap0", true), 0);
	(void)recv(host, remake.saved.data, 1, 0); /* takes note of ENETDOWN */
	tap_traffic(fixture, host);
	reg_write(fixture, 0x070, 0);
	expect_offloads(false);
	drive(fixture, 0);
	expect_offloads(false);
	/* And gone. */
	offer_rx(fixture, 4);
	assert_int_equal(tap_delete("tap0"), 0);
	for (unsigned i = 0; i < 3; i++) {
		(void)tx_frame(fixture, 0, FRAME, 1);
		offer(fixture, TX, 0);
		kick(fixture, TX);
		(void)wait_used(fixture, TX);
	}
	assert_int_equal(metric_of(fixture, "tx_fails"), 4);
	close(host);
	buffer_fini(&remake.saved);
	state = (void **)&fixture;
	(void)teardown(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_what_it_is, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bad_configuration, setup, teardown),
		cmocka_unit_test_setup_teardown(test_transmit, setup, teardown),
		cmocka_unit_test_setup_teardown(test_receive, setup, teardown),
		cmocka_unit_test_setup_teardown(test_mergeable, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_buffers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_blocked, setup, teardown),
		cmocka_unit_test_setup_teardown(test_event_index, setup, teardown),
		cmocka_unit_test_setup_teardown(test_malformed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_broken, setup, teardown),
		cmocka_unit_test_setup_teardown(test_spoofed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reset_under_traffic, setup, teardown),
		cmocka_unit_test_setup_teardown(test_tap_gone, setup, teardown),
		cmocka_unit_test_setup_teardown(test_limits, setup, teardown),
		cmocka_unit_test_setup_teardown(test_update, setup, teardown),
		cmocka_unit_test_setup_teardown(test_save_and_restore, setup, teardown),
		cmocka_unit_test_setup_teardown(test_peer_takes, setup_peer, teardown_peer),
		cmocka_unit_test_setup_teardown(test_peer_timer, setup_peer, teardown_peer),
		cmocka_unit_test_setup_teardown(test_missing_tap, setup, teardown),
		cmocka_unit_test(test_tap),
	};

	(void)signal(SIGPIPE, SIG_IGN);
	have_taps = tap_namespace();
	return cmocka_run_group_tests_name("net_device", tests, NULL, NULL);
}
