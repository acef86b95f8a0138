#include "api/telemetry.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/registry.h"

#define ID_MAX     64
#define SERIES_MAX 2048 /* routes are few, and so are statuses: more than this is a mistake of ours */

static const double bounds[] = { 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30 };

/* Requests of one method and route with one status. */
struct series {
	const char *route;
	char method[16];
	int status;
	uint64_t count;
};

/* How long those of one method and route took. */
struct times {
	const char *route;
	char method[16];
	uint64_t counts[ARRAY_SIZE(bounds)]; /* up to each bound and above the one before */
	uint64_t count;
	double seconds;
};

struct telemetry {
	struct api *api;
	struct http_server *server;
	char path[108];
	struct series series[SERIES_MAX];
	struct times times[SERIES_MAX];
	size_t series_count;
	size_t times_count;
};

struct request {
	struct telemetry *telemetry;
	const char *route;
	int64_t began_us;
	char id[ID_MAX + 1];
	char team_id[64];
};

/* --- counting --- */

static void count_status(struct telemetry *telemetry, const char *method, const char *route, int status)
{
	struct series *series = telemetry->series;
	const struct series *end = series + telemetry->series_count;

	while (series < end && (series->status != status || strcmp(series->route, route) != 0 ||
	                        strcmp(series->method, method) != 0))
		series++;
	if (series == end && telemetry->series_count++ == SERIES_MAX) {
		telemetry->series_count--;
		return;
	}
	if (series == end) {
		series->route = route;
		series->status = status;
		(void)snprintf(series->method, sizeof(series->method), "%s", method);
	}
	series->count++;
}

static void count_time(struct telemetry *telemetry, const char *method, const char *route, double seconds)
{
	struct times *times = telemetry->times;
	const struct times *end = times + telemetry->times_count;

	while (times < end && (strcmp(times->route, route) != 0 || strcmp(times->method, method) != 0))
		times++;
	if (times == end && telemetry->times_count++ == SERIES_MAX) {
		telemetry->times_count--;
		return;
	}
	if (times == end) {
		times->route = route;
		(void)snprintf(times->method, sizeof(times->method), "%s", method);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bounds); i++) {
		if (seconds > bounds[i])
			continue;
		times->counts[i]++;
		break;
	}
	times->count++;
	times->seconds += seconds;
}

/* A method that we do not know is any text that a client likes. */
static const char *known_method(const char *method)
{
	static const char *const names[] = { "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (strcmp(names[i], method) == 0)
			return names[i];
	return "other";
}

static void on_end(struct http_exchange *exchange, int status, void *context)
{
	struct request *request = context;
	const char *method = known_method(http_request_method(exchange));
	int64_t us = time_monotonic_us() - request->began_us;
	enum log_level level = strcmp(request->route, "/health") == 0 ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO;

	/* 499: the client went away before there was an answer. */
	if (status == 0)
		status = 499;
	count_status(request->telemetry, method, request->route, status);
	count_time(request->telemetry, method, request->route, (double)us / 1e6);
	log_write(level, "request id=%s method=%s route=%s status=%d ms=%lld team=%s", request->id, method,
	          request->route, status, (long long)(us / 1000),
	          request->team_id[0] ? request->team_id : "-");
	free(request);
}

/* --- a request --- */

static bool is_sane(const char *id)
{
	size_t size = strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");

	return size > 0 && size <= ID_MAX && !id[size];
}

void telemetry_begin(struct telemetry *telemetry, struct http_exchange *exchange)
{
	const char *id = http_request_header(exchange, "X-Request-Id");
	struct request *request = calloc(1, sizeof(*request));

	if (!request)
		return;
	request->telemetry = telemetry;
	request->began_us = time_monotonic_us();
	request->route = "none";
	if (id && is_sane(id))
		(void)snprintf(request->id, sizeof(request->id), "%s", id);
	else
		random_hex(request->id, 16);
	http_exchange_set_data(exchange, request);
	http_exchange_on_end(exchange, on_end, request);
	http_reply_header(exchange, "X-Request-Id", request->id);
}

void telemetry_route(struct http_exchange *exchange, const char *route)
{
	struct request *request = http_exchange_data(exchange);

	if (request)
		request->route = route;
}

void telemetry_team(struct http_exchange *exchange, const char *team_id)
{
	struct request *request = http_exchange_data(exchange);

	if (request)
		(void)snprintf(request->team_id, sizeof(request->team_id), "%s", team_id);
}

const char *telemetry_id(const struct http_exchange *exchange)
{
	const struct request *request = http_exchange_data(exchange);

	return request ? request->id : NULL;
}

/* --- telling --- */

static void write_head(struct buffer *to, const char *name, const char *type, const char *help)
{
	(void)buffer_printf(to, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void write_requests(const struct telemetry *telemetry, struct buffer *to)
{
	write_head(to, "atoll_api_requests_total", "counter", "Requests of the API that have been answered.");
	for (size_t i = 0; i < telemetry->series_count; i++) {
		const struct series *series = &telemetry->series[i];

		(void)buffer_printf(
		        to, "atoll_api_requests_total{method=\"%s\",route=\"%s\",status=\"%d\"} %llu\n",
		        series->method, series->route, series->status, (unsigned long long)series->count);
	}
}

static void write_times(const struct telemetry *telemetry, struct buffer *to)
{
	static const char name[] = "atoll_api_request_seconds";

	write_head(to, name, "histogram", "Time from a request's head to the end of its answer.");
	for (size_t i = 0; i < telemetry->times_count; i++) {
		const struct times *times = &telemetry->times[i];
		uint64_t below = 0;
		char labels[200];

		(void)snprintf(labels, sizeof(labels), "method=\"%s\",route=\"%s\"", times->method,
		               times->route);
		for (size_t k = 0; k < ARRAY_SIZE(bounds); k++) {
			below += times->counts[k];
			(void)buffer_printf(to, "%s_bucket{%s,le=\"%g\"} %llu\n", name, labels, bounds[k],
			                    (unsigned long long)below);
		}
		(void)buffer_printf(to,
		                    "%s_bucket{%s,le=\"+Inf\"} %llu\n%s_sum{%s} %.6f\n%s_count{%s} %llu\n",
		                    name, labels, (unsigned long long)times->count, name, labels,
		                    times->seconds, name, labels, (unsigned long long)times->count);
	}
}

static void write_state(const struct telemetry *telemetry, struct buffer *to)
{
	unsigned running = 0;
	unsigned paused = 0;
	unsigned other = 0;

	list_for_each (node, registry_all(telemetry->api->registry)) {
		const struct record *record = list_entry(node, struct record, all);

		if (record_is_paused(record))
			paused++;
		else if (record_is_running(record))
			running++;
		else
			other++;
	}
	write_head(to, "atoll_api_sandboxes", "gauge", "Sandboxes that the API knows, by state.");
	(void)buffer_printf(
	        to,
	        "atoll_api_sandboxes{state=\"running\"} %u\natoll_api_sandboxes{state=\"paused\"} "
	        "%u\natoll_api_sandboxes{state=\"changing\"} %u\n",
	        running, paused, other);
	write_head(to, "atoll_api_connections", "gauge", "Open connections of clients, traffic included.");
	(void)buffer_printf(to, "atoll_api_connections %u\n",
	                    http_server_connections(telemetry->api->server));
}

struct scrape {
	struct telemetry *telemetry;
	struct http_exchange *exchange; /* NULL: who asked is gone */
};

static void write_node(const json_t *figures, struct buffer *to)
{
	const char *key;
	json_t *value;

	/* The node's names: a counter ends with _total. */
	json_object_foreach ((json_t *)(uintptr_t)figures, key, value) {
		size_t size = strlen(key);
		char name[100];

		if (!json_is_integer(value) || size > 60 ||
		    strspn(key, "abcdefghijklmnopqrstuvwxyz_") != size)
			continue;
		(void)snprintf(name, sizeof(name), "atoll_node_%s", key);
		write_head(to, name, size > 6 && strcmp(key + size - 6, "_total") == 0 ? "counter" : "gauge",
		           "A figure of the node.");
		(void)buffer_printf(to, "%s %lld\n", name, (long long)json_integer_value(value));
	}
}

static void on_node(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct scrape *scrape = context;
	struct http_exchange *exchange = scrape->exchange;
	cleanup_json json_t *figures = status == 200 ? json_loadb(data, size, 0, NULL) : NULL;
	cleanup_buffer struct buffer text = BUFFER_INIT;

	(void)err;
	if (exchange) {
		http_exchange_on_close(exchange, NULL, NULL);
		write_requests(scrape->telemetry, &text);
		write_times(scrape->telemetry, &text);
		write_state(scrape->telemetry, &text);
		write_head(&text, "atoll_node_up", "gauge", "Whether the node answers.");
		(void)buffer_printf(&text, "atoll_node_up %d\n", figures != NULL);
		write_node(figures, &text);
		http_reply(exchange, 200, "text/plain; version=0.0.4", text.data, text.size);
	}
	free(scrape);
}

static void on_gone(struct http_exchange *exchange, void *context)
{
	struct scrape *scrape = context;

	(void)exchange;
	scrape->exchange = NULL;
}

static void on_request(struct http_exchange *exchange, void *context)
{
	struct scrape *scrape;

	if (strcmp(http_request_path(exchange), "/metrics") != 0) {
		http_reply_error(exchange, 404, "no such endpoint");
		return;
	}
	scrape = malloc(sizeof(*scrape));
	if (!scrape) {
		http_reply_error(exchange, 503, "out of memory");
		return;
	}
	*scrape = (struct scrape){ context, exchange };
	http_exchange_on_close(exchange, on_gone, scrape);
	api_call_node(scrape->telemetry->api, "GET", "/v1/figures", NULL, on_node, scrape);
}

struct telemetry *telemetry_new(struct api *api, struct error *err)
{
	struct telemetry *telemetry = calloc(1, sizeof(*telemetry));
	struct http_server_options options = { .on_request = on_request,
		                               .context = telemetry,
		                               .max_connections = 16 };

	if (!telemetry || !(telemetry->server = http_server_new(api->loop, &options))) {
		free(telemetry);
		error_errno(err, ENOMEM, "telemetry");
		return NULL;
	}
	telemetry->api = api;
	(void)snprintf(telemetry->path, sizeof(telemetry->path), "%.90s/metrics.sock", api->run);
	(void)unlink(telemetry->path);
	/* (Should this fail, the program ends.) */
	return http_server_listen_unix(telemetry->server, telemetry->path, 0660, err) < 0 ? NULL : telemetry;
}

int telemetry_own(const struct telemetry *telemetry, uid_t uid, gid_t gid, struct error *err)
{
	return chown(telemetry->path, uid, gid) < 0 ? error_errno(err, errno, "own %s", telemetry->path) : 0;
}
