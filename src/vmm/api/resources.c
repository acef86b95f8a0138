/* Configuration, actions and state of one machine (Firecracker's API description, src/firecracker/swagger).
 */
#include "vmm/api/resources.h"

#include <errno.h>
#include <string.h>

#include "base/base.h"
#include "vmm/api/snapshots.h"

enum phase {
	PHASE_ANY,
	PHASE_BEFORE, /* not after the machine has started */
	PHASE_AFTER,
};

struct resource_call {
	struct api *api;
	const char *id; /* the part of the path behind the resource, or NULL */
	const json_t *body;
	json_t **ret_reply;
	const char *member; /* of the configuration */
};

static bool started(const struct api *api)
{
	return api->machine && machine_state(api->machine) != MACHINE_NOT_STARTED;
}

/* --- configuration --- */

/* Take a changed configuration if it is valid as a whole; takes the reference. */
static int accept_config(struct api *api, json_t *changed, struct error *err)
{
	struct machine_config parsed;
	int ret = changed ? config_read(changed, &parsed, err) : error_errno(err, ENOMEM, "configure");

	if (ret < 0) {
		json_decref(changed);
		return ret;
	}
	json_decref(api->config);
	api->config = changed;
	return 0;
}

static int put_member(const struct resource_call *call, struct error *err)
{
	json_t *changed = json_deep_copy(call->api->config);

	(void)json_object_set_new(changed, call->member, json_deep_copy(call->body));
	return accept_config(call->api, changed, err);
}

static int patch_member(const struct resource_call *call, struct error *err)
{
	json_t *changed = json_deep_copy(call->api->config);
	json_t *member = json_object_get(changed, call->member);

	if (!member) {
		member = json_pack("{s:i,s:i}", "vcpu_count", 1, "mem_size_mib", 128);
		(void)json_object_set_new(changed, call->member, member);
	}
	(void)json_object_update(member, (json_t *)(uintptr_t)call->body);
	return accept_config(call->api, changed, err);
}

static int get_member(const struct resource_call *call, struct error *err)
{
	json_t *member = json_object_get(call->api->config, call->member);

	(void)err;
	*call->ret_reply = member ? json_deep_copy(member)
	                          : json_pack("{s:i,s:i}", "vcpu_count", 1, "mem_size_mib", 128);
	return 0;
}

static int put_drive(const struct resource_call *call, struct error *err)
{
	json_t *changed = json_deep_copy(call->api->config);
	json_t *drives = json_object_get(changed, "drives");
	const char *id = json_string_value(json_object_get(call->body, "drive_id"));
	size_t index;
	json_t *drive;

	if (!id || strcmp(id, call->id) != 0) {
		json_decref(changed);
		return error_set(err, EINVAL, "the id from the path [%s] does not match the id from the body",
		                 call->id);
	}
	if (!drives) {
		drives = json_array();
		(void)json_object_set_new(changed, "drives", drives);
	}
	json_array_foreach (drives, index, drive) {
		const char *other = json_string_value(json_object_get(drive, "drive_id"));

		if (other && strcmp(other, id) == 0)
			break;
	}
	if (index < json_array_size(drives))
		(void)json_array_set_new(drives, index, json_deep_copy(call->body));
	else
		(void)json_array_append_new(drives, json_deep_copy(call->body));
	return accept_config(call->api, changed, err);
}

/* --- state --- */

static int get_root(const struct resource_call *call, struct error *err)
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

static int get_version(const struct resource_call *call, struct error *err)
{
	(void)err;
	*call->ret_reply = json_pack("{s:s}", "firecracker_version", ATOLL_VERSION);
	return 0;
}

static int get_config(const struct resource_call *call, struct error *err)
{
	(void)err;
	*call->ret_reply = json_deep_copy(call->api->config);
	return 0;
}

static int put_actions(const struct resource_call *call, struct error *err)
{
	static const char *const known[] = { "action_type", NULL };
	const char *action = NULL;
	int ret = config_only_known(call->body, "the action", known, err);

	if (ret == 0)
		ret = json_read_string(call->body, "action_type", JSON_REQUIRED, &action, err);
	if (ret < 0)
		return ret;
	if (strcmp(action, "InstanceStart") != 0)
		return error_set(err, ENOTSUP, "the action '%s' is not supported", action);
	if (started(call->api))
		return error_set(err, EINVAL,
		                 "The requested operation is not supported after starting the microVM.");
	return api_boot(call->api, json_incref(call->api->config), err);
}

static int patch_vm(const struct resource_call *call, struct error *err)
{
	static const char *const known[] = { "state", NULL };
	const char *state = NULL;
	int ret = config_only_known(call->body, "the state", known, err);

	if (ret == 0)
		ret = json_read_string(call->body, "state", JSON_REQUIRED, &state, err);
	if (ret < 0)
		return ret;
	if (strcmp(state, "Paused") == 0)
		return machine_pause(call->api->machine, err);
	if (strcmp(state, "Resumed") == 0)
		return machine_resume(call->api->machine, err);
	return error_set(err, EINVAL, "state must be Paused or Resumed, not '%s'", state);
}

static int put_snapshot_create(const struct resource_call *call, struct error *err)
{
	return snapshots_create(call->api, call->body, err);
}

static int put_snapshot_load(const struct resource_call *call, struct error *err)
{
	return snapshots_load(call->api, call->body, err);
}

/* --- the table --- */

static const struct resource {
	const char *method;
	const char *path; /* a trailing '/' wants an id behind it */
	enum phase phase;
	int (*handle)(const struct resource_call *call, struct error *err);
	const char *member;
} resources[] = {
	{ "GET", "/", PHASE_ANY, get_root, NULL },
	{ "GET", "/version", PHASE_ANY, get_version, NULL },
	{ "GET", "/vm/config", PHASE_ANY, get_config, NULL },
	{ "GET", "/machine-config", PHASE_ANY, get_member, "machine-config" },
	{ "PUT", "/machine-config", PHASE_BEFORE, put_member, "machine-config" },
	{ "PATCH", "/machine-config", PHASE_BEFORE, patch_member, "machine-config" },
	{ "PUT", "/boot-source", PHASE_BEFORE, put_member, "boot-source" },
	{ "PUT", "/drives/", PHASE_BEFORE, put_drive, NULL },
	{ "PUT", "/vsock", PHASE_BEFORE, put_member, "vsock" },
	{ "PUT", "/entropy", PHASE_BEFORE, put_member, "entropy" },
	{ "PUT", "/serial", PHASE_BEFORE, put_member, "serial" },
	{ "PUT", "/actions", PHASE_ANY, put_actions, NULL },
	{ "PATCH", "/vm", PHASE_AFTER, patch_vm, NULL },
	{ "PUT", "/snapshot/create", PHASE_AFTER, put_snapshot_create, NULL },
	{ "PUT", "/snapshot/load", PHASE_BEFORE, put_snapshot_load, NULL },
};

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

static int check_call(const struct resource *resource, const struct api *api, const char *method,
                      const json_t *body, struct error *err)
{
	bool reads = strcmp(method, "GET") == 0;

	if (reads && body)
		return error_set(err, EINVAL, "GET request cannot have a body.");
	if (!reads && !body)
		return error_set(err, EINVAL, "Empty %s request.", method);
	if (resource->phase == PHASE_BEFORE && started(api))
		return error_set(err, EINVAL,
		                 "The requested operation is not supported after starting the microVM.");
	if (resource->phase == PHASE_AFTER && !started(api))
		return error_set(err, EINVAL,
		                 "The requested operation is not supported before starting the microVM.");
	return 0;
}

int resources_handle(struct api *api, const char *method, const char *path, const json_t *body,
                     json_t **ret_reply, struct error *err)
{
	for (size_t i = 0; i < ARRAY_SIZE(resources); i++) {
		const struct resource *resource = &resources[i];
		struct resource_call call = {
			.api = api, .body = body, .ret_reply = ret_reply, .member = resource->member
		};
		int ret;

		if (strcmp(resource->method, method) != 0 || !path_matches(resource->path, path, &call.id))
			continue;
		ret = check_call(resource, api, method, body, err);
		return ret < 0 ? ret : resource->handle(&call, err);
	}
	return error_set(err, EINVAL, "Invalid request method and/or path: %s %s.", method, path);
}
