#include "api/edge/passage.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/edge/page.h"
#include "api/registry.h"

#define TUNNEL_VSOCK     1025
#define PORT_PATIENCE_MS 1000 /* a server that was just started may not listen yet */

struct passage {
	struct api *api;
	struct http_exchange *exchange;
	struct http_call *call;
	struct visits *visits;
	char id[64];
	unsigned port;
	bool upgrade;
	bool request_over;
};

/* With its length, which tells most names apart. */
struct word {
	const char *text;
	size_t length;
};

#define WORD(text)                                                                                           \
	{                                                                                                    \
		text, sizeof(text) - 1                                                                       \
	}

/* --- to the sandbox --- */

bool passage_is_in_list(const char *list, const char *name)
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

static bool is_one_of(const struct word *words, size_t count, const char *name, size_t length)
{
	for (size_t i = 0; i < count; i++)
		if (words[i].length == length && strcasecmp(words[i].text, name) == 0)
			return true;
	return false;
}

/* A header is for the next hop only: one of those that always are, or named by Connection (RFC 9110, 7.6.1).
 * Lengths and codings of bodies are each connection's own. With `upgrade` what asks for one is kept. */
static bool is_for_hop(const struct http_header *headers, size_t count, const char *name, bool upgrade)
{
	static const struct word own[] = { WORD("keep-alive"),          WORD("proxy-authenticate"),
		                           WORD("proxy-authorization"), WORD("te"),
		                           WORD("transfer-encoding"),   WORD("content-length"),
		                           WORD("proxy-connection"),    WORD("expect") };
	static const struct word upgrading[] = { WORD("connection"), WORD("upgrade") };
	size_t length = strlen(name);

	if (is_one_of(own, ARRAY_SIZE(own), name, length))
		return true;
	if (is_one_of(upgrading, ARRAY_SIZE(upgrading), name, length))
		return !upgrade;
	for (size_t i = 0; i < count; i++)
		if (strcasecmp(headers[i].name, "connection") == 0 &&
		    passage_is_in_list(headers[i].value, name))
			return true;
	return false;
}

/* What must not come behind a body, where nobody looks for it any more (RFC 9110, 6.5.1). */
static bool is_no_trailer(const struct http_header *headers, size_t count, const char *name)
{
	static const char heads[] = "host,authorization,cookie,set-cookie,content-type,content-encoding,"
	                            "content-range,cache-control,trailer";

	return passage_is_in_list(heads, name) || is_for_hop(headers, count, name, false);
}

static void passage_free(struct passage *passage)
{
	if (passage->visits)
		visits_leave(passage->visits);
	free(passage);
}

static void on_client_gone(struct http_exchange *exchange, void *context)
{
	struct passage *passage = context;

	(void)exchange;
	http_call_cancel(passage->call);
	passage_free(passage);
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

	size_t count;
	const struct http_header *trailers = http_request_trailers(exchange, &count);

	for (size_t i = 0; i < count; i++)
		if (!is_no_trailer(trailers, count, trailers[i].name))
			http_call_trailer(passage->call, trailers[i].name, trailers[i].value);
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
	size_t count;
	const struct http_header *trailers = http_call_trailers(call, &count);

	for (size_t i = 0; i < count; i++)
		if (!is_no_trailer(trailers, count, trailers[i].name))
			http_reply_trailer(exchange, trailers[i].name, trailers[i].value);
	http_exchange_on_close(exchange, NULL, NULL);
	passage_free(passage);
	http_reply_end(exchange);
}

static void on_trouble(struct http_call *call, enum http_call_error error, bool after_response, void *context)
{
	struct passage *passage = context;
	struct http_exchange *exchange = passage->exchange;
	char id[64];
	unsigned port = passage->port;

	(void)call;
	text_copy(id, sizeof(id), passage->id, strlen(passage->id));
	if (error == HTTP_CALL_UNREACHABLE || error == HTTP_CALL_BROKEN)
		api_reconcile_soon(passage->api);
	http_exchange_on_close(exchange, NULL, NULL);
	passage_free(passage);
	if (after_response)
		http_exchange_abort(exchange);
	else if (error == HTTP_CALL_REFUSED && port != AGENT_PORT)
		page_reply(exchange, &(struct page){ .status = 502,
		                                     .id = id,
		                                     .port = port,
		                                     .message = "The sandbox is running but port is not open",
		                                     .title = "Nothing listens here",
		                                     .advice = "The sandbox runs, but no program in it has "
		                                               "opened this port. Start one, then try "
		                                               "again." });
	else if (error == HTTP_CALL_BROKEN && port != AGENT_PORT)
		page_reply(exchange, &(struct page){ .status = 502,
		                                     .id = id,
		                                     .port = port,
		                                     .message = "The sandbox broke the connection",
		                                     .title = "The connection broke",
		                                     .advice = "The program behind this port ended the "
		                                               "connection without an answer." });
	else
		page_not_found(exchange, id);
}

static void on_parted(void *context)
{
	visits_leave(context);
}

static void on_upgrade(struct http_call *call, struct stream *stream, const char *head, size_t head_size,
                       const char *rest, size_t rest_size, void *context)
{
	struct passage *passage = context;
	struct visits *visits = passage->visits;
	const struct http_joint joint = { .stream = stream,
		                          .head = head,
		                          .head_size = head_size,
		                          .rest = rest,
		                          .rest_size = rest_size,
		                          .done = on_parted,
		                          .context = visits };

	if (!passage->upgrade || http_exchange_join(passage->exchange, &joint) < 0) {
		stream_close(stream);
		on_trouble(call, HTTP_CALL_BROKEN, false, passage);
		return;
	}
	passage->visits = NULL; /* until they part */
	passage_free(passage);
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

/* The Host that the sandbox's owner wishes its servers to see, with the port where he wrote "${PORT}". */
static void append_masked_host(struct buffer *to, const char *mask, unsigned port)
{
	static const char place[] = "${PORT}";
	const char *at;

	for (; (at = strstr(mask, place)); mask = at + sizeof(place) - 1) {
		(void)buffer_append(to, mask, (size_t)(at - mask));
		(void)buffer_printf(to, "%u", port);
	}
	(void)buffer_append_string(to, mask);
}

static void copy_host(const struct passage *passage, const struct record *record)
{
	const char *host = http_request_header(passage->exchange, "Host");
	cleanup_buffer struct buffer masked = BUFFER_INIT;

	if (!record->mask_host[0] || passage->port == AGENT_PORT) {
		http_call_header(passage->call, "Host", host ? host : "sandbox");
		return;
	}
	append_masked_host(&masked, record->mask_host, passage->port);
	http_call_header(passage->call, "Host", masked.data ? masked.data : "sandbox");
	if (host)
		http_call_header(passage->call, "X-Forwarded-Host", host);
}

static void copy_headers(const struct passage *passage, const struct record *record)
{
	bool masked = record->mask_host[0] && passage->port != AGENT_PORT;
	size_t count;
	const struct http_header *headers = http_request_headers(passage->exchange, &count);

	copy_host(passage, record);
	for (size_t i = 0; i < count; i++) {
		if (strcasecmp(headers[i].name, "host") == 0 ||
		    (masked && strcasecmp(headers[i].name, "x-forwarded-host") == 0) ||
		    is_for_hop(headers, count, headers[i].name, passage->upgrade))
			continue;
		http_call_header(passage->call, headers[i].name, headers[i].value);
	}
}

/* Of "http://host/path" what a server that is no proxy expects. */
static const char *origin_form(const char *target)
{
	if (strncasecmp(target, "http://", 7) != 0)
		return target;
	target += 7 + strcspn(target + 7, "/?#");
	return *target == '/' ? target : "/";
}

static void refuse_visit(struct http_exchange *exchange, const struct record *record, unsigned limit)
{
	char message[96];

	(void)snprintf(message, sizeof(message),
	               "The sandbox has too many concurrent incoming connections (limit: %u)", limit);
	page_reply(exchange, &(struct page){ .status = 429,
	                                     .id = record->id,
	                                     .limit = limit,
	                                     .message = message,
	                                     .title = "Too many at once",
	                                     .advice = "As many requests as may be are on their way in this "
	                                               "sandbox already. Try again when some have ended." });
}

void passage_begin(struct api *api, struct http_exchange *exchange, struct record *record, unsigned port)
{
	struct http_endpoint endpoint = { .vsock_port = port == AGENT_PORT ? AGENT_PORT : TUNNEL_VSOCK,
		                          .tunnel_port = port == AGENT_PORT ? 0 : (uint16_t)port };
	struct visits *visits = record_enter(record, api->visits_max);
	struct passage *passage = visits ? malloc(sizeof(*passage)) : NULL;
	bool has_body = http_request_has_body(exchange);

	if (!visits && api->visits_max) {
		refuse_visit(exchange, record, api->visits_max);
		return;
	}
	if (!passage) {
		if (visits)
			visits_leave(visits);
		http_reply_error(exchange, 503, "out of memory");
		return;
	}
	*passage = (struct passage){ .api = api,
		                     .exchange = exchange,
		                     .visits = visits,
		                     .port = port,
		                     .upgrade = http_request_wants_upgrade(exchange) };
	text_copy(passage->id, sizeof(passage->id), record->id, strlen(record->id));
	text_copy(endpoint.unix_path, sizeof(endpoint.unix_path), record->vsock_path,
	          strlen(record->vsock_path));
	passage->call = http_call_new(api->upstream, &endpoint, http_request_method(exchange),
	                              origin_form(http_request_target(exchange)), &call_events, passage);
	copy_headers(passage, record);
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
