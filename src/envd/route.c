/* Which request goes where, and who may make it. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "envd/records.h"

enum route_guard {
	GUARD_NONE,    /* anyone */
	GUARD_TOKEN,   /* X-Access-Token, when one is set */
	GUARD_CONTROL, /* only by the node's door */
};

static const struct route {
	const char *method;
	const char *path;
	enum route_guard guard;
	void (*handle)(struct envd *envd, struct http_exchange *exchange);
} routes[] = {
	{ "GET", "/health", GUARD_NONE, control_health },
	{ "GET", "/metrics", GUARD_TOKEN, metrics_handle },
	{ "GET", "/envs", GUARD_TOKEN, control_envs },
	/* Files may be reached by signature instead: they look themselves. */
	{ "GET", "/files", GUARD_NONE, files_get },
	{ "HEAD", "/files", GUARD_NONE, files_get },
	{ "POST", "/files", GUARD_NONE, files_post },
	{ "POST", "/files/compose", GUARD_TOKEN, files_compose },
	{ "GET", "/logs", GUARD_CONTROL, records_handle },
	{ "POST", "/init", GUARD_CONTROL, control_init },
	{ "POST", "/prepare-snapshot", GUARD_CONTROL, control_prepare_snapshot },
};

static bool token_fits(const struct envd *envd, const struct http_exchange *exchange)
{
	const char *token = http_request_header(exchange, "X-Access-Token");

	return !envd->token || http_exchange_tag(exchange) == ENVD_DOOR_CONTROL ||
	       (token && secret_equal(token, envd->token));
}

static void add_cors(struct http_exchange *exchange)
{
	http_reply_header(exchange, "Access-Control-Allow-Origin", "*");
	http_reply_header(exchange, "Access-Control-Expose-Headers",
	                  "Location, Cache-Control, X-Content-Type-Options, Grpc-Status, Grpc-Message, "
	                  "Connect-Protocol-Version, Content-Encoding");
}

static void reply_preflight(struct http_exchange *exchange)
{
	http_reply_header(exchange, "Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, PATCH, DELETE");
	http_reply_header(exchange, "Access-Control-Allow-Headers", "*");
	http_reply_header(exchange, "Access-Control-Max-Age", "7200");
	http_reply_empty(exchange, 204);
}

static const struct route *find_route(const struct http_exchange *exchange)
{
	for (size_t i = 0; i < ARRAY_SIZE(routes); i++)
		if (strcmp(routes[i].path, http_request_path(exchange)) == 0 &&
		    strcmp(routes[i].method, http_request_method(exchange)) == 0)
			return &routes[i];
	return NULL;
}

/* "/filesystem.Filesystem/ListDir" is "Filesystem listDir" to who reads logs: E2B's words. */
static void describe_call(const struct http_exchange *exchange, char text[160])
{
	const char *path = http_request_path(exchange);
	const char *service = strchr(path, '.');
	const char *method = service ? strchr(service, '/') : NULL;

	if (!method || !method[1])
		(void)snprintf(text, 160, "%s %.120s", http_request_method(exchange), path);
	else
		(void)snprintf(text, 160, "%.*s %c%.60s",
		               (int)(method - service - 1 < 60 ? method - service - 1 : 60), service + 1,
		               tolower((unsigned char)method[1]), method + 2);
}

/* What clients ask for; not what looks at how things are, and not the node. */
static void record_request(struct envd *envd, const struct http_exchange *exchange, const struct route *route)
{
	static unsigned operation;
	const char *path = http_request_path(exchange);
	char number[16];
	char message[160];
	char method[300];

	if (http_exchange_tag(exchange) == ENVD_DOOR_CONTROL ||
	    (route && strcmp(route->path, "/files") != 0 && strcmp(route->path, "/files/compose") != 0))
		return;
	describe_call(exchange, message);
	(void)snprintf(number, sizeof(number), "%u", ++operation);
	(void)snprintf(method, sizeof(method), "%s %.250s", http_request_method(exchange), path);
	records_add(envd->records, RECORD_DEBUG, message,
	            json_pack("{s:o?,s:s}", "method", records_text(method), "operation_id", number));
}

static void serve_call(struct envd *envd, struct http_exchange *exchange)
{
	if (!connect_serve(exchange, process_methods, envd) &&
	    !connect_serve(exchange, filesystem_methods, envd) &&
	    !connect_serve(exchange, watch_methods, envd))
		http_reply_error(exchange, 404, "page not found");
}

void envd_route(struct http_exchange *exchange, void *context)
{
	struct envd *envd = context;
	const struct route *route = find_route(exchange);

	memory_settle(envd);
	add_cors(exchange);
	if (strcmp(http_request_method(exchange), "OPTIONS") == 0) {
		reply_preflight(exchange);
	} else if (route && route->guard == GUARD_CONTROL &&
	           http_exchange_tag(exchange) != ENVD_DOOR_CONTROL) {
		http_reply_error(exchange, 404, "page not found");
	} else if ((!route || route->guard == GUARD_TOKEN) && !token_fits(envd, exchange)) {
		http_reply_error(exchange, 401,
		                 "unauthorized access, please provide a valid access token or method signing "
		                 "if supported");
	} else if (route) {
		record_request(envd, exchange, route);
		route->handle(envd, exchange);
	} else {
		record_request(envd, exchange, NULL);
		serve_call(envd, exchange);
	}
}
