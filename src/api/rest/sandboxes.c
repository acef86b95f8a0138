/* /sandboxes: look at one, kill, move the end. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/rest/rest.h"

#define REFRESH_MIN 15
#define REFRESH_MAX 3600

/* --- what clients are told --- */

json_t *sandboxes_answer(const struct record *record)
{
	json_t *json = json_pack("{s:s,s:s,s:s,s:s,s:n}", "templateID", record->template_id, "sandboxID",
	                         record->id, "clientID", "local", "envdVersion", API_ENVD_VERSION, "domain");

	if (record->alias[0])
		(void)json_object_set_new(json, "alias", json_string(record->alias));
	if (record->access_token[0])
		(void)json_object_set_new(json, "envdAccessToken", json_string(record->access_token));
	if (record->traffic_token[0])
		(void)json_object_set_new(json, "trafficAccessToken", json_string(record->traffic_token));
	return json;
}

json_t *sandboxes_entry(const struct record *record)
{
	char started[TIME_RFC3339_SIZE];
	char end[TIME_RFC3339_SIZE];
	json_t *json;

	json = json_pack("{s:s,s:s,s:s,s:s,s:s,s:i,s:i,s:i,s:O,s:s,s:s}", "templateID", record->template_id,
	                 "sandboxID", record->id, "clientID", "local", "startedAt",
	                 time_format_rfc3339(record->started_at_ms, started), "endAt",
	                 time_format_rfc3339(record->end_at_ms, end), "cpuCount", record->vcpu_count,
	                 "memoryMB", record->memory_mib, "diskSizeMB", record->disk_mib, "metadata",
	                 record->metadata, "state", record_is_paused(record) ? "paused" : "running",
	                 "envdVersion", API_ENVD_VERSION);
	if (record->alias[0])
		(void)json_object_set_new(json, "alias", json_string(record->alias));
	if (record->volume_mounts)
		(void)json_object_set_new(json, "volumeMounts", mounts_show(record->volume_mounts));
	return json;
}

/* --- look --- */

void sandboxes_get(struct rest_call *call)
{
	struct record *record = rest_find_any(call);
	json_t *json;

	if (!record)
		return;
	json = sandboxes_entry(record);
	(void)json_object_set_new(json, "domain", json_null());
	network_show(call->api, record->id, json);
	(void)json_object_set_new(json, "lifecycle",
	                          json_pack("{s:b,s:s}", "autoResume", record->auto_resume, "onTimeout",
	                                    record->auto_pause ? "pause" : "kill"));
	if (record->access_token[0])
		(void)json_object_set_new(json, "envdAccessToken", json_string(record->access_token));
	rest_reply(call, 200, json);
}

/* --- kill --- */

static void on_killed(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct rest_call *call = context;
	struct record *record = registry_find(call->api->registry, call->id);

	if (status != 204 && status != 404) {
		rest_fail_node(call, status, data, size, err);
		return;
	}
	if (record)
		registry_remove(call->api->registry, record);
	rest_reply_empty(call, 204);
}

void sandboxes_kill(struct rest_call *call)
{
	char target[160];

	if (!rest_find_any(call))
		return;
	(void)snprintf(target, sizeof(target), "/v1/sandboxes/%s", call->id);
	api_call_node(call->api, "DELETE", target, NULL, on_killed, call);
}

/* --- the end --- */

typedef void answer_fn(struct rest_call *call, const struct record *record);

static void answer_nothing(struct rest_call *call, const struct record *record)
{
	(void)record;
	rest_reply_empty(call, 204);
}

static void answer_sandbox(struct rest_call *call, const struct record *record)
{
	rest_reply(call, 200, sandboxes_answer(record));
}

static void finish_end(int status, const char *data, size_t size, const struct error *err,
                       struct rest_call *call, answer_fn *answer)
{
	struct record *record = registry_find(call->api->registry, call->id);
	struct error failure = { 0 };

	if (status != 204 || !record) {
		rest_fail_node(call, status == 204 ? 404 : status, data, size, err);
		return;
	}
	record_set_end(record, call->number);
	if (registry_update(call->api->registry, record, &failure) < 0)
		log_error("%s", failure.message);
	answer(call, record);
}

static void on_end_set(int status, const char *data, size_t size, const struct error *err, void *context)
{
	finish_end(status, data, size, err, context, answer_nothing);
}

static void on_connect_end_set(int status, const char *data, size_t size, const struct error *err,
                               void *context)
{
	finish_end(status, data, size, err, context, answer_sandbox);
}

static int64_t last_end(const struct record *record)
{
	return record->started_at_ms + API_TIMEOUT_MAX * INT64_C(1000);
}

void sandboxes_ask_end(struct rest_call *call, const struct record *record, int64_t end_at_ms,
                       http_simple_fn *done)
{
	char target[160];

	if (end_at_ms > last_end(record))
		end_at_ms = last_end(record);
	call->number = end_at_ms;
	(void)snprintf(target, sizeof(target), "/v1/sandboxes/%s/deadline", record->id);
	api_call_node(call->api, "PUT", target, json_pack("{s:I}", "end_at_ms", (json_int_t)end_at_ms), done,
	              call);
}

/* Move the end of the call's sandbox; how long it lives in all is limited. */
static void set_end(struct rest_call *call, const struct record *record, int64_t end_at_ms,
                    http_simple_fn *done)
{
	if (last_end(record) <= time_wall_ms())
		rest_fail(call, 400, "Max instance length exceeded");
	else
		sandboxes_ask_end(call, record, end_at_ms, done);
}

int sandboxes_check_timeout(int64_t timeout, struct error *err)
{
	if (timeout > API_TIMEOUT_MAX)
		return error_set(err, EINVAL, "Timeout cannot be greater than %d hours",
		                 API_TIMEOUT_MAX / 3600);
	return 0;
}

/* The timeout of a body, in seconds. False: the call has been answered. */
static bool read_timeout(struct rest_call *call, const char *key, enum json_need need, int64_t fallback,
                         int64_t *ret)
{
	struct error err = { 0 };

	*ret = fallback;
	if (json_read_integer(call->body, key, need, 0, INT32_MAX, ret, &err) < 0 ||
	    sandboxes_check_timeout(*ret, &err) < 0) {
		rest_fail(call, 400, "%s", err.message);
		return false;
	}
	return true;
}

void sandboxes_set_timeout(struct rest_call *call)
{
	struct record *record;
	int64_t timeout;

	if (!read_timeout(call, "timeout", JSON_REQUIRED, 0, &timeout))
		return;
	record = rest_find_sandbox(call);
	if (record)
		set_end(call, record, time_wall_ms() + timeout * 1000, on_end_set);
}

void sandboxes_refresh(struct rest_call *call)
{
	struct record *record;
	int64_t duration;
	int64_t end;

	if (!read_timeout(call, "duration", JSON_OPTIONAL, REFRESH_MIN, &duration))
		return;
	if (duration > REFRESH_MAX) {
		rest_fail(call, 400, "duration cannot be greater than %d seconds", REFRESH_MAX);
		return;
	}
	record = rest_find_sandbox(call);
	if (!record)
		return;
	end = time_wall_ms() + (duration < REFRESH_MIN ? REFRESH_MIN : duration) * 1000;
	if (end <= record->end_at_ms)
		rest_reply_empty(call, 204);
	else
		set_end(call, record, end, on_end_set);
}

/* Only ever extends; wakes a paused one. */
void sandboxes_connect(struct rest_call *call)
{
	struct record *record;
	int64_t timeout;
	int64_t end;

	if (!read_timeout(call, "timeout", call->version2 ? JSON_OPTIONAL : JSON_REQUIRED, SANDBOXES_TIMEOUT,
	                  &timeout))
		return;
	record = rest_find_any(call);
	if (!record)
		return;
	if (record_is_paused(record)) {
		lifecycle_wake(call, record, timeout);
		return;
	}
	end = time_wall_ms() + timeout * 1000;
	if (end <= record->end_at_ms)
		rest_reply(call, 200, sandboxes_answer(record));
	else
		set_end(call, record, end, on_connect_end_set);
}
