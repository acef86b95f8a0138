/* What changes while the machine runs: limits of devices, files of drives. */
#include <errno.h>
#include <string.h>

#include "base/base.h"
#include "vmm/api/resources.h"

/* --- the configuration, which a snapshot will hold --- */

/* The element of the array `list` whose `key` is the path's id; borrowed. */
static json_t *find_element(const struct api_call *call, const char *list, const char *key)
{
	json_t *elements = json_object_get(call->api->config, list);
	size_t index;
	json_t *element;

	json_array_foreach (elements, index, element) {
		const char *id = json_string_value(json_object_get(element, key));

		if (id && strcmp(id, call->id) == 0)
			return element;
	}
	return NULL;
}

static int check_id(const struct api_call *call, const char *key, struct error *err)
{
	const char *id = NULL;
	int ret = json_read_string(call->body, key, JSON_REQUIRED, &id, err);

	if (ret == 0 && strcmp(id, call->id) != 0)
		ret = error_set(err, EINVAL, "the id of the path, '%s', is not the %s of the body, '%s'",
		                call->id, key, id);
	return ret;
}

/* A limiter's buckets that were given replace those that were there. */
static void note_limiter(json_t *element, const json_t *body, const char *key)
{
	json_t *given = json_object_get(body, key);
	json_t *old = json_object_get(element, key);

	if (!json_is_object(given))
		return;
	if (json_is_object(old))
		(void)json_object_update(old, given);
	else
		(void)json_object_set_new(element, key, json_deep_copy(given));
}

/* --- drives --- */

struct drive_update {
	const char *path;
	struct block_config stack; /* with an overlay_path: the drive's layers are replaced */
	struct rate_limiter_config limits;
	struct config_buckets present;
};

static int apply_drive(struct virtio_device *device, void *context, struct error *err)
{
	const struct drive_update *update = context;

	int ret = 0;

	if (update->stack.overlay_path)
		ret = block_set_stack(device, &update->stack, err);
	else if (update->path)
		ret = block_set_path(device, update->path, err);

	if (ret < 0)
		return ret;
	block_set_limits(device, update->present.bandwidth ? &update->limits.bandwidth : NULL,
	                 update->present.ops ? &update->limits.ops : NULL);
	return 0;
}

/* Not Firecracker's: "layers" and "overlay_path" together are a new stack over the image that is there. */
static int read_stack(const struct api_call *call, const json_t *element, struct drive_update *update,
                      struct error *err)
{
	struct block_config *stack = &update->stack;
	int ret = json_read_string(call->body, "overlay_path", JSON_OPTIONAL, &stack->overlay_path, err);

	if (ret == 0)
		ret = config_read_layers(call->body, stack, err);
	if (ret == 0 && !stack->overlay_path && json_object_get(call->body, "layers"))
		ret = error_set(err, EINVAL, "layers can only be replaced together with overlay_path");
	stack->path =
	        update->path ? update->path : json_string_value(json_object_get(element, "path_on_host"));
	if (ret == 0 && stack->overlay_path && !stack->path)
		ret = error_set(err, ENOENT, "there is no drive '%s'", call->id);
	return ret;
}

static void note_paths(json_t *element, const json_t *body)
{
	static const char *const keys[] = { "path_on_host", "layers", "overlay_path", NULL };

	for (const char *const *key = keys; *key; key++) {
		json_t *value = json_object_get(body, *key);

		if (value)
			(void)json_object_set_new(element, *key, json_deep_copy(value));
	}
}

int update_drive(const struct api_call *call, struct error *err)
{
	static const char *const known[] = { "drive_id", "path_on_host", "rate_limiter",
		                             "layers",   "overlay_path", NULL };
	struct drive_update update = { 0 };
	json_t *element = find_element(call, "drives", "drive_id");
	int ret = config_only_known(call->body, "the drive", known, err);

	if (ret == 0)
		ret = check_id(call, "drive_id", err);
	if (ret == 0)
		ret = json_read_string(call->body, "path_on_host", JSON_OPTIONAL, &update.path, err);
	if (ret == 0)
		ret = read_stack(call, element, &update, err);
	if (ret == 0)
		ret = config_read_limiter(call->body, "rate_limiter", &update.limits, &update.present, err);
	if (ret == 0)
		ret = machine_call_device(call->api->machine, VIRTIO_ID_BLOCK, call->id, apply_drive, &update,
		                          err);
	if (ret == 0 && element) {
		note_limiter(element, call->body, "rate_limiter");
		note_paths(element, call->body);
	}
	return ret;
}

/* --- network interfaces --- */

struct net_update {
	struct rate_limiter_config rx;
	struct rate_limiter_config tx;
	struct config_buckets rx_present;
	struct config_buckets tx_present;
};

static int apply_net(struct virtio_device *device, void *context, struct error *err)
{
	const struct net_update *update = context;

	(void)err;
	net_set_limits(device, update->rx_present.bandwidth ? &update->rx.bandwidth : NULL,
	               update->rx_present.ops ? &update->rx.ops : NULL,
	               update->tx_present.bandwidth ? &update->tx.bandwidth : NULL,
	               update->tx_present.ops ? &update->tx.ops : NULL);
	return 0;
}

int update_net(const struct api_call *call, struct error *err)
{
	static const char *const known[] = { "iface_id", "rx_rate_limiter", "tx_rate_limiter", NULL };
	struct net_update update = { 0 };
	json_t *element = find_element(call, "network-interfaces", "iface_id");
	int ret = config_only_known(call->body, "the network interface", known, err);

	if (ret == 0)
		ret = check_id(call, "iface_id", err);
	if (ret == 0)
		ret = config_read_limiter(call->body, "rx_rate_limiter", &update.rx, &update.rx_present, err);
	if (ret == 0)
		ret = config_read_limiter(call->body, "tx_rate_limiter", &update.tx, &update.tx_present, err);
	if (ret == 0)
		ret = machine_call_device(call->api->machine, VIRTIO_ID_NET, call->id, apply_net, &update,
		                          err);
	if (ret == 0 && element) {
		note_limiter(element, call->body, "rx_rate_limiter");
		note_limiter(element, call->body, "tx_rate_limiter");
	}
	return ret;
}
