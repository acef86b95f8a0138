/* The balloon of a running machine: its size, statistics and free page hinting. */
#include <errno.h>

#include "base/base.h"
#include "vmm/api/resources.h"

static int call_balloon(const struct api_call *call, machine_device_fn *function, void *context,
                        struct error *err)
{
	return machine_call_device(call->api->machine, VIRTIO_ID_BALLOON, NULL, function, context, err);
}

/* What was changed at run time is what a snapshot will hold. */
static void note(const struct api_call *call, const char *key, int64_t value)
{
	json_t *balloon = json_object_get(call->api->config, "balloon");

	if (balloon)
		(void)json_object_set_new(balloon, key, json_integer(value));
}

static int set_amount(struct virtio_device *device, void *context, struct error *err)
{
	return balloon_set_amount(device, (uint32_t) * (const int64_t *)context, err);
}

int balloon_patch(const struct api_call *call, struct error *err)
{
	static const char *const known[] = { "amount_mib", NULL };
	int64_t amount = 0;
	int ret = config_only_known(call->body, "the balloon", known, err);

	if (ret == 0)
		ret = json_read_integer(call->body, "amount_mib", JSON_REQUIRED, 0, UINT32_MAX / 256, &amount,
		                        err);
	if (ret == 0)
		ret = call_balloon(call, set_amount, &amount, err);
	if (ret == 0)
		note(call, "amount_mib", amount);
	return ret;
}

/* --- statistics --- */

static int set_interval(struct virtio_device *device, void *context, struct error *err)
{
	return balloon_set_interval(device, (unsigned)*(const int64_t *)context, err);
}

int balloon_patch_statistics(const struct api_call *call, struct error *err)
{
	static const char *const known[] = { "stats_polling_interval_s", NULL };
	int64_t interval = 0;
	int ret = config_only_known(call->body, "the statistics", known, err);

	if (ret == 0)
		ret = json_read_integer(call->body, "stats_polling_interval_s", JSON_REQUIRED, 0, UINT16_MAX,
		                        &interval, err);
	if (ret == 0)
		ret = call_balloon(call, set_interval, &interval, err);
	if (ret == 0)
		note(call, "stats_polling_interval_s", interval);
	return ret;
}

static int get_stats(struct virtio_device *device, void *context, struct error *err)
{
	return balloon_get_stats(device, context, err);
}

int balloon_get_statistics(const struct api_call *call, struct error *err)
{
	struct balloon_stats stats;
	json_t *reply;
	int ret = call_balloon(call, get_stats, &stats, err);

	if (ret < 0)
		return ret;
	reply = json_pack("{s:I,s:I,s:I,s:I}", "target_pages", (json_int_t)stats.target_pages, "actual_pages",
	                  (json_int_t)stats.actual_pages, "target_mib", (json_int_t)stats.target_mib,
	                  "actual_mib", (json_int_t)stats.actual_mib);
	for (unsigned i = 0; i < BALLOON_STATISTICS; i++)
		if (stats.present >> i & 1)
			(void)json_object_set_new(reply, balloon_statistic_names[i],
			                          json_integer((json_int_t)stats.values[i]));
	*call->ret_reply = reply;
	return 0;
}

/* --- hinting --- */

static int start_hinting(struct virtio_device *device, void *context, struct error *err)
{
	return balloon_start_hinting(device, *(const bool *)context, err);
}

int balloon_start(const struct api_call *call, struct error *err)
{
	static const char *const known[] = { "acknowledge_on_stop", NULL };
	bool acknowledge = true;
	int ret = 0;

	if (call->body)
		ret = config_only_known(call->body, "the hinting", known, err);
	if (ret == 0 && call->body)
		ret = json_read_bool(call->body, "acknowledge_on_stop", JSON_OPTIONAL, &acknowledge, err);
	return ret < 0 ? ret : call_balloon(call, start_hinting, &acknowledge, err);
}

static int stop_hinting(struct virtio_device *device, void *context, struct error *err)
{
	(void)context;
	return balloon_stop_hinting(device, err);
}

int balloon_stop(const struct api_call *call, struct error *err)
{
	return call_balloon(call, stop_hinting, NULL, err);
}

static int get_hinting(struct virtio_device *device, void *context, struct error *err)
{
	return balloon_get_hinting(device, context, err);
}

int balloon_get_status(const struct api_call *call, struct error *err)
{
	struct balloon_hinting hinting;
	int ret = call_balloon(call, get_hinting, &hinting, err);

	if (ret < 0)
		return ret;
	*call->ret_reply = json_pack("{s:I}", "host_cmd", (json_int_t)hinting.host_cmd);
	(void)json_object_set_new(*call->ret_reply, "guest_cmd",
	                          hinting.has_guest_cmd ? json_integer((json_int_t)hinting.guest_cmd)
	                                                : json_null());
	return 0;
}
