/* What sandboxes use and what their agents log: the node's word, in the clients' form. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/rest/rest.h"

#define IDS_MAX    100
#define LIMIT_MAX  1000
#define SEARCH_MAX 256

bool rest_read_number(struct rest_call *call, const char *name, int64_t *ret)
{
	const char *text = http_request_query(call->exchange, name);

	if (!text)
		return true;
	if (!*text || strlen(text) > 18 || strspn(text, "0123456789") != strlen(text)) {
		rest_fail(call, 400,
		          "Invalid format for parameter %s: it must be a number that is not negative", name);
		return false;
	}
	*ret = strtoll(text, NULL, 10);
	return true;
}

/* --- metrics --- */

/* The clients' form of one of the node's samples. NULL: it is none. */
static json_t *metric(const json_t *sample)
{
	static const char *const names[][2] = {
		{ "cpuCount", "cpu_count" },   { "cpuUsedPct", "cpu_used_pct" }, { "memUsed", "mem_used" },
		{ "memTotal", "mem_total" },   { "memCache", "mem_cache" },      { "diskUsed", "disk_used" },
		{ "diskTotal", "disk_total" },
	};
	const json_t *time_s = json_object_get(sample, "time_s");
	char text[TIME_RFC3339_SIZE];
	json_t *json;

	if (!json_is_integer(time_s))
		return NULL;
	json = json_pack("{s:s,s:I}", "timestamp",
	                 time_format_rfc3339(json_integer_value(time_s) * 1000, text), "timestampUnix",
	                 json_integer_value(time_s));
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		(void)json_object_set(json, names[i][0], json_object_get(sample, names[i][1]));
	return json;
}

static void on_metrics(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct rest_call *call = context;
	cleanup_json json_t *list = status == 200 ? json_loadb(data, size, 0, NULL) : NULL;
	json_t *answer;
	json_t *sample;
	size_t index;

	if (!json_is_array(list)) {
		rest_fail_node(call, status, data, size, err);
		return;
	}
	answer = json_array();
	json_array_foreach (list, index, sample)
		(void)json_array_append_new(answer, metric(sample));
	rest_reply(call, 200, answer);
}

void metrics_get(struct rest_call *call)
{
	int64_t start_s = 0;
	int64_t end_s = time_wall_ms() / 1000;
	char target[200];

	if (!rest_read_number(call, "start", &start_s) || !rest_read_number(call, "end", &end_s))
		return;
	if (start_s > end_s) {
		rest_fail(call, 400, "start time cannot be after end time");
		return;
	}
	if (!rest_find_any(call))
		return;
	(void)snprintf(target, sizeof(target), "/v1/sandboxes/%s/metrics?start_s=%lld&end_s=%lld", call->id,
	               (long long)start_s, (long long)end_s);
	api_call_node(call->api, "GET", target, NULL, on_metrics, call);
}

static void on_latest(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct rest_call *call = context;
	cleanup_json json_t *samples = status == 200 ? json_loadb(data, size, 0, NULL) : NULL;
	json_t *answer;
	json_t *sample;
	const char *id;

	if (!json_is_object(samples)) {
		rest_fail_node(call, status, data, size, err);
		return;
	}
	answer = json_object();
	json_object_foreach (samples, id, sample) {
		json_t *json = metric(sample);

		if (json)
			(void)json_object_set_new(answer, id, json);
	}
	rest_reply(call, 200, json_pack("{s:o}", "sandboxes", answer));
}

/* Append those of the caller's ids to the node's request. 0; -EINVAL: an id is none; -E2BIG. */
static int read_ids(struct rest_call *call, const char *text, struct buffer *target)
{
	cleanup_free char *copy = strdup(text);
	char *save = NULL;
	unsigned count = 0;

	for (char *id = copy ? strtok_r(copy, ",", &save) : NULL; id; id = strtok_r(NULL, ",", &save)) {
		const struct record *record;

		if (++count > IDS_MAX)
			return -E2BIG;
		if (!rest_normalize_id(id))
			return -EINVAL;
		record = registry_find(call->api->registry, id);
		if (record && strcmp(record->team_id, call->team_id) == 0 && record_is_running(record))
			(void)buffer_printf(target, "%s,", id);
	}
	return 0;
}

void metrics_list(struct rest_call *call)
{
	cleanup_buffer struct buffer target = BUFFER_INIT;
	const char *text = http_request_query(call->exchange, "sandbox_ids");
	int ret;

	(void)buffer_append_string(&target, "/v1/metrics?sandbox_ids=");
	ret = text ? read_ids(call, text, &target) : -ENOENT;
	if (ret == -ENOENT)
		rest_fail(call, 400, "Query argument sandbox_ids is required, but not found");
	else if (ret == -E2BIG)
		rest_fail(call, 400, "Too many sandboxes requested, maximum is %d", IDS_MAX);
	else if (ret < 0)
		rest_fail(call, 400, "Invalid sandbox ID");
	else
		api_call_node(call->api, "GET", target.data, NULL, on_latest, call);
}

/* --- logs --- */

/* The clients' form of one of the node's entries. */
static json_t *log_entry(const json_t *entry)
{
	char text[TIME_RFC3339_SIZE];

	return json_pack("{s:s,s:O,s:O,s:O}", "timestamp",
	                 time_format_rfc3339(json_integer_value(json_object_get(entry, "time_ms")), text),
	                 "level", json_object_get(entry, "level"), "message",
	                 json_object_get(entry, "message"), "fields", json_object_get(entry, "fields"));
}

/* The same as one line of text: all in one JSON object. */
static json_t *log_line(const json_t *entry)
{
	cleanup_json json_t *whole = json_copy(json_object_get(entry, "fields"));
	cleanup_free char *text = NULL;

	if (!json_is_object(whole))
		return NULL;
	(void)json_object_set(whole, "level", json_object_get(entry, "level"));
	(void)json_object_set(whole, "message", json_object_get(entry, "message"));
	(void)json_object_set(whole, "timestamp", json_object_get(entry, "timestamp"));
	text = json_dumps(whole, JSON_COMPACT);
	return json_pack("{s:O,s:s}", "timestamp", json_object_get(entry, "timestamp"), "line", text);
}

static void reply_logs(struct rest_call *call, const json_t *list)
{
	json_t *entries = json_array();
	json_t *lines = json_array();
	json_t *from;
	size_t index;

	json_array_foreach (list, index, from) {
		json_t *entry = log_entry(from);

		(void)json_array_append_new(lines, log_line(entry));
		(void)json_array_append_new(entries, entry);
	}
	if (call->version2) {
		json_decref(lines);
		rest_reply(call, 200, json_pack("{s:o}", "logs", entries));
	} else {
		rest_reply(call, 200, json_pack("{s:o,s:o}", "logs", lines, "logEntries", entries));
	}
}

static void on_logs(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct rest_call *call = context;
	cleanup_json json_t *answer = status == 200 ? json_loadb(data, size, 0, NULL) : NULL;
	const struct record *record = registry_find(call->api->registry, call->id);
	const char *team_id = json_string_value(json_object_get(answer, "team_id"));
	bool ours = record && strcmp(record->team_id, call->team_id) == 0;

	/* Nothing has been logged yet; or it has ended, and only the node knows whose it was. */
	if (status == 404 && ours)
		reply_logs(call, NULL);
	else if (status == 404 || (team_id && strcmp(team_id, call->team_id) != 0))
		rest_fail(call, 404, "Sandbox \"%s\" doesn't exist or you don't have access to it", call->id);
	else if (!team_id)
		rest_fail_node(call, status, data, size, err);
	else
		reply_logs(call, json_object_get(answer, "logs"));
}

struct log_request {
	int64_t from_ms;
	int64_t limit;
	const char *direction;
	const char *level;
	const char *search;
};

bool rest_is_one_of(const char *text, const char *const *names, size_t count)
{
	for (size_t i = 0; text && i < count; i++)
		if (strcmp(text, names[i]) == 0)
			return true;
	return !text;
}

/* False: the call has been answered. */
static bool read_log_request(struct rest_call *call, struct log_request *request)
{
	static const char *const directions[] = { "forward", "backward" };
	static const char *const levels[] = { "debug", "info", "warn", "error" };

	*request = (struct log_request){ .from_ms = -1, .limit = LIMIT_MAX };
	if (!rest_read_number(call, call->version2 ? "cursor" : "start", &request->from_ms) ||
	    !rest_read_number(call, "limit", &request->limit))
		return false;
	if (request->limit > LIMIT_MAX && call->version2) {
		rest_fail(call, 400, "limit must be at most %d", LIMIT_MAX);
		return false;
	}
	if (!call->version2)
		return true;
	request->direction = http_request_query(call->exchange, "direction");
	request->level = http_request_query(call->exchange, "level");
	request->search = http_request_query(call->exchange, "search");
	if (!rest_is_one_of(request->direction, directions, ARRAY_SIZE(directions)))
		rest_fail(call, 400, "direction must be 'forward' or 'backward'");
	else if (!rest_is_one_of(request->level, levels, ARRAY_SIZE(levels)))
		rest_fail(call, 400, "level must be 'debug', 'info', 'warn' or 'error'");
	else if (request->search && strlen(request->search) > SEARCH_MAX)
		rest_fail(call, 400, "search must have at most %d characters", SEARCH_MAX);
	else
		return true;
	return false;
}

void logs_get(struct rest_call *call)
{
	cleanup_buffer struct buffer target = BUFFER_INIT;
	struct log_request request;

	if (!rest_normalize_id(call->id)) {
		rest_fail(call, 400, "Invalid sandbox ID");
		return;
	}
	if (!read_log_request(call, &request))
		return;
	(void)buffer_printf(&target, "/v1/sandboxes/%s/logs?limit=%lld", call->id, (long long)request.limit);
	/* Version 1 goes forward. */
	if (call->version2)
		(void)buffer_printf(&target, "&direction=%s",
		                    request.direction ? request.direction : "backward");
	if (request.from_ms >= 0)
		(void)buffer_printf(&target, "&cursor_ms=%lld", (long long)request.from_ms);
	if (request.level)
		(void)buffer_printf(&target, "&level=%s", request.level);
	if (request.search) {
		(void)buffer_append_string(&target, "&search=");
		(void)percent_encode(&target, request.search);
	}
	api_call_node(call->api, "GET", target.data, NULL, on_logs, call);
}
