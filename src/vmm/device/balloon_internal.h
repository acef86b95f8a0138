/* What balloon.c (device and API) and balloon_queue.c (what a driver puts into the queues) share. */
#pragma once

#include "vmm/device/device.h"
#include "vmm/device/page_release.h"
#include "vmm/device/virtio_internal.h"
#include "vmm/device/virtqueue.h"

/* Features (5.5.3). MUST_TELL_HOST (bit 0) is not offered: a deflated page is there as soon as it is touched.
 */
#define BALLOON_F_STATS_VQ       (1ull << 1)
#define BALLOON_F_DEFLATE_ON_OOM (1ull << 2)
#define BALLOON_F_FREE_PAGE_HINT (1ull << 3)
#define BALLOON_F_PAGE_POISON    (1ull << 4)
#define BALLOON_F_REPORTING      (1ull << 5)

/* Values of free_page_hint_cmd_id (5.5.6.6); others are runs. */
#define BALLOON_HINT_STOP      0
#define BALLOON_HINT_DONE      1
#define BALLOON_HINT_FIRST_RUN 2

#define BALLOON_STATS_QUEUE    2    /* its index, when there is one */
#define BALLOON_PFNS_MAX       4096 /* per list; Linux has 256, others a page full */
#define BALLOON_PAGE           4096u

/* Configuration space (5.5.4). vCPU threads read and write it: atomic accesses only. */
struct balloon_config_space {
	uint32_t num_pages;
	uint32_t actual;
	uint32_t free_page_hint_cmd_id;
	uint32_t poison_val;
};

struct balloon {
	struct virtio_device device;
	struct virtio_ops ops; /* our own: how many queues there are depends on the configuration */
	struct balloon_config config;
	uint64_t features;
	struct balloon_config_space space;
	struct page_release release;
	uint32_t pfns[BALLOON_PFNS_MAX];
	/* Statistics: the driver's buffer is held until new ones are wanted. */
	bool held;
	uint16_t held_head;
	uint32_t present;
	uint64_t values[BALLOON_STATISTICS];
	int timer; /* timerfd; -1 without statistics */
	struct loop_source *timer_source;
	struct balloon_hinting hinting;
	uint32_t last_run;
	bool acknowledge_on_stop;
	struct balloon_metrics {
		uint64_t inflate_count;
		uint64_t stats_updates_count;
		uint64_t stats_update_fails;
		uint64_t deflate_count;
		uint64_t event_fails;
		uint64_t free_page_report_count;
		uint64_t free_page_report_freed;
		uint64_t free_page_report_fails;
		uint64_t free_page_hint_count;
		uint64_t free_page_hint_freed;
		uint64_t free_page_hint_fails;
	} metrics;
};

static inline struct balloon *balloon_of(struct virtio_device *device)
{
	return (struct balloon *)device;
}

/* The driver kicked a queue. */
void balloon_kick(struct virtio_device *device, unsigned index);

/* Give the held statistics buffer back: the driver fills it anew. */
void balloon_return_stats(struct balloon *balloon);

/* Tell the driver of another hinting command. */
void balloon_set_hint_command(struct balloon *balloon, uint32_t command);
