/* The table of the machine API (Firecracker's API description, src/firecracker/swagger), and its state
 * requests. */
#include "vmm/api/resources.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "vmm/api/observer.h"
#include "vmm/api/snapshots.h"

bool api_started(const struct api *api)
{
	return api->machine && machine_state(api->machine) != MACHINE_NOT_STARTED;
}

/* --- state --- */

static int get_root(const struct api_call *call, struct error *err)
{
	static const char *const names[] = { [MACHINE_NOT_STARTED] = "Not started",
		                             [MACHINE_RUNNING] = "Running",
		                             [MACHINE_PAUSED] = "Paused" };
	const struct api *api = call->api;

	(void)err;
	*call->ret_reply = json_pack("{s:s,s:s,s:s,s:s}", "id", api->options->id, "state",
	                             names[api->machine ? machine_state(api->machine) : MACHINE_NOT_STARTED],
	                             "vmm_version", ATOLL_VERSION, "app_name", "atoll-vmm");
	return 0;
}

static int get_version(const struct api_call *call, struct error *err)
{
	(void)err;
	*call->ret_reply = json_pack("{s:s}", "firecracker_version", ATOLL_VERSION);
	return 0;
}

static int start(struct api *api, struct error *err)
{
	if (api_started(api))
		return error_set(err, EINVAL,
		                 "The requested operation is not supported after starting the microVM.");
	return api_boot(api, json_incref(api->config), err);
}

static int put_actions(const struct api_call *call, struct error *err)
{
	static const char *const known[] = { "action_type", NULL };
	const char *action = NULL;
	int ret = config_only_known(call->body, "the action", known, err);

	if (ret == 0)
		ret = json_read_string(call->body, "action_type", JSON_REQUIRED, &action, err);
	if (ret < 0)
		return ret;
	if (strcmp(action, "InstanceStart") == 0)
		return start(call->api, err);
	if (strcmp(action, "FlushMetrics") != 0 && strcmp(action, "SendCtrlAltDel") != 0)
		return error_set(
		        err, EINVAL,
		        "action_type must be InstanceStart, FlushMetrics or SendCtrlAltDel, not '%s'",
		        action);
	if (!api_started(call->api))
		return error_set(err, EINVAL,
		                 "The requested operation is not supported before starting the microVM.");
	if (strcmp(action, "FlushMetrics") == 0)
		return observer_flush(call->api->observer, err);
	return machine_send_ctrl_alt_del(call->api->machine, err);
}

static int patch_vm(const struct api_call *call, struct error *err)
{
	static const char *const known[] = { "state", NULL };
	struct api *api = call->api;
	int64_t begin = time_monotonic_us();
	const char *state = NULL;
	int ret = config_only_known(call->body, "the state", known, err);

	if (ret == 0)
		ret = json_read_string(call->body, "state", JSON_REQUIRED, &state, err);
	if (ret < 0)
		return ret;
	if (strcmp(state, "Paused") == 0) {
		ret = machine_pause(api->machine, err);
		api->latencies.pause_vm = time_monotonic_us() - begin;
	} else if (strcmp(state, "Resumed") == 0) {
		ret = machine_resume(api->machine, err);
		api->latencies.resume_vm = time_monotonic_us() - begin;
	} else {
		ret = error_set(err, EINVAL, "state must be Paused or Resumed, not '%s'", state);
	}
	return ret;
}

/* Not Firecracker's: the pages that this run has touched, for `working_set_path` of later loads. */
static int put_working_set(const struct api_call *call, struct error *err)
{
	static const char *const known[] = { "working_set_path", NULL };
	const char *path = NULL;
	int ret = config_only_known(call->body, "the working set", known, err);

	if (ret == 0)
		ret = json_read_string(call->body, "working_set_path", JSON_REQUIRED, &path, err);
	return ret < 0 ? ret : machine_record_working_set(call->api->machine, path, err);
}

/* --- the table --- */

static const struct api_resource resources[] = {
	{ "GET", "/", API_ANY, get_root, NULL, "instance_info", false },
	{ "GET", "/version", API_ANY, get_version, NULL, "vmm_version", false },
	{ "GET", "/vm/config", API_ANY, configure_get_all, NULL, NULL, false },
	{ "GET", "/machine-config", API_ANY, configure_get_machine, NULL, "machine_cfg", false },
	{ "PUT", "/machine-config", API_BEFORE, configure_member, "machine-config", "machine_cfg", false },
	{ "PATCH", "/machine-config", API_BEFORE, configure_machine, NULL, "machine_cfg", false },
	{ "PUT", "/boot-source", API_BEFORE, configure_member, "boot-source", "boot_source", false },
	{ "PUT", "/drives/", API_BEFORE, configure_drive, NULL, "drive", false },
	{ "PATCH", "/drives/", API_AFTER, update_drive, NULL, "drive", false },
	{ "PUT", "/network-interfaces/", API_BEFORE, configure_net, NULL, "network", false },
	{ "PATCH", "/network-interfaces/", API_AFTER, update_net, NULL, "network", false },
	{ "PUT", "/mmds", API_ANY, metadata_put, NULL, "mmds", false },
	{ "PATCH", "/mmds", API_ANY, metadata_patch, NULL, "mmds", false },
	{ "GET", "/mmds", API_ANY, metadata_get, NULL, "mmds", false },
	{ "PUT", "/mmds/config", API_BEFORE, configure_member, "mmds-config", "mmds", false },
	{ "GET", "/balloon", API_ANY, configure_get_balloon, NULL, NULL, false },
	{ "PUT", "/balloon", API_BEFORE, configure_member, "balloon", NULL, false },
	{ "PATCH", "/balloon", API_AFTER, balloon_patch, NULL, NULL, false },
	{ "GET", "/balloon/statistics", API_AFTER, balloon_get_statistics, NULL, NULL, false },
	{ "PATCH", "/balloon/statistics", API_AFTER, balloon_patch_statistics, NULL, NULL, false },
	{ "PATCH", "/balloon/hinting/start", API_AFTER, balloon_start, NULL, NULL, true },
	{ "PATCH", "/balloon/hinting/stop", API_AFTER, balloon_stop, NULL, NULL, true },
	{ "GET", "/balloon/hinting/status", API_AFTER, balloon_get_status, NULL, NULL, false },
	{ "PUT", "/vsock", API_BEFORE, configure_member, "vsock", "vsock", false },
	{ "PUT", "/entropy", API_BEFORE, configure_member, "entropy", NULL, false },
	{ "PUT", "/serial", API_BEFORE, configure_member, "serial", "serial", false },
	{ "PUT", "/logger", API_BEFORE, observer_put_logger, NULL, "logger", false },
	{ "PUT", "/metrics", API_BEFORE, observer_put_metrics, NULL, "metrics", false },
	{ "PUT", "/actions", API_ANY, put_actions, NULL, "actions", false },
	{ "PATCH", "/vm", API_AFTER, patch_vm, NULL, NULL, false },
	{ "PUT", "/snapshot/create", API_AFTER, snapshots_create, NULL, NULL, false },
	{ "PUT", "/snapshot/load", API_BEFORE, snapshots_load, NULL, NULL, false },
	{ "PUT", "/snapshot/working-set", API_AFTER, put_working_set, NULL, NULL, false },
};

_Static_assert(ARRAY_SIZE(resources) <= API_RESOURCES_MAX, "struct api counts each row");

static bool path_matches(const char *pattern, const char *path, const char **ret_id)
{
	size_t size = strlen(pattern);
	size_t length = strlen(path);

	*ret_id = NULL;
	if (size > 1 && pattern[size - 1] == '/') {
		*ret_id = path + size;
		return strncmp(path, pattern, size) == 0 && path[size] && !strchr(path + size, '/');
	}
	/* One trailing slash is tolerated. */
	if (length > 1 && path[length - 1] == '/')
		length--;
	return length == size && memcmp(path, pattern, size) == 0;
}

static int check_call(const struct api_resource *resource, const struct api *api, const json_t *body,
                      struct error *err)
{
	bool reads = strcmp(resource->method, "GET") == 0;

	if (reads && body)
		return error_set(err, EINVAL, "GET request cannot have a body.");
	if (!reads && !body && !resource->bodiless)
		return error_set(err, EINVAL, "Empty %s request.", resource->method);
	if (resource->phase == API_BEFORE && api_started(api))
		return error_set(err, EINVAL,
		                 "The requested operation is not supported after starting the microVM.");
	if (resource->phase == API_AFTER && !api_started(api))
		return error_set(err, EINVAL,
		                 "The requested operation is not supported before starting the microVM.");
	return 0;
}

int resources_handle(struct api *api, const char *method, const char *path, const json_t *body,
                     json_t **ret_reply, struct error *err)
{
	for (size_t i = 0; i < ARRAY_SIZE(resources); i++) {
		struct api_call call = { api, &resources[i], NULL, body, ret_reply };
		int ret;

		if (strcmp(resources[i].method, method) != 0 ||
		    !path_matches(resources[i].path, path, &call.id))
			continue;
		api->calls[i]++;
		ret = check_call(&resources[i], api, body, err);
		if (ret == 0)
			ret = resources[i].handle(&call, err);
		api->failures[i] += ret < 0;
		return ret;
	}
	return error_set(err, ENOENT, "Invalid request method and/or path: %s %s.", method,
	                 path[0] == '/' ? path + 1 : path);
}

/* Rows of the same name are one counter (the balloon's, MMDS's). */
static void add_count(json_t *object, const char *name, const char *suffix, uint64_t value)
{
	char key[64];
	json_int_t before;

	(void)snprintf(key, sizeof(key), "%s_%s", name, suffix);
	before = json_integer_value(json_object_get(object, key));
	(void)json_object_set_new(object, key, json_integer(before + (json_int_t)value));
}

void resources_count(const struct api *api, json_t *metrics)
{
	static const char *const methods[][2] = { { "GET", "get_api_requests" },
		                                  { "PUT", "put_api_requests" },
		                                  { "PATCH", "patch_api_requests" } };

	for (size_t m = 0; m < ARRAY_SIZE(methods); m++) {
		json_t *object = json_object();

		for (size_t i = 0; i < ARRAY_SIZE(resources); i++) {
			if (!resources[i].metric || strcmp(resources[i].method, methods[m][0]) != 0)
				continue;
			add_count(object, resources[i].metric, "count", api->calls[i]);
			if (m > 0)
				add_count(object, resources[i].metric, "fails", api->failures[i]);
		}
		(void)json_object_set_new(metrics, methods[m][1], object);
	}
}
