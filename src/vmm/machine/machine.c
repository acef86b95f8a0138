#include "vmm/machine/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "vmm/boot/boot.h"
#include "vmm/machine/machine_internal.h"
#include "vmm/seccomp/seccomp.h"

#define SERIAL_LIMIT      (16 * 1024 * 1024) /* bytes of console output that are kept */
#define BOOT_TIMER_SIGNAL 123                /* what a guest writes to LAYOUT_BOOT_TIMER when it is up */

#define LOOP_STACK        (128 * 1024)
#define PREFAULT_LIMIT    (256ull << 20) /* bytes */

/* Firecracker's. */
#define DEFAULT_BOOT_ARGS                                                                                    \
	"reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce"

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
	bool keyboard = port == I8042_DATA_PORT || port == I8042_COMMAND_PORT;

	/* All ports are a byte wide. */
	if (write) {
		if (serial && size == 1)
			serial_write(machine->serial, port - LAYOUT_SERIAL_PORT, *byte);
		else if (keyboard && size == 1)
			return !i8042_write(machine->keyboard, port, *byte);
		return true;
	}
	memset(data, 0, size);
	if (serial && size == 1)
		*byte = serial_read(machine->serial, port - LAYOUT_SERIAL_PORT);
	else if (keyboard && size == 1)
		*byte = i8042_read(machine->keyboard, port);
	return true;
}

static int64_t cpu_us(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* Firecracker's line: tools look for it. */
static void log_boot_time(const struct machine *machine)
{
	int64_t wall = time_monotonic_us() - machine->started_us;
	int64_t cpu = cpu_us();

	log_info("Guest-boot-time = %6lld us %lld ms, %6lld CPU us %lld CPU ms", (long long)wall,
	         (long long)wall / 1000, (long long)cpu, (long long)cpu / 1000);
}

static void on_mmio(void *context, uint64_t gpa, bool write, void *data, unsigned size)
{
	struct machine *machine = context;

	if (gpa == LAYOUT_BOOT_TIMER && machine->boot_timer) {
		if (write && size == 1 && *(const uint8_t *)data == BOOT_TIMER_SIGNAL)
			log_boot_time(machine);
		else if (!write)
			memset(data, 0, size);
		return;
	}
	machine_mmio(machine, gpa, write, data, size);
}

static void on_ended(void *context, enum vcpu_end end, const struct error *err)
{
	struct machine *machine = context;
	uint64_t one = 1;

	if (end == VCPU_END_FAILED) {
		pthread_mutex_lock(&machine->lock);
		machine->failure = *err;
		pthread_mutex_unlock(&machine->lock);
	} else if (end == VCPU_END_CRASHED) {
		log_warn("%s", err->message);
	} else if (end == VCPU_END_RESET) {
		log_info("the guest has reset itself");
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

/* A pipe that nobody reads must not stop us here, nor a vCPU later; as in Firecracker it may get a reader. */
static int open_serial_output(const char *path)
{
	int fd;

	if (!path)
		return fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK | O_CLOEXEC, 0600);
	if (fd < 0 && errno == ENXIO)
		fd = open(path, O_RDWR | O_APPEND | O_NONBLOCK | O_CLOEXEC);
	return fd;
}

static int open_serial(struct machine *machine, const struct machine_config *config, struct error *err)
{
	const char *path = config->serial_out_path;
	int fd = open_serial_output(path);

	if (fd < 0)
		return error_errno(err, errno, "open serial output %s", path ? path : "(standard output)");
	machine->serial = serial_new(fd, SERIAL_LIMIT, &config->serial_limit, err);
	return machine->serial
	               ? vm_set_irqfd(&machine->vm, serial_irq(machine->serial), LAYOUT_GSI_SERIAL, err)
	               : -EIO;
}

static int open_keyboard(struct machine *machine, struct error *err)
{
	machine->keyboard = i8042_new(err);
	return machine->keyboard
	               ? vm_set_irqfd(&machine->vm, i8042_irq(machine->keyboard), LAYOUT_GSI_KEYBOARD, err)
	               : -EIO;
}

/* Serial port and keyboard. */
static int restore_ports(struct machine *machine, const struct snapshot_reader *snapshot, struct error *err)
{
	const void *data;
	size_t size;
	int ret = snapshot_find(snapshot, SNAPSHOT_SERIAL, 0, &data, &size, err);

	if (ret == 0)
		ret = serial_restore(machine->serial, data, size, err);
	if (ret == 0)
		ret = snapshot_find(snapshot, SNAPSHOT_KEYBOARD, 0, &data, &size, err);
	return ret < 0 ? ret : i8042_restore(machine->keyboard, data, size, err);
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
	generation_renew(&machine->memory);
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

static int make_processors(struct machine *machine, unsigned vcpu_count, struct error *err)
{
	int ret = vm_create_irqchip(&machine->vm, err);

	if (ret == 0)
		ret = generation_init(&machine->generation, &machine->vm, err);
	return ret < 0 ? ret : make_vcpus(machine, vcpu_count, err);
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
		ret = make_processors(machine, vcpu_count, err);
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
	machine->generation.irq = -1;
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
	if (machine->vcpu_count == vcpu_count)
		return 0;
	if (machine->vcpu_count)
		return error_set(err, EINVAL, "this shell has %u vCPUs, the machine needs %u",
		                 machine->vcpu_count, vcpu_count);
	return make_processors(machine, vcpu_count, err);
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

/* Firecracker names the root device to the kernel; a command line that does so itself is left alone. */
static int name_root(struct machine *machine, const struct machine_config *config)
{
	const struct block_config *root = config->has_root_drive ? &config->drives[0] : NULL;
	const char *given = config->boot_args ? config->boot_args : "";
	int ret;

	if (!root || strncmp(given, "root=", 5) == 0 || strstr(given, " root="))
		return 0;
	if (config->root_partuuid)
		ret = buffer_printf(&machine->command_line, " root=PARTUUID=%s", config->root_partuuid);
	else
		ret = buffer_append_string(&machine->command_line, " root=/dev/vda");
	return ret < 0 ? ret : buffer_append_string(&machine->command_line, root->read_only ? " ro" : " rw");
}

static int write_command_line(struct machine *machine, const struct machine_config *config, struct error *err)
{
	if (buffer_append_string(&machine->command_line,
	                         config->boot_args ? config->boot_args : DEFAULT_BOOT_ARGS) < 0 ||
	    name_root(machine, config) < 0)
		return error_errno(err, ENOMEM, "build the kernel command line");
	return 0;
}

int machine_boot(struct machine *machine, const struct machine_config *config, struct error *err)
{
	const struct image_config image = { .size = config->mem_size_mib << 20, .huge = config->huge_pages };
	int ret = check_config(machine, config, err);

	machine->started_us = time_monotonic_us();
	machine->boot_timer = config->boot_timer;
	if (ret == 0)
		ret = machine_map_memory(machine, &image, config->track_dirty_pages, err);
	if (ret == 0)
		ret = complete_shell(machine, config->vcpu_count, err);
	if (ret == 0)
		ret = open_serial(machine, config, err);
	if (ret == 0)
		ret = open_keyboard(machine, err);
	if (ret == 0)
		ret = write_command_line(machine, config, err);
	if (ret == 0)
		ret = machine_attach_devices(machine, config, NULL, err);
	if (ret == 0)
		ret = load_guest(machine, config, err);
	if (ret < 0)
		return ret;
	machine->state = MACHINE_PAUSED;
	return machine_resume(machine, err);
}

static int restore_cpus(struct machine *machine, const struct snapshot_reader *snapshot, bool clock_realtime,
                        struct error *err)
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
	return ret < 0 ? ret : vm_restore(&machine->vm, data, size, clock_realtime, err);
}

/* Map ahead what an earlier run of the same snapshot needed. It is no more than a help: failing is logged. */
static void prefault(struct machine *machine, const struct machine_load *load)
{
	struct error err = { 0 };
	uint64_t pages = 0;

	if (!load->working_set_path)
		return;
	if (image_prefault(machine->image, load->working_set_path, PREFAULT_LIMIT, &pages, &err) < 0)
		log_warn("%s", err.message);
	if (machine->trace)
		log_info("trace: mapped %llu pages ahead", (unsigned long long)pages);
}

int machine_restore(struct machine *machine, const struct machine_config *config,
                    const struct snapshot_reader *snapshot, const struct machine_load *load,
                    struct error *err)
{
	int ret = check_config(machine, config, err);

	trace_step(machine, NULL);
	if (ret == 0)
		ret = machine_map_memory(machine, &load->image, load->track_dirty_pages, err);
	trace_step(machine, "map memory");
	if (ret == 0)
		ret = complete_shell(machine, config->vcpu_count, err);
	trace_step(machine, "complete the shell");
	if (ret == 0)
		ret = open_serial(machine, config, err);
	if (ret == 0)
		ret = open_keyboard(machine, err);
	if (ret == 0)
		ret = restore_ports(machine, snapshot, err);
	trace_step(machine, "make serial port and keyboard");
	if (ret == 0)
		ret = machine_attach_devices(machine, config, snapshot, err);
	trace_step(machine, "make and restore devices");
	if (ret == 0)
		ret = restore_cpus(machine, snapshot, load->clock_realtime, err);
	trace_step(machine, "restore vCPUs");
	if (ret < 0)
		return ret;
	prefault(machine, load);
	trace_step(machine, "map the working set");
	generation_renew(&machine->memory);
	generation_notify(&machine->generation);
	serial_notify(machine->serial);
	i8042_notify(machine->keyboard);
	machine->state = MACHINE_PAUSED;
	return 0;
}

/* --- pause, resume, save --- */

int machine_pause(struct machine *machine, struct error *err)
{
	if (machine->state == MACHINE_NOT_STARTED)
		return error_set(err, EINVAL, "the machine has not been started");
	if (machine->state == MACHINE_PAUSED)
		return 0;
	for (unsigned i = 0; i < machine->vcpu_count; i++)
		vcpu_pause(&machine->vcpus[i]);
	for (unsigned i = 0; i < machine->vcpu_count; i++)
		vcpu_wait_paused(&machine->vcpus[i]);
	machine->state = MACHINE_PAUSED;
	return machine_pause_devices(machine, err);
}

int machine_resume(struct machine *machine, struct error *err)
{
	if (machine->state == MACHINE_NOT_STARTED)
		return error_set(err, EINVAL, "the machine has not been started");
	if (machine->state == MACHINE_RUNNING)
		return 0;
	trace_step(machine, NULL);
	/* Devices first: an interrupt that they raise finds the chips restored and the vCPUs about to run. */
	machine_resume_devices(machine);
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
	return virtio_save(machine->devices[index].device, to, err);
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

static int save_keyboard(struct machine *machine, unsigned index, struct buffer *to, struct error *err)
{
	(void)index;
	return i8042_save(machine->keyboard, to, err);
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

int machine_save(struct machine *machine, struct snapshot_writer *writer, struct error *err)
{
	int ret;

	if (machine->state != MACHINE_PAUSED)
		return error_set(err, EINVAL, "only a paused machine can be saved");
	/* Devices before vCPUs and chips: what they still raise must be in the chips' state. */
	ret = save_sections(machine, writer, SNAPSHOT_DEVICE, machine->device_count, save_device, err);
	if (ret == 0)
		ret = save_sections(machine, writer, SNAPSHOT_SERIAL, 1, save_serial, err);
	if (ret == 0)
		ret = save_sections(machine, writer, SNAPSHOT_KEYBOARD, 1, save_keyboard, err);
	if (ret == 0)
		ret = save_sections(machine, writer, SNAPSHOT_VCPU, machine->vcpu_count, save_vcpu, err);
	if (ret == 0)
		ret = save_sections(machine, writer, SNAPSHOT_VM, 1, save_vm, err);
	return ret;
}

void machine_count(struct machine *machine, struct machine_counters *ret)
{
	*ret = (struct machine_counters){ 0 };
	for (unsigned i = 0; i < machine->vcpu_count; i++) {
		const struct vcpu_counters *counters = &machine->vcpus[i].counters;

		ret->exit_io_in += counters->port_in;
		ret->exit_io_out += counters->port_out;
		ret->exit_mmio_read += counters->mmio_read;
		ret->exit_mmio_write += counters->mmio_write;
		ret->failures += counters->failures;
	}
	if (machine->serial)
		serial_count(machine->serial, &ret->uart_write_count, &ret->uart_dropped_bytes);
}

int machine_send_ctrl_alt_del(struct machine *machine, struct error *err)
{
	if (machine->state == MACHINE_NOT_STARTED)
		return error_set(err, EINVAL, "the machine has not been started");
	return i8042_send_ctrl_alt_del(machine->keyboard, err);
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
	machine_free_devices(machine);
	serial_free(machine->serial);
	i8042_free(machine->keyboard);
	generation_fini(&machine->generation);
	vm_fini(&machine->vm);
	machine_unmap_memory(machine);
	loop_free(machine->loop);
	if (machine->end >= 0)
		close(machine->end);
	buffer_fini(&machine->command_line);
	(void)pthread_mutex_destroy(&machine->lock);
	free(machine);
}
