/*
 * envd: the agent in the guest. Opens the folder.
 *
 * It serves the clients' processes and files (Connect RPC and HTTP, on TCP 49983 and vsock 49983), its node
 * (vsock 1024: /init, /prepare-snapshot), and tunnels to local ports (vsock 1025). As pid 1 it also is the
 * guest's init. Everything runs on one libuv loop.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "base/base.h"
#include "connect/connect.h"
#include "net/net.h"

#define ENVD_VERSION      "0.6.13" /* the contract that the SDKs' feature gates ask for */
#define ENVD_PORT         49983    /* TCP and vsock: public */
#define ENVD_PORT_CONTROL 1024     /* vsock: the node's */
#define ENVD_PORT_TUNNEL  1025

/* Which listener a request came by (http_exchange_tag). */
enum envd_door {
	ENVD_DOOR_PUBLIC,
	ENVD_DOOR_CONTROL,
};

struct processes;
struct records;
struct volume_mounts;

struct envd {
	uv_loop_t *loop;
	struct http_server *server;
	struct processes *processes;
	struct records *records;
	struct volume_mounts *volumes;
	uv_timer_t settle;     /* see memory.c */
	struct list watchers;  /* those that clients ask for events, see watch_service.c */
	json_t *env_vars;      /* of the sandbox, for every process */
	char *sandbox_id;      /* NULL: none was told */
	char *token;           /* clients must show it; NULL: none */
	char *default_user;    /* for requests that name none */
	char *default_workdir; /* "" = the user's home */
	bool native;           /* a plain process on a developer's machine: serves TCP only */
};

/* The dispatch of every request; `context` is the struct envd. */
void envd_route(struct http_exchange *exchange, void *context);

/* Serve tunnels on a bound vsock socket; takes `fd`. */
int tunnel_listen(struct envd *envd, int fd, struct error *err);

/* What the kernel's init does, before anything else: mounts, loopback, host name. Reports trouble to the log.
 */
void init_prepare(void);

/* The network interface, where there is one. What fails is logged. */
void init_bring_up_network(void);

/* Memory that is free again goes back to the kernel a while after `memory_settle` was called: with every
 * request. */
void memory_init(struct envd *envd);
void memory_settle(struct envd *envd);

/* GET /metrics. */
void metrics_handle(struct envd *envd, struct http_exchange *exchange);

/* POST /init and /prepare-snapshot, GET /envs and /health. */
void control_health(struct envd *envd, struct http_exchange *exchange);
void control_envs(struct envd *envd, struct http_exchange *exchange);
void control_init(struct envd *envd, struct http_exchange *exchange);
void control_prepare_snapshot(struct envd *envd, struct http_exchange *exchange);

/* GET and POST /files. */
void files_get(struct envd *envd, struct http_exchange *exchange);
void files_post(struct envd *envd, struct http_exchange *exchange);

/* POST /files/compose. */
void files_compose(struct envd *envd, struct http_exchange *exchange);

/* The two Connect services, the second in two parts; their context is the struct envd. */
extern const struct connect_method process_methods[];
extern const struct connect_method filesystem_methods[];
extern const struct connect_method watch_methods[];

struct processes *processes_new(struct envd *envd);
/* Whether there is none, not even one that has ended and may still be asked for. */
bool processes_idle(const struct processes *processes);
/* Wait for what has ended, ours and orphans. */
void processes_reap(struct processes *processes);
