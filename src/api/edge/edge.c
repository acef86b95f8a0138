#include "api/edge/edge.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/registry.h"

#define AGENT_PORT       49983
#define TUNNEL_VSOCK     1025
#define PORT_PATIENCE_MS 1000 /* a server that was just started may not listen yet */

struct passage {
	struct api *api;
	struct http_exchange *exchange;
	struct http_call *call;
	char id[64];
	unsigned port;
	bool upgrade;
	bool request_over;
};

/* --- answers of our own --- */

static void reply_trouble(struct http_exchange *exchange, int status, const char *id, unsigned port,
                          const char *message)
{
	json_t *json = json_pack("{s:s,s:s,s:i}", "sandboxId", id, "message", message, "code", status);

	if (port)
		(void)json_object_set_new(json, "port", json_integer(port));
	http_reply_json(exchange, status, json);
}

/* --- to the sandbox --- */

/* Is the name among the comma-separated ones of `list`? */
static bool is_in_list(const char *list, const char *name)
{
	size_t length = strlen(name);

	for (;;) {
		size_t size;

		list += strspn(list, " \t,");
		size = strcspn(list, " \t,");
		if (size == 0)
			return false;
		if (size == length && strncasecmp(list, name, size) == 0)
			return true;
		list += size;
	}
}

/* A header is for the next hop only: one of those that always are, or named by Connection (RFC 9110, 7.6.1).
 * Lengths and codings of bodies are each connection's own. With `upgrade` what asks for one is kept. */
static bool is_for_hop(const struct http_header *headers, size_t count, const char *name, bool upgrade)
{
	static const char own[] = "keep-alive,proxy-authenticate,proxy-authorization,te,trailer,"
	                          "transfer-encoding,content-length,proxy-connection,expect";

	if (is_in_list(own, name))
		return true;
	if (is_in_list("connection,upgrade", name))
		return !upgrade;
	for (size_t i = 0; i < count; i++)
		if (strcasecmp(headers[i].name, "connection") == 0 && is_in_list(headers[i].value, name))
			return true;
	return false;
}

static void on_client_gone(struct http_exchange *exchange, void *context)
{
	struct passage *passage = context;

	(void)exchange;
	http_call_cancel(passage->call);
	free(passage);
}

static void on_request_data(struct http_exchange *exchange, const char *data, size_t size, void *context)
{
	struct passage *passage = context;

	http_call_write(passage->call, data, size);
	if (http_call_pending(passage->call) > STREAM_HIGH_WATER)
		http_request_pause(exchange);
}

static void on_request_end(struct http_exchange *exchange, void *context)
{
	struct passage *passage = context;

	(void)exchange;
	passage->request_over = true;
	http_call_end(passage->call);
}

static const struct http_body_events request_events = { .on_data = on_request_data,
	                                                .on_end = on_request_end };

static void on_sent(struct http_call *call, void *context)
{
	struct passage *passage = context;

	(void)call;
	if (!passage->request_over)
		http_request_resume(passage->exchange);
}

/* --- from the sandbox --- */

static void on_client_drained(struct http_exchange *exchange, void *context)
{
	struct passage *passage = context;

	(void)exchange;
	http_call_resume(passage->call);
}

static void on_response(struct http_call *call, int status, const struct http_header *headers, size_t count,
                        void *context)
{
	struct passage *passage = context;
	int64_t length = -1;

	(void)call;
	for (size_t i = 0; i < count; i++) {
		if (strcasecmp(headers[i].name, "content-length") == 0)
			length = strtoll(headers[i].value, NULL, 10);
		if (!is_for_hop(headers, count, headers[i].name, false))
			http_reply_header(passage->exchange, headers[i].name, headers[i].value);
	}
	http_reply_on_drain(passage->exchange, on_client_drained, passage);
	http_reply_begin(passage->exchange, status, length);
}

static void on_response_data(struct http_call *call, const char *data, size_t size, void *context)
{
	struct passage *passage = context;

	http_reply_write(passage->exchange, data, size);
	if (http_reply_pending(passage->exchange) > STREAM_HIGH_WATER)
		http_call_pause(call);
}

static void on_response_end(struct http_call *call, void *context)
{
	struct passage *passage = context;
	struct http_exchange *exchange = passage->exchange;

	(void)call;
	http_exchange_on_close(exchange, NULL, NULL);
	free(passage);
	http_reply_end(exchange);
}

static void on_trouble(struct http_call *call, enum http_call_error error, bool after_response, void *context)
{
	struct passage *passage = context;
	struct http_exchange *exchange = passage->exchange;
	char id[64];
	unsigned port = passage->port;

	(void)call;
	(void)snprintf(id, sizeof(id), "%s", passage->id);
	if (error == HTTP_CALL_UNREACHABLE || error == HTTP_CALL_BROKEN)
		api_reconcile_soon(passage->api);
	http_exchange_on_close(exchange, NULL, NULL);
	free(passage);
	if (after_response)
		http_exchange_abort(exchange);
	else if (error == HTTP_CALL_REFUSED && port != AGENT_PORT)
		reply_trouble(exchange, 502, id, port, "The sandbox is running but port is not open");
	else if (error == HTTP_CALL_BROKEN && port != AGENT_PORT)
		reply_trouble(exchange, 502, id, port, "The sandbox broke the connection");
	else
		reply_trouble(exchange, 502, id, 0, "The sandbox was not found");
}

static void on_upgrade(struct http_call *call, struct stream *stream, const char *head, size_t head_size,
                       const char *rest, size_t rest_size, void *context)
{
	struct passage *passage = context;
	struct http_exchange *exchange = passage->exchange;
	cleanup_free char *early = NULL;
	size_t early_size = 0;
	struct stream *client;

	if (!passage->upgrade) {
		stream_close(stream);
		on_trouble(call, HTTP_CALL_BROKEN, false, passage);
		return;
	}
	http_exchange_on_close(exchange, NULL, NULL);
	free(passage);
	client = http_exchange_take_stream(exchange, &early, &early_size);
	(void)stream_write(client, head, head_size);
	if (rest_size)
		(void)stream_write(client, rest, rest_size);
	stream_splice(client, stream, early, early_size);
}

static const struct http_call_events call_events = {
	.on_response = on_response,
	.on_data = on_response_data,
	.on_end = on_response_end,
	.on_error = on_trouble,
	.on_drain = on_sent,
	.on_upgrade = on_upgrade,
};

/* --- passing --- */

static void copy_headers(const struct passage *passage)
{
	size_t count;
	const struct http_header *headers = http_request_headers(passage->exchange, &count);
	bool host = false;

	for (size_t i = 0; i < count; i++) {
		if (!is_for_hop(headers, count, headers[i].name, passage->upgrade))
			http_call_header(passage->call, headers[i].name, headers[i].value);
		host |= strcasecmp(headers[i].name, "host") == 0;
	}
	if (!host)
		http_call_header(passage->call, "Host", "sandbox");
}

/* Of "http://host/path" what a server that is no proxy expects. */
static const char *origin_form(const char *target)
{
	if (strncasecmp(target, "http://", 7) != 0)
		return target;
	target += 7 + strcspn(target + 7, "/?#");
	return *target == '/' ? target : "/";
}

static void pass(struct api *api, struct http_exchange *exchange, const struct record *record, unsigned port)
{
	struct http_endpoint endpoint = { .vsock_port = port == AGENT_PORT ? AGENT_PORT : TUNNEL_VSOCK,
		                          .tunnel_port = port == AGENT_PORT ? 0 : (uint16_t)port };
	struct passage *passage = calloc(1, sizeof(*passage));
	bool has_body = http_request_has_body(exchange);

	if (!passage) {
		reply_trouble(exchange, 503, record->id, 0, "out of memory");
		return;
	}
	passage->api = api;
	passage->exchange = exchange;
	passage->port = port;
	passage->upgrade = http_request_wants_upgrade(exchange);
	(void)snprintf(passage->id, sizeof(passage->id), "%s", record->id);
	(void)snprintf(endpoint.unix_path, sizeof(endpoint.unix_path), "%.100s", record->vsock_path);
	passage->call = http_call_new(api->upstream, &endpoint, http_request_method(exchange),
	                              origin_form(http_request_target(exchange)), &call_events, passage);
	copy_headers(passage);
	if (port != AGENT_PORT)
		http_call_patience(passage->call, PORT_PATIENCE_MS);
	http_exchange_on_close(exchange, on_client_gone, passage);
	if (!has_body) {
		http_call_begin(passage->call, 0);
		passage->request_over = true;
		http_call_end(passage->call);
		return;
	}
	http_call_begin(passage->call, http_request_content_length(exchange));
	http_request_stream(exchange, &request_events, passage);
}

/* --- finding the sandbox --- */

static bool id_is_valid(const char *id)
{
	return id[0] && strlen(id) < 64 && strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789") == strlen(id);
}

bool edge_parse_host(const char *host, unsigned *ret_port, char *id)
{
	char *end;
	unsigned long port = strtoul(host, &end, 10);
	size_t size;

	if (end == host || *end != '-' || port == 0 || port > UINT16_MAX || !strchr(end, '.'))
		return false;
	size = strcspn(end + 1, "-.");
	if (size == 0 || size >= 64)
		return false;
	(void)snprintf(id, 64, "%.*s", (int)size, end + 1);
	*ret_port = (unsigned)port;
	return id_is_valid(id);
}

/* The agent's routes for the node, however the path is written: "//init", "/x/../init". */
static bool is_internal(const char *path)
{
	static const char routes[] = "init,prepare-snapshot,freeze,unfreeze,collapse,fsfreeze,fsthaw,upgrade";
	char first[32] = "";
	size_t depth = 0;

	for (; *path; path += strcspn(path, "/")) {
		size_t size;

		path += strspn(path, "/");
		size = strcspn(path, "/");
		if (size == 2 && strncmp(path, "..", 2) == 0)
			depth -= depth > 0;
		else if (size > 0 && (size != 1 || *path != '.') && depth++ == 0)
			(void)snprintf(first, sizeof(first), "%.*s", (int)(size < 31 ? size : 0), path);
	}
	return depth == 1 && is_in_list(routes, first);
}

/* Both headers are needed. False: the exchange has been answered. */
static bool read_headers(struct http_exchange *exchange, char id[64], unsigned *ret_port)
{
	const char *name = http_request_header(exchange, "E2b-Sandbox-Id");
	const char *port = http_request_header(exchange, "E2b-Sandbox-Port");
	char *end = NULL;
	unsigned long number = port ? strtoul(port, &end, 10) : 0;
	const char *fault = NULL;

	if (!name || !port)
		fault = "missing header";
	else if (*end || number == 0 || number > UINT16_MAX)
		fault = "Invalid sandbox port";
	(void)snprintf(id, 64, "%.*s", name ? (int)strcspn(name, "-") : 0, name ? name : "");
	if (!fault && !id_is_valid(id))
		fault = "Invalid sandbox ID";
	if (fault)
		http_reply(exchange, 400, "text/plain", fault, strlen(fault));
	*ret_port = (unsigned)number;
	return !fault;
}

bool edge_serve(struct api *api, struct http_exchange *exchange)
{
	const char *host = http_request_header(exchange, "Host");
	const struct record *record;
	unsigned port = 0;
	char id[64];

	if (http_request_header(exchange, "E2b-Sandbox-Id") ||
	    http_request_header(exchange, "E2b-Sandbox-Port")) {
		if (!read_headers(exchange, id, &port))
			return true;
	} else if (!host || !edge_parse_host(host, &port, id)) {
		return false;
	}
	record = registry_find(api->registry, id);
	if (!record || !record_is_running(record))
		reply_trouble(exchange, 502, id, 0, "The sandbox was not found");
	else if (port == AGENT_PORT && is_internal(http_request_path(exchange)))
		http_reply_json(exchange, 404,
		                json_pack("{s:s,s:s,s:i}", "message", "not found", "path",
		                          http_request_path(exchange), "code", 404));
	else
		pass(api, exchange, record, port);
	return true;
}
