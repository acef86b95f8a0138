/* API keys of a team, access tokens of a user: each is shown once, when it is made. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "api/rest/rest.h"

/* As messages call them, and where the text stands in the answer to a create. */
static const struct {
	const char *what;
	const char *field;
} kinds[] = { [KEY_API] = { "API key", "key" }, [KEY_TOKEN] = { "Access token", "token" } };

/* --- what clients are told --- */

json_t *keys_entry(const struct key *key)
{
	char created[TIME_RFC3339_SIZE];
	char used[TIME_RFC3339_SIZE];
	json_t *json =
	        json_pack("{s:s,s:s,s:{s:s,s:I,s:s,s:s},s:s}", "id", key->id, "name", key->name, "mask",
	                  "prefix", store_key_prefix(key->kind), "valueLength", (json_int_t)key->length,
	                  "maskedValuePrefix", key->start, "maskedValueSuffix", key->end, "createdAt",
	                  time_format_rfc3339(key->created_at_ms, created));

	if (key->kind != KEY_API)
		return json;
	(void)json_object_set_new(json, "createdBy",
	                          key->user_id[0] ? json_pack("{s:s,s:n}", "id", key->user_id, "email")
	                                          : json_null());
	(void)json_object_set_new(json, "lastUsed",
	                          key->last_used_at_ms
	                                  ? json_string(time_format_rfc3339(key->last_used_at_ms, used))
	                                  : json_null());
	return json;
}

json_t *keys_created(const struct key *key, const char *text)
{
	json_t *json = keys_entry(key);

	(void)json_object_set_new(json, kinds[key->kind].field, json_string(text));
	return json;
}

static void fail(struct rest_call *call, int ret, const char *what, const struct error *err)
{
	if (ret == -ENOENT)
		rest_fail(call, 404, "%s not found", what);
	else if (ret == -EPERM)
		rest_fail(call, 403, "this is the service's own key: it is changed in its key file");
	else
		rest_fail(call, ret == -EDQUOT ? 403 : 500, "%s", err->message);
}

/* --- both --- */

static void create(struct rest_call *call, enum key_kind kind, const char *owner, const char *user_id)
{
	const char *name = rest_read_name(call, "name");
	char text[STORE_KEY_SIZE];
	struct error err = { 0 };
	struct key key;
	int ret;

	if (!name)
		return;
	ret = store_create_key(call->api->store, kind, owner, user_id, name, text, &key, &err);
	if (ret < 0)
		fail(call, ret, "", &err);
	else
		rest_reply(call, 201, keys_created(&key, text));
	explicit_bzero(text, sizeof(text));
}

static void remove_key(struct rest_call *call, enum key_kind kind, const char *owner)
{
	struct error err = { 0 };
	int ret = store_delete_key(call->api->store, kind, owner, call->id, &err);

	if (ret < 0)
		fail(call, ret, kinds[kind].what, &err);
	else
		rest_reply_empty(call, 204);
}

void keys_create(struct rest_call *call)
{
	create(call, KEY_API, call->team_id, call->user_id);
}

void keys_delete(struct rest_call *call)
{
	remove_key(call, KEY_API, call->team_id);
}

void tokens_create(struct rest_call *call)
{
	create(call, KEY_TOKEN, call->user_id, call->user_id);
}

void tokens_delete(struct rest_call *call)
{
	remove_key(call, KEY_TOKEN, call->user_id);
}

/* --- API keys alone --- */

static void take(void *context, const struct key *key)
{
	(void)json_array_append_new(context, keys_entry(key));
}

void keys_list(struct rest_call *call)
{
	struct error err = { 0 };
	json_t *list = json_array();
	int ret = store_list_keys(call->api->store, call->team_id, take, list, &err);

	if (ret == 0) {
		rest_reply(call, 200, list);
		return;
	}
	json_decref(list);
	fail(call, ret, "", &err);
}

void keys_rename(struct rest_call *call)
{
	const char *name = rest_read_name(call, "name");
	struct error err = { 0 };
	int ret;

	if (!name)
		return;
	ret = store_rename_key(call->api->store, call->team_id, call->id, name, &err);
	if (ret < 0)
		fail(call, ret, kinds[KEY_API].what, &err);
	else
		rest_reply_empty(call, 200);
}

/* --- both by the admin --- */

static bool find_team(struct rest_call *call, const char *id)
{
	struct error err = { 0 };
	struct team team;
	int ret = store_find_team(call->api->store, id, &team, &err);

	if (ret < 0)
		fail(call, ret, "Team", &err);
	return ret == 0;
}

void keys_admin_create(struct rest_call *call)
{
	if (find_team(call, call->id))
		create(call, KEY_API, call->id, call->user_id);
}

void keys_admin_delete(struct rest_call *call)
{
	if (find_team(call, call->outer))
		remove_key(call, KEY_API, call->outer);
}

/* The first token of a team's user: with it the user makes and deletes others. */
void tokens_admin_create(struct rest_call *call)
{
	char user_id[40] = "";
	struct error err = { 0 };
	int ret = store_team_user(call->api->store, call->id, user_id, &err);

	if (ret < 0)
		fail(call, ret, "Team", &err);
	else
		create(call, KEY_TOKEN, user_id, user_id);
}
