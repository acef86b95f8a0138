#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"
#include "vmm/kvm/kvm.h"
#include "vmm/layout.h"

#define VCPU_STACK   (64 * 1024)
#define KICK_SIGNAL  SIGRTMIN
#define LAPIC_LINT0  0x350
#define LAPIC_LINT1  0x360
#define MODE_EXTINT  7
#define MODE_NMI     4
#define MSR_MISC     0x1a0 /* IA32_MISC_ENABLE */
#define MSR_MTRRTYPE 0x2ff /* IA32_MTRR_DEF_TYPE */

#define CR0_PE       (1ull << 0)
#define CR0_ET       (1ull << 4)
#define CR0_PG       (1ull << 31)
#define CR4_PAE      (1ull << 5)
#define EFER_LME     (1ull << 8)
#define EFER_LMA     (1ull << 10)

/* --- making --- */

static int vcpu_set_cpuid(struct vcpu *vcpu, const struct vm *vm, unsigned count, struct error *err)
{
	size_t size = sizeof(*vm->cpuid) + vm->cpuid->nent * sizeof(vm->cpuid->entries[0]);
	struct kvm_cpuid2 *cpuid = malloc(size);
	int ret = 0;

	if (!cpuid)
		return error_errno(err, ENOMEM, "set the CPUID of vCPU %u", vcpu->index);
	memcpy(cpuid, vm->cpuid, size);
	cpuid_adjust(cpuid, vcpu->index, count);
	if (ioctl(vcpu->fd, KVM_SET_CPUID2, cpuid) < 0)
		ret = error_errno(err, errno, "KVM_SET_CPUID2 of vCPU %u", vcpu->index);
	free(cpuid);
	return ret;
}

int vcpu_init(struct vcpu *vcpu, struct vm *vm, unsigned index, unsigned count,
              const struct vcpu_handler *handler, struct error *err)
{
	void *run;

	*vcpu = (struct vcpu){ .fd = -1, .index = index, .run_size = vm->run_size, .handler = handler };
	(void)pthread_mutex_init(&vcpu->lock, NULL);
	(void)pthread_cond_init(&vcpu->changed, NULL);
	vcpu->fd = ioctl(vm->fd, KVM_CREATE_VCPU, index);
	if (vcpu->fd < 0)
		return error_errno(err, errno, "KVM_CREATE_VCPU %u", index);
	run = mmap(NULL, vm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (run == MAP_FAILED)
		return error_errno(err, errno, "map vCPU %u", index);
	vcpu->run = run;
	return vcpu_set_cpuid(vcpu, vm, count, err);
}

void vcpu_fini(struct vcpu *vcpu)
{
	vcpu_stop(vcpu);
	if (vcpu->run)
		(void)munmap(vcpu->run, vcpu->run_size);
	if (vcpu->fd >= 0)
		close(vcpu->fd);
	vcpu->run = NULL;
	vcpu->fd = -1;
}

/* --- the state that a boot loader leaves --- */

static struct kvm_segment flat_segment(uint16_t selector, uint8_t type, bool code)
{
	return (struct kvm_segment){ .selector = selector,
		                     .type = type,
		                     .limit = 0xffffffff,
		                     .present = 1,
		                     .s = 1,
		                     .l = code,
		                     .db = !code,
		                     .g = 1 };
}

static int set_special_registers(struct vcpu *vcpu, struct error *err)
{
	struct kvm_sregs sregs;

	if (ioctl(vcpu->fd, KVM_GET_SREGS, &sregs) < 0)
		return error_errno(err, errno, "KVM_GET_SREGS");
	sregs.cs = flat_segment(0x10, 0xb, true);
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat_segment(0x18, 0x3, false);
	sregs.tr = (struct kvm_segment){ .selector = 0x20, .type = 0xb, .limit = 0x67, .present = 1 };
	sregs.gdt = (struct kvm_dtable){ .base = LAYOUT_GDT, .limit = 5 * 8 - 1 };
	sregs.idt = (struct kvm_dtable){ 0 };
	sregs.cr0 |= CR0_PE | CR0_ET | CR0_PG;
	sregs.cr3 = LAYOUT_PML4;
	sregs.cr4 |= CR4_PAE;
	sregs.efer |= EFER_LME | EFER_LMA;
	if (ioctl(vcpu->fd, KVM_SET_SREGS, &sregs) < 0)
		return error_errno(err, errno, "KVM_SET_SREGS");
	return 0;
}

static int set_msrs(struct vcpu *vcpu, struct error *err)
{
	static const struct kvm_msr_entry wanted[] = {
		{ .index = MSR_MISC, .data = 1 },         /* fast strings */
		{ .index = MSR_MTRRTYPE, .data = 0x806 }, /* enabled, write-back */
	};
	_Alignas(struct kvm_msrs) unsigned char space[sizeof(struct kvm_msrs) + sizeof(wanted)];
	struct kvm_msrs *msrs = (struct kvm_msrs *)space;
	int set;

	memset(space, 0, sizeof(space));
	msrs->nmsrs = ARRAY_SIZE(wanted);
	memcpy(msrs->entries, wanted, sizeof(wanted));
	set = ioctl(vcpu->fd, KVM_SET_MSRS, msrs);
	if (set < 0)
		return error_errno(err, errno, "KVM_SET_MSRS");
	if ((size_t)set != ARRAY_SIZE(wanted))
		return error_set(err, EIO, "KVM_SET_MSRS refused MSR %#x", wanted[set].index);
	return 0;
}

static void lapic_set_mode(struct kvm_lapic_state *lapic, unsigned offset, uint32_t mode)
{
	uint32_t value;

	memcpy(&value, lapic->regs + offset, sizeof(value));
	value = (value & ~0x700u) | mode << 8;
	memcpy(lapic->regs + offset, &value, sizeof(value));
}

/* PIC interrupts come in by LINT0, NMI by LINT1 (MultiProcessor Specification 1.4, 3.6.2). */
static int set_lapic(struct vcpu *vcpu, struct error *err)
{
	struct kvm_lapic_state lapic;

	if (ioctl(vcpu->fd, KVM_GET_LAPIC, &lapic) < 0)
		return error_errno(err, errno, "KVM_GET_LAPIC");
	lapic_set_mode(&lapic, LAPIC_LINT0, MODE_EXTINT);
	lapic_set_mode(&lapic, LAPIC_LINT1, MODE_NMI);
	if (ioctl(vcpu->fd, KVM_SET_LAPIC, &lapic) < 0)
		return error_errno(err, errno, "KVM_SET_LAPIC");
	return 0;
}

int vcpu_set_boot_state(struct vcpu *vcpu, uint64_t entry, uint64_t zero_page, struct error *err)
{
	struct kvm_regs regs = {
		.rflags = 2, .rip = entry, .rsp = LAYOUT_STACK, .rbp = LAYOUT_STACK, .rsi = zero_page
	};
	struct kvm_fpu fpu = { .fcw = 0x37f, .mxcsr = 0x1f80 };
	int ret = set_msrs(vcpu, err);

	if (ret < 0)
		return ret;
	if (ioctl(vcpu->fd, KVM_SET_REGS, &regs) < 0)
		return error_errno(err, errno, "KVM_SET_REGS");
	if (ioctl(vcpu->fd, KVM_SET_FPU, &fpu) < 0)
		return error_errno(err, errno, "KVM_SET_FPU");
	ret = set_special_registers(vcpu, err);
	return ret < 0 ? ret : set_lapic(vcpu, err);
}

/* --- running --- */

/* The signal only has to interrupt KVM_RUN. */
static void on_kick(int number)
{
	(void)number;
}

static bool handle_port(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	unsigned size = run->io.size;
	char *data = (char *)run + run->io.data_offset;
	bool go_on = true;

	for (uint32_t i = 0; i < run->io.count && go_on; i++, data += size)
		go_on = vcpu->handler->port(vcpu->handler->context, run->io.port,
		                            run->io.direction == KVM_EXIT_IO_OUT, data, size);
	return go_on;
}

static void count(_Atomic uint64_t *counter)
{
	(void)atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

/* Act on one exit. False ends the thread, with *end and `err` saying why. */
static bool handle_exit(struct vcpu *vcpu, enum vcpu_end *end, struct error *err)
{
	struct kvm_run *run = vcpu->run;

	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		count(run->io.direction == KVM_EXIT_IO_OUT ? &vcpu->counters.port_out
		                                           : &vcpu->counters.port_in);
		*end = VCPU_END_RESET;
		return handle_port(vcpu);
	case KVM_EXIT_MMIO:
		count(run->mmio.is_write ? &vcpu->counters.mmio_write : &vcpu->counters.mmio_read);
		vcpu->handler->mmio(vcpu->handler->context, run->mmio.phys_addr, run->mmio.is_write,
		                    run->mmio.data, run->mmio.len);
		return true;
	case KVM_EXIT_HLT:
	case KVM_EXIT_INTR:
		return true;
	case KVM_EXIT_SHUTDOWN:
		*end = VCPU_END_CRASHED;
		error_set(err, EFAULT, "vCPU %u: triple fault", vcpu->index);
		return false;
	case KVM_EXIT_SYSTEM_EVENT:
		*end = VCPU_END_RESET;
		return false;
	default:
		count(&vcpu->counters.failures);
		*end = VCPU_END_FAILED;
		error_set(err, EIO, "vCPU %u: KVM exit %u (%#llx)", vcpu->index, run->exit_reason,
		          (unsigned long long)run->hw.hardware_exit_reason);
		return false;
	}
}

/*
 * Let KVM finish the access whose exit was handled last: only then are the registers complete. A long string
 * access exits again and again. False when the guest ended by it.
 */
static bool finish_exit(struct vcpu *vcpu, enum vcpu_end *end, struct error *err)
{
	bool go_on = true;

	do
		vcpu->run->immediate_exit = 1;
	while (ioctl(vcpu->fd, KVM_RUN, 0) == 0 && (go_on = handle_exit(vcpu, end, err)));
	vcpu->run->immediate_exit = 0;
	return go_on;
}

static void set_parked(struct vcpu *vcpu, bool parked)
{
	pthread_mutex_lock(&vcpu->lock);
	vcpu->parked = parked;
	pthread_cond_broadcast(&vcpu->changed);
	pthread_mutex_unlock(&vcpu->lock);
}

static void park(struct vcpu *vcpu)
{
	pthread_mutex_lock(&vcpu->lock);
	vcpu->parked = true;
	pthread_cond_broadcast(&vcpu->changed);
	while (atomic_load(&vcpu->wish) == VCPU_WISH_PAUSE)
		pthread_cond_wait(&vcpu->changed, &vcpu->lock);
	vcpu->parked = false;
	pthread_mutex_unlock(&vcpu->lock);
}

/* Run until something ends the guest, or the wish is no longer to run. False when it ended. */
static bool run_guest(struct vcpu *vcpu, enum vcpu_end *end, struct error *err)
{
	while (atomic_load(&vcpu->wish) == VCPU_WISH_RUN) {
		if (ioctl(vcpu->fd, KVM_RUN, 0) == 0) {
			if (!handle_exit(vcpu, end, err))
				return false;
		} else if (errno == EINTR || errno == EAGAIN) {
			vcpu->run->immediate_exit = 0;
		} else {
			count(&vcpu->counters.failures);
			*end = VCPU_END_FAILED;
			error_errno(err, errno, "vCPU %u: KVM_RUN", vcpu->index);
			return false;
		}
	}
	return true;
}

static void *vcpu_main(void *context)
{
	struct vcpu *vcpu = context;
	enum vcpu_end end = VCPU_END_STOPPED;
	struct error err = { 0 };
	char name[16];

	/* By the thread itself, which needs no /proc for it. */
	(void)snprintf(name, sizeof(name), "vcpu-%u", vcpu->index);
	(void)pthread_setname_np(pthread_self(), name);
	if (vcpu->handler->started(vcpu->handler->context, &err) < 0)
		end = VCPU_END_FAILED;
	else
		park(vcpu);
	while (end != VCPU_END_FAILED && atomic_load(&vcpu->wish) != VCPU_WISH_STOP) {
		if (!run_guest(vcpu, &end, &err) || !finish_exit(vcpu, &end, &err))
			break;
		end = VCPU_END_STOPPED;
		if (atomic_load(&vcpu->wish) == VCPU_WISH_PAUSE)
			park(vcpu);
	}
	vcpu->handler->ended(vcpu->handler->context, end, &err);
	set_parked(vcpu, true);
	return NULL;
}

int vcpu_start(struct vcpu *vcpu, struct error *err)
{
	struct sigaction action = { .sa_handler = on_kick };
	pthread_attr_t attributes;
	int ret;

	(void)sigaction(KICK_SIGNAL, &action, NULL);
	atomic_store(&vcpu->wish, VCPU_WISH_PAUSE);
	(void)pthread_attr_init(&attributes);
	(void)pthread_attr_setstacksize(&attributes, VCPU_STACK);
	ret = pthread_create(&vcpu->thread, &attributes, vcpu_main, vcpu);
	(void)pthread_attr_destroy(&attributes);
	if (ret)
		return error_errno(err, ret, "start vCPU %u", vcpu->index);
	vcpu->started = true;
	return 0;
}

static void set_wish(struct vcpu *vcpu, enum vcpu_wish wish)
{
	pthread_mutex_lock(&vcpu->lock);
	atomic_store(&vcpu->wish, wish);
	pthread_cond_broadcast(&vcpu->changed);
	/* immediate_exit closes the window between the check and KVM_RUN; the signal ends a KVM_RUN that is
	 * on. */
	if (wish != VCPU_WISH_RUN && !vcpu->parked) {
		vcpu->run->immediate_exit = 1;
		(void)pthread_kill(vcpu->thread, KICK_SIGNAL);
	}
	pthread_mutex_unlock(&vcpu->lock);
}

void vcpu_pause(struct vcpu *vcpu)
{
	if (vcpu->started)
		set_wish(vcpu, VCPU_WISH_PAUSE);
}

void vcpu_wait_paused(struct vcpu *vcpu)
{
	pthread_mutex_lock(&vcpu->lock);
	while (vcpu->started && !vcpu->parked)
		pthread_cond_wait(&vcpu->changed, &vcpu->lock);
	pthread_mutex_unlock(&vcpu->lock);
}

void vcpu_resume(struct vcpu *vcpu)
{
	if (vcpu->started)
		set_wish(vcpu, VCPU_WISH_RUN);
}

void vcpu_stop(struct vcpu *vcpu)
{
	if (!vcpu->started)
		return;
	set_wish(vcpu, VCPU_WISH_STOP);
	(void)pthread_join(vcpu->thread, NULL);
	vcpu->started = false;
}
