/* /templates and /teams: the read side. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/rest/rest.h"
#include "api/store/store.h"

static json_t *template_entry(const json_t *template)
{
	const char *name = json_string_value(json_object_get(template, "name"));
	char created[TIME_RFC3339_SIZE];

	(void)time_format_rfc3339(json_integer_value(json_object_get(template, "created_at_ms")), created);
	return json_pack(
	        "{s:s,s:O,s:O,s:O,s:O,s:b,s:[s],s:[s],s:s,s:s,s:n,s:n,s:i,s:i,s:s,s:s}", "templateID", name,
	        "buildID", json_object_get(template, "build_id"), "cpuCount",
	        json_object_get(template, "vcpu_count"), "memoryMB", json_object_get(template, "memory_mib"),
	        "diskSizeMB", json_object_get(template, "disk_mib"), "public", 1, "aliases", name, "names",
	        name, "createdAt", created, "updatedAt", created, "createdBy", "lastSpawnedAt", "spawnCount",
	        0, "buildCount", 1, "envdVersion", API_ENVD_VERSION, "buildStatus", "ready");
}

static void on_list(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct rest_call *call = context;
	cleanup_json json_t *list = status == 200 ? json_loadb(data, size, 0, NULL) : NULL;
	json_t *answer;
	size_t index;
	json_t *template;

	if (!json_is_array(list)) {
		rest_fail_node(call, status, data, size, err);
		return;
	}
	answer = json_array();
	json_array_foreach (list, index, template)
		(void)json_array_append_new(answer, template_entry(template));
	rest_reply(call, 200, answer);
}

void templates_list(struct rest_call *call)
{
	api_call_node(call->api, "GET", "/v1/templates", NULL, on_list, call);
}

static void on_alias(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct rest_call *call = context;
	cleanup_json json_t *list = status == 200 ? json_loadb(data, size, 0, NULL) : NULL;
	size_t index;
	json_t *template;

	if (!json_is_array(list)) {
		rest_fail_node(call, status, data, size, err);
		return;
	}
	json_array_foreach (list, index, template) {
		const char *name = json_string_value(json_object_get(template, "name"));

		if (name && strcmp(name, call->id) == 0) {
			rest_reply(call, 200, json_pack("{s:s,s:b}", "templateID", name, "public", 1));
			return;
		}
	}
	rest_fail(call, 404, "template '%s' not found", call->id);
}

void templates_get_alias(struct rest_call *call)
{
	api_call_node(call->api, "GET", "/v1/templates", NULL, on_alias, call);
}
