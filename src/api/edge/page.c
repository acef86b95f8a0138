#include "api/edge/page.h"

#include <jansson.h>
#include <string.h>
#include <strings.h>

#include "base/base.h"

/* Any of the comma-separated words of `list`, wherever it stands in `text`. */
static bool has_word(const char *text, const char *list)
{
	while (*list) {
		char word[32];
		size_t size = strcspn(list, ",");

		(void)snprintf(word, sizeof(word), "%.*s", (int)size, list);
		if (strcasestr(text, word))
			return true;
		list += size + (list[size] == ',');
	}
	return false;
}

bool page_is_wanted(const struct http_exchange *exchange)
{
	const char *accept = http_request_header(exchange, "Accept");
	const char *mode = http_request_header(exchange, "Sec-Fetch-Mode");
	const char *agent = http_request_header(exchange, "User-Agent");

	if (accept && has_word(accept, "application/json") && !has_word(accept, "text/html"))
		return false;
	/* A browser says what a request is for; older ones leave that to the libraries of their scripts. */
	if (mode && (strcasecmp(mode, "cors") == 0 || strcasecmp(mode, "no-cors") == 0 ||
	             strcasecmp(mode, "same-origin") == 0 || strcasecmp(mode, "websocket") == 0))
		return false;
	if (!(mode && strcasecmp(mode, "navigate") == 0) && http_request_header(exchange, "X-Requested-With"))
		return false;
	return agent && has_word(agent, "mozilla,chrome,safari,firefox,edge,opera,msie");
}

static void append_escaped(struct buffer *to, const char *text)
{
	for (; *text; text++) {
		const char *name = *text == '<'   ? "&lt;"
		                   : *text == '>' ? "&gt;"
		                   : *text == '&' ? "&amp;"
		                   : *text == '"' ? "&quot;"
		                                  : NULL;

		if (name)
			(void)buffer_append_string(to, name);
		else
			(void)buffer_append(to, text, 1);
	}
}

static void append_row(struct buffer *to, const char *name, const char *value)
{
	(void)buffer_printf(to, "<dt>%s</dt><dd>", name);
	append_escaped(to, value);
	(void)buffer_append_string(to, "</dd>");
}

static void reply_html(struct http_exchange *exchange, const struct page *page)
{
	static const char head[] =
	        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">"
	        "<meta name=\"viewport\" content=\"width=device-width\"><style>"
	        "body{font:16px/1.5 system-ui,sans-serif;max-width:36em;margin:12vh auto;padding:0 1em;"
	        "color:#222;background:#fff}h1{font-size:1.4em}dt{color:#777;float:left;width:6em}"
	        "dd{margin-left:6em;font-family:ui-monospace,monospace;overflow-wrap:anywhere}"
	        "@media(prefers-color-scheme:dark){body{color:#ddd;background:#161616}}</style><title>";
	cleanup_buffer struct buffer text = BUFFER_INIT;
	const char *host = http_request_header(exchange, "Host");
	char port[16];
	char limit[16];

	(void)buffer_append(&text, head, sizeof(head) - 1);
	append_escaped(&text, page->title);
	(void)buffer_append_string(&text, "</title></head><body><h1>");
	append_escaped(&text, page->title);
	(void)buffer_append_string(&text, "</h1><p>");
	append_escaped(&text, page->advice);
	(void)buffer_append_string(&text, "</p><dl>");
	append_row(&text, "Sandbox", page->id);
	if (page->port) {
		(void)snprintf(port, sizeof(port), "%u", page->port);
		append_row(&text, "Port", port);
	}
	if (page->limit) {
		(void)snprintf(limit, sizeof(limit), "%u", page->limit);
		append_row(&text, "Limit", limit);
	}
	if (host)
		append_row(&text, "Host", host);
	(void)buffer_append_string(&text, "</dl></body></html>\n");
	http_reply(exchange, page->status, "text/html; charset=utf-8", text.data, text.size);
}

void page_reply(struct http_exchange *exchange, const struct page *page)
{
	cleanup_json json_t *json = NULL;
	cleanup_free char *text = NULL;

	http_reply_header(exchange, "Cache-Control", "no-store");
	if (page_is_wanted(exchange)) {
		reply_html(exchange, page);
		return;
	}
	json = json_pack("{s:s,s:s}", "sandboxId", page->id, "message", page->message);
	if (page->port)
		(void)json_object_set_new(json, "port", json_integer(page->port));
	if (page->limit)
		(void)json_object_set_new(json, "connectionLimit", json_integer(page->limit));
	(void)json_object_set_new(json, "code", json_integer(page->status));
	text = json_dumps(json, JSON_COMPACT);
	http_reply(exchange, page->status, "application/json; charset=utf-8", text, text ? strlen(text) : 0);
}

void page_not_found(struct http_exchange *exchange, const char *id)
{
	page_reply(exchange,
	           &(struct page){ .status = 502,
	                           .id = id,
	                           .message = "The sandbox was not found",
	                           .title = "No such sandbox",
	                           .advice = "It has ended, sleeps, or never was. Whoever made it can "
	                                     "wake it or make another." });
}
