#include "api/registry.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/store/store.h"

#define BUCKETS 1024

struct registry {
	struct store *store;
	struct list buckets[BUCKETS];
	struct list all;
};

/* FNV-1a. Ids are random, so nobody can choose collisions. */
static struct list *bucket_of(struct registry *registry, const char *id)
{
	uint32_t hash = 2166136261u;

	for (; *id; id++)
		hash = (hash ^ (unsigned char)*id) * 16777619u;
	return &registry->buckets[hash % BUCKETS];
}

static void link_record(struct registry *registry, struct record *record)
{
	list_append(bucket_of(registry, record->id), &record->bucket);
	list_append(&registry->all, &record->all);
}

void record_take_pauses(struct record *record, const json_t *sandbox)
{
	record->auto_pause_disk = json_is_false(json_object_get(sandbox, "auto_pause_memory"));
	record->disk_only = json_is_false(json_object_get(sandbox, "memory"));
}

bool record_take(struct record *record, const json_t *sandbox)
{
	const char *vsock = json_string_value(json_object_get(sandbox, "vsock_path"));
	const char *state = json_string_value(json_object_get(sandbox, "state"));

	if (!vsock || !json_is_integer(json_object_get(sandbox, "started_at_ms")))
		return false;
	(void)snprintf(record->vsock_path, sizeof(record->vsock_path), "%s", vsock);
	record->started_at_ms = json_integer_value(json_object_get(sandbox, "started_at_ms"));
	record->end_at_ms = json_integer_value(json_object_get(sandbox, "end_at_ms"));
	record->vcpu_count = (int)json_integer_value(json_object_get(sandbox, "vcpu_count"));
	record->memory_mib = (int)json_integer_value(json_object_get(sandbox, "memory_mib"));
	record->disk_mib = (int)json_integer_value(json_object_get(sandbox, "disk_mib"));
	record->paused = state && strcmp(state, "paused") == 0;
	record->running = !record->paused;
	record_take_pauses(record, sandbox);
	record->changed_ms = time_wall_ms();
	return true;
}

bool record_is_running(const struct record *record)
{
	return record->running && record->end_at_ms > time_wall_ms();
}

bool record_is_paused(const struct record *record)
{
	return record->paused ||
	       (record->running && record->auto_pause && record->end_at_ms <= time_wall_ms());
}

void record_free(struct record *record)
{
	if (!record)
		return;
	if (record->visits && record->visits->count)
		record->visits->orphaned = true;
	else
		free(record->visits);
	json_decref(record->metadata);
	free(record);
}

struct visits *record_enter(struct record *record, unsigned most)
{
	if (!record->visits)
		record->visits = calloc(1, sizeof(*record->visits));
	if (!record->visits || (most && record->visits->count >= most))
		return NULL;
	record->visits->count++;
	return record->visits;
}

void visits_leave(struct visits *visits)
{
	if (--visits->count == 0 && visits->orphaned)
		free(visits);
}

static void take_loaded(void *context, struct record *record)
{
	link_record(context, record);
}

struct registry *registry_new(struct store *store, struct error *err)
{
	struct registry *registry = calloc(1, sizeof(*registry));

	if (!registry) {
		error_errno(err, ENOMEM, "load the sandboxes");
		return NULL;
	}
	registry->store = store;
	list_init(&registry->all);
	for (size_t i = 0; i < BUCKETS; i++)
		list_init(&registry->buckets[i]);
	if (store_load_sandboxes(store, take_loaded, registry, err) < 0) {
		registry_free(registry);
		return NULL;
	}
	return registry;
}

void registry_free(struct registry *registry)
{
	if (!registry)
		return;
	list_for_each_safe (node, &registry->all)
		record_free(list_entry(node, struct record, all));
	free(registry);
}

int registry_add(struct registry *registry, struct record *record, struct error *err)
{
	int ret = store_put_sandbox(registry->store, record, err);

	if (ret == 0)
		link_record(registry, record);
	return ret;
}

int registry_update(struct registry *registry, struct record *record, struct error *err)
{
	return store_put_sandbox(registry->store, record, err);
}

void registry_remove(struct registry *registry, struct record *record)
{
	struct error err = { 0 };

	/* If this fails the row comes back at the next start, and the node says that nothing runs. */
	if (store_delete_sandbox(registry->store, record->id, &err) < 0)
		log_warn("%s", err.message);
	list_remove(&record->bucket);
	list_remove(&record->all);
	record_free(record);
}

struct record *registry_find(struct registry *registry, const char *id)
{
	list_for_each (node, bucket_of(registry, id)) {
		struct record *record = list_entry(node, struct record, bucket);

		if (strcmp(record->id, id) == 0)
			return record;
	}
	return NULL;
}

struct list *registry_all(struct registry *registry)
{
	return &registry->all;
}
