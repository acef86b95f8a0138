/* virtio-balloon: what a driver puts into the queues (virtio 1.2 section 5.5.6). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "vmm/device/balloon_internal.h"

#define CHAINS_PER_KICK 16 /* then others have their turn */
#define STATS_MAX       256

struct balloon_stat {
	uint16_t tag;
	uint64_t value;
} __attribute__((packed));

/* Take one request. 0; 1 = it is held and not to be returned; -EINVAL = the driver broke the rules. */
typedef int balloon_queue_fn(struct balloon *balloon, const struct virtqueue_chain *chain);

/* --- inflate and deflate: lists of page numbers --- */

static int compare_pfns(const void *a, const void *b)
{
	uint32_t left = *(const uint32_t *)a;
	uint32_t right = *(const uint32_t *)b;

	return (left > right) - (left < right);
}

static int inflate_run(struct balloon *balloon, uint64_t gpa, uint64_t size)
{
	void *host = guest_memory_at(balloon->device.memory, gpa, size);
	uint64_t freed;
	int ret = host ? page_release(&balloon->release, host, size, false, &freed) : -EINVAL;

	if (ret < 0 && ret != -EINVAL) {
		/* The host's trouble, not the driver's fault: the page just stays. */
		balloon->metrics.event_fails++;
		return 0;
	}
	return ret;
}

/* Release the listed pages, neighbours in one call. */
static int inflate_pages(struct balloon *balloon, size_t count)
{
	uint64_t gpa = 0;
	uint64_t size = 0;
	int ret = 0;

	qsort(balloon->pfns, count, sizeof(balloon->pfns[0]), compare_pfns);
	for (size_t i = 0; i < count && ret == 0; i++) {
		uint64_t page = (uint64_t)balloon->pfns[i] * BALLOON_PAGE;

		if (i && balloon->pfns[i] == balloon->pfns[i - 1])
			continue;
		if (size && page == gpa + size &&
		    guest_memory_at(balloon->device.memory, gpa, size + BALLOON_PAGE)) {
			size += BALLOON_PAGE;
			continue;
		}
		if (size)
			ret = inflate_run(balloon, gpa, size);
		gpa = page;
		size = BALLOON_PAGE;
	}
	return ret == 0 && size ? inflate_run(balloon, gpa, size) : ret;
}

/* A list is readable, has whole entries, and not too many. */
static int list_size(const struct virtqueue_chain *chain, size_t *ret)
{
	*ret = iov_size(chain->iov, chain->readable);
	return chain->writable == 0 && *ret % sizeof(uint32_t) == 0 &&
	                       *ret / sizeof(uint32_t) <= BALLOON_PFNS_MAX
	               ? 0
	               : -EINVAL;
}

static int take_inflate(struct balloon *balloon, const struct virtqueue_chain *chain)
{
	size_t size;

	if (list_size(chain, &size) < 0)
		return -EINVAL;
	iov_to_buffer(chain->iov, chain->readable, 0, balloon->pfns, size);
	return inflate_pages(balloon, size / sizeof(uint32_t));
}

/* The pages come back by being touched. */
static int take_deflate(struct balloon *balloon, const struct virtqueue_chain *chain)
{
	size_t size;

	(void)balloon;
	return list_size(chain, &size);
}

/* --- statistics --- */

void balloon_return_stats(struct balloon *balloon)
{
	struct virtqueue *queue = &balloon->device.queues[BALLOON_STATS_QUEUE];
	uint16_t first_used = queue->next_used;

	if (!balloon->held)
		return;
	balloon->held = false;
	virtqueue_push(&balloon->device, queue, balloon->held_head, 0);
	virtqueue_notify(&balloon->device, queue, first_used);
}

static void update_stat(struct balloon *balloon, const struct balloon_stat *stat)
{
	/* Newer drivers know more. */
	if (stat->tag >= BALLOON_STATISTICS) {
		balloon->metrics.stats_update_fails++;
		return;
	}
	balloon->present |= 1u << stat->tag;
	balloon->values[stat->tag] = stat->value;
}

static int take_stats(struct balloon *balloon, const struct virtqueue_chain *chain)
{
	size_t size = iov_size(chain->iov, chain->readable);
	struct balloon_stat stat;

	if (chain->writable || size > STATS_MAX * sizeof(stat))
		return -EINVAL;
	/* There is one buffer; a driver that has another gets the first back. */
	balloon_return_stats(balloon);
	for (size_t at = 0; at + sizeof(stat) <= size; at += sizeof(stat)) {
		iov_to_buffer(chain->iov, chain->readable, at, &stat, sizeof(stat));
		update_stat(balloon, &stat);
	}
	balloon->metrics.stats_update_fails += size % sizeof(stat) != 0;
	balloon->held = true;
	balloon->held_head = chain->head;
	return 1;
}

/* --- reported and hinted free pages --- */

struct free_counters {
	uint64_t *count;
	uint64_t *freed;
	uint64_t *fails;
};

static int free_pages(struct balloon *balloon, const struct iovec *iov, const struct free_counters *counters)
{
	bool poisoned = balloon->device.driver_features & BALLOON_F_PAGE_POISON;
	uint64_t freed = 0;
	int ret;

	(*counters->count)++;
	/* Such a page must keep the poison (page_release.h), so keep the page. */
	if (poisoned && __atomic_load_n(&balloon->space.poison_val, __ATOMIC_RELAXED))
		return 0;
	ret = page_release(&balloon->release, iov->iov_base, iov->iov_len, poisoned, &freed);
	*counters->freed += freed;
	*counters->fails += ret < 0;
	return ret == -EINVAL ? ret : 0;
}

/* The pages of a request are different ones, so they are not more than memory has. */
static bool more_than_memory(const struct balloon *balloon, const struct virtqueue_chain *chain)
{
	const struct guest_memory *memory = balloon->device.memory;
	size_t size = iov_size(chain->iov, chain->readable + chain->writable);
	uint64_t total = 0;

	for (unsigned i = 0; i < memory->count; i++)
		total += memory->regions[i].size;
	return size > total;
}

static int take_report(struct balloon *balloon, const struct virtqueue_chain *chain)
{
	struct balloon_metrics *metrics = &balloon->metrics;
	const struct free_counters counters = { &metrics->free_page_report_count,
		                                &metrics->free_page_report_freed,
		                                &metrics->free_page_report_fails };
	int ret = chain->readable || more_than_memory(balloon, chain) ? -EINVAL : 0;

	for (int i = 0; i < chain->writable && ret == 0; i++)
		ret = free_pages(balloon, &chain->iov[i], &counters);
	return ret;
}

void balloon_set_hint_command(struct balloon *balloon, uint32_t command)
{
	balloon->hinting.host_cmd = command;
	__atomic_store_n(&balloon->space.free_page_hint_cmd_id, command, __ATOMIC_RELAXED);
	virtio_config_changed(&balloon->device);
}

/* The driver says which run the pages that follow belong to, or that it is at the end. */
static void take_hint_command(struct balloon *balloon, const struct iovec *iov)
{
	uint32_t command;

	memcpy(&command, iov->iov_base, sizeof(command));
	balloon->hinting.guest_cmd = command;
	balloon->hinting.has_guest_cmd = true;
	if (command >= BALLOON_HINT_FIRST_RUN || balloon->hinting.host_cmd < BALLOON_HINT_FIRST_RUN)
		return;
	if (balloon->acknowledge_on_stop)
		balloon_set_hint_command(balloon, BALLOON_HINT_DONE);
}

/* Pages of a run that is over may be in use again. */
static bool hints_are_current(const struct balloon *balloon)
{
	const struct balloon_hinting *hinting = &balloon->hinting;

	return hinting->host_cmd >= BALLOON_HINT_FIRST_RUN && hinting->has_guest_cmd &&
	       hinting->guest_cmd == hinting->host_cmd;
}

static int take_hint(struct balloon *balloon, const struct virtqueue_chain *chain)
{
	struct balloon_metrics *metrics = &balloon->metrics;
	const struct free_counters counters = { &metrics->free_page_hint_count,
		                                &metrics->free_page_hint_freed,
		                                &metrics->free_page_hint_fails };
	int ret = more_than_memory(balloon, chain) ? -EINVAL : 0;

	/* Commands are what we may read, pages what we may write. */
	for (int i = 0; i < chain->readable + chain->writable && ret == 0; i++) {
		const struct iovec *iov = &chain->iov[i];

		if (i >= chain->readable)
			ret = hints_are_current(balloon) ? free_pages(balloon, iov, &counters) : 0;
		else if (iov->iov_len == sizeof(uint32_t))
			take_hint_command(balloon, iov);
		else
			ret = -EINVAL;
	}
	return ret;
}

/* --- all queues --- */

static balloon_queue_fn *start_queue(struct balloon *balloon, unsigned index)
{
	static const struct {
		uint64_t feature;
		balloon_queue_fn *take;
	} optional[] = {
		{ BALLOON_F_STATS_VQ, take_stats },
		{ BALLOON_F_FREE_PAGE_HINT, take_hint },
		{ BALLOON_F_REPORTING, take_report },
	};
	struct balloon_metrics *metrics = &balloon->metrics;

	if (index < BALLOON_STATS_QUEUE) {
		*(index == 0 ? &metrics->inflate_count : &metrics->deflate_count) += 1;
		return index == 0 ? take_inflate : take_deflate;
	}
	/* A queue whose feature was not agreed takes no index: Linux counts those that it uses. */
	index -= BALLOON_STATS_QUEUE;
	for (size_t i = 0; i < ARRAY_SIZE(optional); i++) {
		if (!(balloon->device.driver_features & optional[i].feature) || index--)
			continue;
		metrics->stats_updates_count += optional[i].take == take_stats;
		return optional[i].take;
	}
	return NULL;
}

static void take_chain(struct balloon *balloon, struct virtqueue *queue, balloon_queue_fn *take,
                       const struct virtqueue_chain *chain)
{
	int ret = take(balloon, chain);

	if (ret < 0)
		(void)virtio_break(&balloon->device);
	else if (ret == 0)
		virtqueue_push(&balloon->device, queue, chain->head, 0);
}

void balloon_kick(struct virtio_device *device, unsigned index)
{
	struct balloon *balloon = balloon_of(device);
	struct virtqueue *queue = &device->queues[index];
	uint16_t first_used = queue->next_used;
	unsigned budget = CHAINS_PER_KICK;
	balloon_queue_fn *take = start_queue(balloon, index);
	struct virtqueue_chain chain;

	if (!take)
		return;
	do {
		while (budget && virtqueue_pop(device, queue, &chain) > 0) {
			take_chain(balloon, queue, take, &chain);
			budget--;
		}
	} while (budget && !device->broken && virtqueue_enable_kick(device, queue));
	balloon->metrics.event_fails += device->broken;
	if (!budget && !device->broken)
		virtio_kick_later(device, index);
	virtqueue_notify(device, queue, first_used);
}
