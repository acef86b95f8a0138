/* What a sandbox may reach: kept, and had so by the node. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/reach.h"
#include "api/registry.h"
#include "api/store/networks.h"

#define SETTING_LENGTH 262144

int reach_keep(struct api *api, const char *id, json_t *network, json_t *internet, struct error *err)
{
	cleanup_json json_t *whole = json_pack("{s:O?,s:O?}", "network", network, "internet", internet);
	cleanup_free char *text = whole ? json_dumps(whole, JSON_COMPACT) : NULL;

	if (!text)
		return error_errno(err, ENOMEM, "keep the network's setting");
	if (strlen(text) > SETTING_LENGTH)
		return error_set(err, EINVAL, "the network's setting is larger than %d bytes",
		                 SETTING_LENGTH);
	return store_put_network(api->store, id, text, err);
}

/* 0 and a new reference; -ENOENT: nothing is kept; -EIO: it cannot be read (what the store says is logged).
 */
static int load(struct api *api, const char *id, json_t **ret)
{
	cleanup_free char *text = NULL;
	struct error err = { 0 };
	int result = store_get_network(api->store, id, &text, &err);

	if (result < 0 && result != -ENOENT)
		log_error("%s", err.message);
	*ret = text ? json_loads(text, 0, NULL) : NULL;
	return result < 0 || *ret ? result : -EIO;
}

json_t *reach_load(struct api *api, const char *id)
{
	json_t *whole;

	(void)load(api, id, &whole);
	return whole;
}

int reach_copy(struct api *api, const char *from, const char *to, struct error *err)
{
	cleanup_free char *text = NULL;
	int ret = store_get_network(api->store, from, &text, err);

	return ret < 0 ? (ret == -ENOENT ? 0 : ret) : store_put_network(api->store, to, text, err);
}

/* By what is kept: the internet, or nothing. */
static bool reaches_internet(struct api *api, const char *id)
{
	cleanup_json json_t *whole = NULL;

	if (load(api, id, &whole) == -ENOENT)
		return true;
	/* What cannot be read may have been a refusal. */
	return whole && !json_is_false(json_object_get(whole, "internet")) &&
	       json_array_size(json_object_get(json_object_get(whole, "network"), "denyOut")) == 0;
}

void reach_tell_node(struct api *api, const char *id, json_t *request)
{
	(void)json_object_set_new(request, "internet", json_boolean(reaches_internet(api, id)));
}

/* --- changes --- */

struct change {
	struct api *api;
	char id[sizeof(((struct record *)0)->id)];
	http_simple_fn *done;
	void *context;
};

struct waiting {
	struct list link;
	char id[sizeof(((struct record *)0)->id)];
	void (*go)(void *context);
	void *context;
};

/* Whoever waits and is the first to begin another change keeps the others waiting. */
static void go_on(struct api *api, const char *id)
{
	list_for_each_safe (node, &api->switches) {
		struct waiting *waiting = list_entry(node, struct waiting, link);
		const struct record *record = registry_find(api->registry, id);

		if (strcmp(waiting->id, id) != 0)
			continue;
		if (record && record->switching)
			return;
		list_remove(&waiting->link);
		waiting->go(waiting->context);
		free(waiting);
	}
}

static void on_switched(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct change *change = context;
	struct record *record = registry_find(change->api->registry, change->id);

	if (record)
		record->switching = false;
	change->done(status, data, size, err, change->context);
	go_on(change->api, change->id);
	free(change);
}

void reach_switch(struct api *api, struct record *record, http_simple_fn *done, void *context)
{
	struct change *change = calloc(1, sizeof(*change));
	struct error err = { 0 };
	json_t *request;
	char target[160];

	if (!change) {
		error_errno(&err, ENOMEM, "change what sandbox %s may reach", record->id);
		done(0, NULL, 0, &err, context);
		return;
	}
	*change = (struct change){ .api = api, .done = done, .context = context };
	(void)snprintf(change->id, sizeof(change->id), "%s", record->id);
	record->switching = true;
	request = json_object();
	reach_tell_node(api, record->id, request);
	(void)snprintf(target, sizeof(target), "/v1/sandboxes/%s/network", record->id);
	api_call_node(api, "PUT", target, request, on_switched, change);
}

int reach_wait(struct api *api, const struct record *record, void (*go)(void *context), void *context,
               struct error *err)
{
	struct waiting *waiting = calloc(1, sizeof(*waiting));

	if (!waiting)
		return error_errno(err, ENOMEM, "wait for a change of sandbox %s", record->id);
	*waiting = (struct waiting){ .go = go, .context = context };
	(void)snprintf(waiting->id, sizeof(waiting->id), "%s", record->id);
	list_append(&api->switches, &waiting->link);
	return 0;
}

static void on_followed(int status, const char *data, size_t size, const struct error *err, void *context)
{
	char *id = context;

	(void)data;
	(void)size;
	/* The next list tells of it again. */
	if (status != 204 && status != 404)
		log_error("sandbox %s may reach what it should not, or the reverse: the node answers %d %s",
		          id, status, status == 0 && err ? err->message : "");
	free(id);
}

void reach_follow(struct api *api, struct record *record, const json_t *sandbox)
{
	json_t *internet = json_object_get(sandbox, "internet");
	char *id;

	if (record->switching || !json_is_boolean(internet) ||
	    json_is_true(internet) == reaches_internet(api, record->id))
		return;
	id = strdup(record->id);
	if (!id)
		return;
	log_info("sandbox %s: a change of what it may reach was cut off: the node is told again", id);
	reach_switch(api, record, on_followed, id);
}
