#include "vmm/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/base.h"
#include "vmm/boot/boot.h"
#include "vmm/kvm/kvm.h"
#include "vmm/seccomp/seccomp.h"

#define I8042_DATA        0x60
#define I8042_STATUS      0x64
#define SERIAL_LIMIT      (16 * 1024 * 1024) /* bytes of console output that are kept */

#define LOOP_STACK        (128 * 1024)
#define DEFAULT_BOOT_ARGS "console=ttyS0 reboot=k panic=-1"

struct machine {
	enum machine_state state;
	struct guest_memory memory;
	bool memory_anonymous; /* no file stands behind it */
	struct vm vm;
	struct vcpu vcpus[LAYOUT_VCPUS_MAX];
	unsigned vcpu_count;
	struct loop *loop;
	pthread_t loop_thread;
	bool loop_started;
	bool seccomp; /* threads install filters */
	struct virtio_device *devices[LAYOUT_DEVICES_MAX];
	unsigned device_count;
	struct serial *serial;
	struct vcpu_handler handler;
	struct buffer command_line;
	int end;              /* eventfd: the guest ended by itself */
	pthread_mutex_t lock; /* guards what follows: vCPUs end on their own threads */
	struct error failure;
	bool trace;
	int64_t traced; /* when the last step ended, microseconds */
};

/* --- tracing --- */

static void trace_step(struct machine *machine, const char *step)
{
	int64_t now = time_monotonic_us();

	if (machine->trace && step)
		log_info("trace: %s %lld us", step, (long long)(now - machine->traced));
	machine->traced = now;
}

void machine_trace(struct machine *machine, bool on)
{
	machine->trace = on;
}

/* --- exits --- */

static bool on_port(void *context, uint16_t port, bool write, void *data, unsigned size)
{
	struct machine *machine = context;
	uint8_t *byte = data;
	bool serial = port >= LAYOUT_SERIAL_PORT && port < LAYOUT_SERIAL_PORT + LAYOUT_SERIAL_PORTS;

	if (write) {
		if (serial && size == 1)
			serial_write(machine->serial, port - LAYOUT_SERIAL_PORT, *byte);
		else if (port == I8042_DATA || port == I8042_STATUS)
			return !i8042_write(port, *byte);
		return true;
	}
	memset(data, 0, size);
	if (serial && size == 1)
		*byte = serial_read(machine->serial, port - LAYOUT_SERIAL_PORT);
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
	uint64_t one = 1;

	if (end == VCPU_END_FAILED) {
		pthread_mutex_lock(&machine->lock);
		machine->failure = *err;
		pthread_mutex_unlock(&machine->lock);
	}
	if (end != VCPU_END_STOPPED && write(machine->end, &one, sizeof(one)) < 0)
		return;
}

static int on_started(void *context, struct error *err)
{
	const struct machine *machine = context;

	return machine->seccomp ? seccomp_install(SECCOMP_VCPU, err) : 0;
}

/* --- making --- */

/* The regions of `size` bytes of memory that lie at `host` one behind the other. */
static void set_regions(struct machine *machine, void *host, uint64_t size)
{
	struct guest_memory *memory = &machine->memory;
	uint64_t low = size < LAYOUT_HOLE_START ? size : LAYOUT_HOLE_START;

	memory->regions[memory->count++] = (struct guest_region){ 0, low, host };
	if (size > low)
		memory->regions[memory->count++] =
		        (struct guest_region){ LAYOUT_HOLE_END, size - low, (unsigned char *)host + low };
}

static int make_memory(struct machine *machine, uint64_t size, struct error *err)
{
	void *host =
	        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (host == MAP_FAILED)
		return error_errno(err, errno, "map %llu MiB of guest memory",
		                   (unsigned long long)(size >> 20));
	set_regions(machine, host, size);
	machine->memory_anonymous = true;
	return vm_set_memory(&machine->vm, &machine->memory, err);
}

static int map_memory(struct machine *machine, const char *path, uint64_t size, struct error *err)
{
	void *host;
	int ret = snapshot_map_memory(path, size, &host, err);

	if (ret < 0)
		return ret;
	set_regions(machine, host, size);
	return vm_set_memory(&machine->vm, &machine->memory, err);
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

static int make_devices(struct machine *machine, const struct machine_config *config, struct error *err)
{
	int ret = 0;

	for (unsigned i = 0; ret == 0 && i < config->drive_count; i++)
		ret = attach(machine, block_new(&config->drives[i], &machine->memory, machine->loop, err),
		             err);
	if (ret == 0 && config->vsock.guest_cid)
		ret = attach(machine, vsock_new(&config->vsock, &machine->memory, machine->loop, err), err);
	if (ret == 0 && config->entropy)
		ret = attach(machine, rng_new(&machine->memory, machine->loop, err), err);
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
			ret = virtio_restore(machine->devices[i], data, size, err);
	}
	return ret;
}

struct device_request {
	struct machine *machine;
	const struct machine_config *config;
	const struct snapshot_reader *snapshot; /* NULL: fresh devices */
	struct error *err;
	int ret;
};

static void make_on_loop(void *context)
{
	struct device_request *request = context;

	request->ret = make_devices(request->machine, request->config, request->err);
	if (request->ret == 0 && request->snapshot)
		request->ret = restore_devices(request->machine, request->snapshot, request->err);
}

/* On the device thread, which alone touches devices. */
static int attach_devices(struct machine *machine, const struct machine_config *config,
                          const struct snapshot_reader *snapshot, struct error *err)
{
	struct device_request request = { machine, config, snapshot, err, 0 };

	loop_call(machine->loop, make_on_loop, &request);
	return request.ret;
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

static int restore_serial(struct machine *machine, const struct snapshot_reader *snapshot, struct error *err)
{
	const void *data;
	size_t size;
	int ret = snapshot_find(snapshot, SNAPSHOT_SERIAL, 0, &data, &size, err);

	return ret < 0 ? ret : serial_restore(machine->serial, data, size, err);
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
	if (ret == 0)
		ret = boot_write_acpi(&machine->memory, config->vcpu_count, machine->device_count, err);
	for (unsigned i = 0; ret == 0 && i < machine->vcpu_count; i++)
		ret = vcpu_set_boot_state(&machine->vcpus[i], entry, LAYOUT_ZERO_PAGE, err);
	return ret;
}

/* --- the shell --- */

static void *run_loop(void *context)
{
	struct machine *machine = context;
	struct error err = { 0 };

	(void)pthread_setname_np(pthread_self(), "devices");
	if (machine->seccomp && seccomp_install(SECCOMP_DEVICE, &err) < 0)
		on_ended(machine, VCPU_END_FAILED, &err);
	else
		(void)loop_run(machine->loop);
	return NULL;
}

static int start_loop(struct machine *machine, struct error *err)
{
	pthread_attr_t attributes;
	int ret;

	(void)pthread_attr_init(&attributes);
	(void)pthread_attr_setstacksize(&attributes, LOOP_STACK);
	ret = pthread_create(&machine->loop_thread, &attributes, run_loop, machine);
	(void)pthread_attr_destroy(&attributes);
	if (ret)
		return error_errno(err, ret, "start the device thread");
	machine->loop_started = true;
	return 0;
}

static int make_vcpus(struct machine *machine, unsigned count, struct error *err)
{
	int ret = 0;

	for (; ret == 0 && machine->vcpu_count < count; machine->vcpu_count++)
		ret = vcpu_init(&machine->vcpus[machine->vcpu_count], &machine->vm, machine->vcpu_count,
		                count, &machine->handler, err);
	for (unsigned i = 0; ret == 0 && i < count; i++)
		ret = vcpu_start(&machine->vcpus[i], err);
	return ret;
}

/* All that costs time and depends on nothing but the number of vCPUs. */
static int make_shell(struct machine *machine, unsigned vcpu_count, struct error *err)
{
	int ret = 0;

	machine->end = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	machine->loop = loop_new(err);
	if (!machine->loop || machine->end < 0)
		return error_errno(err, ENOMEM, "make a machine");
	ret = vm_init(&machine->vm, err);
	if (ret == 0 && vcpu_count)
		ret = vm_create_irqchip(&machine->vm, err);
	if (ret == 0 && vcpu_count)
		ret = make_vcpus(machine, vcpu_count, err);
	return ret < 0 ? ret : start_loop(machine, err);
}

struct machine *machine_new(unsigned vcpu_count, bool seccomp, struct error *err)
{
	struct machine *machine;

	if (vcpu_count > LAYOUT_VCPUS_MAX) {
		error_set(err, EINVAL, "a machine has at most %d vCPUs", LAYOUT_VCPUS_MAX);
		return NULL;
	}
	machine = calloc(1, sizeof(*machine));
	if (!machine) {
		error_errno(err, ENOMEM, "make a machine");
		return NULL;
	}
	machine->end = -1;
	machine->seccomp = seccomp;
	machine->vm = (struct vm){ .kvm = -1, .fd = -1 };
	for (unsigned i = 0; i < LAYOUT_VCPUS_MAX; i++)
		machine->vcpus[i].fd = -1;
	machine->handler = (struct vcpu_handler){

		.context = machine, .started = on_started, .port = on_port, .mmio = on_mmio, .ended = on_ended
	};
	(void)pthread_mutex_init(&machine->lock, NULL);
	if (make_shell(machine, vcpu_count, err) < 0) {
		machine_free(machine);
		return NULL;
	}
	return machine;
}

enum machine_state machine_state(const struct machine *machine)
{
	return machine->state;
}

/* What a shell without vCPUs still lacks; memory has been set before, which is quicker (see vm_set_memory).
 */
static int complete_shell(struct machine *machine, unsigned vcpu_count, struct error *err)
{
	int ret;

	if (machine->vcpu_count == vcpu_count)
		return 0;
	if (machine->vcpu_count)
		return error_set(err, EINVAL, "this shell has %u vCPUs, the machine needs %u",
		                 machine->vcpu_count, vcpu_count);
	ret = vm_create_irqchip(&machine->vm, err);
	return ret < 0 ? ret : make_vcpus(machine, vcpu_count, err);
}

static int check_config(const struct machine *machine, const struct machine_config *config, struct error *err)
{
	if (machine->state != MACHINE_NOT_STARTED || machine->memory.count)
		return error_set(err, EALREADY, "the machine has been started");
	if (config->vcpu_count < 1 || config->vcpu_count > LAYOUT_VCPUS_MAX)
		return error_set(err, EINVAL, "vcpu_count must be between 1 and %d", LAYOUT_VCPUS_MAX);
	if (config->mem_size_mib < 128 || config->mem_size_mib > 32768)
		return error_set(err, EINVAL, "mem_size_mib must be between 128 and 32768");
	return 0;
}

/* --- boot and restore --- */

int machine_boot(struct machine *machine, const struct machine_config *config, struct error *err)
{
	int ret = check_config(machine, config, err);

	if (ret == 0)
		ret = make_memory(machine, config->mem_size_mib << 20, err);
	if (ret == 0)
		ret = complete_shell(machine, config->vcpu_count, err);
	if (ret == 0)
		ret = open_serial(machine, config->serial_out_path, err);
	if (ret == 0 && buffer_append_string(&machine->command_line,
	                                     config->boot_args ? config->boot_args : DEFAULT_BOOT_ARGS) < 0)
		ret = error_errno(err, ENOMEM, "build the kernel command line");
	if (ret == 0)
		ret = attach_devices(machine, config, NULL, err);
	if (ret == 0)
		ret = load_guest(machine, config, err);
	if (ret < 0)
		return ret;
	machine->state = MACHINE_PAUSED;
	return machine_resume(machine, err);
}

static int restore_cpus(struct machine *machine, const struct snapshot_reader *snapshot, struct error *err)
{
	const void *data;
	size_t size;
	int ret = 0;

	for (unsigned i = 0; ret == 0 && i < machine->vcpu_count; i++) {
		ret = snapshot_find(snapshot, SNAPSHOT_VCPU, i, &data, &size, err);
		if (ret == 0)
			ret = vcpu_restore(&machine->vcpus[i], &machine->vm, data, size, err);
	}
	if (ret == 0)
		ret = snapshot_find(snapshot, SNAPSHOT_VM, 0, &data, &size, err);
	return ret < 0 ? ret : vm_restore(&machine->vm, data, size, err);
}

int machine_restore(struct machine *machine, const struct machine_config *config,
                    const struct snapshot_reader *snapshot, const char *memory_path, struct error *err)
{
	int ret = check_config(machine, config, err);

	trace_step(machine, NULL);
	if (ret == 0)
		ret = map_memory(machine, memory_path, config->mem_size_mib << 20, err);
	trace_step(machine, "map memory");
	if (ret == 0)
		ret = complete_shell(machine, config->vcpu_count, err);
	trace_step(machine, "complete the shell");
	if (ret == 0)
		ret = open_serial(machine, config->serial_out_path, err);
	if (ret == 0)
		ret = restore_serial(machine, snapshot, err);
	trace_step(machine, "make the serial port");
	if (ret == 0)
		ret = attach_devices(machine, config, snapshot, err);
	trace_step(machine, "make and restore devices");
	if (ret == 0)
		ret = restore_cpus(machine, snapshot, err);
	trace_step(machine, "restore vCPUs");
	if (ret == 0)
		machine->state = MACHINE_PAUSED;
	return ret;
}

/* --- pause, resume, save --- */

int machine_pause(struct machine *machine, struct error *err)
{
	int ret = 0;

	if (machine->state == MACHINE_NOT_STARTED)
		return error_set(err, EINVAL, "the machine has not been started");
	if (machine->state == MACHINE_PAUSED)
		return 0;
	for (unsigned i = 0; i < machine->vcpu_count; i++)
		vcpu_pause(&machine->vcpus[i]);
	for (unsigned i = 0; i < machine->vcpu_count; i++)
		vcpu_wait_paused(&machine->vcpus[i]);
	machine->state = MACHINE_PAUSED;
	for (unsigned i = 0; i < machine->device_count && ret == 0; i++)
		ret = virtio_pause(machine->devices[i], err);
	return ret;
}

int machine_resume(struct machine *machine, struct error *err)
{
	if (machine->state == MACHINE_NOT_STARTED)
		return error_set(err, EINVAL, "the machine has not been started");
	if (machine->state == MACHINE_RUNNING)
		return 0;
	trace_step(machine, NULL);
	/* Devices first: an interrupt that they raise finds the chips restored and the vCPUs about to run. */
	for (unsigned i = 0; i < machine->device_count; i++)
		virtio_resume(machine->devices[i]);
	for (unsigned i = 0; i < machine->vcpu_count; i++) {
		vcpu_notice_pause(&machine->vcpus[i]);
		vcpu_resume(&machine->vcpus[i]);
	}
	machine->state = MACHINE_RUNNING;
	trace_step(machine, "resume");
	return 0;
}

typedef int save_fn(struct machine *machine, unsigned index, struct buffer *to, struct error *err);

static int save_device(struct machine *machine, unsigned index, struct buffer *to, struct error *err)
{
	return virtio_save(machine->devices[index], to, err);
}

static int save_vcpu(struct machine *machine, unsigned index, struct buffer *to, struct error *err)
{
	return vcpu_save(&machine->vcpus[index], &machine->vm, to, err);
}

static int save_serial(struct machine *machine, unsigned index, struct buffer *to, struct error *err)
{
	(void)index;
	return serial_save(machine->serial, to, err);
}

static int save_vm(struct machine *machine, unsigned index, struct buffer *to, struct error *err)
{
	(void)index;
	return vm_save(&machine->vm, to, err);
}

static int save_sections(struct machine *machine, struct snapshot_writer *writer, enum snapshot_section kind,
                         unsigned count, save_fn *save, struct error *err)
{
	int ret = 0;

	for (unsigned i = 0; ret == 0 && i < count; i++) {
		cleanup_buffer struct buffer data = BUFFER_INIT;

		ret = save(machine, i, &data, err);
		if (ret == 0)
			ret = snapshot_add(writer, kind, i, data.data, data.size, err);
	}
	return ret;
}

int machine_save(struct machine *machine, struct snapshot_writer *writer, const char *memory_path,
                 struct error *err)
{
	int ret;

	if (machine->state != MACHINE_PAUSED)
		return error_set(err, EINVAL, "only a paused machine can be saved");
	/* Devices before vCPUs and chips: what they still raise must be in the chips' state. */
	ret = save_sections(machine, writer, SNAPSHOT_DEVICE, machine->device_count, save_device, err);
	if (ret == 0)
		ret = save_sections(machine, writer, SNAPSHOT_SERIAL, 1, save_serial, err);
	if (ret == 0)
		ret = save_sections(machine, writer, SNAPSHOT_VCPU, machine->vcpu_count, save_vcpu, err);
	if (ret == 0)
		ret = save_sections(machine, writer, SNAPSHOT_VM, 1, save_vm, err);
	return ret < 0 ? ret
	               : snapshot_write_memory(&machine->memory, machine->memory_anonymous, memory_path, err);
}

/* --- the end --- */

int machine_end_fd(const struct machine *machine)
{
	return machine->end;
}

int machine_failure(struct machine *machine, struct error *err)
{
	int ret = 0;

	pthread_mutex_lock(&machine->lock);
	if (machine->failure.code) {
		*err = machine->failure;
		ret = -machine->failure.code;
	}
	pthread_mutex_unlock(&machine->lock);
	return ret;
}

void machine_free(struct machine *machine)
{
	if (!machine)
		return;
	for (unsigned i = 0; i < machine->vcpu_count; i++)
		vcpu_pause(&machine->vcpus[i]);
	/* A half-made vCPU is behind the count. */
	for (unsigned i = 0; i < LAYOUT_VCPUS_MAX; i++)
		vcpu_fini(&machine->vcpus[i]);
	if (machine->loop_started) {
		loop_stop(machine->loop);
		(void)pthread_join(machine->loop_thread, NULL);
	}
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
	if (machine->end >= 0)
		close(machine->end);
	buffer_fini(&machine->command_line);
	(void)pthread_mutex_destroy(&machine->lock);
	free(machine);
}
