/*
 * Fork: the running sandbox is kept as a snapshot that nobody names, and new sandboxes begin from it. Each of
 * them succeeds or fails by itself.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/control.h"
#include "api/reach.h"
#include "api/rest/rest.h"
#include "api/store/store.h"
#include "api/volumes/mounted.h"

#define COUNT_MAX 100
#define TIMEOUT   15 /* seconds to live, when the request names none */

struct fork {
	struct rest_call *call;
	char build_id[40];
	int64_t timeout;
	unsigned count;
	unsigned pending;
	json_t *results; /* array, filled in their order */
};

struct fork_child {
	struct fork *fork;
	size_t index;
	char id[64];
};

static void finish(struct fork *fork)
{
	struct rest_call *call = fork->call;

	if (fork->pending > 0)
		return;
	rest_reply(call, 201, fork->results);
	free(fork);
}

static void set_failure(struct fork *fork, size_t index, int status, const char *message)
{
	(void)json_array_set_new(fork->results, index,
	                         json_pack("{s:{s:i,s:s}}", "error", "code", status, "message", message));
}

/* --- one new sandbox --- */

static void on_child(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct fork_child *child = context;
	struct fork *fork = child->fork;
	struct registry *registry = fork->call->api->registry;
	struct record *record = registry_find(registry, child->id);
	cleanup_json json_t *answer = size ? json_loadb(data, size, 0, NULL) : NULL;
	const char *message = json_string_value(json_object_get(answer, "message"));
	struct error failure = { 0 };

	if (status == 201 && record && record_take(record, answer)) {
		control_note_start(fork->call->api, record->team_id);
		mounted_begin(fork->call->api, record);
		if (registry_update(registry, record, &failure) < 0)
			log_error("%s", failure.message);
		(void)json_array_set_new(fork->results, child->index,
		                         json_pack("{s:o}", "sandbox", sandboxes_answer(record)));
	} else {
		if (status == 201)
			sandboxes_undo(fork->call->api, child->id);
		set_failure(fork, child->index, status >= 400 ? status : 503,
		            message  ? message
		            : status ? "the node failed"
		                     : err->message);
		if (record)
			registry_remove(registry, record);
	}
	free(child);
	fork->pending--;
	finish(fork);
}

/* What a new one has of its model: all but id, token and time. */
static struct record *copy_record(const struct record *model, int64_t timeout)
{
	struct record *record =
	        sandboxes_new_record(model->team_id, model->template_id, model->access_token[0], timeout);

	if (!record)
		return NULL;
	record->metadata = json_deep_copy(model->metadata);
	/* Known before the node says so, for the team's limits. */
	record->vcpu_count = model->vcpu_count;
	record->memory_mib = model->memory_mib;
	record->disk_mib = model->disk_mib;
	record->auto_pause = model->auto_pause;
	record->auto_pause_disk = model->auto_pause_disk;
	record->auto_resume = model->auto_resume;
	record->resume_timeout = model->resume_timeout;
	record->volume_mounts = json_deep_copy(model->volume_mounts);
	if (model->traffic_token[0])
		random_hex(record->traffic_token, 32);
	(void)snprintf(record->mask_host, sizeof(record->mask_host), "%s", model->mask_host);
	return record;
}

static struct control_size size_of(const struct record *model)
{
	return (struct control_size){ model->vcpu_count, model->memory_mib, model->disk_mib };
}

/* The record of one, and its network as the model's. NULL with `err`, nothing being kept of it then. */
static struct record *add_child(struct fork *fork, const struct record *model, struct error *err)
{
	const struct control_size size = size_of(model);
	struct api *api = fork->call->api;
	struct record *record;

	if (control_may_start(api, model->team_id, 1, &size, err) < 0)
		return NULL;
	record = copy_record(model, fork->timeout);
	if (!record) {
		error_errno(err, ENOMEM, "fork");
		return NULL;
	}
	if (registry_add(api->registry, record, err) < 0) {
		record_free(record);
		return NULL;
	}
	/* What its model may not reach it must not reach either. */
	if (reach_copy(api, model->id, record->id, err) < 0) {
		registry_remove(api->registry, record);
		return NULL;
	}
	return record;
}

/* All that are to be, in one commit; those that cannot be are answered for. 0, or -EIO with `err`: none is
 * there. */
static int add_children(struct fork *fork, const struct record *model, struct record *children[COUNT_MAX],
                        struct error *err)
{
	struct api *api = fork->call->api;
	int ret = store_begin(api->store, err);

	if (ret < 0)
		return ret;
	for (size_t i = 0; i < fork->count; i++) {
		struct error failure = { 0 };

		children[i] = add_child(fork, model, &failure);
		if (!children[i])
			set_failure(fork, i, rest_start_status(&failure), failure.message);
	}
	ret = store_end(api->store, 0, err);
	for (size_t i = 0; ret < 0 && i < fork->count; i++)
		if (children[i])
			registry_remove(api->registry, children[i]);
	return ret;
}

static void start_child(struct fork *fork, struct record *record, size_t index)
{
	struct fork_child *child = malloc(sizeof(*child));
	json_t *request;

	if (!child) {
		set_failure(fork, index, 500, "out of memory");
		registry_remove(fork->call->api->registry, record);
		return;
	}
	*child = (struct fork_child){ .fork = fork, .index = index };
	(void)snprintf(child->id, sizeof(child->id), "%s", record->id);
	fork->pending++;
	request = sandboxes_node_request(record, fork->build_id, NULL);
	reach_tell_node(fork->call->api, record->id, request);
	api_call_node(fork->call->api, "POST", "/v1/sandboxes", request, on_child, child);
}

/* --- the request --- */

static void on_snapshot(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct fork *fork = context;
	struct rest_call *call = fork->call;
	const struct record *model = registry_find(call->api->registry, call->id);
	struct record *children[COUNT_MAX] = { NULL };
	struct error failure = { 0 };

	if (status != 204 || !model) {
		json_decref(fork->results);
		free(fork);
		rest_fail_node(call, status == 204 ? 404 : status, data, size, err);
		return;
	}
	for (size_t i = 0; i < fork->count; i++)
		(void)json_array_append_new(fork->results, json_null());
	if (add_children(fork, model, children, &failure) < 0) {
		json_decref(fork->results);
		free(fork);
		rest_fail(call, 500, "%s", failure.message);
		return;
	}
	/* One more than there are: no answer comes before all have been asked for. */
	fork->pending = 1;
	for (size_t i = 0; i < fork->count; i++)
		if (children[i])
			start_child(fork, children[i], i);
	fork->pending--;
	finish(fork);
}

void fork_create(struct rest_call *call)
{
	struct fork *fork = calloc(1, sizeof(*fork));
	struct control_size size;
	const struct record *model;
	struct error err = { 0 };
	int64_t count = 1;
	int64_t timeout = TIMEOUT;
	char target[160];

	if (!fork ||
	    json_read_integer(call->body, "timeout", JSON_OPTIONAL, 0, API_TIMEOUT_MAX, &timeout, &err) < 0 ||
	    json_read_integer(call->body, "count", JSON_OPTIONAL, 1, COUNT_MAX, &count, &err) < 0) {
		rest_fail(call, fork ? 400 : 500, "%s", fork ? err.message : "out of memory");
		free(fork);
		return;
	}
	model = rest_find_sandbox(call);
	if (model)
		size = size_of(model);
	if (!model || !rest_may_start(call, (unsigned)count, &size)) {
		free(fork);
		return;
	}
	*fork = (struct fork){ .call = call, .timeout = timeout, .count = (unsigned)count };
	fork->results = json_array();
	random_uuid(fork->build_id);
	(void)snprintf(target, sizeof(target), "/v1/sandboxes/%s/snapshot", call->id);
	api_call_node(call->api, "POST", target,
	              json_pack("{s:s,s:b}", "build_id", fork->build_id, "ephemeral", 1), on_snapshot, fork);
}
