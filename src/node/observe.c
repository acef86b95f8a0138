#include "node/observe.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/agent.h"
#include "node/builder.h"
#include "node/history.h"
#include "node/sandbox_internal.h"

#define TICKS      10   /* looks at who is due, per interval: so they are asked one after the other */
#define PATIENCE   3000 /* ms */
#define ANSWER_MAX (1024 * 1024)
#define FETCHES    8 /* of logs behind one another */
#define LATEST_MAX 100
#define LOGS_MAX   1000

/* --- asking --- */

/* No connection stays: none would be used again in time, and none should be open when the guest is saved. */
static void finish(struct sandbox *sandbox)
{
	char vsock[NODE_PATH_MAX];

	sandbox->observed = false;
	sandbox_vsock_path(sandbox, vsock);
	http_client_forget(sandbox->node->client, vsock);
}

static void on_logs(int status, const char *data, size_t size, const struct error *err, void *context);

static void fetch_logs(struct sandbox *sandbox)
{
	char vsock[NODE_PATH_MAX];
	char target[64];

	(void)snprintf(target, sizeof(target), "/logs?after=%lld", (long long)sandbox->history->log.seq);
	sandbox_vsock_path(sandbox, vsock);
	sandbox->pending++;
	agent_get(sandbox->node, vsock, target, PATIENCE, on_logs, sandbox);
}

static void on_logs(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct sandbox *sandbox = context;
	cleanup_json json_t *answer =
	        status == 200 && size <= ANSWER_MAX ? json_loadb(data, size, 0, NULL) : NULL;
	struct error failure = { 0 };
	int more = 0;

	(void)err;
	if (!sandbox_answer_counts(sandbox))
		return;
	if (!answer || !sandbox->history) {
		finish(sandbox);
		return;
	}
	more = guest_log_take(&sandbox->history->log, answer, time_wall_ms(), &failure);
	if (more < 0)
		log_warn("the logs of %s: %s", sandbox->id, failure.message);
	if (more > 0 && ++sandbox->fetches < FETCHES && sandbox->state == SANDBOX_RUNNING)
		fetch_logs(sandbox);
	else
		finish(sandbox);
}

static void on_metrics(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct sandbox *sandbox = context;
	cleanup_json json_t *answer =
	        status == 200 && size <= ANSWER_MAX ? json_loadb(data, size, 0, NULL) : NULL;
	struct usage_sample sample;
	json_t *last;

	(void)err;
	if (!sandbox_answer_counts(sandbox))
		return;
	if (!answer || !sandbox->history || !sandbox_is_running(sandbox)) {
		finish(sandbox);
		return;
	}
	if (usage_parse(answer, time_wall_ms() / 1000, &sample, NULL) == 0)
		usage_add(sandbox->history->usage, &sample);
	last = json_object_get(answer, "log_seq");
	if (json_is_integer(last) && json_integer_value(last) != sandbox->history->log.seq &&
	    sandbox->state == SANDBOX_RUNNING) {
		sandbox->fetches = 0;
		fetch_logs(sandbox);
	} else {
		finish(sandbox);
	}
}

static void ask(struct sandbox *sandbox)
{
	char vsock[NODE_PATH_MAX];

	if (!sandbox->history)
		sandbox->history = history_open(sandbox);
	if (!sandbox->history)
		return;
	sandbox_vsock_path(sandbox, vsock);
	sandbox->observed = true;
	sandbox->pending++;
	agent_get(sandbox->node, vsock, "/metrics", PATIENCE, on_metrics, sandbox);
}

static void tick(uv_timer_t *timer)
{
	struct node *node = timer->data;
	int64_t now_us = time_monotonic_us();

	list_for_each (link, &node->sandboxes) {
		struct sandbox *sandbox = list_entry(link, struct sandbox, link);

		if (sandbox->state != SANDBOX_RUNNING || sandbox->observed || sandbox->observe_at_us > now_us)
			continue;
		sandbox->observe_at_us = now_us + (int64_t)node->observe_ms * 1000;
		ask(sandbox);
	}
}

void observe_start(struct node *node)
{
	uint64_t period = node->observe_ms / TICKS;

	if (!node->observe_ms)
		return;
	(void)uv_timer_init(node->loop, &node->observing);
	node->observing.data = node;
	(void)uv_timer_start(&node->observing, tick, period ? period : 1, period ? period : 1);
}

/* --- telling --- */

/* A number in the query. False: it is none, and that has been answered. */
static bool read_number(struct http_exchange *exchange, const char *name, int64_t *ret)
{
	const char *text = http_request_query(exchange, name);

	if (!text)
		return true;
	if (!*text || strlen(text) > 18 || strspn(text, "0123456789") != strlen(text)) {
		http_reply_error(exchange, 400, "%s must be a number", name);
		return false;
	}
	*ret = strtoll(text, NULL, 10);
	return true;
}

void observe_reply_metrics(struct node *node, struct http_exchange *exchange, const char *id)
{
	struct sandbox *sandbox = sandbox_find(node, id);
	int64_t start_s = 0;
	int64_t end_s = INT64_MAX;

	if (!sandbox) {
		http_reply_error(exchange, 404, "sandbox '%s' does not exist", id);
		return;
	}
	if (!read_number(exchange, "start_s", &start_s) || !read_number(exchange, "end_s", &end_s))
		return;
	/* Of one that was paused before we were started nobody has asked yet. */
	if (!sandbox->history)
		sandbox->history = history_open(sandbox);
	http_reply_json(exchange, 200,
	                sandbox->history ? usage_list(sandbox->history->usage, start_s, end_s)
	                                 : json_array());
}

void observe_reply_latest(struct node *node, struct http_exchange *exchange)
{
	const char *text = http_request_query(exchange, "sandbox_ids");
	cleanup_free char *copy = strdup(text ? text : "");
	json_t *latest = json_object();
	char *save = NULL;
	unsigned count = 0;

	for (char *id = copy ? strtok_r(copy, ",", &save) : NULL; id && count++ < LATEST_MAX;
	     id = strtok_r(NULL, ",", &save)) {
		const struct sandbox *sandbox = sandbox_find(node, id);
		const struct usage_sample *last =
		        sandbox && sandbox->history ? usage_last(sandbox->history->usage) : NULL;

		if (last)
			(void)json_object_set_new(latest, id, usage_json(last));
	}
	http_reply_json(exchange, 200, latest);
}

/* Some MiB of JSON are read on a thread: nobody else has to wait for that. */
struct reading {
	uv_work_t work;
	struct http_exchange *exchange; /* NULL: who asked is gone */
	struct guest_log_query query;
	json_t *answer; /* gets what was read as its "logs" */
	json_t *list;
	char *search;
	char path[NODE_PATH_MAX + 16];
};

static void on_reading_gone(struct http_exchange *exchange, void *context)
{
	struct reading *reading = context;

	(void)exchange;
	reading->exchange = NULL;
}

static void read_log(uv_work_t *work)
{
	struct reading *reading = work->data;

	reading->list = guest_log_read(reading->path, &reading->query);
}

static void on_read(uv_work_t *work, int status)
{
	struct reading *reading = work->data;

	if (reading->exchange)
		http_exchange_on_close(reading->exchange, NULL, NULL);
	if (reading->list)
		(void)json_object_set(reading->answer, "logs", reading->list);
	if (reading->exchange && status == 0 && reading->list)
		http_reply_json(reading->exchange, 200, json_incref(reading->answer));
	else if (reading->exchange)
		http_reply_error(reading->exchange, 503, "the logs cannot be read");
	json_decref(reading->list);
	json_decref(reading->answer);
	free(reading->search);
	free(reading);
}

/* What is asked for. False: it has been refused. */
static bool read_query(struct http_exchange *exchange, struct guest_log_query *query)
{
	const char *level = http_request_query(exchange, "level");
	const char *direction = http_request_query(exchange, "direction");
	int64_t limit = LOGS_MAX;
	int64_t offset = 0;

	query->backward = direction && strcmp(direction, "backward") == 0;
	query->cursor_ms = query->backward ? INT64_MAX : 0;
	if (level && guest_log_level(level) < 0) {
		http_reply_error(exchange, 400, "level must be debug, info, warn or error");
		return false;
	}
	query->level = level ? (enum guest_log_level)guest_log_level(level) : GUEST_LOG_DEBUG;
	if (!read_number(exchange, "cursor_ms", &query->cursor_ms) ||
	    !read_number(exchange, "limit", &limit) || !read_number(exchange, "offset", &offset))
		return false;
	query->offset = offset < UINT_MAX ? (unsigned)offset : UINT_MAX;
	query->limit = limit < LOGS_MAX ? (unsigned)limit : LOGS_MAX;
	return true;
}

/* Answer with `answer`, which is taken, and what the query asks for of the file `path`. */
static void reply_file(struct node *node, struct http_exchange *exchange, const char *path, json_t *answer)
{
	const char *search = http_request_query(exchange, "search");
	struct guest_log_query query = { 0 };
	struct reading *reading;

	if (!read_query(exchange, &query)) {
		json_decref(answer);
		return;
	}
	reading = calloc(1, sizeof(*reading));
	if (!reading || !answer || (search && !(reading->search = strdup(search)))) {
		json_decref(answer);
		free(reading);
		http_reply_error(exchange, 503, "out of memory");
		return;
	}
	query.search = reading->search;
	reading->query = query;
	reading->answer = answer;
	reading->exchange = exchange;
	reading->work.data = reading;
	(void)snprintf(reading->path, sizeof(reading->path), "%s", path);
	http_exchange_on_close(exchange, on_reading_gone, reading);
	if (uv_queue_work(node->loop, &reading->work, read_log, on_read) < 0)
		on_read(&reading->work, -EIO);
}

void observe_reply_logs(struct node *node, struct http_exchange *exchange, const char *id)
{
	char path[NODE_PATH_MAX];
	char team_id[64] = "";

	if (history_find(node, id, path, team_id) < 0)
		http_reply_error(exchange, 404, "there are no logs of sandbox '%s'", id);
	else
		reply_file(node, exchange, path, json_pack("{s:s}", "team_id", team_id));
}

void observe_reply_build_logs(struct node *node, struct http_exchange *exchange, const char *build_id)
{
	const struct template *template = template_find(node, build_id);
	char path[NODE_PATH_MAX + 16];

	/* A name has several builds. */
	if (!template || strcmp(template->build_id, build_id) != 0 || template->ephemeral) {
		http_reply_error(exchange, 404, "there is no build '%s'", build_id);
		return;
	}
	(void)snprintf(path, sizeof(path), "%s/" BUILD_LOG, template->directory);
	reply_file(node, exchange, path, json_pack("{s:s}", "build_id", build_id));
}
