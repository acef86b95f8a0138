/* /templates/ID/builds and /templates/ID/tags. A build is there only when it is ready; a snapshot is one too.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/rest/templates_internal.h"

#define LIMIT_MAX  100
#define OFFSET_MAX INT32_MAX

/* What is asked about a build: the call's own. */
struct build_question {
	struct template_subject *subject;
	char build_id[40];
	bool status; /* or its logs alone */
	int64_t limit;
	int64_t offset;
	int64_t cursor_ms; /* -1: none */
	const char *direction;
	const char *level;
};

/* --- what is asked --- */

/* As E2B takes them: with letters of either case. */
static bool read_build_id(const char *text, char build_id[40])
{
	size_t size = strlen(text);

	if (size != 36 || strspn(text, "0123456789abcdefABCDEF-") != size)
		return false;
	for (size_t i = 0; i <= size; i++)
		build_id[i] = text[i] >= 'A' && text[i] <= 'F' ? (char)(text[i] + 32) : text[i];
	return true;
}

/* False: the call has been answered. */
static bool read_question(struct rest_call *call, struct build_question *question)
{
	static const char *const directions[] = { "forward", "backward" };
	static const char *const levels[] = { "debug", "info", "warn", "error" };
	static const char *const sources[] = { "temporary", "persistent" };
	const char *direction = http_request_query(call->exchange, "direction");
	const char *level = http_request_query(call->exchange, "level");

	question->limit = LIMIT_MAX;
	question->cursor_ms = -1;
	if (!rest_read_number(call, "limit", &question->limit) ||
	    (question->status && !rest_read_number(call, "logsOffset", &question->offset)) ||
	    (!question->status && !rest_read_number(call, "cursor", &question->cursor_ms)))
		return false;
	if (question->limit > LIMIT_MAX)
		rest_fail(call, 400, "limit must be at most %d", LIMIT_MAX);
	else if (question->offset > OFFSET_MAX)
		rest_fail(call, 400, "logsOffset must be at most %d", OFFSET_MAX);
	else if (!rest_is_one_of(level, levels, ARRAY_SIZE(levels)))
		rest_fail(call, 400, "level must be 'debug', 'info', 'warn' or 'error'");
	else if (!question->status && !rest_is_one_of(direction, directions, ARRAY_SIZE(directions)))
		rest_fail(call, 400, "direction must be 'forward' or 'backward'");
	else if (!question->status &&
	         !rest_is_one_of(http_request_query(call->exchange, "source"), sources, ARRAY_SIZE(sources)))
		rest_fail(call, 400, "source must be 'temporary' or 'persistent'");
	else {
		/* The query goes with its exchange, the question does not. */
		question->level = NULL;
		for (size_t i = 0; level && i < ARRAY_SIZE(levels); i++)
			if (strcmp(level, levels[i]) == 0)
				question->level = levels[i];
		question->direction = !question->status && direction && strcmp(direction, "backward") == 0
		                              ? "backward"
		                              : "forward";
		return true;
	}
	return false;
}

/* --- the answer --- */

static json_t *log_entry(const json_t *entry)
{
	char text[TIME_RFC3339_SIZE];
	json_t *json = json_pack(
	        "{s:s,s:O,s:O}", "timestamp",
	        time_format_rfc3339(json_integer_value(json_object_get(entry, "time_ms")), text), "message",
	        json_object_get(entry, "message"), "level", json_object_get(entry, "level"));
	json_t *step = json_object_get(entry, "step");

	if (json && json_is_string(step))
		(void)json_object_set(json, "step", step);
	return json;
}

static void on_logs(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct rest_call *call = context;
	struct build_question *question = call->own;
	cleanup_json json_t *answer = status == 200 ? json_loadb(data, size, 0, NULL) : NULL;
	const json_t *list = json_object_get(answer, "logs");
	json_t *entries;
	json_t *lines;
	json_t *from;
	size_t index;

	if (!json_is_array(list)) {
		if (status == 404)
			rest_fail(call, 404, "Build '%s' not found", question->build_id);
		else
			rest_fail_node(call, status, data, size, err);
		goto out;
	}
	entries = json_array();
	lines = json_array();
	json_array_foreach (list, index, from) {
		json_t *entry = log_entry(from);

		if (!entry)
			continue;
		(void)json_array_append_new(
		        lines,
		        json_sprintf("[%s] %s\n", json_string_value(json_object_get(entry, "timestamp")),
		                     json_string_value(json_object_get(entry, "message"))));
		(void)json_array_append_new(entries, entry);
	}
	if (question->status) {
		rest_reply(call, 200,
		           json_pack("{s:s,s:s,s:s,s:o,s:o}", "templateID", question->subject->name,
		                     "buildID", question->build_id, "status", "ready", "logs", lines,
		                     "logEntries", entries));
	} else {
		json_decref(lines);
		rest_reply(call, 200, json_pack("{s:o}", "logs", entries));
	}
out:
	free(question->subject);
	free(question);
}

static void ask_logs(struct rest_call *call, const struct build_question *question)
{
	cleanup_buffer struct buffer target = BUFFER_INIT;

	(void)buffer_printf(&target, "/v1/templates/%s/logs?limit=%lld&offset=%lld&direction=%s",
	                    question->build_id, (long long)question->limit, (long long)question->offset,
	                    question->direction);
	if (question->cursor_ms >= 0)
		(void)buffer_printf(&target, "&cursor_ms=%lld", (long long)question->cursor_ms);
	if (question->level)
		(void)buffer_printf(&target, "&level=%s", question->level);
	api_call_node(call->api, "GET", target.data, NULL, on_logs, call);
}

static bool has_build(const json_t *builds, const char *build_id)
{
	const json_t *build;
	size_t index;

	json_array_foreach (builds, index, build) {
		const char *id = json_string_value(json_object_get(build, "build_id"));

		if (id && strcmp(id, build_id) == 0)
			return true;
	}
	return false;
}

/* Whose the template is counts before what it has. */
static void on_builds(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct rest_call *call = context;
	struct build_question *question = call->own;
	struct template_subject *subject = question->subject;
	cleanup_json json_t *builds = NULL;

	call->own = subject;
	builds = templates_take_builds(call, status, data, size, err);
	if (!builds) {
		free(question);
		return;
	}
	call->own = question;
	if (templates_is_own(call, subject) && has_build(builds, question->build_id)) {
		ask_logs(call, question);
		return;
	}
	if (!templates_is_own(call, subject))
		rest_fail(call, 403, "You don't have access to this sandbox template (%s)", subject->name);
	else
		rest_fail(call, 404, "Build '%s' not found", question->build_id);
	free(subject);
	free(question);
}

static void ask_about_build(struct rest_call *call, bool status)
{
	struct build_question *question = calloc(1, sizeof(*question));

	if (!question) {
		rest_fail(call, 500, "out of memory");
		return;
	}
	question->status = status;
	if (!read_build_id(call->reference, question->build_id)) {
		rest_fail(call, 400, "Invalid build id");
		free(question);
		return;
	}
	if (!read_question(call, question) ||
	    !(question->subject = templates_find_subject(call, call->outer))) {
		free(question);
		return;
	}
	call->own = question;
	templates_ask_node(call, question->subject, "GET", on_builds);
}

void builds_status(struct rest_call *call)
{
	ask_about_build(call, true);
}

void builds_logs(struct rest_call *call)
{
	ask_about_build(call, false);
}

/* --- tags --- */

/* A name stands for its newest build: that is the only tag as long as none can be given. */
static void on_tags(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct rest_call *call = context;
	struct template_subject *subject = call->own;
	cleanup_json json_t *builds = templates_take_builds(call, status, data, size, err);
	const json_t *newest = json_array_get(builds, 0);
	char created[TIME_RFC3339_SIZE];

	if (!builds)
		return;
	if (templates_is_own(call, subject))
		rest_reply(call, 200,
		           json_pack("[{s:s,s:O,s:s}]", "tag", "default", "buildID",
		                     json_object_get(newest, "build_id"), "createdAt",
		                     time_format_rfc3339(
		                             json_integer_value(json_object_get(newest, "created_at_ms")),
		                             created)));
	else
		rest_fail(call, 403, "You don't have access to sandbox template '%s'", subject->name);
	free(subject);
}

void templates_tags(struct rest_call *call)
{
	if (templates_find_subject(call, call->reference))
		templates_ask_node(call, call->own, "GET", on_tags);
}
