#include "vmm/api/snapshots.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

/* --- create --- */

/* What a restore needs of the configuration: all but how the guest was booted. */
static int add_config(const struct api *api, struct snapshot_writer *writer, struct error *err)
{
	cleanup_json json_t *config = json_deep_copy(api->config);
	cleanup_free char *text = NULL;

	(void)json_object_del(config, "boot-source");
	text = json_dumps(config, JSON_COMPACT);
	if (!text)
		return error_errno(err, ENOMEM, "save the configuration");
	return snapshot_add(writer, SNAPSHOT_CONFIG, 0, text, strlen(text), err);
}

int snapshots_create(struct api *api, const json_t *body, struct error *err)
{
	static const char *const known[] = { "snapshot_path", "mem_file_path", "snapshot_type", NULL };
	struct snapshot_writer writer;
	const char *state_path = NULL;
	const char *memory_path = NULL;
	const char *type = "Full";
	int ret = config_only_known(body, "the snapshot", known, err);

	if (ret == 0)
		ret = json_read_string(body, "snapshot_path", JSON_REQUIRED, &state_path, err);
	if (ret == 0)
		ret = json_read_string(body, "mem_file_path", JSON_REQUIRED, &memory_path, err);
	if (ret == 0)
		ret = json_read_string(body, "snapshot_type", JSON_OPTIONAL, &type, err);
	if (ret == 0 && strcmp(type, "Full") != 0)
		ret = error_set(err, ENOTSUP, "snapshots of type '%s' are not supported yet", type);
	if (ret < 0)
		return ret;
	snapshot_writer_init(&writer);
	ret = add_config(api, &writer, err);
	if (ret == 0)
		ret = machine_save(api->machine, &writer, memory_path, err);
	/* Last: where the state file is, the memory file is whole. */
	if (ret == 0)
		ret = snapshot_write(&writer, state_path, err);
	snapshot_writer_fini(&writer);
	return ret;
}

/* --- load --- */

struct load {
	const char *state_path;
	const char *memory_path;
	bool resume;
	json_t *drives; /* overrides; NULL: none */
	json_t *vsock;
	json_t *serial;
};

static int read_backend(const json_t *body, struct load *load, struct error *err)
{
	static const char *const known[] = { "backend_type", "backend_path", NULL };
	json_t *backend = NULL;
	const char *type = NULL;
	int ret = json_read_object(body, "mem_backend", JSON_OPTIONAL, &backend, err);

	if (ret == 0)
		ret = json_read_string(body, "mem_file_path", JSON_OPTIONAL, &load->memory_path, err);
	if (ret < 0)
		return ret;
	if (!backend == !load->memory_path)
		return error_set(err, EINVAL, "exactly one of mem_backend and mem_file_path must be given");
	if (!backend)
		return 0;
	ret = config_only_known(backend, "mem_backend", known, err);
	if (ret == 0)
		ret = json_read_string(backend, "backend_type", JSON_REQUIRED, &type, err);
	if (ret == 0)
		ret = json_read_string(backend, "backend_path", JSON_REQUIRED, &load->memory_path, err);
	if (ret == 0 && strcmp(type, "File") != 0)
		ret = error_set(err, ENOTSUP, "a memory backend of type '%s' is not supported yet", type);
	return ret;
}

static int read_load(const json_t *body, struct load *load, struct error *err)
{
	static const char *const known[] = { "snapshot_path",   "mem_backend",
		                             "mem_file_path",   "resume_vm",
		                             "drive_overrides", "vsock_override",
		                             "serial_override", NULL };
	int ret = config_only_known(body, "the snapshot", known, err);

	if (ret == 0)
		ret = json_read_string(body, "snapshot_path", JSON_REQUIRED, &load->state_path, err);
	if (ret == 0)
		ret = read_backend(body, load, err);
	if (ret == 0)
		ret = json_read_bool(body, "resume_vm", JSON_OPTIONAL, &load->resume, err);
	if (ret == 0)
		ret = json_read_array(body, "drive_overrides", JSON_OPTIONAL, &load->drives, err);
	if (ret == 0)
		ret = json_read_object(body, "vsock_override", JSON_OPTIONAL, &load->vsock, err);
	if (ret == 0)
		ret = json_read_object(body, "serial_override", JSON_OPTIONAL, &load->serial, err);
	return ret;
}

/* Where this copy's files are, instead of where the original's were. */
static int override_drive(json_t *config, json_t *change, struct error *err)
{
	static const char *const known[] = { "drive_id", "path_on_host", "layers", "overlay_path", NULL };
	const char *id = NULL;
	size_t index;
	json_t *drive;
	int ret = json_is_object(change) ? config_only_known(change, "drive_overrides", known, err)
	                                 : error_set(err, EINVAL, "drive_overrides must be objects");

	if (ret == 0)
		ret = json_read_string(change, "drive_id", JSON_REQUIRED, &id, err);
	if (ret < 0)
		return ret;
	json_array_foreach (json_object_get(config, "drives"), index, drive) {
		const char *other = json_string_value(json_object_get(drive, "drive_id"));

		if (other && strcmp(other, id) == 0)
			return json_object_update(drive, change) < 0 ? error_errno(err, ENOMEM, "override")
			                                             : 0;
	}
	return error_set(err, EINVAL, "the snapshot has no drive '%s'", id);
}

static int override_member(json_t *config, const char *name, json_t *change, struct error *err)
{
	json_t *member = json_object_get(config, name);

	if (!change)
		return 0;
	if (!member && strcmp(name, "vsock") == 0)
		return error_set(err, EINVAL, "the snapshot has no vsock");
	if (!member) {
		member = json_object();
		(void)json_object_set_new(config, name, member);
	}
	return json_object_update(member, change) < 0 ? error_errno(err, ENOMEM, "override") : 0;
}

static int read_config(const struct snapshot_reader *snapshot, const struct load *load, json_t **ret_config,
                       struct machine_config *parsed, struct error *err)
{
	const void *text;
	size_t size;
	size_t index;
	json_t *change;
	int ret = snapshot_find(snapshot, SNAPSHOT_CONFIG, 0, &text, &size, err);

	if (ret == 0)
		ret = json_parse_object(text, size, ret_config, err);
	json_array_foreach (load->drives, index, change)
		if (ret == 0)
			ret = override_drive(*ret_config, change, err);
	if (ret == 0)
		ret = override_member(*ret_config, "vsock", load->vsock, err);
	if (ret == 0)
		ret = override_member(*ret_config, "serial", load->serial, err);
	return ret < 0 ? ret : config_read(*ret_config, parsed, err);
}

static int restore(struct api *api, const struct load *load, const struct snapshot_reader *snapshot,
                   struct error *err)
{
	cleanup_json json_t *config = NULL;
	struct machine_config parsed;
	int ret = read_config(snapshot, load, &config, &parsed, err);

	if (ret == 0)
		ret = api_make_machine(api, 0, err);
	if (ret < 0)
		return ret;
	ret = machine_restore(api->machine, &parsed, snapshot, load->memory_path, err);
	/* Half a machine is of no use to anybody: as in Firecracker the process ends. */
	api->fatal = ret < 0;
	if (ret == 0) {
		json_decref(api->config);
		api->config = json_incref(config);
		if (load->resume)
			ret = machine_resume(api->machine, err);
	}
	return ret;
}

int snapshots_load(struct api *api, const json_t *body, struct error *err)
{
	struct snapshot_reader snapshot;
	struct load load = { 0 };
	int ret = read_load(body, &load, err);

	if (ret == 0 && json_object_size(api->config))
		ret = error_set(err, EINVAL, "a machine that was configured cannot load a snapshot");
	if (ret == 0)
		ret = snapshot_read(&snapshot, load.state_path, err);
	if (ret < 0)
		return ret;
	ret = restore(api, &load, &snapshot, err);
	snapshot_reader_fini(&snapshot);
	return ret;
}
