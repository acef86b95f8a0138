/* The node, as the admin sees it, and what the admin may do to a team's sandboxes. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/control.h"
#include "api/machine.h"
#include "api/rest/rest.h"

#define NODE_ID    "local" /* there is one; sandboxes name it as their clientID */
#define CLUSTER_ID "00000000-0000-0000-0000-000000000000"

/* --- /nodes --- */

/* `reached`: it has just answered. */
static json_t *node_json(struct api *api, bool reached)
{
	struct control *control = api->control;
	struct control_usage usage;
	char since[TIME_RFC3339_SIZE];
	json_t *metrics = machine_metrics(control->data, &control->cpu_busy, &control->cpu_total);

	control_usage(api, NULL, &usage);
	(void)json_object_set_new(metrics, "allocatedCPU", json_integer(usage.vcpus));
	(void)json_object_set_new(metrics, "allocatedMemoryBytes",
	                          json_integer(usage.memory_mib * INT64_C(1048576)));
	return json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:I,s:I,s:I,s:I,s:o,s:o}", "id", NODE_ID,
	                 "serviceInstanceID", control->instance, "clusterID", CLUSTER_ID, "version",
	                 ATOLL_VERSION, "commit", "", "status",
	                 reached ? control_status_name(control->status) : "connecting", "statusChangedAt",
	                 time_format_rfc3339(control->status_since_ms, since), "sandboxCount",
	                 (json_int_t)(usage.sandboxes - usage.starting), "createSuccesses",
	                 (json_int_t)control->creates, "createFails", (json_int_t)control->failures,
	                 "sandboxStartingCount", (json_int_t)usage.starting, "metrics", metrics,
	                 "machineInfo", machine_info());
}

static void on_health(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct rest_call *call = context;
	json_t *node = node_json(call->api, status == 200);

	(void)data;
	(void)size;
	(void)err;
	if (call->number) {
		(void)json_object_del(node, "sandboxStartingCount");
		rest_reply(call, 200, node);
	} else {
		rest_reply(call, 200, json_pack("[o]", node));
	}
}

/* Another cluster than ours has no nodes. */
static bool is_other_cluster(struct rest_call *call)
{
	const char *cluster = http_request_query(call->exchange, "clusterID");

	return cluster && strcmp(cluster, CLUSTER_ID) != 0;
}

void nodes_list(struct rest_call *call)
{
	if (is_other_cluster(call))
		rest_reply(call, 200, json_array());
	else
		api_call_node(call->api, "GET", "/v1/health", NULL, on_health, call);
}

static bool find_node(struct rest_call *call)
{
	if (strcmp(call->id, NODE_ID) == 0 && !is_other_cluster(call))
		return true;
	rest_fail(call, 404, "Node '%s' not found", call->id);
	return false;
}

void nodes_get(struct rest_call *call)
{
	if (!find_node(call))
		return;
	call->number = 1;
	api_call_node(call->api, "GET", "/v1/health", NULL, on_health, call);
}

void nodes_set_status(struct rest_call *call)
{
	const char *name = NULL;
	struct error err = { 0 };
	int ret = json_read_string(call->body, "status", JSON_REQUIRED, &name, &err);
	int status = ret < 0 ? ret : control_parse_status(name);

	if (ret == 0 && status < 0)
		(void)error_set(&err, EINVAL, "a node can be made ready, draining, standby or unhealthy");
	if (status < 0) {
		rest_fail(call, 400, "Error when parsing request: %s", err.message);
		return;
	}
	if (!find_node(call))
		return;
	ret = control_set_status(call->api, (enum node_status)status, &err);
	if (ret < 0)
		rest_fail(call, ret == -EINVAL ? 409 : 500, "%s", err.message);
	else
		rest_reply_empty(call, 204);
}

/* --- /admin --- */

static bool find_team(struct rest_call *call)
{
	struct error err = { 0 };
	struct team team;
	int ret = store_find_team(call->api->store, call->id, &team, &err);

	if (ret < 0)
		rest_fail(call, ret == -ENOENT ? 404 : 500, "%s", err.message);
	return ret == 0;
}

struct killing {
	struct rest_call *call;
	unsigned pending;
	unsigned killed;
	unsigned failed;
};

struct victim {
	struct killing *killing;
	char id[64];
};

static void finish(struct killing *killing)
{
	if (--killing->pending > 0)
		return;
	rest_reply(killing->call, 200,
	           json_pack("{s:i,s:i}", "killedCount", (int)killing->killed, "failedCount",
	                     (int)killing->failed));
	free(killing);
}

static void on_killed(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct victim *victim = context;
	struct killing *killing = victim->killing;
	struct registry *registry = killing->call->api->registry;
	struct record *record = registry_find(registry, victim->id);

	(void)data;
	(void)size;
	if (status == 204 || status == 404) {
		killing->killed++;
		if (record)
			registry_remove(registry, record);
	} else {
		log_warn("sandbox %s could not be killed (status %d): %s", victim->id, status,
		         status ? "" : err->message);
		killing->failed++;
	}
	free(victim);
	finish(killing);
}

static void kill_one(struct killing *killing, const struct record *record)
{
	struct victim *victim = malloc(sizeof(*victim));
	char target[160];

	if (!victim) {
		killing->failed++;
		return;
	}
	victim->killing = killing;
	(void)snprintf(victim->id, sizeof(victim->id), "%s", record->id);
	killing->pending++;
	(void)snprintf(target, sizeof(target), "/v1/sandboxes/%s", record->id);
	api_call_node(killing->call->api, "DELETE", target, NULL, on_killed, victim);
}

/* All that run; paused ones stay, as with E2B. */
void nodes_kill_team(struct rest_call *call)
{
	struct killing *killing;

	if (!find_team(call))
		return;
	killing = calloc(1, sizeof(*killing));
	if (!killing) {
		rest_fail(call, 500, "out of memory");
		return;
	}
	/* One more than there are: no answer comes before all have been asked for. */
	*killing = (struct killing){ .call = call, .pending = 1 };
	list_for_each_safe (node, registry_all(call->api->registry)) {
		const struct record *record = list_entry(node, struct record, all);

		if (strcmp(record->team_id, call->id) == 0 && record_is_running(record))
			kill_one(killing, record);
	}
	finish(killing);
}

void nodes_running_counts(struct rest_call *call)
{
	json_t *counts = json_object();

	list_for_each (node, registry_all(call->api->registry)) {
		const struct record *record = list_entry(node, struct record, all);
		json_int_t count = json_integer_value(json_object_get(counts, record->team_id));

		if (record_is_running(record))
			(void)json_object_set_new(counts, record->team_id, json_integer(count + 1));
	}
	rest_reply(call, 200, counts);
}

/* Teams build no templates through this API yet: the host's owner does, on the host. There is nothing to
 * cancel. */
void nodes_cancel_builds(struct rest_call *call)
{
	if (find_team(call))
		rest_reply(call, 200, json_pack("{s:i,s:i}", "cancelledCount", 0, "failedCount", 0));
}
