/* POST /sandboxes: a new sandbox. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/control.h"
#include "api/reach.h"
#include "api/rest/rest.h"
#include "api/store/snapshots.h"
#include "api/store/templates.h"
#include "api/volumes/mounted.h"

#define TIMEOUT_V1  15 /* seconds, when the request names none */
#define TOKEN_BYTES 32
#define RESUME_MIN  300 /* seconds that a sandbox lives at least when traffic wakes it */
#define LATE_MS     500 /* a start that took longer is not taken from the sandbox's time */

struct create_request {
	char template[128]; /* as the client calls it */
	char build_id[40];  /* of a snapshot; "": the node knows the name */
	int64_t timeout;
	bool secure;
	bool auto_pause;
	bool auto_pause_memory;
	bool auto_resume;
	bool private;          /* traffic needs a token */
	const char *mask_host; /* NULL: none */
	json_t *metadata;
	json_t *env_vars;
	json_t *volume_mounts;    /* NULL: none; the request's own */
	struct control_size size; /* all 0: no limit of the team asks for it */
	char request_id[72];      /* of the client's */
};

static void request_free(struct create_request *request)
{
	if (request)
		json_decref(request->volume_mounts);
	free(request);
}

int sandboxes_read_template(const char *text, char name[128], struct error *err)
{
	const char *slash = strchr(text, '/');
	size_t size;

	if (slash)
		text = slash + 1;
	size = strcspn(text, ":");
	if (size == 0 || size >= 128 ||
	    strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") < size)
		return error_set(err, EINVAL, "Invalid template reference: %s", text);
	for (size_t i = 0; i < size; i++)
		name[i] = text[i] >= 'A' && text[i] <= 'Z' ? (char)(text[i] + 32) : text[i];
	name[size] = '\0';
	if (text[size] == ':' && strcmp(text + size, ":default") != 0)
		return error_set(err, ENOENT, "tag '%s' does not exist for template '%s'", text + size + 1,
		                 name);
	return 0;
}

/* What cannot be given yet must not be promised. */
static int refuse_unbuilt(const json_t *body, struct error *err)
{
	json_t *mcp = NULL;

	/* `mcp` is only taken: its gateway is a program of the template, which the SDK starts by itself. */
	return json_read_object(body, "mcp", JSON_OPTIONAL, &mcp, err);
}

/* A name may be that of one of the team's snapshots; another team's are as if they were not. */
static int resolve(const struct rest_call *call, struct create_request *request, struct error *err)
{
	const char *text = json_string_value(json_object_get(call->body, "templateID"));
	int ret = -ENOENT;
	struct template_row row;

	if (!rest_names_other_team(call, text))
		ret = store_find_snapshot(call->api->store, call->team_id, request->template,
		                          request->build_id);

	if (ret == 0)
		return 0;
	request->build_id[0] = '\0';
	if (ret == -ENOENT)
		ret = store_get_template(call->api->store, request->template, &row, NULL);
	if (ret == 0 && !row.public && strcmp(row.team_id, call->team_id) != 0)
		ret = -EACCES;
	if (ret == 0)
		return 0;
	if (ret == -EACCES)
		return error_set(err, ENOENT, "template '%s' not found", request->template);
	return error_set(err, EIO, "the templates cannot be looked up");
}

static int read_lifecycle(const json_t *body, struct create_request *request, struct error *err)
{
	json_t *resume = NULL;
	int ret = json_read_bool(body, "autoPause", JSON_OPTIONAL, &request->auto_pause, err);

	if (ret == 0)
		ret = json_read_object(body, "autoResume", JSON_OPTIONAL, &resume, err);
	if (ret == 0 && resume)
		ret = json_read_bool(resume, "enabled", JSON_REQUIRED, &request->auto_resume, err);
	request->auto_pause_memory = true;
	if (ret == 0)
		ret = json_read_bool(body, "autoPauseMemory", JSON_OPTIONAL, &request->auto_pause_memory,
		                     err);
	if (ret == 0 && !request->auto_pause_memory && !request->auto_pause)
		ret = error_set(err, EINVAL, "autoPauseMemory needs autoPause");
	/* A boot is nothing that any traffic should cause. */
	if (ret == 0 && !request->auto_pause_memory && request->auto_resume)
		ret = error_set(err, EINVAL, "autoPauseMemory: false cannot be combined with autoResume");
	return ret;
}

/* Seen by servers as their Host: a name or an address, perhaps with a port, or with "${PORT}" for one. */
static int check_mask_host(const char *host, struct error *err)
{
	static const char allowed[] =
	        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:[]${}";

	for (const char *at = host; *at; at++)
		if ((unsigned char)*at >= 0x80)
			return error_set(
			        err, EINVAL,
			        "mask request host '%s' is not ASCII. Please use ASCII characters only.",
			        host);
	if (!host[0] || strlen(host) >= sizeof(((struct record *)NULL)->mask_host) ||
	    host[strspn(host, allowed)])
		return error_set(err, EINVAL, "mask request host is not valid: %s", host);
	return 0;
}

/* How traffic may come in. Without a token for the agent a token for the rest would protect nothing. */
static int read_network(const json_t *body, struct create_request *request, struct error *err)
{
	json_t *network = NULL;
	bool allowed = true;
	int ret = json_read_object(body, "network", JSON_OPTIONAL, &network, err);

	if (ret == 0 && network)
		ret = json_read_bool(network, "allowPublicTraffic", JSON_OPTIONAL, &allowed, err);
	if (ret == 0 && network)
		ret = json_read_string(network, "maskRequestHost", JSON_OPTIONAL, &request->mask_host, err);
	if (ret == 0 && request->mask_host)
		ret = check_mask_host(request->mask_host, err);
	if (ret == 0 && !allowed && !request->secure)
		ret = error_set(err, EINVAL,
		                "You cannot create a sandbox without public access unless you enable secure "
		                "envd access via 'secure' flag.");
	request->private = !allowed;
	return ret;
}

static int read_create(const struct rest_call *call, struct create_request *request, struct error *err)
{
	const char *template = NULL;
	int ret = json_read_string(call->body, "templateID", JSON_REQUIRED, &template, err);

	request->timeout = call->version2 ? SANDBOXES_TIMEOUT : TIMEOUT_V1;
	request->secure = call->version2;
	if (ret == 0)
		ret = json_read_integer(call->body, "timeout", JSON_OPTIONAL, INT32_MIN, INT32_MAX,
		                        &request->timeout, err);
	if (ret == 0 && !call->version2)
		ret = json_read_bool(call->body, "secure", JSON_OPTIONAL, &request->secure, err);
	if (ret == 0)
		ret = json_read_string_map(call->body, "metadata", JSON_OPTIONAL, &request->metadata, err);
	if (ret == 0)
		ret = json_read_string_map(call->body, "envVars", JSON_OPTIONAL, &request->env_vars, err);
	if (ret == 0)
		ret = read_lifecycle(call->body, request, err);
	if (ret == 0)
		ret = read_network(call->body, request, err);
	if (ret == 0)
		ret = refuse_unbuilt(call->body, err);
	if (ret == 0)
		ret = network_check(call->body, err);
	if (ret == 0 && request->timeout <= 0)
		ret = error_set(err, EINVAL, "Timeout must be greater than 0");
	if (ret == 0)
		ret = sandboxes_check_timeout(request->timeout, err);
	if (ret == 0)
		ret = sandboxes_read_template(template, request->template, err);
	if (ret == 0)
		ret = resolve(call, request, err);
	return ret < 0 ? ret : mounts_read(call, &request->volume_mounts, err);
}

static void on_undone(int status, const char *data, size_t size, const struct error *err, void *context)
{
	(void)data;
	(void)size;
	(void)err;
	(void)context;
	if (status != 204 && status != 404)
		log_error("a sandbox that nobody will know could not be killed (status %d)", status);
}

void sandboxes_undo(struct api *api, const char *id)
{
	char target[160];

	(void)snprintf(target, sizeof(target), "/v1/sandboxes/%s", id);
	api_call_node(api, "DELETE", target, NULL, on_undone, NULL);
}

/* What the node made of it, and that its template was used: one commit. */
static void write_created(const struct rest_call *call, const struct record *record)
{
	struct store *store = call->api->store;
	const struct create_request *request = call->own;
	struct error err = { 0 };
	int ret = store_begin(store, &err);

	if (ret == 0) {
		ret = request->build_id[0] ? 0 : store_note_spawn(store, record->template_id, &err);
		if (ret == 0)
			ret = store_put_sandbox(store, record, &err);
		ret = store_end(store, ret, &err);
	}
	if (ret < 0)
		log_error("%s", err.message);
}

/* The client gets it, or hears why not: the request is done with. */
static void finish(struct rest_call *call, const struct record *record)
{
	write_created(call, record);
	request_free(call->own);
	(void)snprintf(call->id, sizeof(call->id), "%s", record->id);
	rest_reply(call, 201, sandboxes_answer(record));
}

static void give_up(struct rest_call *call, int status, const char *message)
{
	request_free(call->own);
	rest_fail(call, status, "%s", message);
}

/* The end was moved, or not: then the sandbox lives a little shorter. */
static void on_end_set(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct rest_call *call = context;
	struct record *record = registry_find(call->api->registry, call->sandbox_id);

	if (!record) {
		request_free(call->own);
		rest_fail_node(call, 404, data, size, err);
		return;
	}
	if (status == 204)
		record_set_end(record, call->number);
	else
		log_warn("the end of %s could not be moved (status %d)", record->id, status);
	finish(call, record);
}

static bool has_size(const struct record *record, const struct control_size *size)
{
	return record->vcpu_count == size->vcpus && record->memory_mib == size->memory_mib &&
	       record->disk_mib == size->disk_mib;
}

static void on_created(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct rest_call *call = context;
	struct record *record = registry_find(call->api->registry, call->sandbox_id);
	cleanup_json json_t *answer = status == 201 ? json_loadb(data, size, 0, NULL) : NULL;
	struct error failure = { 0 };
	const struct create_request *request = call->own;
	int64_t late = record ? time_wall_ms() - record->started_at_ms : 0;

	if (!record || !record_take(record, answer)) {
		if (status == 201)
			sandboxes_undo(call->api, call->sandbox_id);
		if (record)
			registry_remove(call->api->registry, record);
		control_note_failure(call->api);
		request_free(call->own);
		rest_fail_node(call, status, data, size, err);
		return;
	}
	/* Its template may have been built anew since its size was asked for, or limits been set. */
	if (!has_size(record, &request->size) &&
	    control_check_limits(call->api, call->team_id, &failure) == -EDQUOT) {
		sandboxes_undo(call->api, call->sandbox_id);
		registry_remove(call->api->registry, record);
		give_up(call, 429, failure.message);
		return;
	}
	control_note_start(call->api, call->team_id);
	mounted_begin(call->api, record);
	if (late < LATE_MS)
		finish(call, record);
	else
		sandboxes_ask_end(call, record, record->end_at_ms + late, on_end_set);
}

struct record *sandboxes_new_record(const char *team_id, const char *template, bool secure, int64_t timeout)
{
	struct record *record = calloc(1, sizeof(*record));

	if (!record)
		return NULL;
	record->id[0] = 'i';
	random_id(record->id + 1, 19);
	(void)snprintf(record->team_id, sizeof(record->team_id), "%s", team_id);
	(void)snprintf(record->template_id, sizeof(record->template_id), "%s", template);
	(void)snprintf(record->alias, sizeof(record->alias), "%s", template);
	if (secure)
		random_hex(record->access_token, TOKEN_BYTES);
	record->started_at_ms = time_wall_ms();
	record->end_at_ms = record->started_at_ms + timeout * 1000;
	return record;
}

static struct record *new_record(const struct rest_call *call, const struct create_request *request)
{
	struct record *record =
	        sandboxes_new_record(call->team_id, request->template, request->secure, request->timeout);

	if (!record)
		return NULL;
	record->metadata = request->metadata ? json_deep_copy(request->metadata) : json_object();
	record->volume_mounts = json_incref(request->volume_mounts);
	record->auto_pause = request->auto_pause;
	record->auto_pause_disk = !request->auto_pause_memory;
	record->auto_resume = request->auto_resume;
	if (request->auto_resume)
		record->resume_timeout = request->timeout < RESUME_MIN ? RESUME_MIN : request->timeout;
	if (request->private)
		random_hex(record->traffic_token, TOKEN_BYTES);
	/* Known before the node says so, for the team's limits. */
	record->vcpu_count = request->size.vcpus;
	record->memory_mib = request->size.memory_mib;
	record->disk_mib = request->size.disk_mib;
	if (request->mask_host)
		(void)snprintf(record->mask_host, sizeof(record->mask_host), "%s", request->mask_host);
	return record;
}

json_t *sandboxes_node_request(const struct record *record, const char *template, json_t *env_vars)
{
	json_t *json = json_pack("{s:s,s:s,s:s,s:s,s:s,s:I,s:O,s:b,s:b}", "sandbox_id", record->id,
	                         "template", template, "template_id", record->template_id, "team_id",
	                         record->team_id, "alias", record->alias, "end_at_ms",
	                         (json_int_t)record->end_at_ms, "metadata", record->metadata, "auto_pause",
	                         record->auto_pause, "auto_pause_memory", !record->auto_pause_disk);

	if (record->access_token[0])
		(void)json_object_set_new(json, "access_token", json_string(record->access_token));
	if (env_vars)
		(void)json_object_set(json, "env_vars", env_vars);
	if (record->volume_mounts)
		(void)json_object_set_new(json, "volume_mounts", mounts_for_node(record->volume_mounts));
	return json;
}

/* The record, and what its network is to be: one commit. NULL with `err`. */
static struct record *add_record(const struct rest_call *call, struct error *err)
{
	struct registry *registry = call->api->registry;
	struct record *record = new_record(call, call->own);
	int ret;

	if (!record) {
		error_errno(err, ENOMEM, "create a sandbox");
		return NULL;
	}
	ret = store_begin(call->api->store, err);
	if (ret == 0) {
		ret = registry_add(registry, record, err);
		if (ret == 0)
			ret = network_keep(call->api, record->id, call->body, err);
		ret = store_end(call->api->store, ret, err);
	}
	if (ret == 0)
		return record;
	if (registry_find(registry, record->id))
		registry_remove(registry, record);
	else
		record_free(record);
	return NULL;
}

/* The record is there before the node is asked: after a crash of ours the sandbox is still known to belong to
 * someone. */
static void start(struct rest_call *call)
{
	const struct create_request *request = call->own;
	struct error err = { 0 };
	const struct record *record;
	json_t *ask;
	int ret = control_may_start(call->api, call->team_id, 1, &request->size, &err);

	if (ret < 0) {
		request_free(call->own);
		rest_fail_start(call, &err);
		return;
	}
	record = add_record(call, &err);
	if (!record) {
		give_up(call, 500, err.message);
		return;
	}
	(void)snprintf(call->sandbox_id, sizeof(call->sandbox_id), "%s", record->id);
	ask = sandboxes_node_request(record, request->build_id[0] ? request->build_id : request->template,
	                             request->env_vars);
	reach_tell_node(call->api, record->id, ask);
	api_call_node(call->api, "POST", "/v1/sandboxes", ask, on_created, call);
}

/* --- its size, where the team's limits ask for it --- */

/* Of the newest of a template's builds, which is the one that a create takes. */
static bool read_size(const json_t *builds, struct control_size *ret)
{
	const json_t *newest = json_array_get(builds, 0);
	json_int_t vcpus = json_integer_value(json_object_get(newest, "vcpu_count"));
	json_int_t memory_mib = json_integer_value(json_object_get(newest, "memory_mib"));
	json_int_t disk_mib = json_integer_value(json_object_get(newest, "disk_mib"));

	if (vcpus <= 0 || vcpus > INT_MAX || memory_mib <= 0 || memory_mib > INT_MAX || disk_mib <= 0 ||
	    disk_mib > INT_MAX)
		return false;
	*ret = (struct control_size){ (int)vcpus, (int)memory_mib, (int)disk_mib };
	return true;
}

static void on_size(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct rest_call *call = context;
	struct api *api = call->api;
	struct create_request *request = call->own;
	cleanup_json json_t *builds = status == 200 ? json_loadb(data, size, 0, NULL) : NULL;

	if (read_size(builds, &request->size)) {
		(void)snprintf(api->request_id, sizeof(api->request_id), "%s", request->request_id);
		start(call);
		api->request_id[0] = '\0';
		return;
	}
	control_note_failure(api);
	if (status == 404) {
		char message[192];

		(void)snprintf(message, sizeof(message), "template '%s' not found", request->template);
		give_up(call, 404, message);
		return;
	}
	request_free(call->own);
	rest_fail_node(call, status, data, size, err);
}

/* From here on the request is the call's own until the client is answered. */
static void begin(struct rest_call *call, struct create_request *request)
{
	struct api *api = call->api;
	struct error err = { 0 };
	int ret = control_needs_size(api, call->team_id, &err);
	char target[160];

	if (ret < 0) {
		give_up(call, 500, err.message);
	} else if (ret == 0) {
		start(call);
	} else {
		(void)snprintf(request->request_id, sizeof(request->request_id), "%s", api->request_id);
		(void)snprintf(target, sizeof(target), "/v1/templates/%s",
		               request->build_id[0] ? request->build_id : request->template);
		api_call_node(api, "GET", target, NULL, on_size, call);
	}
}

void sandboxes_create(struct rest_call *call)
{
	struct create_request *request = calloc(1, sizeof(*request));
	struct error err = { 0 };

	call->own = request;
	if (!request) {
		rest_fail(call, 500, "out of memory");
	} else if (read_create(call, request, &err) < 0) {
		give_up(call, err.code == ENOENT ? 404 : err.code == EIO ? 500 : 400, err.message);
	} else {
		begin(call, request);
	}
}
