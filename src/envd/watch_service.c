/*
 * The part of filesystem.Filesystem that watches directories: WatchDir streams events as they come; a watcher
 * collects them until its client asks (CreateWatcher, GetWatcherEvents, RemoveWatcher).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "envd/filesystem.h"
#include "envd/schema.h"
#include "envd/watch.h"

#define PENDING_MAX  (16 << 20) /* bytes of a stream that its client does not read */
#define EVENTS_MAX   65536      /* that a watcher collects; what comes then is lost */
#define WATCHERS_MAX 1024
#define ID_SIZE      22 /* "w", 20 letters, NUL */

struct watcher {
	struct list link;
	char id[ID_SIZE];
	struct watch *watch;
	json_t *events;
};

static int read_options(const json_t *request, struct watch_options *options, struct error *err)
{
	int ret = json_read_bool(request, "recursive", JSON_OPTIONAL, &options->recursive, err);

	if (ret == 0)
		ret = json_read_bool(request, "includeEntry", JSON_OPTIONAL, &options->include_entry, err);
	if (ret == 0)
		ret = json_read_bool(request, "allowNetworkMounts", JSON_OPTIONAL, &options->allow_network,
		                     err);
	return ret;
}

/* The watch that a request asks for. NULL: the call has been ended. */
static struct watch *start_watch(struct envd *envd, struct connect_call *call, const json_t *request,
                                 watch_event_fn *on_event, void *context)
{
	struct watch_options options = { 0 };
	struct error err = { 0 };
	struct watch *watch;
	struct user user;
	char path[4096];

	if (!filesystem_read_path(envd, call, request, "path", &user, path))
		return NULL;
	if (read_options(request, &options, &err) < 0) {
		connect_fail(call, CONNECT_INVALID_ARGUMENT, "%s", err.message);
		return NULL;
	}
	watch = watch_new(envd->loop, path, &options, on_event, context, &err);
	if (!watch)
		connect_fail(call, filesystem_code(err.code), "%s", err.message);
	return watch;
}

/* --- streams --- */

static void end_stream(struct connect_call *call, enum connect_code code, const char *why)
{
	watch_free(connect_data(call));
	connect_set_data(call, NULL);
	connect_fail(call, code, "%s", why);
}

static void on_stream_event(void *context, json_t *event)
{
	struct connect_call *call = context;

	if (connect_pending(call) > PENDING_MAX) {
		json_decref(event);
		end_stream(call, CONNECT_RESOURCE_EXHAUSTED, "the client does not take the events");
		return;
	}
	connect_send(call, json_pack("{s:o}", "filesystem", event));
}

static void on_stream_close(struct connect_call *call, void *data)
{
	(void)call;
	watch_free(data);
}

static void on_stream_deadline(struct connect_call *call, void *data)
{
	(void)data;
	end_stream(call, CONNECT_DEADLINE_EXCEEDED, "the watch has lasted as long as was asked for");
}

static void handle_watch_dir(struct connect_call *call, const json_t *request, void *context)
{
	struct watch *watch = start_watch(context, call, request, on_stream_event, call);

	if (!watch)
		return;
	connect_set_data(call, watch);
	connect_on_close(call, on_stream_close);
	connect_on_deadline(call, on_stream_deadline);
	connect_send(call, json_pack("{s:{}}", "start"));
	connect_keep_alive(call, json_pack("{s:{}}", "keepalive"));
}

/* --- watchers --- */

static void free_watcher(struct watcher *watcher)
{
	list_remove(&watcher->link);
	watch_free(watcher->watch);
	json_decref(watcher->events);
	free(watcher);
}

static void on_watcher_event(void *context, json_t *event)
{
	struct watcher *watcher = context;

	if (json_array_size(watcher->events) < EVENTS_MAX)
		(void)json_array_append_new(watcher->events, event);
	else
		json_decref(event);
}

/* The watcher of a request's watcherId. NULL: the call has been ended. */
static struct watcher *find_watcher(struct envd *envd, struct connect_call *call, const json_t *request)
{
	struct error err = { 0 };
	const char *id = "";

	if (json_read_string(request, "watcherId", JSON_REQUIRED, &id, &err) < 0) {
		connect_fail(call, CONNECT_INVALID_ARGUMENT, "%s", err.message);
		return NULL;
	}
	list_for_each (link, &envd->watchers) {
		struct watcher *watcher = list_entry(link, struct watcher, link);

		if (strcmp(watcher->id, id) == 0)
			return watcher;
	}
	connect_fail(call, CONNECT_NOT_FOUND, "watcher with id %s not found", id);
	return NULL;
}

static bool may_have_more(const struct envd *envd)
{
	unsigned count = 0;

	list_for_each (link, &envd->watchers)
		count++;
	return count < WATCHERS_MAX;
}

static void handle_create_watcher(struct connect_call *call, const json_t *request, void *context)
{
	struct envd *envd = context;
	struct watcher *watcher = may_have_more(envd) ? calloc(1, sizeof(*watcher)) : NULL;

	if (!watcher) {
		connect_fail(call, CONNECT_RESOURCE_EXHAUSTED, "more than %d watchers", WATCHERS_MAX);
		return;
	}
	list_init(&watcher->link);
	watcher->events = json_array();
	watcher->watch = start_watch(envd, call, request, on_watcher_event, watcher);
	if (!watcher->watch) {
		free_watcher(watcher);
		return;
	}
	watcher->id[0] = 'w';
	random_id(watcher->id + 1, ID_SIZE - 2);
	list_append(&envd->watchers, &watcher->link);
	connect_reply(call, json_pack("{s:s}", "watcherId", watcher->id));
}

static void handle_get_watcher_events(struct connect_call *call, const json_t *request, void *context)
{
	struct watcher *watcher = find_watcher(context, call, request);

	if (!watcher)
		return;
	connect_reply(call, json_pack("{s:o}", "events", watcher->events));
	watcher->events = json_array();
}

static void handle_remove_watcher(struct connect_call *call, const json_t *request, void *context)
{
	struct watcher *watcher = find_watcher(context, call, request);

	if (!watcher)
		return;
	free_watcher(watcher);
	connect_reply(call, json_object());
}

const struct connect_method watch_methods[] = {
	{ "/filesystem.Filesystem/WatchDir", CONNECT_SERVER_STREAM, handle_watch_dir,
	  &schema_watch_dir_request, &schema_watch_dir_response },
	{ "/filesystem.Filesystem/CreateWatcher", CONNECT_UNARY, handle_create_watcher,
	  &schema_watch_dir_request, &schema_watcher_id },
	{ "/filesystem.Filesystem/GetWatcherEvents", CONNECT_UNARY, handle_get_watcher_events,
	  &schema_watcher_id, &schema_watcher_events_response },
	{ "/filesystem.Filesystem/RemoveWatcher", CONNECT_UNARY, handle_remove_watcher, &schema_watcher_id,
	  &schema_empty },
	{ 0 },
};
