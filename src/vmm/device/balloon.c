/* virtio-balloon (virtio 1.2 section 5.5): the device and what the machine's API asks of it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/base.h"
#include "vmm/device/balloon_internal.h"

#define PAGES_PER_MIB 256

const char *const balloon_statistic_names[BALLOON_STATISTICS] = {
	[BALLOON_SWAP_IN] = "swap_in",
	[BALLOON_SWAP_OUT] = "swap_out",
	[BALLOON_MAJOR_FAULTS] = "major_faults",
	[BALLOON_MINOR_FAULTS] = "minor_faults",
	[BALLOON_FREE_MEMORY] = "free_memory",
	[BALLOON_TOTAL_MEMORY] = "total_memory",
	[BALLOON_AVAILABLE_MEMORY] = "available_memory",
	[BALLOON_DISK_CACHES] = "disk_caches",
	[BALLOON_HUGETLB_ALLOCATIONS] = "hugetlb_allocations",
	[BALLOON_HUGETLB_FAILURES] = "hugetlb_failures",
	[BALLOON_OOM_KILL] = "oom_kill",
	[BALLOON_ALLOC_STALL] = "alloc_stall",
	[BALLOON_ASYNC_SCAN] = "async_scan",
	[BALLOON_DIRECT_SCAN] = "direct_scan",
	[BALLOON_ASYNC_RECLAIM] = "async_reclaim",
	[BALLOON_DIRECT_RECLAIM] = "direct_reclaim",
};

static uint64_t balloon_features(struct virtio_device *device)
{
	return balloon_of(device)->features;
}

static uint32_t field_get(const uint32_t *field)
{
	return __atomic_load_n(field, __ATOMIC_RELAXED);
}

static void field_set(uint32_t *field, uint32_t value)
{
	__atomic_store_n(field, value, __ATOMIC_RELAXED);
}

static void balloon_config_read(struct virtio_device *device, uint32_t offset, void *data, unsigned size)
{
	struct balloon_config_space *space = &balloon_of(device)->space;
	struct balloon_config_space copy = { .num_pages = field_get(&space->num_pages),
		                             .actual = field_get(&space->actual),
		                             .free_page_hint_cmd_id =
		                                     field_get(&space->free_page_hint_cmd_id),
		                             .poison_val = field_get(&space->poison_val) };

	if (checked_range(offset, size, sizeof(copy)))
		memcpy(data, (char *)&copy + offset, size);
}

/* The driver owns `actual` and `poison_val`. */
static void balloon_config_write(struct virtio_device *device, uint32_t offset, const void *data,
                                 unsigned size)
{
	struct balloon_config_space *space = &balloon_of(device)->space;
	uint32_t value;

	if (size != sizeof(value))
		return;
	memcpy(&value, data, sizeof(value));
	if (offset == offsetof(struct balloon_config_space, actual))
		field_set(&space->actual, value);
	else if (offset == offsetof(struct balloon_config_space, poison_val))
		field_set(&space->poison_val, value);
}

/* --- statistics --- */

static void on_timer(void *context, uint32_t events)
{
	struct balloon *balloon = context;
	uint64_t count;

	(void)events;
	if (read(balloon->timer, &count, sizeof(count)) < 0)
		return;
	if (balloon->device.active && !balloon->device.paused && !balloon->device.broken)
		balloon_return_stats(balloon);
}

/* Have the timer fire each `seconds`; 0 stops it. */
static void set_timer(struct balloon *balloon, unsigned seconds)
{
	struct itimerspec when = { .it_interval.tv_sec = seconds, .it_value.tv_sec = seconds };

	if (balloon->timer >= 0 && timerfd_settime(balloon->timer, 0, &when, NULL) < 0)
		log_error("set the timer of the balloon: %s", strerror(errno));
}

static int make_timer(struct balloon *balloon, struct error *err)
{
	balloon->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (balloon->timer < 0)
		return error_errno(err, errno, "make the timer of the balloon");
	balloon->timer_source =
	        loop_watch(balloon->device.loop, balloon->timer, EPOLLIN, on_timer, balloon, err);
	return balloon->timer_source ? 0 : -EIO;
}

static void balloon_activate(struct virtio_device *device)
{
	struct balloon *balloon = balloon_of(device);

	set_timer(balloon, balloon->config.stats_polling_interval_s);
}

static void balloon_reset(struct virtio_device *device)
{
	struct balloon *balloon = balloon_of(device);

	set_timer(balloon, 0);
	field_set(&balloon->space.actual, 0);
	field_set(&balloon->space.poison_val, 0);
	field_set(&balloon->space.free_page_hint_cmd_id, BALLOON_HINT_STOP);
	balloon->held = false;
	balloon->present = 0;
	balloon->hinting = (struct balloon_hinting){ 0 };
}

/* --- what the machine's API asks for --- */

static int check_amount(const struct guest_memory *memory, uint32_t amount_mib, struct error *err)
{
	uint64_t total = 0;

	for (unsigned i = 0; i < memory->count; i++)
		total += memory->regions[i].size;
	if (amount_mib > total / BALLOON_PAGE / PAGES_PER_MIB || amount_mib > UINT32_MAX / PAGES_PER_MIB)
		return error_set(err, EINVAL,
		                 "a balloon of %u MiB is larger than the guest's memory of %llu MiB",
		                 amount_mib, (unsigned long long)(total / BALLOON_PAGE / PAGES_PER_MIB));
	return 0;
}

int balloon_set_amount(struct virtio_device *device, uint32_t amount_mib, struct error *err)
{
	struct balloon *balloon = balloon_of(device);
	int ret = check_amount(device->memory, amount_mib, err);

	if (ret < 0)
		return ret;
	balloon->config.amount_mib = amount_mib;
	field_set(&balloon->space.num_pages, amount_mib * PAGES_PER_MIB);
	virtio_config_changed(device);
	return 0;
}

int balloon_set_interval(struct virtio_device *device, unsigned seconds, struct error *err)
{
	struct balloon *balloon = balloon_of(device);

	if (seconds == balloon->config.stats_polling_interval_s)
		return 0;
	if (seconds == 0 || balloon->config.stats_polling_interval_s == 0)
		return error_set(err, EINVAL, "statistics of the balloon cannot be switched on or off");
	balloon->config.stats_polling_interval_s = seconds;
	if (device->active && !device->broken) {
		set_timer(balloon, seconds);
		if (!device->paused)
			balloon_return_stats(balloon);
	}
	return 0;
}

int balloon_get_stats(struct virtio_device *device, struct balloon_stats *ret, struct error *err)
{
	struct balloon *balloon = balloon_of(device);

	if (balloon->config.stats_polling_interval_s == 0)
		return error_set(err, EINVAL, "statistics of the balloon are not enabled");
	*ret = (struct balloon_stats){ .target_pages = field_get(&balloon->space.num_pages),
		                       .actual_pages = field_get(&balloon->space.actual),
		                       .present = balloon->present };
	ret->target_mib = ret->target_pages / PAGES_PER_MIB;
	ret->actual_mib = ret->actual_pages / PAGES_PER_MIB;
	memcpy(ret->values, balloon->values, sizeof(ret->values));
	return 0;
}

void balloon_get_config(struct virtio_device *device, struct balloon_config *ret)
{
	*ret = balloon_of(device)->config;
}

static int check_hinting(const struct balloon *balloon, bool active, struct error *err)
{
	if (!balloon->config.free_page_hinting)
		return error_set(err, EINVAL, "free page hinting of the balloon is not enabled");
	if (active &&
	    !(balloon->device.active && (balloon->device.driver_features & BALLOON_F_FREE_PAGE_HINT)))
		return error_set(err, EINVAL, "the guest has no driver for the balloon's free page hinting");
	return 0;
}

int balloon_start_hinting(struct virtio_device *device, bool acknowledge_on_stop, struct error *err)
{
	struct balloon *balloon = balloon_of(device);
	int ret = check_hinting(balloon, true, err);

	if (ret < 0)
		return ret;
	balloon->last_run++;
	if (balloon->last_run < BALLOON_HINT_FIRST_RUN)
		balloon->last_run = BALLOON_HINT_FIRST_RUN;
	balloon->acknowledge_on_stop = acknowledge_on_stop;
	balloon_set_hint_command(balloon, balloon->last_run);
	return 0;
}

int balloon_stop_hinting(struct virtio_device *device, struct error *err)
{
	int ret = check_hinting(balloon_of(device), true, err);

	if (ret == 0)
		balloon_set_hint_command(balloon_of(device), BALLOON_HINT_DONE);
	return ret;
}

int balloon_get_hinting(struct virtio_device *device, struct balloon_hinting *ret, struct error *err)
{
	*ret = balloon_of(device)->hinting;
	return check_hinting(balloon_of(device), false, err);
}

/* --- state --- */

#define STATE_MAGIC       0x424c4e31u /* "BLN1" */
#define STATE_HELD        1u
#define STATE_GUEST_CMD   2u
#define STATE_ACKNOWLEDGE 4u

struct balloon_state {
	uint32_t magic;
	uint32_t flags;
	uint64_t features; /* that were offered: they decide what each queue is */
	struct balloon_config_space space;
	uint32_t interval_s;
	uint32_t held_head;
	uint32_t guest_cmd;
	uint32_t last_run;
	uint32_t present;
	uint32_t reserved;
	uint64_t values[BALLOON_STATISTICS];
};

static int balloon_save(struct virtio_device *device, struct buffer *to, struct error *err)
{
	struct balloon *balloon = balloon_of(device);
	struct balloon_state state = { .magic = STATE_MAGIC,
		                       .features = balloon->features,
		                       .interval_s = balloon->config.stats_polling_interval_s,
		                       .held_head = balloon->held_head,
		                       .guest_cmd = balloon->hinting.guest_cmd,
		                       .last_run = balloon->last_run,
		                       .present = balloon->present };

	state.flags = (balloon->held ? STATE_HELD : 0) |
	              (balloon->hinting.has_guest_cmd ? STATE_GUEST_CMD : 0) |
	              (balloon->acknowledge_on_stop ? STATE_ACKNOWLEDGE : 0);
	balloon_config_read(device, 0, &state.space, sizeof(state.space));
	memcpy(state.values, balloon->values, sizeof(state.values));
	return buffer_append(to, &state, sizeof(state)) < 0 ? error_errno(err, ENOMEM, "save the balloon")
	                                                    : 0;
}

static int check_state(struct balloon *balloon, const struct balloon_state *state, struct error *err)
{
	if (state->magic != STATE_MAGIC || state->features != balloon->features ||
	    (state->interval_s == 0) != (balloon->config.stats_polling_interval_s == 0))
		return error_set(err, EINVAL, "the saved balloon has other features than this one");
	if ((state->flags & STATE_HELD) &&
	    (state->interval_s == 0 || state->held_head >= balloon->device.queues[BALLOON_STATS_QUEUE].size))
		return error_set(err, EINVAL, "the saved balloon holds a buffer that cannot be");
	if (state->present >> BALLOON_STATISTICS)
		return error_set(err, EINVAL, "the saved balloon has statistics that nobody knows");
	return check_amount(
	        balloon->device.memory,
	        state->space.num_pages / PAGES_PER_MIB + (state->space.num_pages % PAGES_PER_MIB != 0), err);
}

static int balloon_restore(struct virtio_device *device, const void *data, size_t size, struct error *err)
{
	struct balloon *balloon = balloon_of(device);
	struct balloon_state state;
	int ret;

	if (size != sizeof(state))
		return error_set(err, EINVAL, "the saved state of the balloon has a wrong size");
	memcpy(&state, data, sizeof(state));
	ret = check_state(balloon, &state, err);
	if (ret < 0)
		return ret;
	balloon->config.amount_mib = state.space.num_pages / PAGES_PER_MIB;
	balloon->config.stats_polling_interval_s = state.interval_s;
	field_set(&balloon->space.num_pages, state.space.num_pages);
	field_set(&balloon->space.actual, state.space.actual);
	field_set(&balloon->space.free_page_hint_cmd_id, state.space.free_page_hint_cmd_id);
	field_set(&balloon->space.poison_val, state.space.poison_val);
	balloon->held = state.flags & STATE_HELD;
	balloon->held_head = (uint16_t)state.held_head;
	balloon->present = state.present;
	memcpy(balloon->values, state.values, sizeof(balloon->values));
	balloon->hinting = (struct balloon_hinting){ .host_cmd = state.space.free_page_hint_cmd_id,
		                                     .guest_cmd = state.guest_cmd,
		                                     .has_guest_cmd = state.flags & STATE_GUEST_CMD };
	balloon->last_run = state.last_run;
	balloon->acknowledge_on_stop = state.flags & STATE_ACKNOWLEDGE;
	return 0;
}

/* --- life --- */

static void balloon_free(struct virtio_device *device)
{
	struct balloon *balloon = balloon_of(device);

	loop_unwatch(balloon->timer_source);
	if (balloon->timer >= 0)
		close(balloon->timer);
	virtio_fini(device);
	page_release_fini(&balloon->release);
	free(balloon);
}

#define METRIC(counter)                                                                                      \
	{                                                                                                    \
#counter, offsetof(struct balloon, metrics.counter)                                          \
	}
static const struct virtio_metric balloon_metrics[] = {
	METRIC(inflate_count),
	METRIC(stats_updates_count),
	METRIC(stats_update_fails),
	METRIC(deflate_count),
	METRIC(event_fails),
	METRIC(free_page_report_count),
	METRIC(free_page_report_freed),
	METRIC(free_page_report_fails),
	METRIC(free_page_hint_count),
	METRIC(free_page_hint_freed),
	METRIC(free_page_hint_fails),
	{ 0 },
};

static const struct virtio_ops balloon_ops = {
	.name = "balloon",
	.id = VIRTIO_ID_BALLOON,
	.queue_count = 2,
	.features = balloon_features,
	.config_read = balloon_config_read,
	.config_write = balloon_config_write,
	.activate = balloon_activate,
	.reset = balloon_reset,
	.kick = balloon_kick,
	.resume = balloon_activate,
	.save = balloon_save,
	.restore = balloon_restore,
	.free = balloon_free,
	.metrics = balloon_metrics,
};

/* Which queues there are follows from the configuration. */
static void choose_features(struct balloon *balloon)
{
	const struct balloon_config *config = &balloon->config;

	balloon->ops = balloon_ops;
	balloon->features = config->deflate_on_oom ? BALLOON_F_DEFLATE_ON_OOM : 0;
	if (config->stats_polling_interval_s) {
		balloon->features |= BALLOON_F_STATS_VQ;
		balloon->ops.queue_count++;
	}
	if (config->free_page_hinting) {
		balloon->features |= BALLOON_F_FREE_PAGE_HINT | BALLOON_F_PAGE_POISON;
		balloon->ops.queue_count++;
	}
	if (config->free_page_reporting) {
		balloon->features |= BALLOON_F_REPORTING | BALLOON_F_PAGE_POISON;
		balloon->ops.queue_count++;
	}
}

struct virtio_device *balloon_new(const struct balloon_config *config, bool memory_is_private,
                                  const struct guest_memory *memory, struct loop *loop, struct error *err)
{
	struct balloon *balloon;

	if (check_amount(memory, config->amount_mib, err) < 0)
		return NULL;
	balloon = calloc(1, sizeof(*balloon));
	if (!balloon) {
		error_errno(err, ENOMEM, "make the balloon");
		return NULL;
	}
	balloon->timer = -1;
	balloon->config = *config;
	balloon->space.num_pages = config->amount_mib * PAGES_PER_MIB;
	choose_features(balloon);
	if (virtio_init(&balloon->device, &balloon->ops, memory, loop, err) < 0) {
		balloon_free(&balloon->device);
		return NULL;
	}
	if (page_release_init(&balloon->release, memory, memory_is_private) < 0) {
		error_errno(err, ENOMEM, "make the balloon");
		balloon_free(&balloon->device);
		return NULL;
	}
	if (config->stats_polling_interval_s && make_timer(balloon, err) < 0) {
		balloon_free(&balloon->device);
		return NULL;
	}
	return &balloon->device;
}
