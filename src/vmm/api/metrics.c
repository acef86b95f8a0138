#include "vmm/api/metrics.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

/* --- collecting --- */

static void add(json_t *object, const char *name, uint64_t value)
{
	json_int_t before = json_integer_value(json_object_get(object, name));

	(void)json_object_set_new(object, name, json_integer(before + (json_int_t)value));
}

static json_t *group(json_t *metrics, const char *name)
{
	json_t *object = json_object_get(metrics, name);

	if (!object) {
		object = json_object();
		(void)json_object_set_new(metrics, name, object);
	}
	return object;
}

/* Firecracker's name for a kind of device. */
static const char *kind_name(const struct virtio_device *device)
{
	return device->ops->id == VIRTIO_ID_RNG ? "entropy" : device->ops->name;
}

/* Counters of a device go to its kind's sum and, where there may be several, to a group of its own. */
static void add_device(struct virtio_device *device, const char *id, void *context)
{
	json_t *metrics = context;
	const char *kind = kind_name(device);
	json_t *sum = group(metrics, kind);
	json_t *own = NULL;
	char name[96];

	if (*id) {
		(void)snprintf(name, sizeof(name), "%s_%s", kind, id);
		own = group(metrics, name);
	}
	for (const struct virtio_metric *metric = device->ops->metrics; metric && metric->name; metric++) {
		uint64_t value;

		memcpy(&value, (const char *)device + metric->offset, sizeof(value));
		add(sum, metric->name, value);
		if (own)
			add(own, metric->name, value);
	}
}

static void add_machine(const struct api *api, json_t *metrics)
{
	struct machine_counters counters = { 0 };
	json_t *vcpu = group(metrics, "vcpu");
	json_t *uart = group(metrics, "uart");

	if (api->machine) {
		machine_count(api->machine, &counters);
		machine_visit_devices(api->machine, add_device, metrics);
	}
	add(vcpu, "exit_io_in", counters.exit_io_in);
	add(vcpu, "exit_io_out", counters.exit_io_out);
	add(vcpu, "exit_mmio_read", counters.exit_mmio_read);
	add(vcpu, "exit_mmio_write", counters.exit_mmio_write);
	add(vcpu, "failures", counters.failures);
	add(uart, "write_count", counters.uart_write_count);
	add(uart, "rate_limiter_dropped_bytes", counters.uart_dropped_bytes);
}

static void add_latencies(const struct api *api, json_t *metrics)
{
	json_t *latencies = group(metrics, "latencies_us");

	add(latencies, "full_create_snapshot", (uint64_t)api->latencies.full_create_snapshot);
	add(latencies, "diff_create_snapshot", (uint64_t)api->latencies.diff_create_snapshot);
	add(latencies, "load_snapshot", (uint64_t)api->latencies.load_snapshot);
	add(latencies, "pause_vm", (uint64_t)api->latencies.pause_vm);
	add(latencies, "resume_vm", (uint64_t)api->latencies.resume_vm);
}

json_t *metrics_collect(const struct api *api)
{
	json_t *metrics = json_object();

	if (!metrics)
		return NULL;
	add_machine(api, metrics);
	add_latencies(api, metrics);
	resources_count(api, metrics);
	return metrics;
}

/* --- one line --- */

/* Counters are told as what came since the last line; latencies as they are. */
static json_t *difference(const char *name, const json_t *now, const json_t *before)
{
	json_t *object = json_object();
	const char *key;
	json_t *value;

	json_object_foreach ((json_t *)(uintptr_t)now, key, value) {
		json_int_t old = json_integer_value(json_object_get(before, key));

		if (strcmp(name, "latencies_us") == 0)
			old = 0;
		(void)json_object_set_new(object, key, json_integer(json_integer_value(value) - old));
	}
	return object;
}

json_t *metrics_line(const json_t *now, const json_t *previous)
{
	json_t *line = json_pack("{s:I}", "utc_timestamp_ms", (json_int_t)time_wall_ms());
	const char *name;
	json_t *counters;

	if (!line || !now) {
		json_decref(line);
		return NULL;
	}
	json_object_foreach ((json_t *)(uintptr_t)now, name, counters)
		(void)json_object_set_new(line, name,
		                          difference(name, counters, json_object_get(previous, name)));
	return line;
}

/* --- Prometheus --- */

/* "block_rootfs" is device "rootfs" of group "block"; "put_api_requests" is no device. */
static const char *device_of(const json_t *now, const char *name, char *kind, size_t size)
{
	static const char *const kinds[] = { "block", "net" };

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		size_t length = strlen(kinds[i]);

		if (strncmp(name, kinds[i], length) == 0 && name[length] == '_' &&
		    json_object_get(now, kinds[i])) {
			(void)snprintf(kind, size, "%s_device", kinds[i]);
			return name + length + 1;
		}
	}
	(void)snprintf(kind, size, "%s", name);
	return NULL;
}

/* A machine's id may hold anything but a quote that would end the label. */
static void put_label(struct buffer *text, const char *value)
{
	for (const char *at = value; *at; at++)
		if (*at != '"' && *at != '\\' && (unsigned char)*at >= ' ')
			(void)buffer_append(text, at, 1);
}

char *metrics_prometheus(const json_t *now, const char *id)
{
	struct buffer text = BUFFER_INIT;
	const char *name;
	const char *key;
	json_t *counters;
	json_t *value;

	json_object_foreach ((json_t *)(uintptr_t)now, name, counters) {
		char kind[96];
		const char *device = device_of(now, name, kind, sizeof(kind));

		json_object_foreach (counters, key, value) {
			(void)buffer_printf(&text, "atoll_vmm_%s_%s{machine=\"", kind, key);
			put_label(&text, id);
			if (device)
				(void)buffer_printf(&text, "\",device=\"%s", device);
			(void)buffer_printf(&text, "\"} %lld\n", (long long)json_integer_value(value));
		}
	}
	return buffer_take_string(&text);
}
