/* registry: the sandboxes that live, by id; each change is in the store before it is seen. */
#pragma once

#include "api/api.h"
#include "api/record.h"

/* Made from what the store holds. NULL with `err`. */
struct registry *registry_new(struct store *store, struct error *err);
void registry_free(struct registry *registry);

/* Add a record (heap; taken on success). 0 or -errno with `err`. */
int registry_add(struct registry *registry, struct record *record, struct error *err);

/* Write a changed record to the store. */
int registry_update(struct registry *registry, struct record *record, struct error *err);

/* Forget one, and free it. */
void registry_remove(struct registry *registry, struct record *record);

/* By id, whatever its state. NULL: none. */
struct record *registry_find(struct registry *registry, const char *id);

/* All, newest first or not: the caller sorts. Walk with list_for_each and list_entry(node, struct record,
 * all). */
struct list *registry_all(struct registry *registry);
