/* registry: the sandboxes that live, by id; each change is in the store before it is seen. */
#pragma once

#include "api/api.h"

/* What is on its way into a sandbox. It may outlive the record, and the record it. */
struct visits {
	unsigned count;
	bool orphaned; /* the record is gone: the last one frees this */
};

struct record {
	struct list bucket;
	struct list all;
	char id[64];
	char team_id[64];
	char template_id[128];
	char alias[128];
	char access_token[128]; /* "" = none */
	char vsock_path[128];
	char traffic_token[128]; /* what traffic to its ports must show; "" = all may come */
	char mask_host[256]; /* the Host that its servers see, "${PORT}" for the port; "" = the client's */
	json_t *metadata;
	int64_t started_at_ms;
	int64_t end_at_ms;
	int64_t resume_timeout; /* seconds to live when traffic wakes it */
	int vcpu_count;
	int memory_mib;
	int disk_mib;
	bool running;          /* its machine is there */
	bool paused;           /* only its files are; neither: the node was asked and has not answered */
	bool auto_pause;       /* at its end, instead of a kill */
	bool auto_pause_disk;  /* that keeps its disk alone; not stored: the node tells */
	bool disk_only;        /* paused so: no traffic may wake it; not stored: the node tells */
	bool auto_resume;      /* by traffic */
	bool waking;           /* asked to resume; not stored */
	bool pausing;          /* the node was asked to pause it; not stored */
	struct visits *visits; /* NULL: there were none yet; not stored */
	int64_t changed_ms;    /* when the state was last heard of or changed; not stored */
};

/*
 * What the node says of a sandbox: place, times, size and state. False: that is no sandbox, and the record is
 * as before.
 */
bool record_take(struct record *record, const json_t *sandbox);

/* What the node alone keeps of it: what its pauses leave out. Part of record_take. */
void record_take_pauses(struct record *record, const json_t *sandbox);

/* Running, and its time is not over. Over, with auto_pause, it counts as paused: that is what it is about to
 * be. */
bool record_is_running(const struct record *record);
bool record_is_paused(const struct record *record);

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

void record_free(struct record *record);

/* One visit more, to be given to visits_leave() once. NULL: there are `most` (0: any number will do), or no
 * memory. */
struct visits *record_enter(struct record *record, unsigned most);
void visits_leave(struct visits *visits);
