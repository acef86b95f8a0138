/*
 * node: one machine's sandboxes. Opens the folder.
 *
 * The daemon is root, talks to no client, and serves the node API on a unix socket. Its truth is the runtime
 * directory: one directory per sandbox with its journal, written before what it tells of. Monitors are
 * separate processes that outlive the daemon; a new one adopts them.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <uv.h>

#include "base/base.h"
#include "net/net.h"

#define NODE_PATH_MAX  256
#define NODE_UID_FIRST 100000 /* monitors run as this plus their slot */
#define NODE_SLOTS     50000

struct pool;
struct network;

/* What it has done since it began. */
struct node_figures {
	uint64_t creates;
	uint64_t create_failures;
	uint64_t resumes;
	uint64_t resume_failures;
	uint64_t pauses;
	uint64_t pause_failures;
};

struct node {
	uv_loop_t *loop;
	const char *run;
	const char *data;
	const char *bin;
	bool emulated; /* the CPU below is software: what costs an emulator most is avoided */
	struct http_client *client;
	struct http_server *server;
	struct list sandboxes;
	struct list templates;
	struct pool *pool;
	struct node_figures figures;
	unsigned warm;       /* sandboxes restored in advance, per template */
	uv_timer_t warming;  /* until the next one is */
	unsigned observe_ms; /* between two looks at a sandbox's use and logs; 0: never */
	uv_timer_t observing;
	uv_timer_t sweeping;     /* of what has been kept long enough */
	uv_timer_t modelling;    /* until models that nobody used are looked for */
	struct network *network; /* NULL: not yet */
	unsigned next_slot;
	uint8_t slots[NODE_SLOTS]; /* how many monitors have each: one, but for those of a crash */
	gid_t gid;                 /* group atoll */
};

/* The node API (docs/interfaces.md); `context` is the node. */
void node_route(struct http_exchange *exchange, void *context);

/* Call `done` once; the message of `err` is for the client of the node API, its code an HTTP status. */
typedef void node_done_fn(void *context, const struct error *err);
