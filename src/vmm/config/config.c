#include "vmm/config/config.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "base/base.h"
#include "vmm/config/internal.h"

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

int config_check_id(const char *id, const char *what, struct error *err)
{
	if (!*id)
		return error_set(err, EINVAL, "%s cannot be empty", what);
	for (const char *at = id; *at; at++)
		if (!isalnum((unsigned char)*at) && *at != '_')
			return error_set(err, EINVAL, "%s '%s' can only contain letters, digits and '_'",
			                 what, id);
	return strlen(id) < 64 ? 0 : error_set(err, EINVAL, "%s is longer than 63 characters", what);
}

static int read_choices(const json_t *object, struct machine_config *config, struct error *err)
{
	const char *template = "None";
	const char *huge = "None";
	bool smt = false;
	int ret = json_read_string(object, "cpu_template", JSON_OPTIONAL, &template, err);

	if (ret == 0)
		ret = json_read_string(object, "huge_pages", JSON_OPTIONAL, &huge, err);
	if (ret == 0)
		ret = json_read_bool(object, "smt", JSON_OPTIONAL, &smt, err);
	if (ret == 0)
		ret = json_read_bool(object, "track_dirty_pages", JSON_OPTIONAL, &config->track_dirty_pages,
		                     err);
	if (ret < 0)
		return ret;
	if (strcmp(template, "None") != 0)
		return error_set(err, ENOTSUP, "cpu_template '%s' is not supported: only None is", template);
	if (smt)
		return error_set(err, ENOTSUP, "smt is not supported: each vCPU is a core");
	if (strcmp(huge, "None") != 0 && strcmp(huge, "Transparent") != 0)
		return error_set(err, ENOTSUP, "huge_pages '%s' is not supported: None and Transparent are",
		                 huge);
	config->huge_pages = strcmp(huge, "Transparent") == 0;
	return 0;
}

static int read_machine(const json_t *root, struct machine_config *config, struct error *err)
{
	static const char *const known[] = { "vcpu_count",        "mem_size_mib", "smt", "cpu_template",
		                             "track_dirty_pages", "huge_pages",   NULL };
	int64_t vcpus = 1;
	int64_t memory = 128;
	json_t *object = NULL;
	int ret = json_read_object(root, "machine-config", JSON_OPTIONAL, &object, err);

	if (ret == 0 && object) {
		ret = config_only_known(object, "machine-config", known, err);
		if (ret == 0)
			ret = json_read_integer(object, "vcpu_count", JSON_REQUIRED, 1, LAYOUT_VCPUS_MAX,
			                        &vcpus, err);
		if (ret == 0)
			ret = json_read_integer(object, "mem_size_mib", JSON_REQUIRED, 128, 32768, &memory,
			                        err);
		if (ret == 0)
			ret = read_choices(object, config, err);
	}
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

/* Those that are checked where they are used, and those of Firecracker that only may be empty here. */
static int check_others(const json_t *root, struct error *err)
{
	static const char *const absent[] = { "cpu-config", "pmem", "memory-hotplug", NULL };

	for (const char *const *name = absent; *name; name++) {
		const json_t *member = json_object_get(root, *name);

		if (member && !json_is_null(member) && json_object_size(member) + json_array_size(member))
			return error_set(err, ENOTSUP, "%s is not supported", *name);
	}
	return 0;
}

int config_read(const json_t *root, struct machine_config *config, struct error *err)
{
	static const char *const known[] = { "machine-config", "boot-source",    "drives",
		                             "vsock",          "entropy",        "serial",
		                             "balloon",        "mmds-config",    "network-interfaces",
		                             "logger",         "metrics",        "cpu-config",
		                             "pmem",           "memory-hotplug", NULL };
	static int (*const readers[])(const json_t *, struct machine_config *, struct error *) = {
		read_machine,      read_boot_source,     config_read_drives,
		config_read_nets,  config_read_metadata, config_read_balloon,
		config_read_vsock, config_read_entropy,  config_read_serial,
	};
	int ret = config_only_known(root, "the configuration", known, err);

	*config = (struct machine_config){ 0 };
	if (ret == 0)
		ret = check_others(root, err);
	for (size_t i = 0; ret == 0 && i < ARRAY_SIZE(readers); i++)
		ret = readers[i](root, config, err);
	return ret;
}

/* --- what was left out --- */

static void set_default(json_t *object, const char *key, json_t *value)
{
	if (json_object_get(object, key))
		json_decref(value);
	else
		(void)json_object_set_new(object, key, value);
}

static void complete_machine(json_t *root)
{
	json_t *machine = json_object_get(root, "machine-config");

	if (!json_is_object(machine)) {
		machine = json_object();
		(void)json_object_set_new(root, "machine-config", machine);
	}
	set_default(machine, "vcpu_count", json_integer(1));
	set_default(machine, "mem_size_mib", json_integer(128));
	set_default(machine, "smt", json_false());
	set_default(machine, "track_dirty_pages", json_false());
	set_default(machine, "huge_pages", json_string("None"));
}

void config_complete(json_t *root)
{
	static const char *const objects[] = { "balloon", "boot-source", "cpu-config",  "entropy",
		                               "logger",  "metrics",     "mmds-config", "memory-hotplug",
		                               "vsock",   NULL };
	static const char *const arrays[] = { "drives", "network-interfaces", "pmem", NULL };
	json_t *drive;
	size_t index;

	complete_machine(root);
	for (const char *const *name = objects; *name; name++)
		set_default(root, *name, json_null());
	for (const char *const *name = arrays; *name; name++)
		set_default(root, *name, json_array());
	json_array_foreach (json_object_get(root, "drives"), index, drive) {
		set_default(drive, "partuuid", json_null());
		set_default(drive, "is_read_only", json_false());
		set_default(drive, "cache_type", json_string("Unsafe"));
		set_default(drive, "io_engine", json_string("Sync"));
		set_default(drive, "rate_limiter", json_null());
		set_default(drive, "socket", json_null());
	}
}

/* --- files --- */

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
