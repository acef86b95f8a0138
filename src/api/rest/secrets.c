/* /secrets: named values of a team. No answer carries a value. */
#include "api/store/secrets.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "api/control.h"
#include "api/rest/rest.h"

#define NAME_MAX_SIZE    128
#define METADATA_ENTRIES 32
#define METADATA_KEY     128 /* bytes, like those that follow */
#define METADATA_VALUE   1024
#define METADATA_SIZE    8192
#define RESERVED_PREFIX  "sec_"

static json_t *secret_json(const struct secret *secret)
{
	char created[TIME_RFC3339_SIZE];
	char updated[TIME_RFC3339_SIZE];

	return json_pack("{s:s,s:s,s:I,s:O,s:s,s:s}", "secretID", secret->id, "name", secret->name,
	                 "currentVersion", (json_int_t)secret->version, "metadata", secret->metadata,
	                 "createdAt", time_format_rfc3339(secret->created_at_ms, created), "updatedAt",
	                 time_format_rfc3339(secret->updated_at_ms, updated));
}

static void fail(struct rest_call *call, int ret, const struct error *err)
{
	rest_fail(call,
	          ret == -EINVAL                     ? 400
	          : ret == -ENOENT                   ? 404
	          : ret == -EEXIST || ret == -EDQUOT ? 409
	                                             : 500,
	          "%s", err->message);
}

/* --- what a request brings --- */

static int read_secret_name(const char *text, char name[NAME_MAX_SIZE + 1], struct error *err)
{
	size_t size = strlen(text);

	if (size < 1 || size > NAME_MAX_SIZE)
		return error_set(err, EINVAL, "the name of a secret has 1 to %d characters", NAME_MAX_SIZE);
	for (size_t i = 0; i <= size; i++)
		name[i] = text[i] >= 'A' && text[i] <= 'Z' ? (char)(text[i] + 32) : text[i];
	if (strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-") < size)
		return error_set(err, EINVAL, "the name of a secret may have letters, digits, '_' and '-'");
	if (strncmp(name, RESERVED_PREFIX, strlen(RESERVED_PREFIX)) == 0)
		return error_set(err, EINVAL,
		                 "names that begin with " RESERVED_PREFIX " are kept for the ids of secrets");
	return 0;
}

static int check_metadata(const json_t *metadata, struct error *err)
{
	size_t total = 0;
	const char *key;
	json_t *value;

	if (json_object_size(metadata) > METADATA_ENTRIES)
		return error_set(err, EINVAL, "metadata may have %d entries", METADATA_ENTRIES);
	json_object_foreach ((json_t *)metadata, key, value) {
		if (strlen(key) > METADATA_KEY || json_string_length(value) > METADATA_VALUE)
			return error_set(err, EINVAL, "metadata: keys may have %d bytes, values %d",
			                 METADATA_KEY, METADATA_VALUE);
		total += strlen(key) + json_string_length(value);
	}
	if (total > METADATA_SIZE)
		return error_set(err, EINVAL, "metadata may have %d bytes in all", METADATA_SIZE);
	return 0;
}

/* `ret_metadata` borrows from the body, NULL when there is none. */
static int read_body(struct rest_call *call, const char **ret_value, json_t **ret_metadata, struct error *err)
{
	int ret = json_read_string(call->body, "value", JSON_REQUIRED, ret_value, err);

	if (ret == 0 && strlen(*ret_value) > SECRET_VALUE_MAX)
		ret = error_set(err, EINVAL, "a secret may have %d bytes", SECRET_VALUE_MAX);
	if (ret == 0)
		ret = json_read_string_map(call->body, "metadata", JSON_OPTIONAL, ret_metadata, err);
	if (ret == 0 && *ret_metadata)
		ret = check_metadata(*ret_metadata, err);
	if (ret == 0 && !call->api->control->secrets_ready)
		ret = error_set(err, EIO, "the service has not got the key that its secrets were made with");
	return ret;
}

static int find(struct rest_call *call, struct secret *ret, struct error *err)
{
	char name[sizeof(call->id)];

	for (size_t i = 0; i < sizeof(name); i++)
		name[i] = call->id[i] >= 'A' && call->id[i] <= 'Z' ? (char)(call->id[i] + 32) : call->id[i];
	return store_find_secret(call->api->store, call->team_id, name, ret, err);
}

/* --- requests --- */

void secrets_create(struct rest_call *call)
{
	struct secret secret = { 0 };
	const char *name = NULL;
	const char *value = NULL;
	json_t *metadata = NULL;
	struct error err = { 0 };
	int ret = json_read_string(call->body, "name", JSON_REQUIRED, &name, &err);

	if (ret == 0)
		ret = read_secret_name(name, secret.name, &err);
	if (ret == 0)
		ret = read_body(call, &value, &metadata, &err);
	if (ret == 0) {
		(void)snprintf(secret.team_id, sizeof(secret.team_id), "%s", call->team_id);
		secret.metadata = metadata ? json_incref(metadata) : json_object();
		ret = store_create_secret(call->api->store, call->api->control->secrets_key, &secret, value,
		                          &err);
	}
	if (ret < 0)
		fail(call, ret, &err);
	else
		rest_reply(call, 201, secret_json(&secret));
	secret_fini(&secret);
}

void secrets_update(struct rest_call *call)
{
	struct secret secret = { 0 };
	const char *value = NULL;
	json_t *metadata = NULL;
	struct error err = { 0 };
	int ret = read_body(call, &value, &metadata, &err);

	if (ret == 0)
		ret = find(call, &secret, &err);
	if (ret == 0 && metadata) {
		/* What is not sent stays; what is sent replaces all of it. */
		json_decref(secret.metadata);
		secret.metadata = json_incref(metadata);
	}
	if (ret == 0)
		ret = store_update_secret(call->api->store, call->api->control->secrets_key, &secret, value,
		                          &err);
	if (ret < 0)
		fail(call, ret, &err);
	else
		rest_reply(call, 200, secret_json(&secret));
	secret_fini(&secret);
}

void secrets_get(struct rest_call *call)
{
	struct secret secret = { 0 };
	struct error err = { 0 };
	int ret = find(call, &secret, &err);

	if (ret < 0)
		fail(call, ret, &err);
	else
		rest_reply(call, 200, secret_json(&secret));
	secret_fini(&secret);
}

void secrets_delete(struct rest_call *call)
{
	struct secret secret = { 0 };
	struct error err = { 0 };
	int ret = find(call, &secret, &err);

	if (ret == 0)
		ret = store_delete_secret(call->api->store, &secret, &err);
	if (ret < 0)
		fail(call, ret, &err);
	else
		rest_reply_empty(call, 204);
	secret_fini(&secret);
}

static void take(void *context, const struct secret *secret)
{
	(void)json_array_append_new(context, secret_json(secret));
}

void secrets_list(struct rest_call *call)
{
	struct error err = { 0 };
	struct rest_page page;
	json_t *list;
	int ret;

	if (!rest_read_page(call, &page))
		return;
	list = json_array();
	/* One more than asked for tells whether there are more. */
	ret = store_list_secrets(call->api->store, call->team_id, page.first, page.limit + 1, take, list,
	                         &err);
	if (ret < 0) {
		json_decref(list);
		fail(call, ret, &err);
		return;
	}
	if (json_array_size(list) > (size_t)page.limit) {
		(void)json_array_remove(list, (size_t)page.limit);
		rest_more(call, &page);
	}
	rest_reply(call, 200, list);
}
