/* /templates: whose they are, what the node has of them, and their end. Snapshots are templates too. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/rest/templates_internal.h"
#include "api/store/snapshots.h"

/* --- what clients are told --- */

static json_t *time_or_null(int64_t at_ms)
{
	char text[TIME_RFC3339_SIZE];

	return at_ms ? json_string(time_format_rfc3339(at_ms, text)) : json_null();
}

static int64_t created_of(const json_t *template)
{
	return json_integer_value(json_object_get(template, "created_at_ms"));
}

static json_t *template_entry(const json_t *template, const struct template_row *row)
{
	const char *name = json_string_value(json_object_get(template, "name"));
	int64_t created_ms = created_of(template);
	json_t *builds = json_object_get(template, "build_count");

	return json_pack("{s:s,s:O,s:O,s:O,s:O,s:b,s:[s],s:[s],s:o,s:o,s:n,s:o,s:I,s:I,s:s,s:s}",
	                 "templateID", name, "buildID", json_object_get(template, "build_id"), "cpuCount",
	                 json_object_get(template, "vcpu_count"), "memoryMB",
	                 json_object_get(template, "memory_mib"), "diskSizeMB",
	                 json_object_get(template, "disk_mib"), "public", row->public, "aliases", name,
	                 "names", name, "createdAt", time_or_null(created_ms), "updatedAt",
	                 time_or_null(row->updated_at_ms > created_ms ? row->updated_at_ms : created_ms),
	                 "createdBy", "lastSpawnedAt", time_or_null(row->last_spawned_at_ms), "spawnCount",
	                 (json_int_t)row->spawn_count, "buildCount",
	                 (json_int_t)(builds ? json_integer_value(builds) : 1), "envdVersion",
	                 API_ENVD_VERSION, "buildStatus", "ready");
}

static json_t *build_entry(const json_t *template)
{
	char created[TIME_RFC3339_SIZE];

	(void)time_format_rfc3339(created_of(template), created);
	return json_pack("{s:O,s:s,s:s,s:s,s:s,s:O,s:O,s:O,s:s}", "buildID",
	                 json_object_get(template, "build_id"), "status", "ready", "createdAt", created,
	                 "updatedAt", created, "finishedAt", created, "cpuCount",
	                 json_object_get(template, "vcpu_count"), "memoryMB",
	                 json_object_get(template, "memory_mib"), "diskSizeMB",
	                 json_object_get(template, "disk_mib"), "envdVersion", API_ENVD_VERSION);
}

/* --- which one --- */

static void not_found(struct rest_call *call, const char *name)
{
	rest_fail(call, 404, "Template '%s' not found or you don't have access to it", name);
}

struct template_subject *templates_find_subject(struct rest_call *call, const char *reference)
{
	struct template_subject *subject = calloc(1, sizeof(*subject));
	struct store *store = call->api->store;
	struct error err = { 0 };
	int ret;

	if (!subject) {
		rest_fail(call, 500, "out of memory");
		return NULL;
	}
	ret = sandboxes_read_template(reference, subject->name, &err);
	if (ret < 0) {
		rest_fail(call, ret == -ENOENT ? 404 : 400, "%s", err.message);
		free(subject);
		return NULL;
	}
	ret = -ENOENT;
	if (!rest_names_other_team(call, reference))
		ret = store_find_snapshot(store, call->team_id, subject->name, subject->build_id);
	if (ret == -ENOENT)
		ret = store_get_template(store, subject->name, &subject->row, &err);
	if (ret < 0) {
		if (ret == -EACCES)
			not_found(call, subject->name);
		else
			rest_fail(call, 500, "the templates cannot be looked up");
		free(subject);
		return NULL;
	}
	if (subject->build_id[0])
		(void)snprintf(subject->row.team_id, sizeof(subject->row.team_id), "%s", call->team_id);
	call->own = subject;
	return subject;
}

bool templates_is_own(const struct rest_call *call, const struct template_subject *subject)
{
	return strcmp(subject->row.team_id, call->team_id) == 0;
}

void templates_ask_node(struct rest_call *call, const struct template_subject *subject, const char *method,
                        http_simple_fn *done)
{
	char target[160];

	(void)snprintf(target, sizeof(target), "/v1/templates/%s",
	               subject->build_id[0] ? subject->build_id : subject->name);
	api_call_node(call->api, method, target, NULL, done, call);
}

json_t *templates_take_builds(struct rest_call *call, int status, const char *data, size_t size,
                              const struct error *err)
{
	struct template_subject *subject = call->own;
	json_t *builds = status == 200 ? json_loadb(data, size, 0, NULL) : NULL;

	if (json_array_size(builds) > 0)
		return builds;
	if (status == 404 || json_is_array(builds))
		not_found(call, subject->name);
	else
		rest_fail_node(call, status, data, size, err);
	json_decref(builds);
	free(subject);
	return NULL;
}

/* --- list --- */

static void on_list(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct rest_call *call = context;
	cleanup_json json_t *list = status == 200 ? json_loadb(data, size, 0, NULL) : NULL;
	long skip = call->version2 ? (long)call->number / 1000 : 0;
	size_t limit = call->version2 ? (size_t)call->number % 1000 : SIZE_MAX;
	struct error failure = { 0 };
	struct template_row row;
	bool more = false;
	json_t *answer;
	size_t index;
	json_t *template;

	if (!json_is_array(list)) {
		rest_fail_node(call, status, data, size, err);
		return;
	}
	answer = json_array();
	json_array_foreach (list, index, template) {
		const char *name = json_string_value(json_object_get(template, "name"));

		if (!name || store_get_template(call->api->store, name, &row, &failure) < 0 ||
		    strcmp(row.team_id, call->team_id) != 0 || skip-- > 0)
			continue;
		more = json_array_size(answer) == limit;
		if (more)
			break;
		(void)json_array_append_new(answer, template_entry(template, &row));
	}
	if (more && call->exchange)
		rest_more(call, &(struct rest_page){ (long)call->number / 1000, (long)limit });
	rest_reply(call, 200, answer);
}

void templates_list(struct rest_call *call)
{
	struct rest_page page;

	if (call->version2) {
		if (!rest_read_page(call, &page))
			return;
		call->number = page.first * 1000 + page.limit;
	}
	api_call_node(call->api, "GET", "/v1/templates", NULL, on_list, call);
}

/* --- one --- */

static void on_get(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct rest_call *call = context;
	struct template_subject *subject = call->own;
	const struct template_row *row = &subject->row;
	cleanup_json json_t *builds = templates_take_builds(call, status, data, size, err);
	json_t *page;
	json_t *answer;

	if (!builds)
		return;
	page = json_array();
	for (long i = subject->page.first; i < subject->page.first + subject->page.limit; i++)
		if ((size_t)i < json_array_size(builds))
			(void)json_array_append_new(page, build_entry(json_array_get(builds, (size_t)i)));
	if ((size_t)(subject->page.first + subject->page.limit) < json_array_size(builds) && call->exchange)
		rest_more(call, &subject->page);
	if (!templates_is_own(call, subject)) {
		json_decref(page);
		rest_fail(call, 403, "You don't have access to this sandbox template (%s)", subject->name);
	} else {
		int64_t created_ms = created_of(json_array_get(builds, json_array_size(builds) - 1));
		int64_t built_ms = created_of(json_array_get(builds, 0));

		answer =
		        json_pack("{s:s,s:b,s:[s],s:[s],s:o,s:o,s:o,s:I,s:o}", "templateID", subject->name,
		                  "public", row->public, "aliases", subject->name, "names", subject->name,
		                  "createdAt", time_or_null(created_ms), "updatedAt",
		                  time_or_null(row->updated_at_ms > built_ms ? row->updated_at_ms : built_ms),
		                  "lastSpawnedAt", time_or_null(row->last_spawned_at_ms), "spawnCount",
		                  (json_int_t)row->spawn_count, "builds", page);
		rest_reply(call, 200, answer);
	}
	free(subject);
}

void templates_get(struct rest_call *call)
{
	struct rest_page page;
	struct template_subject *subject;

	if (!rest_read_page(call, &page))
		return;
	subject = templates_find_subject(call, call->reference);
	if (!subject)
		return;
	subject->page = page;
	templates_ask_node(call, call->own, "GET", on_get);
}

static void on_alias(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct rest_call *call = context;
	struct template_subject *subject = call->own;
	cleanup_json json_t *builds = templates_take_builds(call, status, data, size, err);

	if (!builds)
		return;
	if (templates_is_own(call, subject))
		rest_reply(
		        call, 200,
		        json_pack("{s:s,s:b}", "templateID", subject->name, "public", subject->row.public));
	else
		rest_fail(call, 403, "You don't have access to this template alias");
	free(subject);
}

void templates_get_alias(struct rest_call *call)
{
	if (templates_find_subject(call, call->reference))
		templates_ask_node(call, call->own, "GET", on_alias);
}

/* --- change --- */

static void on_patch(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct rest_call *call = context;
	struct template_subject *subject = call->own;
	cleanup_json json_t *builds = templates_take_builds(call, status, data, size, err);
	struct error failure = { 0 };
	const json_t *public;

	if (!builds)
		return;
	public = json_object_get(call->body, "public");
	if (json_is_boolean(public) && store_put_template(call->api->store, subject->name, call->team_id,
	                                                  json_is_true(public), &failure) < 0)
		rest_fail(call, 500, "%s", failure.message);
	else if (call->version2)
		rest_reply(call, 200, json_pack("{s:[s]}", "names", subject->name));
	else
		rest_reply_empty(call, 200);
	free(subject);
}

void templates_update(struct rest_call *call)
{
	struct error err = { 0 };
	bool public = false;
	struct template_subject *subject;

	if (json_read_bool(call->body, "public", JSON_OPTIONAL, &public, &err) < 0) {
		rest_fail(call, 400, "Invalid request body: %s", err.message);
		return;
	}
	subject = templates_find_subject(call, call->reference);
	if (!subject)
		return;
	if (subject->build_id[0] && public)
		rest_fail(call, 400, "a snapshot cannot be made public");
	else if (!templates_is_own(call, subject))
		not_found(call, subject->name);
	else {
		templates_ask_node(call, call->own, "GET", on_patch);
		return;
	}
	free(subject);
}

/* --- delete --- */

/* What we know of it goes, or of a snapshot that is still needed comes back. */
static int forget(struct rest_call *call, const struct template_subject *subject, int status,
                  struct error *err)
{
	struct store *store = call->api->store;

	if (!subject->build_id[0])
		return status == 204 ? store_forget_template(store, subject->name, err) : 0;
	if (status == 204 || status == 404)
		return store_delete_snapshot(store, subject->build_id, err);
	return status ? store_settle_snapshot(store, subject->build_id, true, err) : 0;
}

static void on_deleted(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct rest_call *call = context;
	struct template_subject *subject = call->own;
	struct error failure = { 0 };

	if (forget(call, subject, status, &failure) < 0)
		rest_fail(call, 500, "%s", failure.message);
	else if (status == 204)
		rest_reply_empty(call, 204);
	else if (status == 404)
		not_found(call, subject->name);
	else if (status == 409)
		rest_fail(call, 400, "cannot delete template '%s' because there are sandboxes using it",
		          subject->name);
	else
		rest_fail_node(call, status, data, size, err);
	free(subject);
}

/* NULL, or what the sandboxes that a template would be missing to do. */
static const char *users_of(struct rest_call *call, const struct template_subject *subject)
{
	const char *users = NULL;

	list_for_each (node, registry_all(call->api->registry)) {
		const struct record *record = list_entry(node, struct record, all);

		if (subject->build_id[0] || strcmp(record->template_id, subject->name) != 0)
			continue;
		if (!record_is_paused(record))
			return "running";
		users = "paused";
	}
	return users;
}

/* The node refuses what is still needed; what E2B says of it is told when we know it ourselves. */
void templates_delete(struct rest_call *call)
{
	struct template_subject *subject = templates_find_subject(call, call->reference);
	struct error err = { 0 };
	const char *users;

	if (!subject)
		return;
	users = templates_is_own(call, subject) ? users_of(call, subject) : NULL;
	if (!templates_is_own(call, subject))
		not_found(call, subject->name);
	else if (users)
		rest_fail(call, 400, "cannot delete template '%s' because there are %s sandboxes using it",
		          subject->name, users);
	else if (subject->build_id[0] &&
	         store_settle_snapshot(call->api->store, subject->build_id, false, &err) < 0)
		rest_fail(call, 500, "%s", err.message);
	else {
		templates_ask_node(call, call->own, "DELETE", on_deleted);
		return;
	}
	free(subject);
}
