/* A virtio driver in plain memory, for tests of device models: it sets a device up as Linux does, offers
 * chains of buffers, and waits for them to be used. */
#pragma once

#include <semaphore.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/base.h"
#include "vmm/device/device.h"

#define DRIVER_BASE       0x200000 /* guest address of memory: not 0, so that no offset is one by chance */
#define DRIVER_QUEUE_SIZE 256
#define DRIVER_RINGS      0x4000 /* bytes per queue, from the start of memory */
#define DRIVER_DATA       (DRIVER_BASE + VIRTIO_QUEUES_MAX * DRIVER_RINGS) /* what tests may use */

#define DESC_NEXT         1
#define DESC_WRITE        2

struct driver_desc {
	uint64_t address;
	uint32_t length;
	uint16_t flags;
	uint16_t next;
};

struct driver {
	unsigned char *ram;
	size_t size;
	struct guest_memory memory;
	struct loop *loop;
	pthread_t thread;
	struct virtio_device *device;
	uint16_t offered[VIRTIO_QUEUES_MAX]; /* avail index */
	uint16_t seen[VIRTIO_QUEUES_MAX];    /* used index */
};

static inline void *driver_run_loop(void *context)
{
	(void)loop_run(context);
	return NULL;
}

/* Memory of `size` bytes, of which `fd` (-1: none) is mapped privately, and a loop that does not run yet. */
static inline void driver_init(struct driver *driver, size_t size, int fd)
{
	*driver = (struct driver){ .size = size };
	driver->ram =
	        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);
	assert_true(driver->ram != MAP_FAILED);
	driver->memory =
	        (struct guest_memory){ .regions = { { DRIVER_BASE, size, driver->ram } }, .count = 1 };
	driver->loop = loop_new(NULL);
	assert_non_null(driver->loop);
}

static inline void driver_unwatch(void *context)
{
	loop_unwatch(context);
}

static inline void driver_on_start(void *context, uint32_t events)
{
	(void)events;
	(void)sem_post(context);
}

/* Start the loop's thread. It is waited for: until a loop runs, loop_call acts on the caller's thread. */
static inline void driver_start(struct driver *driver)
{
	int fd = eventfd(1, EFD_CLOEXEC);
	struct loop_source *source;
	sem_t started;

	assert_true(fd >= 0);
	assert_int_equal(sem_init(&started, 0, 0), 0);
	source = loop_watch(driver->loop, fd, EPOLLIN | EPOLLONESHOT, driver_on_start, &started, NULL);
	assert_non_null(source);
	assert_int_equal(pthread_create(&driver->thread, NULL, driver_run_loop, driver->loop), 0);
	while (sem_wait(&started) < 0)
		;
	loop_call(driver->loop, driver_unwatch, source);
	close(fd);
	(void)sem_destroy(&started);
}

static inline void driver_fini(struct driver *driver)
{
	loop_stop(driver->loop);
	(void)pthread_join(driver->thread, NULL);
	virtio_free(driver->device);
	loop_free(driver->loop);
	(void)munmap(driver->ram, driver->size);
}

static inline void *driver_at(struct driver *driver, uint64_t gpa)
{
	return driver->ram + (gpa - DRIVER_BASE);
}

static inline uint32_t driver_read(struct driver *driver, uint32_t offset)
{
	uint32_t value;

	virtio_mmio_read(driver->device, offset, &value, 4);
	return value;
}

static inline void driver_write(struct driver *driver, uint32_t offset, uint32_t value)
{
	virtio_mmio_write(driver->device, offset, &value, 4);
}

static inline uint64_t driver_ring(unsigned queue)
{
	return DRIVER_BASE + queue * DRIVER_RINGS;
}

static inline void driver_setup_queue(struct driver *driver, unsigned queue)
{
	uint64_t ring = driver_ring(queue);

	memset(driver_at(driver, ring), 0, DRIVER_RINGS);
	driver_write(driver, 0x030, queue);
	driver_write(driver, 0x038, DRIVER_QUEUE_SIZE);
	driver_write(driver, 0x080, (uint32_t)ring);
	driver_write(driver, 0x090, (uint32_t)ring + 0x1000);
	driver_write(driver, 0x0a0, (uint32_t)ring + 0x2000);
	driver_write(driver, 0x044, 1);
	driver->offered[queue] = 0;
	driver->seen[queue] = 0;
}

/* Reset the device and initialise it (3.1.1) with these features of its own and `queues` queues. */
static inline void driver_drive(struct driver *driver, uint32_t features, unsigned queues)
{
	driver_write(driver, 0x070, 0);
	driver_write(driver, 0x070, 1);
	driver_write(driver, 0x070, 3);
	driver_write(driver, 0x024, 0);
	driver_write(driver, 0x020, features);
	driver_write(driver, 0x024, 1);
	driver_write(driver, 0x020, 1);
	driver_write(driver, 0x070, 11);
	assert_int_equal(driver_read(driver, 0x070), 11);
	for (unsigned i = 0; i < queues; i++)
		driver_setup_queue(driver, i);
	driver_write(driver, 0x070, 15);
}

static inline void driver_desc(struct driver *driver, unsigned queue, unsigned index, uint64_t address,
                               uint32_t length, unsigned flags, unsigned next)
{
	((struct driver_desc *)driver_at(driver, driver_ring(queue)))[index] =
	        (struct driver_desc){ address, length, (uint16_t)flags, (uint16_t)next };
}

/* Put a chain into the ring, without a kick; and kick. */
static inline void driver_offer(struct driver *driver, unsigned queue, unsigned head)
{
	uint16_t *avail = driver_at(driver, driver_ring(queue) + 0x1000);

	avail[2 + driver->offered[queue] % DRIVER_QUEUE_SIZE] = (uint16_t)head;
	__atomic_store_n(&avail[1], ++driver->offered[queue], __ATOMIC_RELEASE);
}

static inline void driver_kick(struct driver *driver, unsigned queue)
{
	driver_write(driver, 0x050, queue);
}

static inline uint16_t driver_used(struct driver *driver, unsigned queue)
{
	uint16_t *used = driver_at(driver, driver_ring(queue) + 0x2000);

	return (uint16_t)(__atomic_load_n(&used[1], __ATOMIC_ACQUIRE) - driver->seen[queue]);
}

static inline bool driver_broken(struct driver *driver)
{
	return driver_read(driver, 0x070) & 64;
}

/* Take one used chain, waiting for it: its head, or -1 when the device complains. */
static inline int driver_wait(struct driver *driver, unsigned queue)
{
	struct {
		uint32_t id;
		uint32_t length;
	} *ring = driver_at(driver, driver_ring(queue) + 0x2004);

	for (int i = 0; i < 120000; i++) {
		if (driver_used(driver, queue))
			return (int)ring[driver->seen[queue]++ % DRIVER_QUEUE_SIZE].id;
		if (driver_broken(driver))
			return -1;
		(void)usleep(500);
	}
	fail_msg("the device did nothing for 60 s");
	return -1;
}

struct driver_metric_request {
	struct driver *driver;
	const char *name;
	uint64_t value;
};

static inline void driver_metric_on_loop(void *context)
{
	struct driver_metric_request *request = context;
	struct virtio_device *device = request->driver->device;
	const struct virtio_metric *metric = device->ops->metrics;

	while (strcmp(metric->name, request->name) != 0)
		metric++;
	request->value = *(const uint64_t *)((const char *)device + metric->offset);
}

/* A counter of the device, by its name. */
static inline uint64_t driver_metric(struct driver *driver, const char *name)
{
	struct driver_metric_request request = { driver, name, 0 };

	loop_call(driver->loop, driver_metric_on_loop, &request);
	return request.value;
}
