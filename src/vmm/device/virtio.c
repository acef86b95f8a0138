#include "vmm/device/virtio.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vmm/device/device.h"
#include "vmm/device/virtio_internal.h"
#include "vmm/device/virtqueue.h"

/* Register offsets (virtio 1.2, 4.2.2). */
enum virtio_mmio_register {
	REG_MAGIC = 0x000,
	REG_VERSION = 0x004,
	REG_DEVICE_ID = 0x008,
	REG_VENDOR_ID = 0x00c,
	REG_DEVICE_FEATURES = 0x010,
	REG_DEVICE_FEATURES_SEL = 0x014,
	REG_DRIVER_FEATURES = 0x020,
	REG_DRIVER_FEATURES_SEL = 0x024,
	REG_QUEUE_SEL = 0x030,
	REG_QUEUE_NUM_MAX = 0x034,
	REG_QUEUE_NUM = 0x038,
	REG_QUEUE_READY = 0x044,
	REG_INTERRUPT_STATUS = 0x060,
	REG_INTERRUPT_ACK = 0x064,
	REG_STATUS = 0x070,
	REG_QUEUE_DESC_LOW = 0x080,
	REG_QUEUE_DESC_HIGH = 0x084,
	REG_QUEUE_AVAIL_LOW = 0x090,
	REG_QUEUE_AVAIL_HIGH = 0x094,
	REG_QUEUE_USED_LOW = 0x0a0,
	REG_QUEUE_USED_HIGH = 0x0a4,
	REG_CONFIG_GENERATION = 0x0fc,
	REG_CONFIG = 0x100,
};

/* Device status bits (2.1). */
#define STATUS_FEATURES_OK 8
#define STATUS_DRIVER      2
#define STATUS_DRIVER_OK   4
#define STATUS_NEEDS_RESET 64
#define STATUS_FAILED      128

#define MMIO_MAGIC         0x74726976 /* "virt" */

/* --- interrupts --- */

static void signal_eventfd(int fd)
{
	uint64_t one = 1;

	/* A full counter is a pending signal already. */
	if (write(fd, &one, sizeof(one)) < 0)
		return;
}

void virtio_interrupt(struct virtio_device *device, enum virtio_interrupt_reason reason)
{
	__atomic_fetch_or(&device->interrupt_status, (uint32_t)reason, __ATOMIC_SEQ_CST);
	signal_eventfd(device->irq);
}

void virtio_config_changed(struct virtio_device *device)
{
	__atomic_fetch_add(&device->config_generation, 1, __ATOMIC_SEQ_CST);
	if (device->active)
		virtio_interrupt(device, VIRTIO_INTERRUPT_CONFIG);
}

int virtio_break(struct virtio_device *device)
{
	device->broken = true;
	__atomic_fetch_or(&device->status, STATUS_NEEDS_RESET, __ATOMIC_SEQ_CST);
	virtio_interrupt(device, VIRTIO_INTERRUPT_CONFIG);
	return -EINVAL;
}

/* --- the device loop's side --- */

void virtio_kick(struct virtio_device *device, unsigned index)
{
	if (device->active && !device->paused && !device->broken && device->queues[index].ready)
		device->ops->kick(device, index);
}

void virtio_kick_later(struct virtio_device *device, unsigned index)
{
	signal_eventfd(device->queues[index].kick);
}

/* One eventfd per queue; which one fired is found by asking all of this device. */
static void on_kick(void *context, uint32_t events)
{
	struct virtio_device *device = context;

	(void)events;
	for (unsigned i = 0; i < device->ops->queue_count; i++) {
		uint64_t count;

		if (read(device->queues[i].kick, &count, sizeof(count)) == (ssize_t)sizeof(count))
			virtio_kick(device, i);
	}
}

static void activate_on_loop(void *context)
{
	struct virtio_device *device = context;

	for (unsigned i = 0; i < device->ops->queue_count; i++) {
		if (device->queues[i].ready && !virtqueue_valid(device, &device->queues[i])) {
			(void)virtio_break(device);
			return;
		}
	}
	device->active = true;
	if (device->ops->activate)
		device->ops->activate(device);
	/* Kicks may have come before we looked. */
	for (unsigned i = 0; i < device->ops->queue_count; i++)
		virtio_kick(device, i);
}

static void reset_on_loop(void *context)
{
	struct virtio_device *device = context;

	if (device->active && device->ops->reset)
		device->ops->reset(device);
	device->active = false;
	device->broken = false;
	device->driver_features = 0;
	device->interrupt_status = 0;
	device->status = 0;
	for (unsigned i = 0; i < device->ops->queue_count; i++) {
		struct virtqueue *queue = &device->queues[i];

		*queue = (struct virtqueue){ .size = VIRTIO_QUEUE_SIZE,
			                     .kick = queue->kick,
			                     .source = queue->source };
	}
}

/* --- registers --- */

static uint64_t offered_features(struct virtio_device *device)
{
	return VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX |
	       (device->ops->features ? device->ops->features(device) : 0);
}

static struct virtqueue *selected_queue(struct virtio_device *device)
{
	return device->queue_select < device->ops->queue_count ? &device->queues[device->queue_select] : NULL;
}

static uint32_t register_read(struct virtio_device *device, uint32_t offset)
{
	struct virtqueue *queue = selected_queue(device);

	switch ((enum virtio_mmio_register)offset) {
	case REG_MAGIC:
		return MMIO_MAGIC;
	case REG_VERSION:
		return 2;
	case REG_DEVICE_ID:
		return device->ops->id;
	case REG_DEVICE_FEATURES:
		return device->features_select < 2
		               ? (uint32_t)(offered_features(device) >> (32 * device->features_select))
		               : 0;
	case REG_QUEUE_NUM_MAX:
		return queue ? VIRTIO_QUEUE_SIZE : 0;
	case REG_QUEUE_READY:
		return queue ? queue->ready : 0;
	case REG_INTERRUPT_STATUS:
		return __atomic_load_n(&device->interrupt_status, __ATOMIC_SEQ_CST);
	case REG_STATUS:
		return __atomic_load_n(&device->status, __ATOMIC_SEQ_CST);
	case REG_CONFIG_GENERATION:
		return __atomic_load_n(&device->config_generation, __ATOMIC_SEQ_CST);
	default:
		return 0;
	}
}

static void set_half(uint64_t *value, uint32_t half, bool high)
{
	if (high)
		*value = (*value & UINT32_MAX) | (uint64_t)half << 32;
	else
		*value = (*value & ~(uint64_t)UINT32_MAX) | half;
}

static void write_driver_features(struct virtio_device *device, uint32_t value)
{
	if (device->driver_features_select < 2 && !(device->status & STATUS_FEATURES_OK))
		set_half(&device->driver_features, value, device->driver_features_select == 1);
}

static void write_status(struct virtio_device *device, uint32_t value)
{
	uint32_t status = __atomic_load_n(&device->status, __ATOMIC_SEQ_CST);
	uint32_t news = value & ~status;

	if (value == 0) {
		loop_call(device->loop, reset_on_loop, device);
		return;
	}
	/* Bits are only ever added; a device that is broken stays so until it is reset (2.1.1). */
	if ((status & ~value) || (status & STATUS_NEEDS_RESET))
		return;
	/* Features that were not offered, or a driver older than 1.0, are refused by not taking FEATURES_OK
	 * (3.1.1). */
	if ((news & STATUS_FEATURES_OK) && ((device->driver_features & ~offered_features(device)) ||
	                                    !(device->driver_features & VIRTIO_F_VERSION_1)))
		value &= ~(uint32_t)STATUS_FEATURES_OK;
	/* That is for us to say, and the device loop may be just about to. */
	value &= ~(uint32_t)STATUS_NEEDS_RESET;
	__atomic_fetch_or(&device->status, value, __ATOMIC_SEQ_CST);
	if ((news & STATUS_DRIVER_OK) && (value & STATUS_FEATURES_OK) && !(value & STATUS_FAILED))
		loop_call(device->loop, activate_on_loop, device);
}

static void write_queue(struct virtio_device *device, uint32_t offset, uint32_t value)
{
	struct virtqueue *queue = selected_queue(device);

	/* Queues are set up between FEATURES_OK and DRIVER_OK, and not changed while they are in use
	 * (4.2.3.2). */
	if (!queue || !(device->status & STATUS_FEATURES_OK) || device->active)
		return;
	if (offset == REG_QUEUE_READY) {
		queue->ready = value & 1;
		return;
	}
	if (queue->ready)
		return;
	switch ((enum virtio_mmio_register)offset) {
	case REG_QUEUE_NUM:
		queue->size = value <= VIRTIO_QUEUE_SIZE ? (uint16_t)value : 0;
		break;
	case REG_QUEUE_DESC_LOW:
	case REG_QUEUE_DESC_HIGH:
		set_half(&queue->desc, value, offset == REG_QUEUE_DESC_HIGH);
		break;
	case REG_QUEUE_AVAIL_LOW:
	case REG_QUEUE_AVAIL_HIGH:
		set_half(&queue->avail, value, offset == REG_QUEUE_AVAIL_HIGH);
		break;
	case REG_QUEUE_USED_LOW:
	case REG_QUEUE_USED_HIGH:
		set_half(&queue->used, value, offset == REG_QUEUE_USED_HIGH);
		break;
	default:
		break;
	}
}

static void register_write(struct virtio_device *device, uint32_t offset, uint32_t value)
{
	switch ((enum virtio_mmio_register)offset) {
	case REG_DEVICE_FEATURES_SEL:
		device->features_select = value;
		break;
	case REG_DRIVER_FEATURES_SEL:
		device->driver_features_select = value;
		break;
	case REG_DRIVER_FEATURES:
		write_driver_features(device, value);
		break;
	case REG_QUEUE_SEL:
		device->queue_select = value;
		break;
	case REG_INTERRUPT_ACK:
		__atomic_fetch_and(&device->interrupt_status, ~value, __ATOMIC_SEQ_CST);
		break;
	case REG_STATUS:
		write_status(device, value);
		break;
	default:
		write_queue(device, offset, value);
		break;
	}
}

void virtio_mmio_read(struct virtio_device *device, uint32_t offset, void *data, unsigned size)
{
	uint32_t value;

	memset(data, 0, size);
	pthread_mutex_lock(&device->lock);
	if (offset >= REG_CONFIG) {
		if (device->ops->config_read)
			device->ops->config_read(device, offset - REG_CONFIG, data, size);
	} else if (size == sizeof(value) && offset % sizeof(value) == 0) {
		/* Registers are 32 bits wide and accessed so (4.2.2.1). */
		value = register_read(device, offset);
		memcpy(data, &value, sizeof(value));
	}
	pthread_mutex_unlock(&device->lock);
}

void virtio_mmio_write(struct virtio_device *device, uint32_t offset, const void *data, unsigned size)
{
	uint32_t value;

	pthread_mutex_lock(&device->lock);
	if (offset >= REG_CONFIG) {
		if (device->ops->config_write)
			device->ops->config_write(device, offset - REG_CONFIG, data, size);
	} else if (size == sizeof(value) && offset % sizeof(value) == 0) {
		memcpy(&value, data, sizeof(value));
		if (offset == VIRTIO_MMIO_QUEUE_NOTIFY) {
			if (value < device->ops->queue_count)
				signal_eventfd(device->queues[value].kick);
		} else {
			register_write(device, offset, value);
		}
	}
	pthread_mutex_unlock(&device->lock);
}

const char *virtio_kind_name(enum virtio_id id)
{
	switch (id) {
	case VIRTIO_ID_NET:
		return "network";
	case VIRTIO_ID_BLOCK:
		return "block";
	case VIRTIO_ID_RNG:
		return "entropy";
	case VIRTIO_ID_BALLOON:
		return "balloon";
	case VIRTIO_ID_VSOCK:
		return "vsock";
	}
	return "virtio";
}

/* --- life --- */

int virtio_init(struct virtio_device *device, const struct virtio_ops *ops, const struct guest_memory *memory,
                struct loop *loop, struct error *err)
{
	device->ops = ops;
	device->memory = memory;
	device->loop = loop;
	(void)pthread_mutex_init(&device->lock, NULL);
	for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++)
		device->queues[i] = (struct virtqueue){ .size = VIRTIO_QUEUE_SIZE, .kick = -1 };
	device->irq = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (device->irq < 0)
		return error_errno(err, errno, "make the interrupt of %s", ops->name);
	for (unsigned i = 0; i < ops->queue_count; i++) {
		struct virtqueue *queue = &device->queues[i];

		queue->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (queue->kick < 0)
			return error_errno(err, errno, "make a queue of %s", ops->name);
		queue->source = loop_watch(loop, queue->kick, EPOLLIN, on_kick, device, err);
		if (!queue->source)
			return -EIO;
	}
	return 0;
}

void virtio_fini(struct virtio_device *device)
{
	for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++) {
		loop_unwatch(device->queues[i].source);
		if (device->queues[i].kick >= 0)
			close(device->queues[i].kick);
	}
	if (device->irq >= 0)
		close(device->irq);
	(void)pthread_mutex_destroy(&device->lock);
}

void virtio_free(struct virtio_device *device)
{
	if (device)
		device->ops->free(device);
}

struct pause_request {
	struct virtio_device *device;
	struct error *err;
	int ret;
};

static void pause_on_loop(void *context)
{
	struct pause_request *request = context;
	struct virtio_device *device = request->device;

	device->paused = true;
	if (device->active && device->ops->quiesce)
		request->ret = device->ops->quiesce(device, request->err);
}

int virtio_pause(struct virtio_device *device, struct error *err)
{
	struct pause_request request = { .device = device, .err = err };

	loop_call(device->loop, pause_on_loop, &request);
	return request.ret;
}

static void resume_on_loop(void *context)
{
	struct virtio_device *device = context;

	device->paused = false;
	if (!device->active)
		return;
	if (device->ops->resume)
		device->ops->resume(device);
	for (unsigned i = 0; i < device->ops->queue_count; i++)
		virtio_kick(device, i);
	/* An interrupt that was raised but not yet delivered when the state was saved. */
	if (device->interrupt_status)
		signal_eventfd(device->irq);
}

void virtio_resume(struct virtio_device *device)
{
	loop_call(device->loop, resume_on_loop, device);
}

/* --- state --- */

#define STATE_MAGIC 0x56494f31u /* "VIO1" */

struct queue_state {
	uint64_t desc;
	uint64_t avail;
	uint64_t used;
	uint16_t size;
	uint16_t ready;
	uint16_t next_avail;
	uint16_t next_used;
};

struct device_state {
	uint32_t magic;
	uint32_t id;
	uint32_t status;
	uint32_t interrupt_status;
	uint32_t features_select;
	uint32_t driver_features_select;
	uint32_t queue_select;
	uint32_t config_generation;
	uint64_t driver_features;
	uint32_t active;
	uint32_t broken;
	uint32_t queue_count;
	uint32_t reserved;
	struct queue_state queues[VIRTIO_QUEUES_MAX];
};

int virtio_save(struct virtio_device *device, struct buffer *to, struct error *err)
{
	struct device_state state = { .magic = STATE_MAGIC,
		                      .id = device->ops->id,
		                      .status = device->status,
		                      .interrupt_status = device->interrupt_status,
		                      .features_select = device->features_select,
		                      .driver_features_select = device->driver_features_select,
		                      .queue_select = device->queue_select,
		                      .config_generation = device->config_generation,
		                      .driver_features = device->driver_features,
		                      .active = device->active,
		                      .broken = device->broken,
		                      .queue_count = device->ops->queue_count };

	for (unsigned i = 0; i < device->ops->queue_count; i++) {
		const struct virtqueue *queue = &device->queues[i];

		state.queues[i] =
		        (struct queue_state){ queue->desc,  queue->avail,      queue->used,     queue->size,
			                      queue->ready, queue->next_avail, queue->next_used };
	}
	if (buffer_append(to, &state, sizeof(state)) < 0)
		return error_errno(err, ENOMEM, "save %s", device->ops->name);
	return device->ops->save ? device->ops->save(device, to, err) : 0;
}

static int state_check(struct virtio_device *device, const struct device_state *state, struct error *err)
{
	if (state->magic != STATE_MAGIC || state->id != (uint32_t)device->ops->id ||
	    state->queue_count != device->ops->queue_count)
		return error_set(err, EINVAL, "the saved state is not one of a %s device", device->ops->name);
	if (state->driver_features & ~offered_features(device))
		return error_set(err, EINVAL, "the saved %s uses features that this one lacks",
		                 device->ops->name);
	return 0;
}

int virtio_restore(struct virtio_device *device, const void *data, size_t size, struct error *err)
{
	struct device_state state;
	int ret;

	if (size < sizeof(state))
		return error_set(err, EINVAL, "the saved state of %s is cut short", device->ops->name);
	memcpy(&state, data, sizeof(state));
	ret = state_check(device, &state, err);
	if (ret < 0)
		return ret;
	device->status = state.status;
	device->interrupt_status = state.interrupt_status;
	device->features_select = state.features_select;
	device->driver_features_select = state.driver_features_select;
	device->queue_select = state.queue_select;
	device->config_generation = state.config_generation;
	device->driver_features = state.driver_features;
	device->broken = state.broken;
	device->paused = true;
	for (unsigned i = 0; i < device->ops->queue_count; i++) {
		const struct queue_state *from = &state.queues[i];
		struct virtqueue *queue = &device->queues[i];

		queue->desc = from->desc;
		queue->avail = from->avail;
		queue->used = from->used;
		queue->size = from->size;
		queue->ready = from->ready;
		queue->next_avail = from->next_avail;
		queue->next_used = from->next_used;
		if (queue->ready && !virtqueue_valid(device, queue))
			return error_set(err, EINVAL, "queue %u of the saved %s lies outside of guest memory",
			                 i, device->ops->name);
	}
	if (device->ops->restore) {
		ret = device->ops->restore(device, (const char *)data + sizeof(state), size - sizeof(state),
		                           err);
		if (ret < 0)
			return ret;
	}
	device->active = state.active;
	return 0;
}
