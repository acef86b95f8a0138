/* The node's word on what runs, against ours. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/reach.h"
#include "api/registry.h"
#include "api/volumes/mounted.h"
#include "api/volumes/volumes.h"

#define AGAIN_MS    10000
#define SOON_MS     200
#define RETRY_MS    1000  /* while the node cannot be reached */
#define CREATING_MS 60000 /* a create that took longer was broken off */
#define CALL_MS     120000
#define RESTART_MS  5000 /* a node that has died is back after less */

void api_call_node(struct api *api, const char *method, const char *target, json_t *body,
                   http_simple_fn *done, void *context)
{
	struct http_endpoint endpoint = { 0 };
	cleanup_free char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;

	json_decref(body);
	(void)snprintf(endpoint.unix_path, sizeof(endpoint.unix_path), "%.90s/node.sock", api->run);
	http_call_simple_as(api->node, &endpoint, method, target, text, CALL_MS, RESTART_MS,
	                    api->request_id[0] ? api->request_id : NULL, done, context);
}

static bool is_paused(const json_t *sandbox)
{
	const char *state = json_string_value(json_object_get(sandbox, "state"));

	return state && strcmp(state, "paused") == 0;
}

static const json_t *find_in(const json_t *list, const char *id)
{
	size_t index;
	json_t *sandbox;

	json_array_foreach (list, index, sandbox) {
		const char *other = json_string_value(json_object_get(sandbox, "sandbox_id"));

		if (other && strcmp(other, id) == 0)
			return sandbox;
	}
	return NULL;
}

/* What the node says of one, also after a crash of ours in the middle of a change. */
static void take(struct api *api, struct record *record, const json_t *sandbox)
{
	bool same = record->state == (is_paused(sandbox) ? RECORD_PAUSED : RECORD_RUNNING);
	bool changed = same ? record_take_plans(record, sandbox) : record_take(record, sandbox);
	struct error err = { 0 };

	if (changed && registry_update(api->registry, record, &err) < 0)
		log_error("%s", err.message);
	if (same)
		reach_follow(api, record, sandbox);
}

static void compare(struct api *api, const json_t *list, int64_t asked_ms)
{
	list_for_each_safe (node, registry_all(api->registry)) {
		struct record *record = list_entry(node, struct record, all);
		const json_t *sandbox = find_in(list, record->id);

		if (record->changed_ms >= asked_ms)
			continue;
		if (!sandbox) {
			/* What began after the question is not in the answer, nor is what the node has not
			 * made yet. */
			if (record->started_at_ms >
			    asked_ms - (record->state == RECORD_CREATING ? CREATING_MS : 0))
				continue;
			registry_remove(api->registry, record);
		} else if (!record_is_moving(record)) {
			take(api, record, sandbox);
		}
	}
}

/* Those that run, and those that do not, as it is now known. */
static void serve_volumes(struct api *api)
{
	list_for_each (node, registry_all(api->registry))
		mounted_follow(api, list_entry(node, struct record, all));
}

static void ask(uv_timer_t *timer);

struct question {
	struct api *api;
	int64_t asked_ms;
};

static void on_answer(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct question *question = context;
	struct api *api = question->api;
	cleanup_json json_t *list = status == 200 ? json_loadb(data, size, 0, NULL) : NULL;

	(void)err;
	if (json_is_array(list)) {
		compare(api, list, question->asked_ms);
		serve_volumes(api);
		volumes_tidy(api->volumes);
		api_settle_snapshots(api);
	}
	free(question);
	if (!api->reconcile_again)
		api->in_doubt = !list;
	(void)uv_timer_start(&api->reconcile, ask, list ? AGAIN_MS : RETRY_MS, 0);
	if (api->reconcile_again)
		api_reconcile_soon(api);
}

static void ask(uv_timer_t *timer)
{
	struct api *api = timer->data;
	struct question *question = malloc(sizeof(*question));

	if (!question)
		return;
	*question = (struct question){ api, time_wall_ms() };
	api->reconcile_again = false;
	api_call_node(api, "GET", "/v1/sandboxes", NULL, on_answer, question);
}

void api_reconcile_soon(struct api *api)
{
	/* No timer: a question is on its way, whose answer may be of before. */
	if (!uv_is_active((uv_handle_t *)&api->reconcile))
		api->reconcile_again = true;
	else if (uv_timer_get_due_in(&api->reconcile) > SOON_MS)
		(void)uv_timer_start(&api->reconcile, ask, SOON_MS, 0);
}

void api_node_lost(struct api *api)
{
	api->in_doubt = true;
	api_reconcile_soon(api);
}

void api_reconcile(struct api *api)
{
	(void)uv_timer_init(api->loop, &api->reconcile);
	api->reconcile.data = api;
	api->in_doubt = true;
	ask(&api->reconcile);
}
