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
