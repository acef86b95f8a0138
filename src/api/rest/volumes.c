/* /volumes: what there is and by which token its content is reached. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "api/rest/rest.h"
#include "api/store/volumes.h"
#include "api/volumes/volumes.h"

#define NAME_LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"

static json_t *answer_of(const struct volume_record *volume)
{
	return json_pack("{s:s,s:s,s:s}", "volumeID", volume->id, "name", volume->name, "token",
	                 volume->token);
}

static void take(void *context, const struct volume_record *volume)
{
	(void)json_array_append_new(context,
	                            json_pack("{s:s,s:s}", "volumeID", volume->id, "name", volume->name));
}

void volumes_list(struct rest_call *call)
{
	json_t *list = json_array();
	struct error err = { 0 };

	if (store_list_volumes(call->api->store, call->team_id, take, list, &err) == 0) {
		rest_reply(call, 200, list);
		return;
	}
	log_error("%s", err.message);
	json_decref(list);
	rest_fail(call, 500, "Error when getting volumes");
}

void volumes_create(struct rest_call *call)
{
	struct volume_record volume = { .created_at_ms = time_wall_ms() };
	struct error err = { 0 };
	const char *name = NULL;
	int ret = json_read_string(call->body, "name", JSON_REQUIRED, &name, &err);

	if (ret < 0) {
		rest_fail(call, 400, "Error when parsing request: %s", err.message);
		return;
	}
	if (!*name || strlen(name) >= sizeof(volume.name) || strspn(name, NAME_LETTERS) != strlen(name)) {
		rest_fail(call, 400, "Invalid volume name");
		return;
	}
	random_uuid(volume.id);
	(void)snprintf(volume.team_id, sizeof(volume.team_id), "%s", call->team_id);
	(void)snprintf(volume.name, sizeof(volume.name), "%s", name);
	(void)snprintf(volume.token, sizeof(volume.token), "vol_");
	random_hex(volume.token + 4, 32);
	/* First its place: with its row it can be used. A place without a row is cleared away. */
	ret = volumes_make(call->api->volumes, volume.id, &err);
	if (ret == 0)
		ret = store_put_volume(call->api->store, &volume, &err);
	if (ret == 0) {
		rest_reply(call, 201, answer_of(&volume));
		return;
	}
	volumes_drop(call->api->volumes, volume.id);
	if (ret != -EEXIST)
		log_error("%s", err.message);
	rest_fail(call, ret == -EEXIST ? 400 : 500, "%s",
	          ret == -EEXIST ? err.message : "Error when creating volume");
}

/* The caller's volume. False: the call has been answered. */
static bool find(struct rest_call *call, struct volume_record *volume)
{
	struct error err = { 0 };
	int ret = store_find_volume(call->api->store, call->id, volume, &err);

	if (ret == 0 && strcmp(volume->team_id, call->team_id) == 0)
		return true;
	if (ret == -EIO) {
		log_error("%s", err.message);
		rest_fail(call, 500, "the volume cannot be looked up");
	} else {
		rest_fail(call, 404, "Volume not found");
	}
	return false;
}

void volumes_get(struct rest_call *call)
{
	struct volume_record volume;

	if (find(call, &volume))
		rest_reply(call, 200, answer_of(&volume));
}

void volumes_delete(struct rest_call *call)
{
	struct volume_record volume;
	struct error err = { 0 };

	if (!find(call, &volume))
		return;
	if (store_delete_volume(call->api->store, volume.id, &err) == -EIO) {
		log_error("%s", err.message);
		rest_fail(call, 500, "Error recording volume deletion");
		return;
	}
	volumes_drop(call->api->volumes, volume.id);
	rest_reply_empty(call, 204);
}
