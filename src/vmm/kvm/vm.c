#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/base.h"
#include "vmm/kvm/kvm.h"
#include "vmm/layout.h"

#define CPUID_ENTRIES_MAX 256

/* Capabilities without which there is no point in starting. */
static const struct {
	int number;
	const char *name;
} required[] = {
	{ KVM_CAP_IRQCHIP, "IRQCHIP" },     { KVM_CAP_IRQFD, "IRQFD" },
	{ KVM_CAP_IOEVENTFD, "IOEVENTFD" }, { KVM_CAP_USER_MEMORY, "USER_MEMORY" },
	{ KVM_CAP_PIT2, "PIT2" },           { KVM_CAP_IMMEDIATE_EXIT, "IMMEDIATE_EXIT" },
	{ KVM_CAP_EXT_CPUID, "EXT_CPUID" }, { KVM_CAP_SET_TSS_ADDR, "SET_TSS_ADDR" },
};

static int vm_check(struct vm *vm, struct error *err)
{
	int version = ioctl(vm->kvm, KVM_GET_API_VERSION, 0);

	if (version != KVM_API_VERSION)
		return error_set(err, ENOTSUP, "/dev/kvm speaks version %d, not %d", version,
		                 KVM_API_VERSION);
	for (size_t i = 0; i < sizeof(required) / sizeof(required[0]); i++) {
		if (ioctl(vm->kvm, KVM_CHECK_EXTENSION, required[i].number) <= 0)
			return error_set(err, ENOTSUP, "/dev/kvm lacks KVM_CAP_%s", required[i].name);
	}
	return 0;
}

static int vm_read_cpuid(struct vm *vm, struct error *err)
{
	vm->cpuid = calloc(1, sizeof(*vm->cpuid) + CPUID_ENTRIES_MAX * sizeof(struct kvm_cpuid_entry2));
	if (!vm->cpuid)
		return error_errno(err, ENOMEM, "read the CPUID of KVM");
	vm->cpuid->nent = CPUID_ENTRIES_MAX;
	if (ioctl(vm->kvm, KVM_GET_SUPPORTED_CPUID, vm->cpuid) < 0)
		return error_errno(err, errno, "KVM_GET_SUPPORTED_CPUID");
	return 0;
}

int vm_init(struct vm *vm, struct error *err)
{
	int size;
	int ret;

	*vm = (struct vm){ .kvm = -1, .fd = -1 };
	vm->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (vm->kvm < 0)
		return error_errno(err, errno, "open /dev/kvm");
	ret = vm_check(vm, err);
	if (ret < 0)
		return ret;
	size = ioctl(vm->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (size < (int)sizeof(struct kvm_run))
		return error_errno(err, errno, "KVM_GET_VCPU_MMAP_SIZE");
	vm->run_size = (size_t)size;
	ret = vm_read_cpuid(vm, err);
	if (ret < 0)
		return ret;
	do
		vm->fd = ioctl(vm->kvm, KVM_CREATE_VM, 0);
	while (vm->fd < 0 && errno == EINTR);
	if (vm->fd < 0)
		return error_errno(err, errno, "KVM_CREATE_VM");
	if (ioctl(vm->fd, KVM_SET_TSS_ADDR, LAYOUT_TSS) < 0)
		return error_errno(err, errno, "KVM_SET_TSS_ADDR");
	return 0;
}

void vm_fini(struct vm *vm)
{
	free(vm->cpuid);
	if (vm->fd >= 0)
		close(vm->fd);
	if (vm->kvm >= 0)
		close(vm->kvm);
	*vm = (struct vm){ .kvm = -1, .fd = -1 };
}

int vm_set_memory(struct vm *vm, const struct guest_memory *memory, struct error *err)
{
	for (unsigned i = 0; i < memory->count; i++) {
		struct kvm_userspace_memory_region slot = {
			.slot = i,
			.flags = memory->dirty ? KVM_MEM_LOG_DIRTY_PAGES : 0,
			.guest_phys_addr = memory->regions[i].gpa,
			.memory_size = memory->regions[i].size,
			.userspace_addr = (uintptr_t)memory->regions[i].host
		};

		if (ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
			return error_errno(err, errno, "KVM_SET_USER_MEMORY_REGION at %#llx",
			                   (unsigned long long)slot.guest_phys_addr);
	}
	return 0;
}

int vm_collect_dirty(struct vm *vm, const struct guest_memory *memory, struct error *err)
{
	uint8_t *dirty = memory->dirty;

	for (unsigned i = 0; i < memory->count; i++) {
		/* KVM writes whole words of 64 pages. */
		size_t size = (memory->regions[i].size / GUEST_PAGE + 63) / 64 * 8;
		cleanup_free uint8_t *bits = calloc(1, size);
		struct kvm_dirty_log log = { .slot = i, .dirty_bitmap = bits };

		if (!bits)
			return error_errno(err, ENOMEM, "read the dirty log");
		if (ioctl(vm->fd, KVM_GET_DIRTY_LOG, &log) < 0)
			return error_errno(err, errno, "KVM_GET_DIRTY_LOG");
		/* The first region is a whole number of bytes long when there is a second. */
		for (uint64_t at = 0; at < memory->regions[i].size / GUEST_PAGE / 8; at++)
			dirty[at] |= bits[at];
		dirty += memory->regions[i].size / GUEST_PAGE / 8;
	}
	return 0;
}

int vm_create_irqchip(struct vm *vm, struct error *err)
{
	/* The speaker port is the guest's way to calibrate its clock: without the dummy each look at it is an
	 * exit. */
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };

	if (ioctl(vm->fd, KVM_CREATE_IRQCHIP, 0) < 0)
		return error_errno(err, errno, "KVM_CREATE_IRQCHIP");
	if (ioctl(vm->fd, KVM_CREATE_PIT2, &pit) < 0)
		return error_errno(err, errno, "KVM_CREATE_PIT2");
	return 0;
}

int vm_set_irqfd(struct vm *vm, int eventfd, uint32_t gsi, struct error *err)
{
	struct kvm_irqfd irqfd = { .fd = (uint32_t)eventfd, .gsi = gsi };

	if (ioctl(vm->fd, KVM_IRQFD, &irqfd) < 0)
		return error_errno(err, errno, "KVM_IRQFD for GSI %u", gsi);
	return 0;
}

int vm_set_ioeventfd(struct vm *vm, int eventfd, uint64_t gpa, uint32_t value, struct error *err)
{
	struct kvm_ioeventfd event = { .datamatch = value,
		                       .addr = gpa,
		                       .len = sizeof(value),
		                       .fd = eventfd,
		                       .flags = KVM_IOEVENTFD_FLAG_DATAMATCH };

	if (ioctl(vm->fd, KVM_IOEVENTFD, &event) < 0)
		return error_errno(err, errno, "KVM_IOEVENTFD at %#llx", (unsigned long long)gpa);
	return 0;
}
