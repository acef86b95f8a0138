/*
 * sandbox: one sandbox from create to kill, with pauses in between.
 *
 * Its directory in the runtime directory holds its journal, which is written before what it tells of takes
 * effect: "starting" before the machine is loaded, "running" before the create is answered. Its directory in
 * the data directory holds its private disk and, while it is paused, the journal of that: who has one there
 * is paused, whatever the runtime directory says (stack.h).
 */
#pragma once

#include "node/monitor.h"
#include "node/sandbox_state.h"
#include "node/stack.h"
#include "node/template.h"

struct history;

struct sandbox {
	struct list link;
	struct node *node;
	struct monitor *monitor;
	enum sandbox_state state; /* for reading: see there */
	node_done_fn *on_rest;    /* a resume that came while it was on its way to its pause */
	void *rest_context;
	int64_t rest_end_at_ms;
	bool internet;          /* it may reach that */
	bool switching;         /* between that and not */
	bool auto_pause;        /* at its end, instead of a kill */
	bool auto_pause_memory; /* that keeps the memory too */
	unsigned starts;        /* of its machine: answers to an earlier one count no more */
	int64_t started_us;     /* monotonic: when the last of them was asked for */
	struct stack stack;     /* its own part of memory and disk */
	char id[64];
	char build_id[40];
	char template_name[128];
	char template_id[128]; /* as the caller named it */
	char team_id[64];
	char alias[128];
	char *access_token; /* NULL: none */
	json_t *metadata;
	json_t *env_vars;
	json_t *volume_mounts; /* [{"volume_id","path"}]; NULL: none */
	int64_t started_at_ms;
	int64_t end_at_ms;
	unsigned vcpu_count;
	unsigned memory_mib;
	unsigned disk_mib;
	char directory[NODE_PATH_MAX];
	uv_timer_t deadline;
	struct history *history;  /* NULL: not yet looked at */
	int64_t observe_at_us;    /* when to look again */
	unsigned fetches;         /* of its logs, this time */
	bool observed;            /* an answer to that is on its way */
	node_done_fn *on_created; /* of the create that goes on */
	void *create_context;
	struct list killers; /* who waits for its end */
	unsigned pending;    /* answers that are still to come: it is not freed before */
};

/* What a create asks for. Strings and objects are borrowed during the call. */
struct sandbox_request {
	const char *sandbox_id; /* NULL: one is made */
	const char *template;
	const char *template_id;
	const char *team_id;
	const char *alias;
	const char *access_token; /* NULL: none */
	json_t *metadata;
	json_t *env_vars;
	json_t *volume_mounts; /* NULL: none */
	int64_t end_at_ms;
	bool auto_pause;
	bool auto_pause_memory;
	bool internet;
};

/*
 * Restore one. `done` gets NULL when it can be used, or an error whose code is an HTTP status; in between the
 * returned object is valid. NULL: `done` has been called with the reason.
 */
struct sandbox *sandbox_create(struct node *node, const struct sandbox_request *request, node_done_fn *done,
                               void *context);

/*
 * Restore sandboxes in advance, as many as node->warm says of each template, one after the other. A spare one
 * has rehearsed: its agent was given a name and ran the template's warm_cmd, which brings in the pages that
 * every start touches; then it was paused. A create gives it its own identity and lets it run.
 */
void sandboxes_warm_up(struct node *node);

/*
 * Stop it and keep all of it in files, or without `memory` its disk alone, from which it is booted later; let
 * it go on, until `end_at_ms`; keep what it is now as the template `build_id` (a UUID) called `name`, while
 * it goes on. `done` as for sandbox_create (409: it is not in the state for it; 501: its template is too old
 * to be booted).
 */
void sandbox_pause(struct sandbox *sandbox, bool memory, node_done_fn *done, void *context);
void sandbox_resume(struct sandbox *sandbox, int64_t end_at_ms, node_done_fn *done, void *context);
void sandbox_snapshot(struct sandbox *sandbox, const char *build_id, bool ephemeral, node_done_fn *done,
                      void *context);

/* Let it reach the internet, or nothing: what is under way ends. `done` as for sandbox_create (409 as there).
 */
void sandbox_set_internet(struct sandbox *sandbox, bool internet, node_done_fn *done, void *context);

/* One that clients may know, running or paused. NULL: none. */
struct sandbox *sandbox_find(struct node *node, const char *id);

/* Move its end; kills at once when that has passed. 0 or -errno with `err`. */
int sandbox_set_end(struct sandbox *sandbox, int64_t end_at_ms, struct error *err);

/* Kill it. `done` is called when its guest runs no more. */
void sandbox_kill(struct sandbox *sandbox, node_done_fn *done, void *context);

/* The object that the node API shows. */
json_t *sandbox_json(const struct sandbox *sandbox);

/* Take up what an earlier life of the daemon left, and clear away what was half made. */
int sandboxes_adopt(struct node *node, struct error *err);
