/*
 * record: one sandbox as the control plane knows it, and the state that it is in.
 *
 * It is in one state at any time. States change by the functions below alone, each of which names something
 * that happened; the moves there are stand in a table in record.c.
 */
#pragma once

#include "api/api.h"

enum record_state {
	RECORD_CREATING, /* the node was asked for it and has not answered */
	RECORD_RUNNING,  /* its machine is there */
	RECORD_PAUSING,  /* the node was asked to pause it and has not answered */
	RECORD_TURNING,  /* the same, and was asked to resume it after that */
	RECORD_PAUSED,   /* only its files are there */
	RECORD_RESUMING, /* the node was asked to resume it and has not answered */
};

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
	json_t *volume_mounts; /* array of {volume_id, name, path}, NULL: none; the N-th is the guest's N-th
	                        */
	int64_t started_at_ms;
	int64_t end_at_ms;
	int64_t resume_timeout; /* seconds to live when traffic wakes it */
	int vcpu_count;         /* the size: also while it is created, if the node told it before */
	int memory_mib;
	int disk_mib;
	enum record_state state; /* for reading: see below. What the store has of it is where it came from */
	bool auto_pause;         /* at its end, instead of a kill */
	bool auto_pause_disk;    /* that keeps its disk alone; not stored: the node tells */
	bool disk_only;          /* paused so: no traffic may wake it; not stored: the node tells */
	bool auto_resume;        /* by traffic */
	unsigned resumes;        /* questions to resume it that the node has not answered; not stored */
	bool switching;          /* the same of a change of what it may reach */
	struct visits *visits;   /* NULL: there were none yet; not stored */
	struct mounted *mounted; /* its volumes being served (volumes/mounted.h); NULL: none; not stored */
	int64_t changed_ms;      /* when the state or the end was last heard of or changed; not stored */
};

const char *record_state_name(enum record_state state);

/*
 * What the node says of a sandbox: place, times, size and state. False: that is no sandbox, and the record is
 * as before. What the node was asked for goes on: only its answer ends that.
 */
bool record_take(struct record *record, const json_t *sandbox);

/*
 * What the node plans with it: when it ends, and what its pauses leave out. Part of record_take. Whether the
 * end is another one than we knew, as after a crash of ours in the middle of a change.
 */
bool record_take_plans(struct record *record, const json_t *sandbox);

/* The node has moved its end. */
void record_set_end(struct record *record, int64_t end_at_ms);

/* As it is read from the store. */
void record_load_state(struct record *record, bool running, bool paused);

/* The node is asked to pause it. False: it is not in the state for that. */
bool record_begin_pause(struct record *record);

/* The node has done that, or not. */
void record_end_pause(struct record *record, bool done);

/* The node is asked to resume it, also if it was asked before and has not answered. False: it is not asleep.
 */
bool record_begin_resume(struct record *record);

/* One answer to that: the machine runs, or not. */
void record_end_resume(struct record *record, bool done);

/* It runs, or did until the pause that it was asked for. */
bool record_has_machine(const struct record *record);

/* Running, and its time is not over. Over, with auto_pause, it counts as paused: that is what it is about to
 * be. */
bool record_is_running(const struct record *record);
bool record_is_paused(const struct record *record);

/* Paused, or to be so by a pause that was asked for. */
bool record_is_asleep(const struct record *record);

/* The node was asked to change it: its word on the state may be of before or after. */
bool record_is_moving(const struct record *record);

/* Takes a place among those that run, or is on its way to one; takes space on the disk. */
bool record_takes_room(const struct record *record);
bool record_takes_disk(const struct record *record);

void record_free(struct record *record);

/* One visit more, to be given to visits_leave() once. NULL: there are `most` (0: any number will do), or no
 * memory. */
struct visits *record_enter(struct record *record, unsigned most);
void visits_leave(struct visits *visits);
