/* Snapshots of running sandboxes: templates that clients make, list, and create from. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/rest/rest.h"
#include "api/store/snapshots.h"

/* A name is qualified by the team; what has none goes by its id. */
static json_t *snapshot_info(const struct snapshot *snapshot)
{
	if (!snapshot->name[0])
		return json_pack("{s:o,s:[]}", "snapshotID", json_sprintf("%s:default", snapshot->id),
		                 "names");
	return json_pack("{s:o,s:[o]}", "snapshotID",
	                 json_sprintf("%s/%s:default", snapshot->team_id, snapshot->name), "names",
	                 json_sprintf("%s/%s:default", snapshot->team_id, snapshot->name));
}

/* --- create --- */

/* A node that did not say so may have made it nevertheless: then api_settle_snapshots() has the last word. */
static void on_created(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct rest_call *call = context;
	struct snapshot *snapshot = call->own;
	struct store *store = call->api->store;
	struct error failure = { 0 };

	if (status != 204) {
		if (status && store_delete_snapshot(store, snapshot->build_id, &failure) < 0)
			log_error("%s", failure.message);
		rest_fail_node(call, status, data, size, err);
	} else if (store_settle_snapshot(store, snapshot->build_id, true, &failure) < 0) {
		rest_fail(call, 500, "%s", failure.message);
	} else {
		rest_reply(call, 201, snapshot_info(snapshot));
	}
	free(snapshot);
}

static int read_name(const json_t *body, char name[128], struct error *err)
{
	const char *text = NULL;
	int ret = json_read_string(body, "name", JSON_OPTIONAL, &text, err);

	if (ret < 0 || !text || !*text)
		return ret;
	if (strlen(text) >= 128 || text[strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-_")])
		return error_set(err, EINVAL,
		                 "a name may have lower-case letters, digits, '-' and '_', not '%s'", text);
	(void)snprintf(name, 128, "%s", text);
	return 0;
}

void snapshots_create(struct rest_call *call)
{
	struct snapshot *snapshot = calloc(1, sizeof(*snapshot));
	struct error err = { 0 };
	char target[160];

	if (!snapshot || read_name(call->body, snapshot->name, &err) < 0) {
		rest_fail(call, snapshot ? 400 : 500, "%s", snapshot ? err.message : "out of memory");
		free(snapshot);
		return;
	}
	if (!rest_find_sandbox(call)) {
		free(snapshot);
		return;
	}
	random_uuid(snapshot->build_id);
	random_id(snapshot->id, 20);
	(void)snprintf(snapshot->team_id, sizeof(snapshot->team_id), "%s", call->team_id);
	(void)snprintf(snapshot->sandbox_id, sizeof(snapshot->sandbox_id), "%s", call->id);
	snapshot->created_at_ms = time_wall_ms();
	if (store_put_snapshot(call->api->store, snapshot, &err) < 0) {
		rest_fail(call, 500, "%s", err.message);
		free(snapshot);
		return;
	}
	call->own = snapshot;
	(void)snprintf(target, sizeof(target), "/v1/sandboxes/%s/snapshot", call->id);
	api_call_node(call->api, "POST", target, json_pack("{s:s}", "build_id", snapshot->build_id),
	              on_created, call);
}

/* --- list --- */

struct listing {
	json_t *page;
	const char *sandbox_id; /* NULL: any */
	const char *name;       /* with team or tag, or without */
	long skip;
	long limit;
	bool more;
};

static bool has_name(const struct snapshot *snapshot, const char *wanted)
{
	const char *slash = strchr(wanted, '/');
	size_t size;

	if (slash)
		wanted = slash + 1;
	size = strcspn(wanted, ":");
	if (wanted[size] && strcmp(wanted + size, ":default") != 0)
		return false;
	return (strlen(snapshot->name) == size && strncmp(snapshot->name, wanted, size) == 0) ||
	       (strlen(snapshot->id) == size && strncmp(snapshot->id, wanted, size) == 0);
}

static bool take(void *context, const struct snapshot *snapshot)
{
	struct listing *listing = context;

	if ((listing->sandbox_id && strcmp(listing->sandbox_id, snapshot->sandbox_id) != 0) ||
	    (listing->name && !has_name(snapshot, listing->name)))
		return true;
	if (listing->skip > 0) {
		listing->skip--;
		return true;
	}
	if ((long)json_array_size(listing->page) == listing->limit) {
		listing->more = true;
		return false;
	}
	(void)json_array_append_new(listing->page, snapshot_info(snapshot));
	return true;
}

void snapshots_list(struct rest_call *call)
{
	struct listing listing = { .sandbox_id = http_request_query(call->exchange, "sandboxID"),
		                   .name = http_request_query(call->exchange, "name") };
	struct error err = { 0 };
	struct rest_page page;

	if (!rest_read_page(call, &page))
		return;
	listing.skip = page.first;
	listing.limit = page.limit;
	listing.page = json_array();
	if (store_list_snapshots(call->api->store, call->team_id, take, &listing, &err) < 0) {
		json_decref(listing.page);
		rest_fail(call, 500, "%s", err.message);
		return;
	}
	if (listing.more)
		rest_more(call, &page);
	rest_reply(call, 200, listing.page);
}
