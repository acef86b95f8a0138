#include "api/edge/wake.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/registry.h"
#include "api/resume.h"
#include "api/volumes/mounted.h"

#define AGAIN_MS    200   /* between looks at one that changes its state */
#define PATIENCE_MS 60000 /* for such a change to end */
#define FALLBACK_S  300   /* to live, for a record that does not say */
#define TARGET_SIZE 160

struct waiter {
	struct list link;
	struct http_exchange *exchange;
	wake_done_fn *done;
	unsigned port;
};

struct wake {
	struct wake *next;
	struct api *api;
	struct list waiters;
	uv_timer_t timer;
	int64_t until_ms;
	char id[64];
};

static void ask(struct wake *wake);

static void on_timer_closed(uv_handle_t *handle)
{
	free(handle->data);
}

static void finish(struct wake *wake, enum wake_outcome outcome)
{
	struct wake **at = &wake->api->wakes;

	/* Whoever comes from here on begins anew. */
	while (*at != wake)
		at = &(*at)->next;
	*at = wake->next;
	while (!list_empty(&wake->waiters)) {
		struct waiter *waiter = list_entry(wake->waiters.next, struct waiter, link);
		struct http_exchange *exchange = waiter->exchange;
		wake_done_fn *done = waiter->done;
		unsigned port = waiter->port;

		list_remove(&waiter->link);
		free(waiter);
		http_exchange_on_close(exchange, NULL, NULL);
		done(wake->api, exchange, wake->id, port, outcome);
	}
	uv_close((uv_handle_t *)&wake->timer, on_timer_closed);
}

static void on_again(uv_timer_t *timer)
{
	ask(timer->data);
}

static void ask_again(struct wake *wake)
{
	if (time_wall_ms() > wake->until_ms)
		finish(wake, WAKE_BUSY);
	else
		(void)uv_timer_start(&wake->timer, on_again, AGAIN_MS, 0);
}

/* The node may not have begun yet with a pause that it was asked for. */
static bool is_up(const struct record *record)
{
	return record_is_running(record) && !record_is_asleep(record);
}

static void go_on(struct wake *wake, const struct record *record)
{
	if (is_up(record))
		finish(wake, WAKE_UP);
	else
		ask_again(wake);
}

/* What the node says of one that could not be woken now. */
static void on_looked(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct wake *wake = context;
	struct record *record = registry_find(wake->api->registry, wake->id);
	cleanup_json json_t *answer = status == 200 ? json_loadb(data, size, 0, NULL) : NULL;
	struct error failure = { 0 };

	(void)err;
	if (!record || status == 404) {
		finish(wake, WAKE_GONE);
		return;
	}
	if (record_take(record, answer) && registry_update(wake->api->registry, record, &failure) < 0)
		log_error("%s", failure.message);
	mounted_follow(wake->api, record);
	go_on(wake, record);
}

static void on_resumed(struct record *record, bool resumed, const struct resume_answer *answer, void *context)
{
	struct wake *wake = context;
	int status = answer->status;
	char target[TARGET_SIZE];

	if (resumed) {
		go_on(wake, record);
		return;
	}
	if (status == 409 && record) {
		(void)snprintf(target, sizeof(target), "/v1/sandboxes/%s", wake->id);
		api_call_node(wake->api, "GET", target, NULL, on_looked, wake);
		return;
	}
	if (status != 404 && status != 412 && status != 429)
		log_error("sandbox %s could not be woken: %s (status %d)", wake->id,
		          status ? "refused" : answer->err->message, status);
	finish(wake, status == 429 ? WAKE_FULL : WAKE_GONE);
}

static void ask(struct wake *wake)
{
	struct record *record = registry_find(wake->api->registry, wake->id);
	struct error err = { 0 };
	int ret;

	/* A boot is nothing that any traffic may cause. */
	if (!record || (record->disk_only && !record_has_machine(record))) {
		finish(wake, WAKE_GONE);
		return;
	}
	if (is_up(record)) {
		finish(wake, WAKE_UP);
		return;
	}
	ret = resume_ask(wake->api, record, record->resume_timeout ? record->resume_timeout : FALLBACK_S,
	                 false, on_resumed, wake, &err);
	if (ret < 0) {
		log_info("sandbox %s is not woken: %s", wake->id, err.message);
		finish(wake, ret == -EDQUOT ? WAKE_FULL : WAKE_GONE);
	}
}

static void on_client_gone(struct http_exchange *exchange, void *context)
{
	struct waiter *waiter = context;

	(void)exchange;
	list_remove(&waiter->link);
	free(waiter);
}

static struct wake *find_wake(struct api *api, const char *id)
{
	struct wake *wake = api->wakes;

	while (wake && strcmp(wake->id, id) != 0)
		wake = wake->next;
	return wake;
}

static struct wake *new_wake(struct api *api, const char *id)
{
	struct wake *wake = calloc(1, sizeof(*wake));

	if (!wake || uv_timer_init(api->loop, &wake->timer) < 0) {
		free(wake);
		return NULL;
	}
	wake->api = api;
	wake->timer.data = wake;
	wake->until_ms = time_wall_ms() + PATIENCE_MS;
	(void)snprintf(wake->id, sizeof(wake->id), "%s", id);
	list_init(&wake->waiters);
	wake->next = api->wakes;
	api->wakes = wake;
	return wake;
}

bool wake_wait(struct api *api, const struct record *record, struct http_exchange *exchange, unsigned port,
               wake_done_fn *done)
{
	struct waiter *waiter = malloc(sizeof(*waiter));
	struct wake *wake = find_wake(api, record->id);
	bool first = !wake;

	if (waiter && first)
		wake = new_wake(api, record->id);
	if (!waiter || !wake) {
		free(waiter);
		return false;
	}
	*waiter = (struct waiter){ .exchange = exchange, .done = done, .port = port };
	list_append(&wake->waiters, &waiter->link);
	http_exchange_on_close(exchange, on_client_gone, waiter);
	if (first)
		ask(wake);
	return true;
}
