#include "vmm/device/virtqueue.h"

#include <errno.h>
#include <string.h>

#include "vmm/device/virtio_internal.h"

/* Descriptor flags (2.7.5) and ring flags. */
#define DESC_NEXT          1
#define DESC_WRITE         2
#define DESC_INDIRECT      4

#define AVAIL_NO_INTERRUPT 1

struct vring_desc {
	uint64_t address;
	uint32_t length;
	uint16_t flags;
	uint16_t next;
};

/* Layout of the rings: flags, index, entries, and behind them the other side's event index. */
#define AVAIL_SIZE(n) (4 + 2 * (uint64_t)(n) + 2)
#define USED_SIZE(n)  (4 + sizeof(struct virtqueue_used) * (uint64_t)(n) + 2)

static uint16_t load16(const void *at)
{
	return __atomic_load_n((const uint16_t *)at, __ATOMIC_ACQUIRE);
}

static void store16(void *at, uint16_t value)
{
	__atomic_store_n((uint16_t *)at, value, __ATOMIC_RELEASE);
}

static unsigned char *avail_ring(const struct virtio_device *device, const struct virtqueue *queue)
{
	return guest_memory_at(device->memory, queue->avail, AVAIL_SIZE(queue->size));
}

/* Who asks for it writes to it. */
static unsigned char *used_ring(const struct virtio_device *device, const struct virtqueue *queue)
{
	unsigned char *ring = guest_memory_at(device->memory, queue->used, USED_SIZE(queue->size));

	if (ring)
		guest_memory_mark(device->memory, queue->used, USED_SIZE(queue->size));
	return ring;
}

bool virtqueue_valid(const struct virtio_device *device, const struct virtqueue *queue)
{
	uint16_t size = queue->size;

	return size > 0 && size <= VIRTIO_QUEUE_SIZE && (size & (size - 1)) == 0 && queue->desc % 16 == 0 &&
	       queue->avail % 2 == 0 && queue->used % 4 == 0 &&
	       guest_memory_at(device->memory, queue->desc, sizeof(struct vring_desc) * size) &&
	       avail_ring(device, queue) && used_ring(device, queue);
}

/* Add one descriptor's buffer to the chain, in the order that the specification demands. */
static bool chain_add(struct virtio_device *device, struct virtqueue_chain *chain,
                      const struct vring_desc *desc)
{
	int count = chain->readable + chain->writable;
	void *host;

	if (count == VIRTQUEUE_CHAIN_MAX || desc->length == 0)
		return false;
	host = guest_memory_at(device->memory, desc->address, desc->length);
	if (!host)
		return false;
	chain->iov[count] = (struct iovec){ host, desc->length };
	if (desc->flags & DESC_WRITE) {
		guest_memory_mark(device->memory, desc->address, desc->length);
		chain->writable++;
		return true;
	}
	/* Readable buffers come before writable ones (2.7.4.2). */
	if (chain->writable)
		return false;
	chain->readable++;
	return true;
}

static bool chain_walk(struct virtio_device *device, const struct virtqueue *queue,
                       struct virtqueue_chain *chain)
{
	const struct vring_desc *table =
	        guest_memory_at(device->memory, queue->desc, sizeof(struct vring_desc) * queue->size);
	uint16_t index = chain->head;

	for (unsigned steps = 0; table && steps < queue->size; steps++) {
		struct vring_desc desc;

		if (index >= queue->size)
			return false;
		memcpy(&desc, &table[index], sizeof(desc));
		if ((desc.flags & DESC_INDIRECT) || !chain_add(device, chain, &desc))
			return false;
		if (!(desc.flags & DESC_NEXT))
			return true;
		index = desc.next;
	}
	return false; /* longer than the table: a loop */
}

int virtqueue_pop(struct virtio_device *device, struct virtqueue *queue, struct virtqueue_chain *chain)
{
	unsigned char *avail = avail_ring(device, queue);
	uint16_t waiting;

	if (device->broken || !avail)
		return device->broken ? 0 : virtio_break(device);
	waiting = (uint16_t)(load16(avail + 2) - queue->next_avail);
	if (waiting == 0)
		return 0;
	/* More new entries than the ring has: the index jumped. */
	if (waiting > queue->size)
		return virtio_break(device);
	chain->head = load16(avail + 4 + 2 * (queue->next_avail % queue->size));
	chain->readable = 0;
	chain->writable = 0;
	if (!chain_walk(device, queue, chain))
		return virtio_break(device);
	queue->next_avail++;
	return 1;
}

void virtqueue_unpop(struct virtqueue *queue)
{
	queue->next_avail--;
}

void virtqueue_push_all(struct virtio_device *device, struct virtqueue *queue,
                        const struct virtqueue_used *elements, unsigned count)
{
	unsigned char *used = used_ring(device, queue);

	if (!used)
		return;
	for (unsigned i = 0; i < count; i++, queue->next_used++)
		memcpy(used + 4 + sizeof(*elements) * (queue->next_used % queue->size), &elements[i],
		       sizeof(*elements));
	store16(used + 2, queue->next_used);
}

void virtqueue_push(struct virtio_device *device, struct virtqueue *queue, uint16_t head, uint32_t written)
{
	struct virtqueue_used element = { head, written };

	virtqueue_push_all(device, queue, &element, 1);
}

void virtqueue_notify(struct virtio_device *device, struct virtqueue *queue, uint16_t first_used)
{
	unsigned char *avail = avail_ring(device, queue);
	uint16_t pushed = (uint16_t)(queue->next_used - first_used);
	bool wanted;

	if (!avail || pushed == 0)
		return;
	/* The used index must be visible before we read what the driver wants (2.7.10.1). */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (device->driver_features & VIRTIO_F_EVENT_IDX) {
		uint16_t event = load16(avail + 4 + 2 * queue->size);

		wanted = (uint16_t)(queue->next_used - event - 1) < pushed;
	} else {
		wanted = !(load16(avail) & AVAIL_NO_INTERRUPT);
	}
	if (wanted)
		virtio_interrupt(device, VIRTIO_INTERRUPT_RING);
}

bool virtqueue_enable_kick(struct virtio_device *device, struct virtqueue *queue)
{
	unsigned char *avail = avail_ring(device, queue);
	unsigned char *used = used_ring(device, queue);

	if (!avail || !used)
		return false;
	if (device->driver_features & VIRTIO_F_EVENT_IDX)
		store16(used + 4 + sizeof(struct virtqueue_used) * queue->size, queue->next_avail);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return load16(avail + 2) != queue->next_avail;
}

uint16_t virtqueue_waiting(const struct virtio_device *device, const struct virtqueue *queue)
{
	const unsigned char *avail = avail_ring(device, queue);

	return avail ? (uint16_t)(load16(avail + 2) - queue->next_avail) : 0;
}

void virtqueue_enable_kick_beyond(struct virtio_device *device, struct virtqueue *queue)
{
	const unsigned char *avail = avail_ring(device, queue);
	unsigned char *used = used_ring(device, queue);

	if (avail && used && (device->driver_features & VIRTIO_F_EVENT_IDX))
		store16(used + 4 + sizeof(struct virtqueue_used) * queue->size, load16(avail + 2));
}

int iov_slice(const struct iovec *iov, int count, size_t skip, size_t size,
              struct iovec to[VIRTQUEUE_CHAIN_MAX])
{
	int used = 0;

	for (int i = 0; i < count && size && used < VIRTQUEUE_CHAIN_MAX; i++) {
		size_t part = iov[i].iov_len;

		if (skip >= part) {
			skip -= part;
			continue;
		}
		part -= skip;
		if (part > size)
			part = size;
		to[used++] = (struct iovec){ (char *)iov[i].iov_base + skip, part };
		skip = 0;
		size -= part;
	}
	return used;
}

size_t iov_size(const struct iovec *iov, int count)
{
	size_t size = 0;

	for (int i = 0; i < count; i++)
		size += iov[i].iov_len;
	return size;
}

size_t iov_to_buffer(const struct iovec *iov, int count, size_t offset, void *data, size_t size)
{
	size_t done = 0;

	for (int i = 0; i < count && done < size; i++) {
		size_t part = iov[i].iov_len;

		if (offset >= part) {
			offset -= part;
			continue;
		}
		part -= offset;
		if (part > size - done)
			part = size - done;
		memcpy((char *)data + done, (const char *)iov[i].iov_base + offset, part);
		offset = 0;
		done += part;
	}
	return done;
}

size_t iov_from_buffer(const struct iovec *iov, int count, size_t offset, const void *data, size_t size)
{
	size_t done = 0;

	for (int i = 0; i < count && done < size; i++) {
		size_t part = iov[i].iov_len;

		if (offset >= part) {
			offset -= part;
			continue;
		}
		part -= offset;
		if (part > size - done)
			part = size - done;
		memcpy((char *)iov[i].iov_base + offset, (const char *)data + done, part);
		offset = 0;
		done += part;
	}
	return done;
}
