/*
 * rest: the REST API. Opens the folder.
 *
 * A request becomes a rest_call; its handler replies now or after the node has answered. The client may be
 * gone by then: replying is always allowed, and always ends the call.
 */
#pragma once

#include <stdio.h>

#include "api/api.h"
#include "api/registry.h"
#include "api/store/keys.h"

#define SANDBOXES_TIMEOUT 300 /* seconds to live, when a request of version 2 names none */

struct control_size;

struct rest_call {
	struct api *api;
	struct http_exchange *exchange; /* NULL: the client is gone */
	char team_id[64];
	char key_id[40];     /* of the API key or access token that was sent; "": the admin's */
	char user_id[40];    /* an access token's */
	bool admin;          /* the admin token was sent */
	char id[128];        /* what stands for the last '*' in the route's path */
	char outer[400];     /* the same for the first of two */
	char reference[400]; /* as id, which it may be too long for: a snapshot's name with its team */
	json_t *body;        /* an object, never NULL */
	bool version2;       /* the path began with /v2 */
	char sandbox_id[64]; /* of a create that goes on */
	int64_t number;      /* a handler's own */
	void *own;           /* likewise; its owner frees it */
};

/* Who may use an endpoint. */
enum rest_who {
	WHO_TEAM,        /* an API key; or an access token or the admin token, with a team */
	WHO_USER,        /* an access token */
	WHO_USER_OR_KEY, /* one of these */
	WHO_TEAM_USER,   /* an access token or the admin token, with a team: API keys make no API keys */
	WHO_ADMIN,       /* the admin token */
};

/* Find out who asks, and whether that is too often. False: the call has been answered. */
bool rest_authenticate(struct rest_call *call, enum rest_who who);

/* May the caller's team start `count` more of this size? False: the call has been answered. */
bool rest_may_start(struct rest_call *call, unsigned count, const struct control_size *size);

/* Why control_may_start or resume_ask refused, as a status; the call is answered with it. */
int rest_start_status(const struct error *err);
void rest_fail_start(struct rest_call *call, const struct error *err);

/* Print the routes, one a line: method, path, who. */
void rest_print_routes(FILE *to);

/* "TEAM/name" of another team than the caller's: none of the caller's snapshots is meant. */
bool rest_names_other_team(const struct rest_call *call, const char *reference);

/* A page of a list: `limit` (1 to 100, else 100) from `first` on, by the query. False: the call has been
 * answered. */
struct rest_page {
	long first;
	long limit;
};
bool rest_read_page(struct rest_call *call, struct rest_page *ret);

/* Say where the next page begins. */
void rest_more(struct rest_call *call, const struct rest_page *page);

/* A number of the query that is not negative; one that is not there leaves `ret`. False: it is none, and the
 * call has been answered. */
bool rest_read_number(struct rest_call *call, const char *name, int64_t *ret);

/* Whether a text that may be NULL is NULL or one of these. */
bool rest_is_one_of(const char *text, const char *const *names, size_t count);

/* A required text of a body: 1 to 127 bytes without control characters. NULL: the call has been answered. */
const char *rest_read_name(struct rest_call *call, const char *key);

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

/* A template's name of "name", "namespace/name" and either with ":default", in lower case. 0, -EINVAL or
 * -ENOENT (another tag) with `err`. */
int sandboxes_read_template(const char *text, char name[128], struct error *err);
/* "ID-clientid" is an old form of the id: only ID is kept. False: this is no id. */
bool rest_normalize_id(char *id);

/* What creates and connects say of a sandbox; what lists and details say. New references. */
json_t *sandboxes_answer(const struct record *record);
json_t *sandboxes_entry(const struct record *record);

/* How long a sandbox may be asked to live, in seconds. 0 or -EINVAL with `err`. */
int sandboxes_check_timeout(int64_t timeout, struct error *err);

/* Ask the node to move a sandbox's end, no further than it may live in all; call->number gets where to. */
void sandboxes_ask_end(struct rest_call *call, const struct record *record, int64_t end_at_ms,
                       http_simple_fn *done);

/* A sandbox to be, to live `timeout` seconds, `secure` with a token; its metadata is the caller's to set.
 * NULL: no memory. */
struct record *sandboxes_new_record(const char *team_id, const char *template, bool secure, int64_t timeout);

/* What asks the node for it, from `template` (a name, or a build's id). New reference. */
json_t *sandboxes_node_request(const struct record *record, const char *template, json_t *env_vars);

/* The node made a sandbox that cannot be given to anyone: have it killed. */
void sandboxes_undo(struct api *api, const char *id);

/* What a new key or token is told as, with its text; what one is listed as. New references. */
json_t *keys_created(const struct key *key, const char *text);
json_t *keys_entry(const struct key *key);
/* `network` and `allow_internet_access` of a create: check them (0 or -errno with `err`), keep them
 * (likewise), show what is kept in a sandbox's details. */
int network_check(const json_t *body, struct error *err);
int network_keep(struct api *api, const char *id, const json_t *body, struct error *err);
void network_show(struct api *api, const char *id, json_t *json);

/*
 * `volumeMounts` of a create: new reference to what the record has of it, or NULL for none. 0; -EINVAL with
 * all that is wrong, -EIO. What the node is told of them; what clients are. New references.
 */
int mounts_read(const struct rest_call *call, json_t **ret, struct error *err);
json_t *mounts_for_node(const json_t *mounts);
json_t *mounts_show(const json_t *mounts);

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
void templates_get(struct rest_call *call);
void templates_get_alias(struct rest_call *call);
void templates_update(struct rest_call *call);
void templates_delete(struct rest_call *call);
void builds_status(struct rest_call *call);
void builds_logs(struct rest_call *call);
void templates_tags(struct rest_call *call);
void teams_list(struct rest_call *call);
void teams_metrics(struct rest_call *call);
void teams_metrics_max(struct rest_call *call);
void teams_admin_list(struct rest_call *call);
void teams_admin_create(struct rest_call *call);
void teams_admin_update(struct rest_call *call);
void nodes_list(struct rest_call *call);
void nodes_get(struct rest_call *call);
void nodes_set_status(struct rest_call *call);
void nodes_kill_team(struct rest_call *call);
void nodes_running_counts(struct rest_call *call);
void nodes_cancel_builds(struct rest_call *call);
void secrets_list(struct rest_call *call);
void secrets_create(struct rest_call *call);
void secrets_get(struct rest_call *call);
void secrets_update(struct rest_call *call);
void secrets_delete(struct rest_call *call);
void keys_list(struct rest_call *call);
void keys_create(struct rest_call *call);
void keys_rename(struct rest_call *call);
void keys_delete(struct rest_call *call);
void keys_admin_create(struct rest_call *call);
void keys_admin_delete(struct rest_call *call);
void tokens_create(struct rest_call *call);
void tokens_delete(struct rest_call *call);
void tokens_admin_create(struct rest_call *call);
void volumes_list(struct rest_call *call);
void volumes_create(struct rest_call *call);
void volumes_get(struct rest_call *call);
void volumes_delete(struct rest_call *call);
void rest_not_yet(struct rest_call *call);
