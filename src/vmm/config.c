#include "vmm/config.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"

#define FILE_LIMIT (256 * 1024)

int config_only_known(const json_t *object, const char *what, const char *const *known, struct error *err)
{
	const char *key;
	json_t *value;

	json_object_foreach ((json_t *)(uintptr_t)object, key, value) {
		const char *const *name = known;

		while (*name && strcmp(*name, key) != 0)
			name++;
		if (!*name)
			return error_set(err, EINVAL, "unknown field '%s' in %s", key, what);
	}
	return 0;
}

static int read_machine(const json_t *root, struct machine_config *config, struct error *err)
{
	static const char *const known[] = { "vcpu_count", "mem_size_mib", NULL };
	int64_t vcpus = 1;
	int64_t memory = 128;
	json_t *object = NULL;
	int ret = json_read_object(root, "machine-config", JSON_OPTIONAL, &object, err);

	if (ret == 0 && object)
		ret = config_only_known(object, "machine-config", known, err);
	if (ret == 0 && object)
		ret = json_read_integer(object, "vcpu_count", JSON_REQUIRED, 1, LAYOUT_VCPUS_MAX, &vcpus,
		                        err);
	if (ret == 0 && object)
		ret = json_read_integer(object, "mem_size_mib", JSON_REQUIRED, 128, 32768, &memory, err);
	config->vcpu_count = (unsigned)vcpus;
	config->mem_size_mib = (uint64_t)memory;
	return ret;
}

static int read_boot_source(const json_t *root, struct machine_config *config, struct error *err)
{
	static const char *const known[] = { "kernel_image_path", "initrd_path", "boot_args", NULL };
	json_t *object = NULL;
	int ret = json_read_object(root, "boot-source", JSON_OPTIONAL, &object, err);

	if (ret < 0 || !object)
		return ret;
	if (ret == 0)
		ret = config_only_known(object, "boot-source", known, err);
	if (ret == 0)
		ret = json_read_string(object, "kernel_image_path", JSON_REQUIRED, &config->kernel_image_path,
		                       err);
	if (ret == 0)
		ret = json_read_string(object, "initrd_path", JSON_OPTIONAL, &config->initrd_path, err);
	if (ret == 0)
		ret = json_read_string(object, "boot_args", JSON_OPTIONAL, &config->boot_args, err);
	return ret;
}

static int read_layers(const json_t *object, struct block_config *drive, struct error *err)
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

static int read_drive(const json_t *object, struct block_config *drive, struct error *err)
{
	static const char *const known[] = { "drive_id",   "path_on_host", "is_root_device", "is_read_only",
		                             "cache_type", "layers",       "overlay_path",   NULL };
	const char *id = NULL;
	const char *cache = "Unsafe";
	bool root = false;
	int ret = config_only_known(object, "a drive", known, err);

	if (ret == 0)
		ret = json_read_string(object, "drive_id", JSON_REQUIRED, &id, err);
	if (ret == 0)
		ret = json_read_string(object, "path_on_host", JSON_REQUIRED, &drive->path, err);
	if (ret == 0)
		ret = json_read_bool(object, "is_root_device", JSON_REQUIRED, &root, err);
	if (ret == 0)
		ret = json_read_bool(object, "is_read_only", JSON_OPTIONAL, &drive->read_only, err);
	if (ret == 0)
		ret = json_read_string(object, "cache_type", JSON_OPTIONAL, &cache, err);
	if (ret == 0)
		ret = json_read_string(object, "overlay_path", JSON_OPTIONAL, &drive->overlay_path, err);
	if (ret < 0)
		return ret;
	if (strcmp(cache, "Unsafe") != 0 && strcmp(cache, "Writeback") != 0)
		return error_set(err, EINVAL, "cache_type must be Unsafe or Writeback, not '%s'", cache);
	drive->writeback = strcmp(cache, "Writeback") == 0;
	(void)snprintf(drive->id, sizeof(drive->id), "%s", id);
	return read_layers(object, drive, err);
}

static int read_drives(const json_t *root, struct machine_config *config, struct error *err)
{
	json_t *drives = NULL;
	int ret = json_read_array(root, "drives", JSON_OPTIONAL, &drives, err);
	size_t count = json_array_size(drives);

	if (ret == 0 && count > MACHINE_DRIVES_MAX)
		return error_set(err, E2BIG, "a machine has at most %d drives", MACHINE_DRIVES_MAX);
	for (size_t i = 0; ret == 0 && i < count; i++)
		ret = read_drive(json_array_get(drives, i), &config->drives[config->drive_count++], err);
	return ret;
}

static int read_vsock(const json_t *root, struct machine_config *config, struct error *err)
{
	static const char *const known[] = { "vsock_id", "guest_cid", "uds_path", NULL };
	json_t *object = NULL;
	int64_t cid = 0;
	int ret = json_read_object(root, "vsock", JSON_OPTIONAL, &object, err);

	if (ret < 0 || !object)
		return ret;
	ret = config_only_known(object, "vsock", known, err);
	if (ret == 0)
		ret = json_read_integer(object, "guest_cid", JSON_REQUIRED, 3, UINT32_MAX - 1, &cid, err);
	if (ret == 0)
		ret = json_read_string(object, "uds_path", JSON_REQUIRED, &config->vsock.uds_path, err);
	config->vsock.guest_cid = (uint32_t)cid;
	return ret;
}

int config_read(const json_t *root, struct machine_config *config, struct error *err)
{
	static const char *const known[] = { "machine-config", "boot-source", "drives", "vsock",
		                             "entropy",        "serial",      NULL };
	json_t *entropy = NULL;
	json_t *serial = NULL;
	int ret = config_only_known(root, "the configuration", known, err);

	*config = (struct machine_config){ 0 };

	if (ret == 0)
		ret = read_machine(root, config, err);
	if (ret == 0)
		ret = read_boot_source(root, config, err);
	if (ret == 0)
		ret = read_drives(root, config, err);
	if (ret == 0)
		ret = read_vsock(root, config, err);
	if (ret == 0)
		ret = json_read_object(root, "entropy", JSON_OPTIONAL, &entropy, err);
	if (ret == 0)
		ret = json_read_object(root, "serial", JSON_OPTIONAL, &serial, err);
	config->entropy = entropy != NULL;
	if (ret == 0 && serial)
		ret = json_read_string(serial, "serial_out_path", JSON_OPTIONAL, &config->serial_out_path,
		                       err);
	return ret;
}

int config_read_file(const char *path, json_t **ret_json, struct error *err)
{
	cleanup_buffer struct buffer text = { .limit = FILE_LIMIT };
	struct machine_config config;
	json_t *root = NULL;
	int ret = file_read(path, &text, err);

	if (ret == 0)
		ret = json_parse_object(text.data, text.size, &root, err);
	if (ret == 0)
		ret = config_read(root, &config, err);
	if (ret == 0 && !config.kernel_image_path)
		ret = error_set(err, EINVAL, "boot-source is missing");
	if (ret < 0) {
		json_decref(root);
		return error_wrap(err, "configuration %s", path);
	}
	*ret_json = root;
	return 0;
}
