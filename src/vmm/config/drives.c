/* Drive of Firecracker's API, with the layers that docs/interfaces.md adds. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "vmm/config/internal.h"

int config_read_layers(const json_t *object, struct block_config *drive, struct error *err)
{
	json_t *layers = NULL;
	int ret = json_read_array(object, "layers", JSON_OPTIONAL, &layers, err);
	size_t count = json_array_size(layers);

	if (ret < 0)
		return ret;
	if (count > BLOCK_LAYERS_MAX)
		return error_set(err, E2BIG, "drive %s has more than %d layers", drive->id, BLOCK_LAYERS_MAX);
	for (size_t i = 0; i < count; i++) {
		drive->layers[i] = json_string_value(json_array_get(layers, i));
		if (!drive->layers[i])
			return error_set(err, EINVAL, "the layers of drive %s must be strings", drive->id);
	}
	drive->layer_count = (unsigned)count;
	return 0;
}

static int read_choices(const json_t *object, struct block_config *drive, struct error *err)
{
	const char *cache = "Unsafe";
	const char *engine = "Sync";
	int ret = json_read_string(object, "cache_type", JSON_OPTIONAL, &cache, err);

	if (ret == 0)
		ret = json_read_string(object, "io_engine", JSON_OPTIONAL, &engine, err);
	if (ret < 0)
		return ret;
	if (strcmp(cache, "Unsafe") != 0 && strcmp(cache, "Writeback") != 0)
		return error_set(err, EINVAL, "cache_type must be Unsafe or Writeback, not '%s'", cache);
	if (strcmp(engine, "Sync") != 0 && strcmp(engine, "Async") != 0)
		return error_set(err, EINVAL, "io_engine must be Sync or Async, not '%s'", engine);
	drive->writeback = strcmp(cache, "Writeback") == 0;
	drive->engine = strcmp(engine, "Async") == 0 ? BLOCK_ENGINE_ASYNC : BLOCK_ENGINE_SYNC;
	return 0;
}

static int read_paths(const json_t *object, struct block_config *drive, struct error *err)
{
	const char *socket = NULL;
	int ret = json_read_string(object, "socket", JSON_OPTIONAL, &socket, err);

	if (ret == 0 && socket)
		return error_set(err, ENOTSUP, "drive %s: vhost-user drives (socket) are not supported",
		                 drive->id);
	if (ret == 0)
		ret = json_read_string(object, "path_on_host", JSON_REQUIRED, &drive->path, err);
	if (ret == 0)
		ret = json_read_string(object, "overlay_path", JSON_OPTIONAL, &drive->overlay_path, err);
	return ret < 0 ? ret : config_read_layers(object, drive, err);
}

/* *ret_root tells whether it is the root device. */
static int read_drive(const json_t *object, struct block_config *drive, bool *ret_root, struct error *err)
{
	static const char *const known[] = { "drive_id",   "path_on_host", "is_root_device", "is_read_only",
		                             "cache_type", "layers",       "overlay_path",   "partuuid",
		                             "io_engine",  "rate_limiter", "socket",         NULL };
	const char *id = NULL;
	int ret = config_only_known(object, "a drive", known, err);

	if (ret == 0)
		ret = json_read_string(object, "drive_id", JSON_REQUIRED, &id, err);
	if (ret == 0)
		ret = config_check_id(id, "drive_id", err);
	if (ret < 0)
		return ret;
	(void)snprintf(drive->id, sizeof(drive->id), "%s", id);
	ret = json_read_bool(object, "is_root_device", JSON_REQUIRED, ret_root, err);
	if (ret == 0)
		ret = json_read_bool(object, "is_read_only", JSON_OPTIONAL, &drive->read_only, err);
	if (ret == 0)
		ret = read_paths(object, drive, err);
	if (ret == 0)
		ret = read_choices(object, drive, err);
	return ret < 0 ? ret : config_read_limiter(object, "rate_limiter", &drive->limits, NULL, err);
}

static int check_unique(const struct machine_config *config, const struct block_config *drive,
                        struct error *err)
{
	for (const struct block_config *other = config->drives; other < drive; other++)
		if (strcmp(other->id, drive->id) == 0)
			return error_set(err, EINVAL, "there are two drives %s", drive->id);
	return 0;
}

/* The root device comes first: it is the guest's vda. */
static void move_to_front(struct machine_config *config, unsigned index)
{
	struct block_config root = config->drives[index];

	memmove(config->drives + 1, config->drives, index * sizeof(root));
	config->drives[0] = root;
	config->has_root_drive = true;
}

int config_read_drives(const json_t *root, struct machine_config *config, struct error *err)
{
	json_t *drives = NULL;
	int ret = json_read_array(root, "drives", JSON_OPTIONAL, &drives, err);
	size_t count = json_array_size(drives);

	if (ret == 0 && count > MACHINE_DRIVES_MAX)
		return error_set(err, E2BIG, "a machine has at most %d drives", MACHINE_DRIVES_MAX);
	for (unsigned i = 0; ret == 0 && i < count; i++) {
		const json_t *object = json_array_get(drives, i);
		bool is_root = false;

		ret = read_drive(object, &config->drives[i], &is_root, err);
		if (ret == 0)
			ret = check_unique(config, &config->drives[i], err);
		config->drive_count++;
		if (ret < 0 || !is_root)
			continue;
		if (config->has_root_drive)
			return error_set(err, EINVAL, "drive %s: there is a root device already",
			                 config->drives[i].id);
		ret = json_read_string(object, "partuuid", JSON_OPTIONAL, &config->root_partuuid, err);
		move_to_front(config, i);
	}
	return ret;
}
