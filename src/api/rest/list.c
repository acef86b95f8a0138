/* GET /sandboxes: filters, order and pages. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/rest/rest.h"

#define LIMIT_MAX  100
#define TOKEN_SIZE 128

struct list_request {
	json_t *metadata;
	const char *template; /* NULL: any */
	long limit;
	int64_t started_after_ns;
	bool running; /* running ones are wanted */
	bool paused;
	bool ascending;
	bool paged; /* begin behind the place that follows: the last row of the page before */
	int64_t after_ms;
	char after_id[64];
};

/* --- reading the query --- */

/*
 * Metadata comes encoded twice: after the query's own decoding it is decoded once as a whole, split, and each
 * part decoded again.
 */
static int read_metadata(const char *text, json_t *wanted)
{
	cleanup_buffer struct buffer whole = BUFFER_INIT;
	char *save = NULL;

	if (percent_decode(&whole, text, strlen(text), 0) < 0)
		return -EINVAL;
	for (char *pair = strtok_r(whole.data, "&", &save); pair; pair = strtok_r(NULL, "&", &save)) {
		cleanup_buffer struct buffer key = BUFFER_INIT;
		cleanup_buffer struct buffer value = BUFFER_INIT;
		char *equals = strchr(pair, '=');

		if (!equals || strchr(equals + 1, '=') ||
		    percent_decode(&key, pair, (size_t)(equals - pair), 0) < 0 ||
		    percent_decode(&value, equals + 1, strlen(equals + 1), 0) < 0)
			return -EINVAL;
		(void)json_object_set_new(wanted, key.data ? key.data : "",
		                          json_string(value.data ? value.data : ""));
	}
	return 0;
}

/* "running", "paused", or both. */
static int read_states(const char *text, struct list_request *request)
{
	request->running = false;
	request->paused = false;
	for (;;) {
		size_t size = strcspn(text, ",");

		if (size == 7 && strncmp(text, "running", size) == 0)
			request->running = true;
		else if (size == 6 && strncmp(text, "paused", size) == 0)
			request->paused = true;
		else
			return -EINVAL;
		if (!text[size])
			return 0;
		text += size + 1;
	}
}

/*
 * A token names the last row of its page by what rows are sorted by, so that it holds when that sandbox has
 * ended: "<start>__<id>", and "__asc" for the other order.
 */
static void write_token(const struct record *last, bool ascending, char token[TOKEN_SIZE])
{
	(void)snprintf(token, TOKEN_SIZE, "%lld__%s%s", (long long)last->started_at_ms, last->id,
	               ascending ? "__asc" : "");
}

static int read_token(const char *token, struct list_request *request)
{
	size_t digits = strspn(token, "0123456789");
	const char *id = token + digits + 2;
	size_t size;

	if (digits == 0 || digits > 15 || strncmp(token + digits, "__", 2) != 0)
		return -EINVAL;
	size = strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789");
	if (size == 0 || size >= sizeof(request->after_id) ||
	    strcmp(id + size, request->ascending ? "__asc" : "") != 0)
		return -EINVAL;
	request->after_ms = strtoll(token, NULL, 10);
	(void)snprintf(request->after_id, sizeof(request->after_id), "%.*s", (int)size, id);
	request->paged = true;
	return 0;
}

static int read_page(struct http_exchange *exchange, struct list_request *request, struct error *err)
{
	const char *limit = http_request_query(exchange, "limit");
	const char *order = http_request_query(exchange, "order");
	const char *token = http_request_query(exchange, "nextToken");
	char *end = NULL;

	request->limit = limit ? strtol(limit, &end, 10) : LIMIT_MAX;
	if (limit && (end == limit || *end || request->limit < 1 || request->limit > LIMIT_MAX))
		return error_set(err, EINVAL, "limit must be between 1 and %d", LIMIT_MAX);
	request->ascending = order && strcmp(order, "asc") == 0;
	if (order && !request->ascending && strcmp(order, "desc") != 0)
		return error_set(err, EINVAL, "order must be 'asc' or 'desc'");
	if (token && read_token(token, request) < 0)
		return error_set(err, EINVAL, "Invalid next token");
	return 0;
}

static int read_filters(struct http_exchange *exchange, bool version2, struct list_request *request,
                        struct error *err)
{
	const char *metadata = http_request_query(exchange, "metadata");
	const char *state = http_request_query(exchange, "state");
	const char *after = http_request_query(exchange, "startedAfter");

	request->metadata = json_object();
	request->running = true;
	request->paused = version2;
	request->started_after_ns = INT64_MIN;
	request->template = http_request_query(exchange, "template");
	if (metadata && read_metadata(metadata, request->metadata) < 0)
		return error_set(err, EINVAL, "Error parsing metadata: '%s'", metadata);
	if (state && read_states(state, request) < 0)
		return error_set(err, EINVAL, "state must be of 'running' and 'paused', not '%s'", state);
	if (after && time_parse_rfc3339(after, &request->started_after_ns) < 0)
		return error_set(err, EINVAL, "startedAfter is no RFC 3339 time: '%s'", after);
	if (request->template && strchr(request->template, ':'))
		return error_set(err, EINVAL, "template must be without a tag: '%s'", request->template);
	return 0;
}

/* --- finding --- */

static bool has_metadata(const struct record *record, const json_t *wanted)
{
	const char *key;
	json_t *value;

	json_object_foreach ((json_t *)(uintptr_t)wanted, key, value)
		if (!json_equal(json_object_get(record->metadata, key), value))
			return false;
	return true;
}

static bool is_wanted(const struct record *record, const struct list_request *request, const char *team_id)
{
	return ((request->running && record_is_running(record)) ||
	        (request->paused && record_is_paused(record))) &&
	       strcmp(record->team_id, team_id) == 0 &&
	       record->started_at_ms * INT64_C(1000000) >= request->started_after_ns &&
	       (!request->template || strcasecmp(record->template_id, request->template) == 0) &&
	       has_metadata(record, request->metadata);
}

/* Oldest first; equal times by id, in both orders. */
static int by_start(const void *a, const void *b)
{
	const struct record *left = *(const struct record *const *)a;
	const struct record *right = *(const struct record *const *)b;

	if (left->started_at_ms != right->started_at_ms)
		return left->started_at_ms < right->started_at_ms ? -1 : 1;
	return strcmp(left->id, right->id);
}

static int by_start_descending(const void *a, const void *b)
{
	const struct record *left = *(const struct record *const *)a;
	const struct record *right = *(const struct record *const *)b;

	return left->started_at_ms != right->started_at_ms ? by_start(b, a) : by_start(a, b);
}

/* Does this row come behind the page before? */
static bool is_behind(const struct record *record, const struct list_request *request)
{
	if (!request->paged)
		return true;
	if (record->started_at_ms != request->after_ms)
		return (record->started_at_ms > request->after_ms) == request->ascending;
	return strcmp(record->id, request->after_id) > 0;
}

/* All that are wanted, in order; freed by the caller. NULL: out of memory. */
static struct record **collect(struct rest_call *call, const struct list_request *request, size_t *ret_count)
{
	struct list *all = registry_all(call->api->registry);
	struct record **found;
	size_t count = 0;

	list_for_each (node, all)
		count++;
	found = calloc(count + 1, sizeof(struct record *));
	if (!found)
		return NULL;
	count = 0;
	list_for_each (node, all) {
		struct record *record = list_entry(node, struct record, all);

		if (is_wanted(record, request, call->team_id))
			found[count++] = record;
	}
	qsort(found, count, sizeof(struct record *), request->ascending ? by_start : by_start_descending);
	*ret_count = count;
	return found;
}

static void reply_page(struct rest_call *call, const struct list_request *request)
{
	size_t count = 0;
	size_t first = 0;
	cleanup_free struct record **found = collect(call, request, &count);
	size_t limit = (size_t)request->limit;
	size_t running = 0;
	json_t *page;
	char text[TOKEN_SIZE];

	if (!found) {
		rest_fail(call, 500, "out of memory");
		return;
	}
	while (first < count && !is_behind(found[first], request))
		first++;
	for (size_t i = 0; i < count; i++)
		running += record_is_running(found[i]);
	page = json_array();
	for (size_t i = first; i < count && i < first + limit; i++)
		(void)json_array_append_new(page, sandboxes_entry(found[i]));
	if (first + limit < count) {
		write_token(found[first + limit - 1], request->ascending, text);
		http_reply_header(call->exchange, "X-Next-Token", text);
	}
	if (request->running) {
		(void)snprintf(text, sizeof(text), "%zu", running);
		http_reply_header(call->exchange, "X-Total-Running", text);
	}
	rest_reply(call, 200, page);
}

void sandboxes_list(struct rest_call *call)
{
	struct list_request request = { 0 };
	struct error err = { 0 };

	if (read_page(call->exchange, &request, &err) < 0 ||
	    read_filters(call->exchange, call->version2, &request, &err) < 0)
		rest_fail(call, 400, "%s", err.message);
	else
		reply_page(call, &request);
	json_decref(request.metadata);
}
