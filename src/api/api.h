/*
 * api: control plane and edge. Opens the folder.
 *
 * One process without privileges, one loop, one listener: requests with a sandbox in their headers or host
 * name go through the edge into that sandbox, all others are the REST API. What lives is kept in memory
 * (registry.h) and in SQLite (store/); the node's word decides what really runs.
 */
#pragma once

#include <jansson.h>
#include <uv.h>

#include "base/base.h"
#include "net/net.h"

#define API_ENVD_VERSION "0.6.13" /* told to clients: their feature gates look at it */
#define API_TIMEOUT_MAX  86400    /* seconds a sandbox may be asked to live */

struct control;
struct registry;
struct store;
struct telemetry;
struct volumes;
struct wake;

struct api {
	uv_loop_t *loop;
	const char *run; /* runtime directory: the node's socket is in it */
	struct store *store;
	struct registry *registry;
	struct control *control; /* control.h */
	struct volumes *volumes;
	struct telemetry *telemetry;
	char request_id[72]; /* of the request whose handler runs, told to the node; "": none */
	struct http_server *server;
	struct http_client *node;     /* to the node */
	struct http_client *upstream; /* into sandboxes */
	uv_timer_t reconcile;
	bool reconcile_again; /* something came up while the node was being asked */
	bool in_doubt;        /* the node did not answer, and has not told since what runs */
	unsigned visits_max;  /* requests and upgraded connections in a sandbox at once; 0: any number */
	struct list switches; /* changes of what a sandbox may reach that wait for another; see reach.c */
	struct wake *wakes;   /* sandboxes that traffic is waking; see edge/wake.h */
};

/* Every request; `context` is the struct api. */
void api_route(struct http_exchange *exchange, void *context);

/* A request to the node API. `body` is taken (NULL: none); `done` as in http_call_simple. */
void api_call_node(struct api *api, const char *method, const char *target, json_t *body,
                   http_simple_fn *done, void *context);

/* Ask the node what runs, now and from time to time, and correct what we believe. */
void api_reconcile(struct api *api);

/* Something looks as if it were not as we believe: ask soon. May be called as often as one likes. */
void api_reconcile_soon(struct api *api);

/* Ask the node for the snapshots that a crash has left unsettled (store/snapshots.h). */
void api_settle_snapshots(struct api *api);

/* The node did not answer a request: what it did of it is in doubt until it tells what runs. */
void api_node_lost(struct api *api);
