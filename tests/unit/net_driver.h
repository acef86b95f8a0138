/* The driver's side of a network device, made by hand in plain memory, with a socket in the place of the tap.
 */
#pragma once

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base.h"
#include "vmm/device/net_internal.h"

#define MEMORY_BASE  0x100000
#define MEMORY_SIZE  0x200000
#define QUEUE_SIZE   256
#define RX           0
#define TX           1
#define DESC(queue)  (MEMORY_BASE + (queue)*0x8000ull)
#define AVAIL(queue) (DESC(queue) + 0x2000)
#define USED(queue)  (DESC(queue) + 0x4000)
#define RX_DATA      (MEMORY_BASE + 0x20000ull) /* RX_SIZE each */
#define RX_SIZE      1536u
#define TX_DATA      (MEMORY_BASE + 0x100000ull)
#define TX_SIZE      2048u
#define HEADER_SIZE  12u

#define DESC_NEXT    1
#define DESC_WRITE   2

#define FEATURES_ALL (NET_F_CSUM | NET_F_GUEST_CSUM | NET_F_GUEST_TSO4 | NET_F_HOST_TSO4 | NET_F_MRG_RXBUF)

struct desc {
	uint64_t address;
	uint32_t length;
	uint16_t flags;
	uint16_t next;
};

struct used_element {
	uint32_t head;
	uint32_t length;
};

struct fixture {
	unsigned char *ram;
	struct guest_memory memory;
	struct loop *loop;
	pthread_t thread;
	struct virtio_device *device;
	struct net_config config;
	const struct net_peer *peer;
	int tap; /* our end of what stands in for the tap */
	uint16_t offered[2];
	uint16_t seen[2];
};

static const uint8_t guest_mac[6] = { 6, 0, 0xac, 16, 0, 2 };

static inline void *at(struct fixture *fixture, uint64_t gpa)
{
	return fixture->ram + (gpa - MEMORY_BASE);
}

static inline uint32_t reg_read(struct fixture *fixture, uint32_t offset)
{
	uint32_t value;

	virtio_mmio_read(fixture->device, offset, &value, 4);
	return value;
}

static inline void reg_write(struct fixture *fixture, uint32_t offset, uint32_t value)
{
	virtio_mmio_write(fixture->device, offset, &value, 4);
}

/* Initialise as 3.1.1 says. */
static inline void drive(struct fixture *fixture, uint64_t features)
{
	reg_write(fixture, 0x070, 0);
	memset(at(fixture, DESC(RX)), 0, 0x10000);
	reg_write(fixture, 0x070, 1);
	reg_write(fixture, 0x070, 3);
	reg_write(fixture, 0x024, 0);
	reg_write(fixture, 0x020, (uint32_t)features);
	reg_write(fixture, 0x024, 1);
	reg_write(fixture, 0x020, 1);
	reg_write(fixture, 0x070, 11);
	assert_int_equal(reg_read(fixture, 0x070), 11);
	for (uint32_t queue = RX; queue <= TX; queue++) {
		reg_write(fixture, 0x030, queue);
		reg_write(fixture, 0x038, QUEUE_SIZE);
		reg_write(fixture, 0x080, (uint32_t)DESC(queue));
		reg_write(fixture, 0x090, (uint32_t)AVAIL(queue));
		reg_write(fixture, 0x0a0, (uint32_t)USED(queue));
		reg_write(fixture, 0x044, 1);
		fixture->offered[queue] = 0;
		fixture->seen[queue] = 0;
	}
	reg_write(fixture, 0x070, 15);
}

static inline void set_desc(struct fixture *fixture, unsigned queue, unsigned index, struct desc desc)
{
	((struct desc *)at(fixture, DESC(queue)))[index] = desc;
}

/* Make a chain available; the kick is apart. */
static inline void offer(struct fixture *fixture, unsigned queue, uint16_t head)
{
	uint16_t *avail = at(fixture, AVAIL(queue));

	avail[2 + fixture->offered[queue] % QUEUE_SIZE] = head;
	__atomic_store_n(&avail[1], ++fixture->offered[queue], __ATOMIC_SEQ_CST);
}

static inline void kick(struct fixture *fixture, unsigned queue)
{
	reg_write(fixture, 0x050, queue);
}

/* The next used buffer of a queue, if there is one. */
static inline bool next_used(struct fixture *fixture, unsigned queue, struct used_element *element)
{
	uint16_t *used = at(fixture, USED(queue));

	if (__atomic_load_n(&used[1], __ATOMIC_ACQUIRE) == fixture->seen[queue])
		return false;
	memcpy(element, (char *)used + 4 + sizeof(*element) * (fixture->seen[queue]++ % QUEUE_SIZE),
	       sizeof(*element));
	return true;
}

static inline struct used_element wait_used(struct fixture *fixture, unsigned queue)
{
	struct used_element element = { 0 };

	for (int i = 0; i < 60000; i++) {
		if (next_used(fixture, queue, &element))
			return element;
		if (reg_read(fixture, 0x070) & 64)
			fail_msg("the device broke");
		(void)usleep(1000);
	}
	fail_msg("the device did nothing for 60 s");
	return element;
}

static inline void wait_broken(struct fixture *fixture)
{
	for (int i = 0; i < 60000 && !(reg_read(fixture, 0x070) & 64); i++)
		(void)usleep(1000);
	assert_int_equal(reg_read(fixture, 0x070) & 64, 64);
}

static inline void offer_rx(struct fixture *fixture, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		uint16_t index = fixture->offered[RX] % QUEUE_SIZE;

		set_desc(fixture, RX, index,
		         (struct desc){ RX_DATA + index * RX_SIZE, RX_SIZE, DESC_WRITE, 0 });
		offer(fixture, RX, index);
	}
	kick(fixture, RX);
}

/* A frame with header at `to`: from the guest's address to another, then bytes that follow from `seed`. */
static inline void make_frame(unsigned char *to, size_t size, unsigned seed)
{
	static const uint8_t other[6] = { 2, 1, 1, 1, 1, 1 };

	memset(to, 0, HEADER_SIZE);
	for (size_t i = HEADER_SIZE; i < size; i++)
		to[i] = (unsigned char)(seed + i * 7 + (i >> 8));
	memcpy(to + HEADER_SIZE, other, 6);
	memcpy(to + HEADER_SIZE + 6, guest_mac, 6);
	to[HEADER_SIZE + 12] = 0x88; /* a type for experiments */
	to[HEADER_SIZE + 13] = 0xb5;
}

/* Put a frame into transmit buffer `slot`, in one descriptor. Its bytes, to be changed before the offer. */
static inline unsigned char *tx_frame(struct fixture *fixture, unsigned slot, uint32_t size, unsigned seed)
{
	unsigned char *data = at(fixture, TX_DATA + slot * TX_SIZE);

	make_frame(data, size, seed);
	set_desc(fixture, TX, slot, (struct desc){ TX_DATA + slot * TX_SIZE, size, 0, 0 });
	return data;
}

/* What the loop's thread alone writes. */
struct counter {
	struct virtio_device *device;
	const char *name;
	uint64_t value;
	bool found;
};

static inline void read_counter(void *context)
{
	struct counter *counter = context;

	for (const struct virtio_metric *metric = counter->device->ops->metrics; metric->name; metric++) {
		if (strcmp(metric->name, counter->name) == 0) {
			memcpy(&counter->value, (char *)counter->device + metric->offset, sizeof(uint64_t));
			counter->found = true;
		}
	}
}

static inline uint64_t metric_of(struct fixture *fixture, const char *name)
{
	struct counter counter = { .device = fixture->device, .name = name };

	loop_call(fixture->loop, read_counter, &counter);
	assert_true(counter.found);
	return counter.value;
}

static inline void wait_metric(struct fixture *fixture, const char *name, uint64_t value)
{
	for (int i = 0; i < 60000 && metric_of(fixture, name) != value; i++)
		(void)usleep(1000);
	assert_int_equal(metric_of(fixture, name), value);
}
