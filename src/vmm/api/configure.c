/* What is configured before the start: each request changes a copy, which is taken when it is valid as a
 * whole. */
#include <errno.h>
#include <string.h>

#include "base/base.h"
#include "vmm/api/resources.h"

/* Takes the reference. */
static int take(struct api *api, json_t *changed, struct error *err)
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

int configure_member(const struct api_call *call, struct error *err)
{
	json_t *changed = json_deep_copy(call->api->config);

	(void)json_object_set_new(changed, call->resource->member, json_deep_copy(call->body));
	return take(call->api, changed, err);
}

int configure_machine(const struct api_call *call, struct error *err)
{
	json_t *changed = json_deep_copy(call->api->config);
	json_t *member = json_object_get(changed, "machine-config");

	if (json_object_size(call->body) == 0) {
		json_decref(changed);
		return error_set(err, EINVAL, "Empty PATCH request.");
	}
	if (!member) {
		member = json_pack("{s:i,s:i}", "vcpu_count", 1, "mem_size_mib", 128);
		(void)json_object_set_new(changed, "machine-config", member);
	}
	(void)json_object_update(member, (json_t *)(uintptr_t)call->body);
	return take(call->api, changed, err);
}

/* Put the body into the array `list`, in place of the element whose `key` is the path's id. */
static int put_element(const struct api_call *call, const char *list, const char *key, struct error *err)
{
	json_t *changed = json_deep_copy(call->api->config);
	json_t *elements = json_object_get(changed, list);
	const char *id = json_string_value(json_object_get(call->body, key));
	size_t index;
	json_t *element;

	if (!id || strcmp(id, call->id) != 0) {
		json_decref(changed);
		return error_set(err, EINVAL, "the id of the path, '%s', is not the %s of the body, '%s'",
		                 call->id, key, id ? id : "");
	}
	if (!json_is_array(elements)) {
		elements = json_array();
		(void)json_object_set_new(changed, list, elements);
	}
	json_array_foreach (elements, index, element) {
		const char *other = json_string_value(json_object_get(element, key));

		if (other && strcmp(other, id) == 0)
			break;
	}
	if (index < json_array_size(elements))
		(void)json_array_set_new(elements, index, json_deep_copy(call->body));
	else
		(void)json_array_append_new(elements, json_deep_copy(call->body));
	return take(call->api, changed, err);
}

int configure_drive(const struct api_call *call, struct error *err)
{
	return put_element(call, "drives", "drive_id", err);
}

int configure_net(const struct api_call *call, struct error *err)
{
	return put_element(call, "network-interfaces", "iface_id", err);
}

/* --- reading it back --- */

int configure_get_all(const struct api_call *call, struct error *err)
{
	json_t *config = json_deep_copy(call->api->config);

	if (!config)
		return error_errno(err, ENOMEM, "show the configuration");
	config_complete(config);
	*call->ret_reply = config;
	return 0;
}

int configure_get_machine(const struct api_call *call, struct error *err)
{
	json_t *config = NULL;
	struct api_call all = *call;
	int ret;

	all.ret_reply = &config;
	ret = configure_get_all(&all, err);
	if (ret == 0)
		*call->ret_reply = json_incref(json_object_get(config, "machine-config"));
	json_decref(config);
	return ret;
}

int configure_get_balloon(const struct api_call *call, struct error *err)
{
	json_t *balloon = json_object_get(call->api->config, "balloon");

	if (!json_is_object(balloon))
		return error_set(err, ENOENT, "the machine has no balloon device");
	*call->ret_reply = json_deep_copy(balloon);
	return 0;
}
