/* `volumeMounts` of sandboxes: which of the team's volumes are to be where in the guest. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "api/rest/rest.h"
#include "api/store/volumes.h"
#include "volume/volume.h"

/* E2B's words: clients show them. */
static int check_path(const char *path, struct error *err)
{
	if (!*path)
		return error_set(err, EINVAL, "path cannot be empty");
	if (*path != '/')
		return error_set(err, EINVAL, "path must be absolute");
	if (!path[1])
		return error_set(err, EINVAL, "path must not be the root of the file system");
	if (strlen(path) >= VOLUME_MOUNT_PATH_MAX)
		return error_set(err, EINVAL, "path is longer than %d bytes", VOLUME_MOUNT_PATH_MAX - 1);
	for (const char *slash = path; *slash;) {
		const char *name = slash + 1;
		size_t size = strcspn(name, "/");

		if (size == 0 || (name[0] == '.' && (size == 1 || (size == 2 && name[1] == '.'))))
			return error_set(err, EINVAL, "path must not contain any '.' or '..' components");
		if (size > 255)
			return error_set(err, EINVAL, "path has a name of more than 255 bytes");
		slash = name + size;
	}
	for (const char *at = path; *at; at++)
		if ((unsigned char)*at < 0x20 || *at == 0x7f)
			return error_set(err, EINVAL, "path must not contain control characters");
	return 0;
}

static bool is_used(const json_t *mounts, const char *path)
{
	size_t index;
	json_t *mount;

	json_array_foreach (mounts, index, mount)
		if (strcmp(json_string_value(json_object_get(mount, "path")), path) == 0)
			return true;
	return false;
}

/* One of them is taken into `mounts`. -EINVAL: it is wrong, -EIO. */
static int read_one(const struct rest_call *call, const json_t *json, json_t *mounts, struct error *err)
{
	struct volume_record volume = { 0 };
	const char *name = NULL;
	const char *path = NULL;
	int ret = json_read_string(json, "name", JSON_REQUIRED, &name, err);

	if (ret == 0)
		ret = json_read_string(json, "path", JSON_REQUIRED, &path, err);
	if (ret < 0)
		return -EINVAL;
	ret = store_find_volume_named(call->api->store, call->team_id, name, &volume, err);
	if (ret == -ENOENT)
		return error_set(err, EINVAL, "volume '%.128s' not found", name);
	if (ret == 0)
		ret = check_path(path, err);
	if (ret == 0 && is_used(mounts, path))
		return error_set(err, EINVAL, "path '%.300s' is already used", path);
	if (ret == 0)
		(void)json_array_append_new(mounts, json_pack("{s:s,s:s,s:s}", "volume_id", volume.id, "name",
		                                              volume.name, "path", path));
	return ret;
}

int mounts_read(const struct rest_call *call, json_t **ret, struct error *err)
{
	cleanup_buffer struct buffer wrong = { .limit = sizeof(err->message) - 32 };
	cleanup_json json_t *mounts = json_array();
	json_t *list = NULL;
	json_t *json;
	bool refused = false;
	size_t index;

	*ret = NULL;
	if (json_read_array(call->body, "volumeMounts", JSON_OPTIONAL, &list, err) < 0)
		return -EINVAL;
	if (json_array_size(list) > VOLUME_MOUNTS_MAX)
		return error_set(err, EINVAL, "a sandbox may have at most %d volumes mounted",
		                 VOLUME_MOUNTS_MAX);
	json_array_foreach (list, index, json) {
		struct error reason = { 0 };
		int status = json_is_object(json) ? read_one(call, json, mounts, &reason)
		                                  : error_set(&reason, EINVAL, "it must be an object");

		if (status == -EIO)
			return error_set(err, EIO, "the volumes cannot be looked up");
		if (status == 0)
			continue;
		refused = true;
		/* What has no place in the message goes without saying. */
		(void)buffer_printf(&wrong, "%s\t- volume mount #%zu: %s", wrong.size ? "\n" : "", index,
		                    reason.message);
	}
	if (refused)
		return error_set(err, EINVAL, "invalid mounts:\n%s", wrong.size ? wrong.data : "");
	if (json_array_size(mounts))
		*ret = json_incref(mounts);
	return 0;
}

/* Of each, two of what is known under these names. */
static json_t *select_two(const json_t *mounts, const char *first, const char *second)
{
	json_t *list = json_array();
	size_t index;
	json_t *mount;

	json_array_foreach (mounts, index, mount)
		(void)json_array_append_new(list, json_pack("{s:O,s:O}", first, json_object_get(mount, first),
		                                            second, json_object_get(mount, second)));
	return list;
}

json_t *mounts_for_node(const json_t *mounts)
{
	return select_two(mounts, "volume_id", "path");
}

json_t *mounts_show(const json_t *mounts)
{
	return select_two(mounts, "name", "path");
}
