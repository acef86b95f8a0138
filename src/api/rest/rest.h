/*
 * rest: the REST API. Opens the folder.
 *
 * A request becomes a rest_call; its handler replies now or after the node has answered. The client may be
 * gone by then: replying is always allowed, and always ends the call.
 */
#pragma once

#include "api/api.h"
#include "api/registry.h"

struct rest_call {
	struct api *api;
	struct http_exchange *exchange; /* NULL: the client is gone */
	char team_id[64];
	char id[128];        /* what stands for the '*' in the route's path */
	json_t *body;        /* an object, never NULL */
	bool version2;       /* the path began with /v2 */
	char sandbox_id[64]; /* of a create that goes on */
	int64_t number;      /* a handler's own */
	void *own;           /* likewise; its owner frees it */
};

/* Serve a request. */
void rest_route(struct api *api, struct http_exchange *exchange);

/* Each ends the call. `json` is taken. */
void rest_reply(struct rest_call *call, int status, json_t *json);
void rest_reply_empty(struct rest_call *call, int status);
void rest_fail(struct rest_call *call, int status, const char *format, ...)
        __attribute__((format(printf, 3, 4)));

/* The node's answer was not what was hoped for: pass on its reason, or say that it cannot be reached. */
void rest_fail_node(struct rest_call *call, int status, const char *data, size_t size,
                    const struct error *err);

/* The caller's sandbox by the call's id; NULL: the call has been answered with 404. */
struct record *rest_find_sandbox(struct rest_call *call);

/* The same, also when it is paused. */
struct record *rest_find_any(struct rest_call *call);

/* "ID-clientid" is an old form of the id: only ID is kept. False: this is no id. */
bool rest_normalize_id(char *id);

/* What creates and connects say of a sandbox; what lists and details say. New references. */
json_t *sandboxes_answer(const struct record *record);
json_t *sandboxes_entry(const struct record *record);

/* A sandbox to be, to live `timeout` seconds, `secure` with a token; its metadata is the caller's to set.
 * NULL: no memory. */
struct record *sandboxes_new_record(const char *team_id, const char *template, bool secure, int64_t timeout);

/* What asks the node for it, from `template` (a name, or a build's id). New reference. */
json_t *sandboxes_node_request(const struct record *record, const char *template, json_t *env_vars);

/* `network` and `allow_internet_access` of a create: check them (0 or -errno with `err`), keep them
 * (likewise), give them to a copy (likewise), show what is kept in a sandbox's details. */
int network_check(const json_t *body, struct error *err);
int network_keep(struct api *api, const char *id, const json_t *body, struct error *err);
int network_copy(struct api *api, const char *from, const char *to, struct error *err);
void network_show(struct api *api, const char *id, json_t *json);

/* Handlers, by subject. */
void sandboxes_create(struct rest_call *call);
void sandboxes_list(struct rest_call *call);
void sandboxes_get(struct rest_call *call);
void sandboxes_kill(struct rest_call *call);
void sandboxes_set_timeout(struct rest_call *call);
void sandboxes_refresh(struct rest_call *call);
void sandboxes_connect(struct rest_call *call);
void lifecycle_pause(struct rest_call *call);
void lifecycle_resume(struct rest_call *call);

/* Wake a paused sandbox, to live `timeout` seconds; answers 201 with it. */
void lifecycle_wake(struct rest_call *call, struct record *record, int64_t timeout);

void network_update(struct rest_call *call);
void metrics_get(struct rest_call *call);
void metrics_list(struct rest_call *call);
void logs_get(struct rest_call *call);
void snapshots_create(struct rest_call *call);
void snapshots_list(struct rest_call *call);
void fork_create(struct rest_call *call);
void templates_list(struct rest_call *call);
void templates_get_alias(struct rest_call *call);
void teams_list(struct rest_call *call);
void volumes_list(struct rest_call *call);
void volumes_create(struct rest_call *call);
void volumes_get(struct rest_call *call);
void volumes_delete(struct rest_call *call);
void rest_not_yet(struct rest_call *call);
