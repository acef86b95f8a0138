#include "api/edge/edge.h"

#include <nettle/memops.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/edge/page.h"
#include "api/edge/passage.h"
#include "api/edge/wake.h"
#include "api/registry.h"

#define TOKEN_HEADER "e2b-traffic-access-token"

/* --- finding the sandbox --- */

static bool id_is_valid(const char *id)
{
	size_t size = 0;

	while ((id[size] >= 'a' && id[size] <= 'z') || (id[size] >= '0' && id[size] <= '9'))
		size++;
	return size > 0 && size < 64 && !id[size];
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
	text_copy(id, 64, end + 1, size);
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
			text_copy(first, sizeof(first), path, size < sizeof(first) ? size : 0);
	}
	return depth == 1 && passage_is_in_list(routes, first);
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
	text_copy(id, 64, name ? name : "", name ? strcspn(name, "-") : 0);
	if (!fault && !id_is_valid(id))
		fault = "Invalid sandbox ID";
	if (fault)
		http_reply(exchange, 400, "text/plain", fault, strlen(fault));
	*ret_port = (unsigned)number;
	return !fault;
}

/* --- may it pass? --- */

static bool token_is(const char *given, const char *expected)
{
	size_t size = strlen(expected);

	return given && strlen(given) == size && memeql_sec(given, expected, size);
}

/* Traffic to the owner's own ports may need a token. False: the exchange has been answered. */
static bool check_token(struct http_exchange *exchange, const struct record *record, unsigned port)
{
	const char *token = http_request_header(exchange, TOKEN_HEADER);
	struct page page = { .status = 403,
		             .id = record->id,
		             .title = "This sandbox is private",
		             .advice = "Its owner gives a token to those who may come in. It goes into the "
		                       "header " TOKEN_HEADER "." };

	if (!record->traffic_token[0] || port == AGENT_PORT || token_is(token, record->traffic_token))
		return true;
	page.message = token && token[0] ? "Sandbox is secured with traffic access token. Provided token in "
	                                   "header '" TOKEN_HEADER "' is invalid"
	                                 : "Sandbox is secured with traffic access token. Token header "
	                                   "'" TOKEN_HEADER "' is missing";
	page_reply(exchange, &page);
	return false;
}

/* To wake a sandbox takes the token that would be needed once it runs. */
static bool may_wake(const struct http_exchange *exchange, const struct record *record, unsigned port)
{
	if (port == AGENT_PORT)
		return !record->access_token[0] ||
		       token_is(http_request_header(exchange, "X-Access-Token"), record->access_token);
	return !record->traffic_token[0] ||
	       token_is(http_request_header(exchange, TOKEN_HEADER), record->traffic_token);
}

/* --- going there --- */

static void pass_running(struct api *api, struct http_exchange *exchange, struct record *record,
                         unsigned port)
{
	if (check_token(exchange, record, port))
		passage_begin(api, exchange, record, port);
}

static void on_woken(struct api *api, struct http_exchange *exchange, const char *id, unsigned port,
                     enum wake_outcome outcome)
{
	struct record *record = registry_find(api->registry, id);

	if (outcome == WAKE_UP && record && record_is_running(record))
		pass_running(api, exchange, record, port);
	else if (outcome == WAKE_BUSY)
		page_reply(exchange,
		           &(struct page){
		                   .status = 409,
		                   .id = id,
		                   .message = "The sandbox is still transitioning. Try again in a moment.",
		                   .title = "One moment",
		                   .advice = "The sandbox is about to sleep or to wake up. Try again "
		                             "soon." });
	else if (outcome == WAKE_FULL)
		page_reply(exchange, &(struct page){ .status = 429,
		                                     .id = id,
		                                     .message = "No more sandboxes can run at the same time",
		                                     .title = "No room",
		                                     .advice = "The sandbox sleeps, and there is no room for "
		                                               "one more that runs." });
	else
		page_not_found(exchange, id);
}

static void wake_and_pass(struct api *api, struct http_exchange *exchange, const struct record *record,
                          unsigned port)
{
	if (!may_wake(exchange, record, port))
		page_reply(exchange, &(struct page){ .status = 403,
		                                     .id = record->id,
		                                     .message = "This sandbox can't be resumed with the "
		                                                "credentials provided. Check your access "
		                                                "token and try again.",
		                                     .title = "This sandbox sleeps",
		                                     .advice = "Only who has its token can wake it." });
	else if (!wake_wait(api, record, exchange, port, on_woken))
		http_reply_error(exchange, 503, "out of memory");
}

static void route(struct api *api, struct http_exchange *exchange, const char *id, unsigned port)
{
	struct record *record = registry_find(api->registry, id);
	bool asleep = record && record_is_asleep(record);

	if (record && port == AGENT_PORT && is_internal(http_request_path(exchange)))
		http_reply_json(exchange, 404,
		                json_pack("{s:s,s:s,s:i}", "message", "not found", "path",
		                          http_request_path(exchange), "code", 404));
	else if (asleep && record->auto_resume && !record->disk_only)
		wake_and_pass(api, exchange, record, port);
	else if (record && record_is_running(record))
		pass_running(api, exchange, record, port);
	else
		page_not_found(exchange, id);
}

/* A host that names a sandbox is what the client meant; one that cannot, as "localhost", an address or the
 * one that all sandboxes share, leaves it to the headers. */
bool edge_serve(struct api *api, struct http_exchange *exchange)
{
	const char *host = http_request_header(exchange, "Host");
	unsigned port = 0;
	char id[64];

	if (!host || !edge_parse_host(host, &port, id)) {
		if (!http_request_header(exchange, "E2b-Sandbox-Id") &&
		    !http_request_header(exchange, "E2b-Sandbox-Port"))
			return false;
		if (!read_headers(exchange, id, &port))
			return true;
	}
	route(api, exchange, id, port);
	return true;
}
