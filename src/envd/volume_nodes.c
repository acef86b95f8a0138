#include "envd/volume_nodes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS_FIRST 64
#define ROOT_ID       1 /* FUSE_ROOT_ID */

struct volume_nodes {
	struct volume_node root;
	struct list *by_id; /* `buckets` of each, a power of two */
	struct list *by_name;
	size_t buckets;
	size_t count;
	uint64_t last_id; /* none is used twice */
};

/* --- tables --- */

/* FNV-1a. Who chooses names so that they meet in one bucket slows down his own sandbox. */
static size_t hash_name(const struct volume_node *parent, const char *name)
{
	uint64_t hash = 0xcbf29ce484222325 ^ (parent->id * 0x9e3779b97f4a7c15);

	for (; *name; name++)
		hash = (hash ^ (unsigned char)*name) * 0x100000001b3;
	return (size_t)(hash ^ hash >> 32);
}

static struct list *bucket_of_id(struct volume_nodes *nodes, uint64_t id)
{
	return &nodes->by_id[id & (nodes->buckets - 1)];
}

static struct list *bucket_of_name(struct volume_nodes *nodes, const struct volume_node *parent,
                                   const char *name)
{
	return &nodes->by_name[hash_name(parent, name) & (nodes->buckets - 1)];
}

static struct list *make_buckets(size_t count)
{
	struct list *buckets = calloc(count, sizeof(*buckets));

	for (size_t i = 0; buckets && i < count; i++)
		list_init(&buckets[i]);
	return buckets;
}

/* Twice as many. Where there is no memory for that they are longer. */
static void grow(struct volume_nodes *nodes)
{
	struct list *old = nodes->by_id;
	struct list *by_id = make_buckets(nodes->buckets * 2);
	struct list *by_name = make_buckets(nodes->buckets * 2);
	size_t count = nodes->buckets;

	if (!by_id || !by_name) {
		free(by_id);
		free(by_name);
		return;
	}
	free(nodes->by_name);
	nodes->by_id = by_id;
	nodes->by_name = by_name;
	nodes->buckets *= 2;
	for (size_t i = 0; i < count; i++) {
		list_for_each_safe (link, &old[i]) {
			struct volume_node *node = list_entry(link, struct volume_node, by_id);

			list_append(bucket_of_id(nodes, node->id), &node->by_id);
			list_init(&node->by_name);
			if (node->parent)
				list_append(bucket_of_name(nodes, node->parent, node->name), &node->by_name);
		}
	}
	free(old);
}

struct volume_nodes *volume_nodes_new(void)
{
	struct volume_nodes *nodes = calloc(1, sizeof(*nodes));

	if (!nodes)
		return NULL;
	nodes->buckets = BUCKETS_FIRST;
	nodes->by_id = make_buckets(nodes->buckets);
	nodes->by_name = make_buckets(nodes->buckets);
	if (!nodes->by_id || !nodes->by_name) {
		free(nodes->by_id);
		free(nodes->by_name);
		free(nodes);
		return NULL;
	}
	nodes->root.id = nodes->last_id = ROOT_ID;
	nodes->root.holds = 1;
	list_init(&nodes->root.by_name);
	list_append(bucket_of_id(nodes, ROOT_ID), &nodes->root.by_id);
	nodes->count = 1;
	return nodes;
}

void volume_nodes_free(struct volume_nodes *nodes)
{
	if (!nodes)
		return;
	for (size_t i = 0; i < nodes->buckets; i++) {
		list_for_each_safe (link, &nodes->by_id[i]) {
			struct volume_node *node = list_entry(link, struct volume_node, by_id);

			free(node->name);
			if (node != &nodes->root)
				free(node);
		}
	}
	free(nodes->by_id);
	free(nodes->by_name);
	free(nodes);
}

size_t volume_nodes_count(const struct volume_nodes *nodes)
{
	return nodes->count;
}

struct volume_node *volume_nodes_find(struct volume_nodes *nodes, uint64_t id)
{
	list_for_each (link, bucket_of_id(nodes, id)) {
		struct volume_node *node = list_entry(link, struct volume_node, by_id);

		if (node->id == id)
			return node;
	}
	return NULL;
}

struct volume_node *volume_nodes_find_name(struct volume_nodes *nodes, const struct volume_node *parent,
                                           const char *name)
{
	list_for_each (link, bucket_of_name(nodes, parent, name)) {
		struct volume_node *node = list_entry(link, struct volume_node, by_name);

		if (node->parent == parent && strcmp(node->name, name) == 0)
			return node;
	}
	return NULL;
}

/* --- lives --- */

/* Free it when nobody needs it, and then its directory, and so on. */
static void free_unneeded(struct volume_nodes *nodes, struct volume_node *node)
{
	while (node && node->lookups == 0 && node->holds == 0) {
		struct volume_node *parent = node->parent;

		list_remove(&node->by_id);
		list_remove(&node->by_name);
		free(node->name);
		free(node);
		nodes->count--;
		if (parent)
			parent->holds--;
		node = parent;
	}
}

void volume_nodes_hold(struct volume_node *node)
{
	if (node)
		node->holds++;
}

void volume_nodes_release(struct volume_nodes *nodes, struct volume_node *node)
{
	if (!node)
		return;
	node->holds--;
	free_unneeded(nodes, node);
}

void volume_nodes_forget(struct volume_nodes *nodes, uint64_t id, uint64_t count)
{
	struct volume_node *node = volume_nodes_find(nodes, id);

	if (!node)
		return;
	node->lookups -= count < node->lookups ? count : node->lookups;
	free_unneeded(nodes, node);
}

void volume_nodes_open(struct volume_node *node)
{
	node->opens++;
	volume_nodes_hold(node);
}

bool volume_nodes_close(struct volume_nodes *nodes, struct volume_node *node)
{
	if (node->opens == 0)
		return false;
	node->opens--;
	volume_nodes_release(nodes, node);
	return node->opens == 0 && node->hidden;
}

/* It has no path any more. It may be gone after this. */
static void cut_off(struct volume_nodes *nodes, struct volume_node *node)
{
	struct volume_node *parent = node->parent;

	node->parent = NULL;
	list_remove(&node->by_name);
	free_unneeded(nodes, node);
	volume_nodes_release(nodes, parent);
}

static struct volume_node *add(struct volume_nodes *nodes, struct volume_node *parent, const char *name)
{
	struct volume_node *node = calloc(1, sizeof(*node));

	if (!node || !(node->name = strdup(name))) {
		free(node);
		return NULL;
	}
	if (nodes->count >= nodes->buckets)
		grow(nodes);
	node->id = ++nodes->last_id;
	node->parent = parent;
	volume_nodes_hold(parent);
	list_append(bucket_of_id(nodes, node->id), &node->by_id);
	list_append(bucket_of_name(nodes, parent, name), &node->by_name);
	nodes->count++;
	return node;
}

struct volume_node *volume_nodes_look_up(struct volume_nodes *nodes, struct volume_node *parent,
                                         const char *name, uint64_t file, unsigned type)
{
	struct volume_node *node;

	if (!parent->parent && parent != &nodes->root)
		return NULL;
	volume_nodes_hold(parent);
	node = volume_nodes_find_name(nodes, parent, name);
	if (node && (node->file != file || node->type != type)) {
		cut_off(nodes, node);
		node = NULL;
	}
	if (!node)
		node = add(nodes, parent, name);
	if (node) {
		node->file = file;
		node->type = type;
		node->lookups++;
	}
	volume_nodes_release(nodes, parent);
	return node;
}

/* --- names --- */

void volume_nodes_remove(struct volume_nodes *nodes, struct volume_node *parent, const char *name)
{
	struct volume_node *node = volume_nodes_find_name(nodes, parent, name);

	if (node)
		cut_off(nodes, node);
}

int volume_nodes_rename(struct volume_nodes *nodes, struct volume_node *parent, const char *name,
                        struct volume_node *to_parent, const char *to_name)
{
	struct volume_node *node = volume_nodes_find_name(nodes, parent, name);
	struct volume_node *replaced = volume_nodes_find_name(nodes, to_parent, to_name);
	char *copy;

	if (node && node == replaced)
		return 0;
	if (replaced) {
		volume_nodes_hold(to_parent);
		cut_off(nodes, replaced);
		volume_nodes_release(nodes, to_parent);
	}
	if (!node)
		return 0;
	copy = strdup(to_name);
	if (!copy) {
		cut_off(nodes, node);
		return -ENOMEM;
	}
	free(node->name);
	node->name = copy;
	list_remove(&node->by_name);
	list_append(bucket_of_name(nodes, to_parent, to_name), &node->by_name);
	volume_nodes_hold(to_parent);
	node->parent = to_parent;
	volume_nodes_release(nodes, parent);
	return 0;
}

/* Put a name before what is at `at`. Where it begins, or negative. */
static int prepend(char path[VOLUME_PATH_MAX], int at, const char *name)
{
	size_t size = strlen(name);
	size_t slash = at < VOLUME_PATH_MAX ? 1 : 0;

	if (size + slash > (size_t)at)
		return -ENAMETOOLONG;
	if (slash)
		path[--at] = '/';
	at -= (int)size;
	memcpy(path + at, name, size);
	return at;
}

int volume_nodes_path(const struct volume_node *node, const char *name, char path[VOLUME_PATH_MAX])
{
	int at = VOLUME_PATH_MAX;

	if (name)
		at = prepend(path, at, name);
	/* (A path ends somewhere, whatever leads where.) */
	for (; at >= 0 && node->parent; node = node->parent)
		at = prepend(path, at, node->name);
	if (at < 0)
		return at;
	if (node->id != ROOT_ID)
		return -ESTALE;
	memmove(path, path + at, (size_t)(VOLUME_PATH_MAX - at));
	return VOLUME_PATH_MAX - at;
}
