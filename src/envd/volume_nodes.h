/*
 * volume_nodes: the files of a mounted volume that the kernel knows. It names them by numbers, the volume by
 * paths: a node is a number, and a name in the node of its directory, so that what is in a directory moves
 * with it.
 *
 * A node lives as long as the kernel has it in mind (lookups), a request is about it, it is open or something
 * is in it (holds).
 */
#pragma once

#include "base/list.h"
#include "volume/volume.h"

struct volume_nodes;

struct volume_node {
	struct list by_id;
	struct list by_name;        /* not linked: it has no path any more */
	struct volume_node *parent; /* NULL: the volume itself, or it has no path any more */
	char *name;
	uint64_t id;      /* the kernel's */
	uint64_t file;    /* the volume's */
	uint64_t size;    /* as the kernel was told last */
	int64_t mtime_ns; /* likewise */
	uint64_t lookups;
	unsigned holds;
	unsigned opens; /* of the kernel, and what may become such */
	unsigned type;  /* of its mode; 0: not known yet */
	bool hidden;    /* its name is ours: its own was taken from it while it was open */
};

/* NULL: no memory. The volume itself is in it, as number 1. */
struct volume_nodes *volume_nodes_new(void);
void volume_nodes_free(struct volume_nodes *nodes);

/* How many there are. */
size_t volume_nodes_count(const struct volume_nodes *nodes);

/* NULL: there is none of that number. */
struct volume_node *volume_nodes_find(struct volume_nodes *nodes, uint64_t id);

/*
 * The node of what is called `name` in `parent`, a lookup being counted. `file` and `type` are what is there
 * now: where the name was another file's, that one has no path any more. NULL: no memory, or `parent` has no
 * path.
 */
struct volume_node *volume_nodes_look_up(struct volume_nodes *nodes, struct volume_node *parent,
                                         const char *name, uint64_t file, unsigned type);

/* The kernel has forgotten `count` of its lookups. */
void volume_nodes_forget(struct volume_nodes *nodes, uint64_t id, uint64_t count);

/* A request is about it; no longer. NULL is fine. */
void volume_nodes_hold(struct volume_node *node);
void volume_nodes_release(struct volume_nodes *nodes, struct volume_node *node);

/* The node of what is called `name` in `parent`. NULL: the kernel knows none. */
struct volume_node *volume_nodes_find_name(struct volume_nodes *nodes, const struct volume_node *parent,
                                           const char *name);

/* It is open once more; once less. The latter: whether it was the last time and the file is hidden, so that
 * nobody needs it any more; the node is held by the caller. */
void volume_nodes_open(struct volume_node *node);
bool volume_nodes_close(struct volume_nodes *nodes, struct volume_node *node);

/* What was called so is called otherwise now, or is no more. Without such a node nothing happens. 0 or
 * -ENOMEM: it has no path any more then, and is looked up again. */
int volume_nodes_rename(struct volume_nodes *nodes, struct volume_node *parent, const char *name,
                        struct volume_node *to_parent, const char *to_name);
void volume_nodes_remove(struct volume_nodes *nodes, struct volume_node *parent, const char *name);

/* The path of `node`, or of `name` in it (NULL: its own). Its length, -ESTALE: it has none any more,
 * -ENAMETOOLONG. No zero is added. */
int volume_nodes_path(const struct volume_node *node, const char *name, char path[VOLUME_PATH_MAX]);
