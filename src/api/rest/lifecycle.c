/* Pause and resume of one sandbox. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "api/rest/rest.h"
#include "api/resume.h"

#define RESUME_TIMEOUT 15 /* seconds to live, when the request names none */

/* --- pause --- */

static void on_paused(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct rest_call *call = context;
	struct record *record = registry_find(call->api->registry, call->id);
	struct error failure = { 0 };

	if (record)
		record_end_pause(record, status == 204);
	if (status != 204 || !record) {
		if (record && record->state != RECORD_PAUSED)
			record->disk_only = false;
		api_reconcile_soon(call->api);
		rest_fail_node(call, status == 204 ? 404 : status, data, size, err);
		return;
	}
	/* What was noted at the request may have been told anew by the node before its answer. */
	record->disk_only = !call->number;
	if (registry_update(call->api->registry, record, &failure) < 0)
		log_error("%s", failure.message);
	rest_reply_empty(call, 204);
}

void lifecycle_pause(struct rest_call *call)
{
	struct record *record;
	struct error err = { 0 };
	bool memory = true;
	char target[160];

	if (json_read_bool(call->body, "memory", JSON_OPTIONAL, &memory, &err) < 0) {
		rest_fail(call, 400, "%s", err.message);
		return;
	}
	record = rest_find_any(call);
	if (!record)
		return;
	if (record_is_paused(record)) {
		rest_fail(call, 409, "Sandbox \"%s\" is already paused", call->id);
		return;
	}
	if (!record_begin_pause(record)) {
		rest_fail(call, 409, "Sandbox \"%s\" is being paused", call->id);
		return;
	}
	record->disk_only = !memory;
	call->number = memory;
	(void)snprintf(target, sizeof(target), "/v1/sandboxes/%s/pause", call->id);
	api_call_node(call->api, "POST", target, json_pack("{s:b}", "memory", memory), on_paused, call);
}

/* --- resume --- */

static void on_resumed(struct record *record, bool resumed, const struct resume_answer *answer, void *context)
{
	struct rest_call *call = context;

	if (resumed)
		rest_reply(call, 201, sandboxes_answer(record));
	else
		rest_fail_node(call, answer->status == 201 ? 404 : answer->status, answer->data, answer->size,
		               answer->err);
}

void lifecycle_wake(struct rest_call *call, struct record *record, int64_t timeout)
{
	struct error err = { 0 };
	int ret = resume_ask(call->api, record, timeout, true, on_resumed, call, &err);

	if (ret < 0)
		rest_fail_start(call, &err);
}

void lifecycle_resume(struct rest_call *call)
{
	struct record *record;
	struct error err = { 0 };
	int64_t timeout = RESUME_TIMEOUT;

	if (json_read_integer(call->body, "timeout", JSON_OPTIONAL, 0, API_TIMEOUT_MAX, &timeout, &err) < 0) {
		rest_fail(call, 400, "%s", err.message);
		return;
	}
	record = rest_find_any(call);
	if (!record)
		return;
	if (!record_is_paused(record)) {
		rest_fail(call, 409, "Sandbox \"%s\" is already running", call->id);
		return;
	}
	if (json_object_get(call->body, "autoPause"))
		record->auto_pause = json_is_true(json_object_get(call->body, "autoPause"));
	lifecycle_wake(call, record, timeout);
}
