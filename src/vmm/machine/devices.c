/* The machine's virtio devices: made in a fixed order, each with a window, an interrupt and its queues'
 * events. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vmm/machine/machine_internal.h"

void machine_mmio(void *context, uint64_t gpa, bool write, void *data, unsigned size)
{
	struct machine *machine = context;
	uint64_t index = (gpa - LAYOUT_MMIO_BASE) / VIRTIO_MMIO_WINDOW;
	uint32_t offset = (uint32_t)(gpa % VIRTIO_MMIO_WINDOW);

	if (gpa < LAYOUT_MMIO_BASE || index >= machine->device_count || offset + size > VIRTIO_MMIO_WINDOW) {
		if (!write)
			memset(data, 0, size);
		return;
	}
	if (write)
		virtio_mmio_write(machine->devices[index].device, offset, data, size);
	else
		virtio_mmio_read(machine->devices[index].device, offset, data, size);
}

/* Give a device the next window, interrupt and queue notifications, and tell the kernel of it. */
static int attach(struct machine *machine, struct virtio_device *device, const char *id, struct error *err)
{
	unsigned index = machine->device_count;
	uint64_t gpa = LAYOUT_MMIO_BASE + (uint64_t)index * VIRTIO_MMIO_WINDOW;
	unsigned gsi = LAYOUT_GSI_FIRST + index;
	int ret;

	if (!device)
		return -EIO;
	if (index == LAYOUT_DEVICES_MAX) {
		virtio_free(device);
		return error_set(err, ENOSPC, "a machine has at most %d devices", LAYOUT_DEVICES_MAX);
	}
	machine->devices[index].device = device;
	(void)snprintf(machine->devices[index].id, sizeof(machine->devices[index].id), "%s", id);
	machine->device_count++;
	ret = vm_set_irqfd(&machine->vm, device->irq, gsi, err);
	for (unsigned i = 0; ret == 0 && i < device->ops->queue_count; i++)
		ret = vm_set_ioeventfd(&machine->vm, device->queues[i].kick, gpa + VIRTIO_MMIO_QUEUE_NOTIFY,
		                       i, err);
	if (ret == 0 && buffer_printf(&machine->command_line, " virtio_mmio.device=4K@0x%llx:%u",
	                              (unsigned long long)gpa, gsi) < 0)
		ret = error_errno(err, ENOMEM, "build the kernel command line");
	return ret;
}

static int attach_net(struct machine *machine, const struct machine_config *config, unsigned index,
                      struct error *err)
{
	const struct net_config *net = &config->nets[index];
	struct net_peer *peer = NULL;
	int ret;

	if (config->mmds && config->metadata_on[index]) {
		peer = mmds_peer_new(config->mmds, net->mac, err);
		if (!peer)
			return -EIO;
	}
	ret = attach(machine, net_new(net, peer, &machine->memory, machine->loop, err), net->id, err);
	/* The entry is there if the device is. */
	if (machine->device_count && strcmp(machine->devices[machine->device_count - 1].id, net->id) == 0)
		machine->devices[machine->device_count - 1].peer = peer;
	else
		mmds_peer_free(peer);
	return ret;
}

/* The order is part of what a snapshot means. */
static int make_devices(struct machine *machine, const struct machine_config *config, struct error *err)
{
	const struct guest_memory *memory = &machine->memory;
	struct loop *loop = machine->loop;
	int ret = 0;

	for (unsigned i = 0; ret == 0 && i < config->drive_count; i++)
		ret = attach(machine, block_new(&config->drives[i], memory, loop, err), config->drives[i].id,
		             err);
	for (unsigned i = 0; ret == 0 && i < config->net_count; i++)
		ret = attach_net(machine, config, i, err);
	if (ret == 0 && config->vsock.guest_cid)
		ret = attach(machine, vsock_new(&config->vsock, memory, loop, err), "", err);
	if (ret == 0 && config->entropy)
		ret = attach(machine, rng_new(&config->entropy_limits, memory, loop, err), "", err);
	if (ret == 0 && config->has_balloon)
		ret = attach(machine, balloon_new(&config->balloon, machine->memory_file, memory, loop, err),
		             "", err);
	return ret;
}

static int restore_devices(struct machine *machine, const struct snapshot_reader *snapshot, struct error *err)
{
	const void *data;
	size_t size;
	int ret = 0;

	for (unsigned i = 0; ret == 0 && i < machine->device_count; i++) {
		ret = snapshot_find(snapshot, SNAPSHOT_DEVICE, i, &data, &size, err);
		if (ret == 0)
			ret = virtio_restore(machine->devices[i].device, data, size, err);
	}
	return ret;
}

struct attach_request {
	struct machine *machine;
	const struct machine_config *config;
	const struct snapshot_reader *snapshot; /* NULL: fresh devices */
	struct error *err;
	int ret;
};

static void attach_on_loop(void *context)
{
	struct attach_request *request = context;

	request->ret = make_devices(request->machine, request->config, request->err);
	if (request->ret == 0 && request->snapshot)
		request->ret = restore_devices(request->machine, request->snapshot, request->err);
}

int machine_attach_devices(struct machine *machine, const struct machine_config *config,
                           const struct snapshot_reader *snapshot, struct error *err)
{
	struct attach_request request = { machine, config, snapshot, err, 0 };

	loop_call(machine->loop, attach_on_loop, &request);
	return request.ret;
}

/* --- rest --- */

struct pause_request {
	struct machine *machine;
	struct error *err;
	int ret;
};

static void pause_on_loop(void *context)
{
	struct pause_request *request = context;
	const struct machine *machine = request->machine;

	for (unsigned i = 0; i < machine->device_count && request->ret == 0; i++)
		request->ret = virtio_pause(machine->devices[i].device, request->err);
}

int machine_pause_devices(struct machine *machine, struct error *err)
{
	struct pause_request request = { machine, err, 0 };

	loop_call(machine->loop, pause_on_loop, &request);
	return request.ret;
}

static void resume_on_loop(void *context)
{
	const struct machine *machine = context;

	for (unsigned i = 0; i < machine->device_count; i++)
		virtio_resume(machine->devices[i].device);
}

void machine_resume_devices(struct machine *machine)
{
	loop_call(machine->loop, resume_on_loop, machine);
}

void machine_free_devices(struct machine *machine)
{
	for (unsigned i = 0; i < machine->device_count; i++)
		virtio_free(machine->devices[i].device);
	for (unsigned i = 0; i < machine->device_count; i++)
		mmds_peer_free(machine->devices[i].peer);
	machine->device_count = 0;
}

/* --- changes at run time --- */

struct call_request {
	struct virtio_device *device;
	machine_device_fn *function;
	void *context;
	struct error *err;
	int ret;
};

static void call_on_loop(void *context)
{
	struct call_request *request = context;

	request->ret = request->function(request->device, request->context, request->err);
}

int machine_call_device(struct machine *machine, enum virtio_id kind, const char *id,
                        machine_device_fn *function, void *context, struct error *err)
{
	for (unsigned i = 0; i < machine->device_count; i++) {
		struct machine_device *entry = &machine->devices[i];
		struct call_request request = { entry->device, function, context, err, 0 };

		if (entry->device->ops->id != kind || (id && strcmp(entry->id, id) != 0))
			continue;
		loop_call(machine->loop, call_on_loop, &request);
		return request.ret;
	}
	return error_set(err, ENOENT, "the machine has no %s device%s%s", virtio_kind_name(kind),
	                 id ? " " : "", id ? id : "");
}

struct visit_request {
	struct machine *machine;
	machine_visit_fn *function;
	void *context;
};

static void visit_on_loop(void *context)
{
	struct visit_request *request = context;

	for (unsigned i = 0; i < request->machine->device_count; i++)
		request->function(request->machine->devices[i].device, request->machine->devices[i].id,
		                  request->context);
}

void machine_visit_devices(struct machine *machine, machine_visit_fn *function, void *context)
{
	struct visit_request request = { machine, function, context };

	loop_call(machine->loop, visit_on_loop, &request);
}
