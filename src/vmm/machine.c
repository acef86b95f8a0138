#include "vmm/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/base.h"
#include "vmm/boot/boot.h"
#include "vmm/kvm/kvm.h"

#define SERIAL_PORT       0x3f8
#define SERIAL_PORTS      8
#define I8042_DATA        0x60
#define I8042_STATUS      0x64
#define SERIAL_LIMIT      (16 * 1024 * 1024) /* bytes of console output that are kept */

#define DEFAULT_BOOT_ARGS "console=ttyS0 reboot=k panic=-1"

struct machine {
	struct guest_memory memory;
	struct vm vm;
	struct vcpu vcpus[LAYOUT_VCPUS_MAX];
	unsigned vcpu_count;
	struct loop *loop;
	struct virtio_device *devices[LAYOUT_DEVICES_MAX];
	unsigned device_count;
	struct serial *serial;
	struct vcpu_handler handler;
	struct buffer command_line;
	pthread_mutex_t lock; /* guards what follows: vCPUs end on their own threads */
	struct error failure;
};

/* --- exits --- */

static bool on_port(void *context, uint16_t port, bool write, void *data, unsigned size)
{
	struct machine *machine = context;
	uint8_t *byte = data;
	bool serial = port >= SERIAL_PORT && port < SERIAL_PORT + SERIAL_PORTS;

	if (write) {
		if (serial && size == 1)
			serial_write(machine->serial, port - SERIAL_PORT, *byte);
		else if (port == I8042_DATA || port == I8042_STATUS)
			return !i8042_write(port, *byte);
		return true;
	}
	memset(data, 0, size);
	if (serial && size == 1)
		*byte = serial_read(machine->serial, port - SERIAL_PORT);
	else if (port == I8042_DATA || port == I8042_STATUS)
		*byte = i8042_read(port);
	return true;
}

static void on_mmio(void *context, uint64_t gpa, bool write, void *data, unsigned size)
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
		virtio_mmio_write(machine->devices[index], offset, data, size);
	else
		virtio_mmio_read(machine->devices[index], offset, data, size);
}

static void on_ended(void *context, enum vcpu_end end, const struct error *err)
{
	struct machine *machine = context;

	if (end == VCPU_END_FAILED) {
		pthread_mutex_lock(&machine->lock);
		machine->failure = *err;
		pthread_mutex_unlock(&machine->lock);
	}
	if (end != VCPU_END_STOPPED)
		loop_stop(machine->loop);
}

/* --- making --- */

static int map_memory(struct machine *machine, uint64_t size, struct error *err)
{
	struct guest_memory *memory = &machine->memory;
	uint64_t low = size < LAYOUT_HOLE_START ? size : LAYOUT_HOLE_START;
	void *host =
	        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (host == MAP_FAILED)
		return error_errno(err, errno, "map %llu MiB of guest memory",
		                   (unsigned long long)(size >> 20));
	memory->regions[memory->count++] = (struct guest_region){ 0, low, host };
	if (size > low)
		memory->regions[memory->count++] =
		        (struct guest_region){ LAYOUT_HOLE_END, size - low, (unsigned char *)host + low };
	return 0;
}

/* Give a device the next window, interrupt and queue notifications, and tell the kernel of it. */
static int attach(struct machine *machine, struct virtio_device *device, struct error *err)
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
	machine->devices[machine->device_count++] = device;
	ret = vm_set_irqfd(&machine->vm, device->irq, gsi, err);
	for (unsigned i = 0; ret == 0 && i < device->ops->queue_count; i++)
		ret = vm_set_ioeventfd(&machine->vm, device->queues[i].kick, gpa + VIRTIO_MMIO_QUEUE_NOTIFY,
		                       i, err);
	if (ret == 0 && buffer_printf(&machine->command_line, " virtio_mmio.device=4K@0x%llx:%u",
	                              (unsigned long long)gpa, gsi) < 0)
		ret = error_errno(err, ENOMEM, "build the kernel command line");
	return ret;
}

static int attach_devices(struct machine *machine, const struct machine_config *config, struct error *err)
{
	int ret = 0;

	for (unsigned i = 0; ret == 0 && i < config->drive_count; i++)
		ret = attach(machine, block_new(&config->drives[i], &machine->memory, machine->loop, err),
		             err);
	if (ret == 0 && config->entropy)
		ret = attach(machine, rng_new(&machine->memory, machine->loop, err), err);
	return ret;
}

static int open_serial(struct machine *machine, const char *path, struct error *err)
{
	int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600)
	              : fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);

	if (fd < 0)
		return error_errno(err, errno, "open serial output %s", path ? path : "(standard output)");
	machine->serial = serial_new(fd, SERIAL_LIMIT, machine->loop, err);
	return machine->serial
	               ? vm_set_irqfd(&machine->vm, serial_irq(machine->serial), LAYOUT_GSI_SERIAL, err)
	               : -EIO;
}

static int load_guest(struct machine *machine, const struct machine_config *config, struct error *err)
{
	struct boot_parameters parameters = { .command_line = machine->command_line.data };
	uint64_t entry;
	int ret = boot_load_elf(config->kernel_image_path, &machine->memory, &entry, err);

	if (ret == 0 && config->initrd_path)
		ret = boot_load_initrd(config->initrd_path, &machine->memory, &parameters.initrd_gpa,
		                       &parameters.initrd_size, err);
	if (ret == 0)
		ret = boot_write_parameters(&machine->memory, &parameters, err);
	if (ret == 0)
		ret = boot_write_mptable(&machine->memory, config->vcpu_count, err);
	for (unsigned i = 0; ret == 0 && i < machine->vcpu_count; i++)
		ret = vcpu_set_boot_state(&machine->vcpus[i], entry, LAYOUT_ZERO_PAGE, err);
	return ret;
}

static int machine_build(struct machine *machine, const struct machine_config *config, struct error *err)
{
	int ret = vm_init(&machine->vm, err);

	if (ret == 0)
		ret = map_memory(machine, config->mem_size_mib << 20, err);
	/* Memory before the interrupt chip: a slot change right after that waits for milliseconds. */
	if (ret == 0)
		ret = vm_set_memory(&machine->vm, &machine->memory, err);
	if (ret == 0)
		ret = vm_create_irqchip(&machine->vm, err);
	for (; ret == 0 && machine->vcpu_count < config->vcpu_count; machine->vcpu_count++)
		ret = vcpu_init(&machine->vcpus[machine->vcpu_count], &machine->vm, machine->vcpu_count,
		                config->vcpu_count, &machine->handler, err);
	if (ret == 0)
		ret = open_serial(machine, config->serial_out_path, err);
	if (ret == 0 && buffer_append_string(&machine->command_line,
	                                     config->boot_args ? config->boot_args : DEFAULT_BOOT_ARGS) < 0)
		ret = error_errno(err, ENOMEM, "build the kernel command line");
	if (ret == 0)
		ret = attach_devices(machine, config, err);
	return ret < 0 ? ret : load_guest(machine, config, err);
}

struct machine *machine_new(const struct machine_config *config, struct error *err)
{
	struct machine *machine;

	if (config->vcpu_count < 1 || config->vcpu_count > LAYOUT_VCPUS_MAX) {
		error_set(err, EINVAL, "vcpu_count must be between 1 and %d", LAYOUT_VCPUS_MAX);
		return NULL;
	}
	if (config->mem_size_mib < 128 || config->mem_size_mib > 32768) {
		error_set(err, EINVAL, "mem_size_mib must be between 128 and 32768");
		return NULL;
	}
	machine = calloc(1, sizeof(*machine));
	if (!machine) {
		error_errno(err, ENOMEM, "make a machine");
		return NULL;
	}
	machine->vm = (struct vm){ .kvm = -1, .fd = -1 };
	for (unsigned i = 0; i < LAYOUT_VCPUS_MAX; i++)
		machine->vcpus[i].fd = -1;
	machine->handler = (struct vcpu_handler){
		.context = machine, .port = on_port, .mmio = on_mmio, .ended = on_ended
	};
	(void)pthread_mutex_init(&machine->lock, NULL);
	machine->loop = loop_new(err);
	if (!machine->loop || machine_build(machine, config, err) < 0) {
		machine_free(machine);
		return NULL;
	}
	return machine;
}

int machine_run(struct machine *machine, struct error *err)
{
	int ret = 0;

	for (unsigned i = 0; ret == 0 && i < machine->vcpu_count; i++)
		ret = vcpu_start(&machine->vcpus[i], err);
	if (ret == 0)
		ret = loop_run(machine->loop);
	for (unsigned i = 0; i < machine->vcpu_count; i++)
		vcpu_stop(&machine->vcpus[i]);
	if (ret == 0 && machine->failure.code) {
		*err = machine->failure;
		return -machine->failure.code;
	}
	return ret;
}

void machine_stop(struct machine *machine)
{
	loop_stop(machine->loop);
}

void machine_free(struct machine *machine)
{
	if (!machine)
		return;
	/* A half-made vCPU is behind the count. */
	for (unsigned i = 0; i < LAYOUT_VCPUS_MAX; i++)
		vcpu_fini(&machine->vcpus[i]);
	for (unsigned i = 0; i < machine->device_count; i++)
		virtio_free(machine->devices[i]);
	serial_free(machine->serial);
	vm_fini(&machine->vm);
	if (machine->memory.count) {
		uint64_t size = machine->memory.regions[0].size;

		if (machine->memory.count > 1)
			size += machine->memory.regions[1].size;
		(void)munmap(machine->memory.regions[0].host, size);
	}
	loop_free(machine->loop);
	buffer_fini(&machine->command_line);
	(void)pthread_mutex_destroy(&machine->lock);
	free(machine);
}
