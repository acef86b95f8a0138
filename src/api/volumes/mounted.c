#include "api/volumes/mounted.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/registry.h"
#include "api/volumes/serving.h"
#include "volume/volume.h"

#define GREETING_MS 10000
#define RETRY_MS    50 /* doubled with each time that the agent did not greet */
#define RETRY_MAX   2000
#define STEADY_MS   5000 /* a connection that lasted as long was no failure */

/* One mount of one sandbox; frees itself when all that it waits for has come. */
struct mount {
	struct mounted *mounted; /* NULL: it is over */
	struct api *api;
	unsigned index;
	unsigned delay_ms;
	bool connecting;
	struct serving *serving;
	uint64_t since; /* of the serving, of the loop's clock */
	uv_timer_t timer;
	bool closed; /* the timer */
};

struct mounted {
	struct api *api;
	struct record *record; /* whose it is */
	unsigned count;
	struct mount *mounts[];
};

static void mount_connect(struct mount *mount);

static void free_if_over(struct mount *mount)
{
	if (mount->closed && !mount->connecting)
		free(mount);
}

static void on_timer_closed(uv_handle_t *handle)
{
	struct mount *mount = handle->data;

	mount->closed = true;
	free_if_over(mount);
}

static void on_retry(uv_timer_t *timer)
{
	mount_connect(timer->data);
}

static void retry(struct mount *mount)
{
	mount->delay_ms = mount->delay_ms ? mount->delay_ms * 2 : RETRY_MS;
	if (mount->delay_ms > RETRY_MAX)
		mount->delay_ms = RETRY_MAX;
	(void)uv_timer_start(&mount->timer, on_retry, mount->delay_ms, 0);
}

static void on_served(bool greeted, void *context)
{
	struct mount *mount = context;

	mount->serving = NULL;
	if (greeted && uv_now(mount->api->loop) - mount->since >= STEADY_MS)
		mount->delay_ms = 0;
	retry(mount);
}

static void on_late(uv_timer_t *timer)
{
	struct mount *mount = timer->data;

	if (mount->serving)
		serving_hurry(mount->serving);
}

/* "": there is no such mount. */
static const char *volume_of(const struct record *record, size_t index)
{
	const json_t *mount = json_array_get(record->volume_mounts, index);
	const char *id = json_string_value(json_object_get(mount, "volume_id"));

	return id ? id : "";
}

static void on_connect(struct stream *stream, int status, void *context)
{
	struct mount *mount = context;
	struct error err = { 0 };

	mount->connecting = false;
	if (!mount->mounted) {
		if (stream)
			stream_close(stream);
		free_if_over(mount);
		return;
	}
	if (status != 0) {
		retry(mount);
		return;
	}
	mount->since = uv_now(mount->api->loop);
	mount->serving = serving_new(mount->api->volumes, volume_of(mount->mounted->record, mount->index),
	                             stream, on_served, mount, &err);
	if (mount->serving) {
		(void)uv_timer_start(&mount->timer, on_late, GREETING_MS, 0);
		return;
	}
	log_error("%s", err.message);
	retry(mount);
}

static void mount_connect(struct mount *mount)
{
	struct http_endpoint endpoint = { .vsock_port = VOLUME_PORT + mount->index };
	const struct record *record = mount->mounted->record;

	/* It may run again; whoever learns that follows. */
	if (!record_has_machine(record)) {
		retry(mount);
		return;
	}
	(void)snprintf(endpoint.unix_path, sizeof(endpoint.unix_path), "%.107s", record->vsock_path);
	mount->connecting = true;
	http_endpoint_connect(mount->api->loop, &endpoint, on_connect, mount);
}

static struct mount *mount_new(struct mounted *mounted, unsigned index)
{
	struct mount *mount = calloc(1, sizeof(*mount));

	if (!mount)
		return NULL;
	*mount = (struct mount){ .mounted = mounted, .api = mounted->api, .index = index };
	(void)uv_timer_init(mounted->api->loop, &mount->timer);
	mount->timer.data = mount;
	mount_connect(mount);
	return mount;
}

static void mount_end(struct mount *mount)
{
	mount->mounted = NULL;
	if (mount->serving)
		serving_end(mount->serving);
	mount->serving = NULL;
	uv_close((uv_handle_t *)&mount->timer, on_timer_closed);
}

void mounted_begin(struct api *api, struct record *record)
{
	size_t count = json_array_size(record->volume_mounts);
	struct mounted *mounted;

	mounted_end(record->mounted);
	record->mounted = NULL;
	if (!count || !record_has_machine(record))
		return;
	mounted = calloc(1, sizeof(*mounted) + count * sizeof(mounted->mounts[0]));
	if (!mounted)
		return; /* whoever follows tries again */
	*mounted = (struct mounted){ .api = api, .record = record };
	for (size_t i = 0; i < count; i++) {
		struct mount *mount = mount_new(mounted, (unsigned)i);

		if (mount)
			mounted->mounts[mounted->count++] = mount;
	}
	record->mounted = mounted;
}

void mounted_follow(struct api *api, struct record *record)
{
	if (!record_has_machine(record)) {
		mounted_end(record->mounted);
		record->mounted = NULL;
	} else if (!record->mounted) {
		mounted_begin(api, record);
	}
}

void mounted_end(struct mounted *mounted)
{
	if (!mounted)
		return;
	for (unsigned i = 0; i < mounted->count; i++)
		mount_end(mounted->mounts[i]);
	free(mounted);
}

bool mounted_by_any(const struct api *api, const char *volume_id)
{
	list_for_each (node, registry_all(api->registry)) {
		const struct record *record = list_entry(node, struct record, all);

		for (size_t i = 0; i < json_array_size(record->volume_mounts); i++)
			if (strcmp(volume_of(record, i), volume_id) == 0)
				return true;
	}
	return false;
}
