#include "api/rest/rest.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/telemetry.h"

#define BODY_LIMIT (1024 * 1024)

/* '*' stands for one segment. "/v2" before a path is a newer version of the same. */
static const struct route {
	const char *method;
	const char *path;
	void (*handle)(struct rest_call *call);
} routes[] = {
	{ "POST", "/sandboxes", sandboxes_create },
	{ "GET", "/sandboxes", sandboxes_list },
	{ "GET", "/sandboxes/metrics", metrics_list },
	{ "GET", "/sandboxes/*", sandboxes_get },
	{ "DELETE", "/sandboxes/*", sandboxes_kill },
	{ "POST", "/sandboxes/*/timeout", sandboxes_set_timeout },
	{ "POST", "/sandboxes/*/refreshes", sandboxes_refresh },
	{ "POST", "/sandboxes/*/connect", sandboxes_connect },
	{ "GET", "/sandboxes/*/metrics", metrics_get },
	{ "GET", "/sandboxes/*/logs", logs_get },
	{ "POST", "/sandboxes/*/pause", lifecycle_pause },
	{ "POST", "/sandboxes/*/resume", lifecycle_resume },
	{ "POST", "/sandboxes/*/snapshots", snapshots_create },
	{ "POST", "/sandboxes/*/fork", fork_create },
	{ "PUT", "/sandboxes/*/network", network_update },
	{ "GET", "/snapshots", snapshots_list },
	{ "GET", "/templates", templates_list },
	{ "GET", "/templates/aliases/*", templates_get_alias },
	{ "GET", "/templates/*", templates_get },
	{ "GET", "/templates/*/tags", templates_tags },
	{ "GET", "/templates/*/builds/*/status", builds_status },
	{ "GET", "/templates/*/builds/*/logs", builds_logs },
	{ "PATCH", "/templates/*", templates_update },
	{ "DELETE", "/templates/*", templates_delete },
	{ "GET", "/secrets", secrets_list },
	{ "POST", "/secrets", secrets_create },
	{ "GET", "/secrets/*", secrets_get },
	{ "POST", "/secrets/*", secrets_update },
	{ "DELETE", "/secrets/*", secrets_delete },
	{ "GET", "/volumes", volumes_list },
	{ "POST", "/volumes", volumes_create },
	{ "GET", "/volumes/*", volumes_get },
	{ "DELETE", "/volumes/*", volumes_delete },
	{ "GET", "/teams/*/metrics", teams_metrics },
	{ "GET", "/teams/*/metrics/max", teams_metrics_max },
};

static const struct route user_routes[] = {
	{ "POST", "/access-tokens", tokens_create },
	{ "DELETE", "/access-tokens/*", tokens_delete },
};

static const struct route user_or_key_routes[] = {
	{ "GET", "/teams", teams_list },
};

static const struct route team_user_routes[] = {
	{ "GET", "/api-keys", keys_list },
	{ "POST", "/api-keys", keys_create },
	{ "PATCH", "/api-keys/*", keys_rename },
	{ "DELETE", "/api-keys/*", keys_delete },
};

static const struct route admin_routes[] = {
	{ "GET", "/nodes", nodes_list },
	{ "GET", "/nodes/*", nodes_get },
	{ "POST", "/nodes/*", nodes_set_status },
	{ "POST", "/admin/teams/*/sandboxes/kill", nodes_kill_team },
	{ "POST", "/admin/teams/*/builds/cancel", nodes_cancel_builds },
	{ "GET", "/admin/sandboxes/running-counts", nodes_running_counts },
	{ "GET", "/admin/teams", teams_admin_list },
	{ "POST", "/admin/teams", teams_admin_create },
	{ "PATCH", "/admin/teams/*", teams_admin_update },
	{ "POST", "/admin/teams/*/api-keys", keys_admin_create },
	{ "DELETE", "/admin/teams/*/api-keys/*", keys_admin_delete },
	{ "POST", "/admin/teams/*/access-tokens", tokens_admin_create },
};

/* Who may use them: rest.h. Most are a team's. */
static const struct {
	const char *who;
	const struct route *routes;
	size_t count;
} tables[] = {
	[WHO_TEAM] = { "team", routes, ARRAY_SIZE(routes) },
	[WHO_USER] = { "user", user_routes, ARRAY_SIZE(user_routes) },
	[WHO_USER_OR_KEY] = { "user-or-key", user_or_key_routes, ARRAY_SIZE(user_or_key_routes) },
	[WHO_TEAM_USER] = { "team-user", team_user_routes, ARRAY_SIZE(team_user_routes) },
	[WHO_ADMIN] = { "admin", admin_routes, ARRAY_SIZE(admin_routes) },
};

/* --- ending --- */

static void call_free(struct rest_call *call)
{
	if (call->exchange)
		http_exchange_on_close(call->exchange, NULL, NULL);
	json_decref(call->body);
	free(call);
}

void rest_reply(struct rest_call *call, int status, json_t *json)
{
	struct http_exchange *exchange = call->exchange;

	call_free(call);
	if (exchange)
		http_reply_json(exchange, status, json);
	else
		json_decref(json);
}

void rest_reply_empty(struct rest_call *call, int status)
{
	struct http_exchange *exchange = call->exchange;

	call_free(call);
	if (exchange)
		http_reply_empty(exchange, status);
}

void rest_fail(struct rest_call *call, int status, const char *format, ...)
{
	char message[ERROR_MESSAGE_SIZE];
	va_list arguments;

	va_start(arguments, format);
	(void)vsnprintf(message, sizeof(message), format, arguments);
	va_end(arguments);
	rest_reply(call, status, json_pack("{s:i,s:s}", "code", status, "message", message));
}

void rest_fail_node(struct rest_call *call, int status, const char *data, size_t size,
                    const struct error *err)
{
	cleanup_json json_t *answer = size ? json_loadb(data, size, 0, NULL) : NULL;
	const char *message = json_string_value(json_object_get(answer, "message"));

	if (status == 0) {
		log_error("node: %s", err->message);
		api_node_lost(call->api);
		rest_fail(call, 503, "the node cannot be reached");
	} else if (status < 400) {
		log_error("node: an answer with status %d that makes no sense: %.200s", status,
		          size ? data : "");
		rest_fail(call, 500, "the node's answer makes no sense");
	} else {
		rest_fail(call, status, "%s", message ? message : "the node failed");
	}
}

void rest_not_yet(struct rest_call *call)
{
	if (!call->id[0] || rest_find_sandbox(call))
		rest_fail(call, 501, "this endpoint is not built yet");
}

bool rest_normalize_id(char *id)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789";
	size_t size = strspn(id, letters);
	bool valid = size > 0 &&
	             (!id[size] || (id[size] == '-' && !id[size + 1 + strspn(id + size + 1, letters)]));

	id[size] = '\0';
	return valid;
}

static struct record *find(struct rest_call *call, bool paused_too)
{
	struct record *record;

	if (!rest_normalize_id(call->id)) {
		rest_fail(call, 400, "Invalid sandbox ID");
		return NULL;
	}
	record = registry_find(call->api->registry, call->id);
	if (record && strcmp(record->team_id, call->team_id) == 0 &&
	    (record_is_running(record) || (paused_too && record_is_paused(record))))
		return record;
	rest_fail(call, 404, "Sandbox \"%s\" doesn't exist or you don't have access to it", call->id);
	return NULL;
}

struct record *rest_find_sandbox(struct rest_call *call)
{
	return find(call, false);
}

struct record *rest_find_any(struct rest_call *call)
{
	return find(call, true);
}

/* --- beginning --- */

static void keep_segment(struct rest_call *call, const char *text)
{
	if (call->reference[0])
		(void)snprintf(call->outer, sizeof(call->outer), "%s", call->reference);
	(void)snprintf(call->reference, sizeof(call->reference), "%s", text);
	(void)snprintf(call->id, sizeof(call->id), "%s", text);
}

/* Match a path as it was sent against a route's; the decoded segments under '*' go to the call. A segment may
 * hold a slash, as %2F. */
static bool path_matches(const char *pattern, const char *path, struct rest_call *call)
{
	call->reference[0] = call->id[0] = call->outer[0] = '\0';
	while (*pattern && *path && *path != '?') {
		if (*pattern == '*') {
			cleanup_buffer struct buffer segment = { .limit = sizeof(call->reference) - 1 };
			size_t size = strcspn(path, "/?");

			if (size == 0 || percent_decode(&segment, path, size, 0) < 0)
				return false;
			keep_segment(call, segment.data);
			path += size;
			pattern++;
		} else if (*pattern++ != *path++) {
			return false;
		}
	}
	return !*pattern && (!*path || *path == '?');
}

/* `allow` gets the methods of the path's routes when none of them is the request's. */
static const struct route *find_route(const struct http_exchange *exchange, struct rest_call *call,
                                      enum rest_who *ret_who, char allow[64])
{
	const char *path = http_request_target(exchange);
	size_t used = 0;

	allow[0] = '\0';
	call->version2 = strncmp(path, "/v2/", 4) == 0;
	if (call->version2)
		path += 3;
	for (*ret_who = 0; *ret_who < ARRAY_SIZE(tables); (*ret_who)++) {
		for (size_t i = 0; i < tables[*ret_who].count; i++) {
			const struct route *route = &tables[*ret_who].routes[i];

			if (!path_matches(route->path, path, call))
				continue;
			if (strcmp(route->method, http_request_method(exchange)) == 0)
				return route;
			if (used < 48 && !strstr(allow, route->method))
				used += (size_t)snprintf(allow + used, 64 - used, "%s%s", used ? ", " : "",
				                         route->method);
		}
	}
	return NULL;
}

void rest_print_routes(FILE *to)
{
	for (size_t who = 0; who < ARRAY_SIZE(tables); who++)
		for (size_t i = 0; i < tables[who].count; i++)
			(void)fprintf(to, "%s %s %s\n", tables[who].routes[i].method,
			              tables[who].routes[i].path, tables[who].who);
}

static void on_gone(struct http_exchange *exchange, void *context)
{
	struct rest_call *call = context;

	(void)exchange;
	call->exchange = NULL;
}

static void on_body(struct http_exchange *exchange, const char *data, size_t size, void *context)
{
	struct rest_call *call = calloc(1, sizeof(*call));
	struct error err = { 0 };
	const struct route *route;
	enum rest_who who;
	struct api *api = context;
	const char *id;
	char allow[64];

	if (!call) {
		http_reply_error(exchange, 500, "out of memory");
		return;
	}
	call->api = api;
	call->exchange = exchange;
	http_exchange_on_close(exchange, on_gone, call);
	route = find_route(exchange, call, &who, allow);
	if (!route) {
		if (allow[0])
			http_reply_header(exchange, "Allow", allow);
		rest_fail(call, allow[0] ? 405 : 404,
		          allow[0] ? "this method is not allowed here" : "no such endpoint");
		return;
	}
	telemetry_route(exchange, route->path);
	if (!rest_authenticate(call, who))
		return;
	if (size && json_parse_object(data, size, &call->body, &err) < 0) {
		rest_fail(call, 400, "Error parsing the request: %s", err.message);
		return;
	}
	if (!call->body)
		call->body = json_object();
	telemetry_team(exchange, call->team_id);
	id = telemetry_id(exchange);
	(void)snprintf(api->request_id, sizeof(api->request_id), "%s", id ? id : "");
	route->handle(call);
	api->request_id[0] = '\0';
}

static void answer_health(const struct api *api, struct http_exchange *exchange)
{
	static const char fine[] = "Health check successful";
	static const char doubt[] = "The node does not answer";

	if (api->in_doubt)
		http_reply(exchange, 503, "text/plain", doubt, sizeof(doubt) - 1);
	else
		http_reply(exchange, 200, "text/plain", fine, sizeof(fine) - 1);
}

void rest_route(struct api *api, struct http_exchange *exchange)
{
	const char *path = http_request_path(exchange);

	if (strcmp(path, "/health") == 0) {
		telemetry_route(exchange, "/health");
		answer_health(api, exchange);
	} else {
		http_request_collect(exchange, BODY_LIMIT, on_body, api);
	}
}
