/* agent: requests to a sandbox's agent through its monitor's vsock socket. */
#pragma once

#include "node/node.h"

/* What POST /init says after a boot or a restore; strings may be NULL. */
struct agent_identity {
	const char *sandbox_id;
	const char *template_id;
	const char *team_id;
	const char *access_token;
	const char *default_user;
	const char *default_workdir;
	const json_t *env_vars;
	const json_t *volume_mounts; /* as sandbox->volume_mounts */
};

/* Tell it time, entropy and identity. `vsock` is the monitor's socket. `done` gets NULL or why not. */
void agent_init(struct node *node, const char *vsock, const struct agent_identity *identity,
                node_done_fn *done, void *context);

/* Ask whether it lives, until it does or `seconds` have passed. */
void agent_wait(struct node *node, const char *vsock, unsigned seconds, node_done_fn *done, void *context);

/* A GET by the control door; `done` as in http_call_simple. */
void agent_get(struct node *node, const char *vsock, const char *target, unsigned timeout_ms,
               http_simple_fn *done, void *context);

/* POST /prepare-snapshot. */
void agent_prepare_snapshot(struct node *node, const char *vsock, node_done_fn *done, void *context);

/*
 * Run a shell command in the guest as `user`. With `wait` its end is awaited and `exit_code` given to `done`;
 * otherwise `done` comes when it has started, and it stays.
 */
typedef void agent_command_fn(void *context, int exit_code, const struct error *err);
void agent_command(struct node *node, const char *vsock, const char *user, const char *command, bool wait,
                   agent_command_fn *done, void *context);
