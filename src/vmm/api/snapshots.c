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
	(void)json_object_del(config, "logger");
	(void)json_object_del(config, "metrics");
	text = json_dumps(config, JSON_COMPACT);
	if (!text)
		return error_errno(err, ENOMEM, "save the configuration");
	return snapshot_add(writer, SNAPSHOT_CONFIG, 0, text, strlen(text), err);
}

struct create {
	const char *state_path;
	const char *memory_path;
	bool diff;
};

static int read_create(const json_t *body, struct create *create, struct error *err)
{
	static const char *const known[] = { "snapshot_path", "mem_file_path", "snapshot_type", NULL };
	const char *type = "Full";
	int ret = config_only_known(body, "the snapshot", known, err);

	if (ret == 0)
		ret = json_read_string(body, "snapshot_path", JSON_REQUIRED, &create->state_path, err);
	if (ret == 0)
		ret = json_read_string(body, "mem_file_path", JSON_REQUIRED, &create->memory_path, err);
	if (ret == 0)
		ret = json_read_string(body, "snapshot_type", JSON_OPTIONAL, &type, err);
	if (ret == 0 && strcmp(type, "Full") != 0 && strcmp(type, "Diff") != 0)
		ret = error_set(err, EINVAL, "snapshot_type must be Full or Diff, not '%s'", type);
	create->diff = strcmp(type, "Diff") == 0;
	return ret;
}

int snapshots_create(const struct api_call *call, struct error *err)
{
	struct api *api = call->api;
	struct create create = { 0 };
	struct snapshot_writer writer;
	int64_t begin = time_monotonic_us();
	int ret = read_create(call->body, &create, err);

	if (ret < 0)
		return ret;
	snapshot_writer_init(&writer);
	ret = add_config(api, &writer, err);
	if (ret == 0)
		ret = machine_save(api->machine, &writer, err);
	if (ret == 0)
		ret = machine_save_memory(api->machine, create.memory_path, create.diff, err);
	/* Last: where the state file is, the memory file is whole. */
	if (ret == 0)
		ret = snapshot_write(&writer, create.state_path, err);
	snapshot_writer_fini(&writer);
	if (create.diff)
		api->latencies.diff_create_snapshot = time_monotonic_us() - begin;
	else
		api->latencies.full_create_snapshot = time_monotonic_us() - begin;
	return ret;
}

/* --- load --- */

struct load {
	const char *state_path;
	struct machine_load machine;
	const char *huge_pages;
	bool resume;
	json_t *drives; /* overrides; NULL: none */
	json_t *nets;
	json_t *vsock;
	json_t *serial;
};

static int read_layers(const json_t *body, struct image_config *image, struct error *err)
{
	json_t *layers = NULL;
	int ret = json_read_array(body, "mem_layers", JSON_OPTIONAL, &layers, err);
	size_t count = json_array_size(layers);

	if (ret < 0)
		return ret;
	if (count > IMAGE_LAYERS_MAX)
		return error_set(err, E2BIG, "mem_layers has more than %d layers", IMAGE_LAYERS_MAX);
	for (size_t i = 0; i < count; i++) {
		image->layers[i] = json_string_value(json_array_get(layers, i));
		if (!image->layers[i])
			return error_set(err, EINVAL, "mem_layers must be strings");
	}
	image->layer_count = (unsigned)count;
	return 0;
}

static int read_backend(const json_t *body, struct image_config *image, struct error *err)
{
	static const char *const known[] = { "backend_type", "backend_path", NULL };
	json_t *backend = NULL;
	const char *type = NULL;
	const char *path = NULL;
	int ret = json_read_object(body, "mem_backend", JSON_OPTIONAL, &backend, err);

	if (ret == 0)
		ret = json_read_string(body, "mem_file_path", JSON_OPTIONAL, &image->base_path, err);
	if (ret == 0)
		ret = read_layers(body, image, err);
	if (ret < 0)
		return ret;
	if (!backend == !image->base_path)
		return error_set(err, EINVAL, "exactly one of mem_backend and mem_file_path must be given");
	if (!backend)
		return 0;
	ret = config_only_known(backend, "mem_backend", known, err);
	if (ret == 0)
		ret = json_read_string(backend, "backend_type", JSON_REQUIRED, &type, err);
	if (ret == 0)
		ret = json_read_string(backend, "backend_path", JSON_REQUIRED, &path, err);
	if (ret < 0)
		return ret;
	if (strcmp(type, "File") == 0)
		image->base_path = path;
	else if (strcmp(type, "Uffd") == 0)
		image->uffd_path = path;
	else
		ret = error_set(err, EINVAL, "backend_type must be File or Uffd, not '%s'", type);
	return ret;
}

static int read_overrides(const json_t *body, struct load *load, struct error *err)
{
	int ret = json_read_array(body, "drive_overrides", JSON_OPTIONAL, &load->drives, err);

	if (ret == 0)
		ret = json_read_array(body, "network_overrides", JSON_OPTIONAL, &load->nets, err);
	if (ret == 0)
		ret = json_read_object(body, "vsock_override", JSON_OPTIONAL, &load->vsock, err);
	if (ret == 0)
		ret = json_read_object(body, "serial_override", JSON_OPTIONAL, &load->serial, err);
	return ret;
}

static int read_load(const json_t *body, struct load *load, struct error *err)
{
	static const char *const known[] = { "snapshot_path",
		                             "mem_backend",
		                             "mem_file_path",
		                             "mem_layers",
		                             "resume_vm",
		                             "clock_realtime",
		                             "drive_overrides",
		                             "network_overrides",
		                             "vsock_override",
		                             "serial_override",
		                             "huge_pages",
		                             "track_dirty_pages",
		                             "enable_diff_snapshots",
		                             "working_set_path",
		                             NULL };
	struct machine_load *machine = &load->machine;
	int ret = config_only_known(body, "the snapshot", known, err);

	if (ret == 0)
		ret = json_read_string(body, "snapshot_path", JSON_REQUIRED, &load->state_path, err);
	if (ret == 0)
		ret = read_backend(body, &machine->image, err);
	if (ret == 0)
		ret = json_read_bool(body, "resume_vm", JSON_OPTIONAL, &load->resume, err);
	if (ret == 0)
		ret = json_read_bool(body, "clock_realtime", JSON_OPTIONAL, &machine->clock_realtime, err);
	if (ret == 0)
		ret = json_read_bool(body, "enable_diff_snapshots", JSON_OPTIONAL,
		                     &machine->track_dirty_pages, err);
	if (ret == 0)
		ret = json_read_bool(body, "track_dirty_pages", JSON_OPTIONAL, &machine->track_dirty_pages,
		                     err);
	if (ret == 0)
		ret = json_read_string(body, "working_set_path", JSON_OPTIONAL, &machine->working_set_path,
		                       err);
	if (ret == 0)
		ret = json_read_string(body, "huge_pages", JSON_OPTIONAL, &load->huge_pages, err);
	return ret < 0 ? ret : read_overrides(body, load, err);
}

/* Where this copy's files and taps are, instead of where the original's were. */
static int override_element(json_t *config, const char *list, const char *key, json_t *change,
                            const char *const *known, struct error *err)
{
	const char *id = NULL;
	size_t index;
	json_t *element;
	int ret = json_is_object(change) ? config_only_known(change, "an override", known, err)
	                                 : error_set(err, EINVAL, "overrides of %s must be objects", list);

	if (ret == 0)
		ret = json_read_string(change, key, JSON_REQUIRED, &id, err);
	if (ret < 0)
		return ret;
	json_array_foreach (json_object_get(config, list), index, element) {
		const char *other = json_string_value(json_object_get(element, key));

		if (other && strcmp(other, id) == 0)
			return json_object_update(element, change) < 0 ? error_errno(err, ENOMEM, "override")
			                                               : 0;
	}
	return error_set(err, EINVAL, "the snapshot has no '%s' among its %s", id, list);
}

static int override_elements(json_t *config, const struct load *load, struct error *err)
{
	static const char *const of_drives[] = { "drive_id", "path_on_host", "layers", "overlay_path", NULL };
	static const char *const of_nets[] = { "iface_id", "host_dev_name", NULL };
	size_t index;
	json_t *change;
	int ret = 0;

	json_array_foreach (load->drives, index, change)
		if (ret == 0)
			ret = override_element(config, "drives", "drive_id", change, of_drives, err);
	json_array_foreach (load->nets, index, change)
		if (ret == 0)
			ret = override_element(config, "network-interfaces", "iface_id", change, of_nets,
			                       err);
	return ret;
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

/* "Snapshot" keeps what the original had. */
static int override_huge_pages(json_t *config, const char *wanted, struct error *err)
{
	json_t *machine = json_object_get(config, "machine-config");

	if (!wanted || strcmp(wanted, "Snapshot") == 0)
		return 0;
	return json_object_set_new(machine, "huge_pages", json_string(wanted)) < 0
	               ? error_errno(err, ENOMEM, "override")
	               : 0;
}

static int read_config(const struct snapshot_reader *snapshot, const struct load *load, json_t **ret_config,
                       struct machine_config *parsed, struct error *err)
{
	const void *text;
	size_t size;
	int ret = snapshot_find(snapshot, SNAPSHOT_CONFIG, 0, &text, &size, err);

	if (ret == 0)
		ret = json_parse_object(text, size, ret_config, err);
	if (ret == 0)
		ret = override_elements(*ret_config, load, err);
	if (ret == 0)
		ret = override_member(*ret_config, "vsock", load->vsock, err);
	if (ret == 0)
		ret = override_member(*ret_config, "serial", load->serial, err);
	if (ret == 0)
		ret = override_huge_pages(*ret_config, load->huge_pages, err);
	return ret < 0 ? ret : config_read(*ret_config, parsed, err);
}

static int restore(struct api *api, struct load *load, const struct snapshot_reader *snapshot,
                   struct error *err)
{
	cleanup_json json_t *config = NULL;
	struct machine_config parsed;
	int ret = read_config(snapshot, load, &config, &parsed, err);

	if (ret == 0)
		ret = api_make_machine(api, 0, err);
	if (ret < 0)
		return ret;
	load->machine.image.size = parsed.mem_size_mib << 20;
	load->machine.image.huge = parsed.huge_pages;
	parsed.mmds = api->mmds;
	ret = mmds_configure(api->mmds, &parsed.metadata, err);
	if (ret < 0)
		return ret;
	ret = machine_restore(api->machine, &parsed, snapshot, &load->machine, err);
	/* Half a machine is of no use to anybody: as in Firecracker the process ends. */
	api->fatal = ret < 0;
	if (ret == 0) {
		(void)json_object_update_missing(config, api->config);
		json_decref(api->config);
		api->config = json_incref(config);
		if (load->resume)
			ret = machine_resume(api->machine, err);
	}
	return ret;
}

/* Whether anything but log and metrics has been configured. */
static bool configured(const struct api *api)
{
	size_t size = json_object_size(api->config);

	size -= json_object_get(api->config, "logger") != NULL;
	size -= json_object_get(api->config, "metrics") != NULL;
	return size > 0;
}

int snapshots_load(const struct api_call *call, struct error *err)
{
	struct api *api = call->api;
	struct snapshot_reader snapshot;
	struct load load = { 0 };
	int64_t begin = time_monotonic_us();
	int ret = read_load(call->body, &load, err);

	if (ret == 0 && configured(api))
		ret = error_set(err, EINVAL, "a machine that was configured cannot load a snapshot");
	if (ret == 0)
		ret = snapshot_read(&snapshot, load.state_path, err);
	if (ret < 0)
		return ret;
	ret = restore(api, &load, &snapshot, err);
	snapshot_reader_fini(&snapshot);
	api->latencies.load_snapshot = time_monotonic_us() - begin;
	return ret;
}
