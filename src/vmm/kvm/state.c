/*
 * Saving and restoring what KVM holds of a stopped machine (Documentation/virt/kvm/api.rst). The orders are
 * not free: MP_STATE can change the LAPIC, REGS clears pending exceptions, the deadline MSR needs the LAPIC's
 * timer mode.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/base.h"
#include "vmm/kvm/kvm.h"
#include "vmm/layout.h"

#define MSRS_MAX         512
#define CPUID_MAX        256
#define XSAVE_MAX        (64 * 1024)
#define MSR_TSC          0x10
#define MSR_TSC_DEADLINE 0x6e0
#define TSC_TOLERANCE    250 /* parts per million: what NTP can still steer */

struct vcpu_state {
	uint32_t cpuid_count;
	uint32_t msr_count;
	uint32_t xsave_size;
	uint32_t tsc_khz;
	struct kvm_mp_state mp_state;
	uint32_t reserved;
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_xcrs xcrs;
	struct kvm_debugregs debugregs;
	struct kvm_lapic_state lapic;
	struct kvm_vcpu_events events;
	/* Behind it: cpuid_count kvm_cpuid_entry2, msr_count kvm_msr_entry, xsave_size bytes. */
};

struct vm_state {
	struct kvm_pit_state2 pit;
	struct kvm_clock_data clock;
	struct kvm_irqchip irqchips[3]; /* PIC master, PIC slave, IOAPIC */
};

/* --- MSRs --- */

/* Those that make up a guest's state; counters and the like of the host stay out. */
static bool msr_is_state(uint32_t index)
{
	static const struct {
		uint32_t first;
		uint32_t last;
	} ranges[] = {
		{ 0x10, 0x10 },             /* TSC */
		{ 0x1b, 0x1b },             /* APIC base */
		{ 0x3b, 0x3b },             /* TSC_ADJUST */
		{ 0x48, 0x48 },             /* SPEC_CTRL */
		{ 0x122, 0x122 },           /* TSX_CTRL */
		{ 0x174, 0x176 },           /* SYSENTER */
		{ 0x1a0, 0x1a0 },           /* MISC_ENABLE */
		{ 0x200, 0x2ff },           /* MTRR, PAT */
		{ 0x6e0, 0x6e0 },           /* TSC_DEADLINE */
		{ 0xda0, 0xda0 },           /* XSS */
		{ 0x4b564d00, 0x4b564dff }, /* KVM's own: clock, steal time, asynchronous faults, EOI */
		{ 0xc0000080, 0xc0000084 }, /* EFER, STAR, LSTAR, CSTAR, SYSCALL_MASK */
		{ 0xc0000100, 0xc0000103 }, /* FS, GS, KERNEL_GS base, TSC_AUX */
	};

	for (size_t i = 0; i < ARRAY_SIZE(ranges); i++)
		if (index >= ranges[i].first && index <= ranges[i].last)
			return true;
	return false;
}

/* As struct kvm_msr_list, struct kvm_msrs and struct kvm_cpuid2, with room. */
struct msr_list {
	uint32_t nmsrs;
	uint32_t indices[MSRS_MAX];
};

struct msr_buffer {
	uint32_t nmsrs;
	uint32_t pad;
	struct kvm_msr_entry entries[MSRS_MAX];
};

/* Fill `msrs` with the indices to save, the deadline last. */
static int msr_choose(const struct vm *vm, struct msr_buffer *msrs, struct error *err)
{
	struct msr_list list = { .nmsrs = MSRS_MAX };
	bool deadline = false;
	uint32_t count = 0;

	if (ioctl(vm->kvm, KVM_GET_MSR_INDEX_LIST, &list) < 0)
		return error_errno(err, errno, "KVM_GET_MSR_INDEX_LIST");
	for (uint32_t i = 0; i < list.nmsrs; i++) {
		if (list.indices[i] == MSR_TSC_DEADLINE)
			deadline = true;
		else if (msr_is_state(list.indices[i]))
			msrs->entries[count++].index = list.indices[i];
	}
	if (deadline && count < MSRS_MAX)
		msrs->entries[count++].index = MSR_TSC_DEADLINE;
	msrs->nmsrs = count;
	return 0;
}

/* Read them all; KVM stops at the first that this guest does not have, which then drops out. */
static int msr_read(struct vcpu *vcpu, struct msr_buffer *msrs, struct error *err)
{
	uint32_t total = msrs->nmsrs;
	uint32_t done = 0;

	while (done < total) {
		struct msr_buffer part = { .nmsrs = total - done };
		int got;

		memcpy(part.entries, msrs->entries + done, (total - done) * sizeof(part.entries[0]));
		got = ioctl(vcpu->fd, KVM_GET_MSRS, &part);
		if (got < 0)
			return error_errno(err, errno, "KVM_GET_MSRS of vCPU %u", vcpu->index);
		memcpy(msrs->entries + done, part.entries, (size_t)got * sizeof(part.entries[0]));
		done += (uint32_t)got;
		if (done < total) {
			memmove(msrs->entries + done, msrs->entries + done + 1,
			        (total - done - 1) * sizeof(msrs->entries[0]));
			total--;
		}
	}
	msrs->nmsrs = total;
	return 0;
}

/* A deadline of 0 means "not armed", but also "fires now": the current time makes it fire, and none is lost.
 */
static void msr_mend_deadline(struct msr_buffer *msrs)
{
	uint32_t count = msrs->nmsrs;
	struct kvm_msr_entry *last = count ? &msrs->entries[count - 1] : NULL;

	if (!last || last->index != MSR_TSC_DEADLINE || last->data != 0)
		return;
	for (uint32_t i = 0; i < count; i++)
		if (msrs->entries[i].index == MSR_TSC)
			last->data = msrs->entries[i].data;
}

static int msr_write(struct vcpu *vcpu, struct msr_buffer *msrs, struct error *err)
{
	int set = ioctl(vcpu->fd, KVM_SET_MSRS, msrs);

	if (set < 0)
		return error_errno(err, errno, "KVM_SET_MSRS of vCPU %u", vcpu->index);
	if ((uint32_t)set != msrs->nmsrs)
		return error_set(err, EIO, "vCPU %u: this host refuses MSR %#x = %#llx", vcpu->index,
		                 msrs->entries[set].index, (unsigned long long)msrs->entries[set].data);
	return 0;
}

/* --- one vCPU --- */

struct kvm_step {
	unsigned long request;
	void *data;
	const char *name;
};

static int run_steps(int fd, const struct kvm_step *steps, size_t count, struct error *err)
{
	for (size_t i = 0; i < count; i++)
		if (ioctl(fd, steps[i].request, steps[i].data) < 0)
			return error_errno(err, errno, "%s", steps[i].name);
	return 0;
}

#define STEP(request, data)                                                                                  \
	{                                                                                                    \
		request, data, #request                                                                      \
	}

static uint32_t xsave_size(const struct vm *vm)
{
	int size = ioctl(vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);

	return size > (int)sizeof(struct kvm_xsave) ? (uint32_t)size : (uint32_t)sizeof(struct kvm_xsave);
}

struct vcpu_scratch {
	struct vcpu_state state;
	struct msr_buffer msrs;
	struct {
		uint32_t nent;
		uint32_t padding;
		struct kvm_cpuid_entry2 entries[CPUID_MAX];
	} cpuid;
	unsigned char xsave[XSAVE_MAX];
};

static int vcpu_read(struct vcpu *vcpu, const struct vm *vm, struct vcpu_scratch *scratch, struct error *err)
{
	struct vcpu_state *state = &scratch->state;
	const struct kvm_step first[] = {
		STEP(KVM_GET_MP_STATE, &state->mp_state),
		STEP(KVM_GET_REGS, &state->regs),
		STEP(KVM_GET_SREGS, &state->sregs),
		{ xsave_size(vm) > sizeof(struct kvm_xsave) ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, scratch->xsave,
		  "KVM_GET_XSAVE" },
		STEP(KVM_GET_XCRS, &state->xcrs),
		STEP(KVM_GET_DEBUGREGS, &state->debugregs),
		STEP(KVM_GET_LAPIC, &state->lapic),
		STEP(KVM_GET_CPUID2, &scratch->cpuid),
	};
	const struct kvm_step last = STEP(KVM_GET_VCPU_EVENTS, &state->events);
	int khz = ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0);
	int ret;

	state->xsave_size = xsave_size(vm);
	state->tsc_khz = khz > 0 ? (uint32_t)khz : 0;
	scratch->cpuid.nent = CPUID_MAX;
	if (state->xsave_size > XSAVE_MAX)
		return error_set(err, EOVERFLOW, "an FPU state of %u bytes is too large", state->xsave_size);
	ret = run_steps(vcpu->fd, first, ARRAY_SIZE(first), err);
	if (ret == 0)
		ret = msr_choose(vm, &scratch->msrs, err);
	if (ret == 0)
		ret = msr_read(vcpu, &scratch->msrs, err);
	if (ret == 0)
		ret = run_steps(vcpu->fd, &last, 1, err);
	if (ret < 0)
		return error_wrap(err, "save vCPU %u", vcpu->index);
	msr_mend_deadline(&scratch->msrs);
	state->msr_count = scratch->msrs.nmsrs;
	state->cpuid_count = scratch->cpuid.nent;
	return 0;
}

int vcpu_save(struct vcpu *vcpu, const struct vm *vm, struct buffer *to, struct error *err)
{
	cleanup_free struct vcpu_scratch *scratch = calloc(1, sizeof(*scratch));
	const struct vcpu_state *state;
	int ret;

	if (!scratch)
		return error_errno(err, ENOMEM, "save vCPU %u", vcpu->index);
	state = &scratch->state;
	ret = vcpu_read(vcpu, vm, scratch, err);
	if (ret < 0)
		return ret;
	if (buffer_append(to, state, sizeof(*state)) < 0 ||
	    buffer_append(to, scratch->cpuid.entries,
	                  state->cpuid_count * sizeof(scratch->cpuid.entries[0])) < 0 ||
	    buffer_append(to, scratch->msrs.entries, state->msr_count * sizeof(scratch->msrs.entries[0])) <
	            0 ||
	    buffer_append(to, scratch->xsave, state->xsave_size) < 0)
		return error_errno(err, ENOMEM, "save vCPU %u", vcpu->index);
	return 0;
}

/* Take the saved bytes apart. Every count comes from a file. */
static int vcpu_parse(const void *data, size_t size, uint32_t host_xsave, struct vcpu_scratch *scratch,
                      struct error *err)
{
	struct vcpu_state *state = &scratch->state;
	const unsigned char *at = data;
	size_t cpuid_size;
	size_t msr_size;

	if (size < sizeof(*state))
		return error_set(err, EINVAL, "the saved vCPU is cut short");
	memcpy(state, at, sizeof(*state));
	if (state->cpuid_count > CPUID_MAX || state->msr_count > MSRS_MAX || state->xsave_size > XSAVE_MAX)
		return error_set(err, EINVAL, "the saved vCPU has impossible counts");
	cpuid_size = state->cpuid_count * sizeof(scratch->cpuid.entries[0]);
	msr_size = state->msr_count * sizeof(scratch->msrs.entries[0]);
	if (size != sizeof(*state) + cpuid_size + msr_size + state->xsave_size)
		return error_set(err, EINVAL, "the saved vCPU has the wrong size");
	/* KVM reads as much as this host's CPUs have. */
	if (state->xsave_size < host_xsave)
		return error_set(err, EINVAL, "the saved FPU state has %u bytes, this host needs %u",
		                 state->xsave_size, host_xsave);
	at += sizeof(*state);
	memcpy(scratch->cpuid.entries, at, cpuid_size);
	memcpy(scratch->msrs.entries, at + cpuid_size, msr_size);
	memcpy(scratch->xsave, at + cpuid_size + msr_size, state->xsave_size);
	scratch->cpuid.nent = state->cpuid_count;
	scratch->msrs.nmsrs = state->msr_count;
	return 0;
}

/* Snapshots may come from a host with another clock rate; within the tolerance none needs scaling. */
static int vcpu_match_tsc(struct vcpu *vcpu, uint32_t saved_khz, struct error *err)
{
	int khz = ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0);
	uint64_t difference;

	if (khz <= 0 || saved_khz == 0)
		return 0;
	difference = (uint64_t)llabs((long long)khz - (long long)saved_khz);
	if (difference * 1000000 <= (uint64_t)saved_khz * TSC_TOLERANCE)
		return 0;
	if (ioctl(vcpu->fd, KVM_SET_TSC_KHZ, saved_khz) < 0)
		return error_errno(err, errno, "run the clock of vCPU %u at %u kHz on a host of %d kHz",
		                   vcpu->index, saved_khz, khz);
	return 0;
}

static int vcpu_write(struct vcpu *vcpu, struct vcpu_scratch *scratch, struct error *err)
{
	struct vcpu_state *state = &scratch->state;
	const struct kvm_step first[] = {
		STEP(KVM_SET_CPUID2, &scratch->cpuid),      STEP(KVM_SET_MP_STATE, &state->mp_state),
		STEP(KVM_SET_REGS, &state->regs),           STEP(KVM_SET_SREGS, &state->sregs),
		STEP(KVM_SET_XSAVE, scratch->xsave),        STEP(KVM_SET_XCRS, &state->xcrs),
		STEP(KVM_SET_DEBUGREGS, &state->debugregs), STEP(KVM_SET_LAPIC, &state->lapic),
	};
	const struct kvm_step last = STEP(KVM_SET_VCPU_EVENTS, &state->events);
	int ret = vcpu_match_tsc(vcpu, state->tsc_khz, err);

	if (ret == 0)
		ret = run_steps(vcpu->fd, first, ARRAY_SIZE(first), err);
	if (ret == 0)
		ret = msr_write(vcpu, &scratch->msrs, err);
	if (ret == 0)
		ret = run_steps(vcpu->fd, &last, 1, err);
	return ret < 0 ? error_wrap(err, "restore vCPU %u", vcpu->index) : 0;
}

int vcpu_restore(struct vcpu *vcpu, const struct vm *vm, const void *data, size_t size, struct error *err)
{
	cleanup_free struct vcpu_scratch *scratch = calloc(1, sizeof(*scratch));
	int ret;

	if (!scratch)
		return error_errno(err, ENOMEM, "restore vCPU %u", vcpu->index);
	ret = vcpu_parse(data, size, xsave_size(vm), scratch, err);
	if (ret == 0)
		ret = vcpu_write(vcpu, scratch, err);
	if (ret == 0)
		vcpu_notice_pause(vcpu);
	return ret;
}

/* The guest's watchdogs must not take the time it was stopped for a lock-up. Fails where it has no clock yet.
 */
void vcpu_notice_pause(struct vcpu *vcpu)
{
	(void)ioctl(vcpu->fd, KVM_KVMCLOCK_CTRL, 0);
}

/* --- what belongs to the VM --- */

int vm_save(const struct vm *vm, struct buffer *to, struct error *err)
{
	struct vm_state state = { .irqchips = { { .chip_id = KVM_IRQCHIP_PIC_MASTER },
		                                { .chip_id = KVM_IRQCHIP_PIC_SLAVE },
		                                { .chip_id = KVM_IRQCHIP_IOAPIC } } };
	const struct kvm_step steps[] = {
		STEP(KVM_GET_PIT2, &state.pit),
		STEP(KVM_GET_CLOCK, &state.clock),
		STEP(KVM_GET_IRQCHIP, &state.irqchips[0]),
		STEP(KVM_GET_IRQCHIP, &state.irqchips[1]),
		STEP(KVM_GET_IRQCHIP, &state.irqchips[2]),
	};
	int ret = run_steps(vm->fd, steps, ARRAY_SIZE(steps), err);

	if (ret == 0 && buffer_append(to, &state, sizeof(state)) < 0)
		ret = error_errno(err, ENOMEM, "save the VM");
	return ret;
}

int vm_restore(const struct vm *vm, const void *data, size_t size, bool clock_realtime, struct error *err)
{
	struct vm_state state;
	const struct kvm_step steps[] = {
		STEP(KVM_SET_PIT2, &state.pit),
		STEP(KVM_SET_CLOCK, &state.clock),
		STEP(KVM_SET_IRQCHIP, &state.irqchips[0]),
		STEP(KVM_SET_IRQCHIP, &state.irqchips[1]),
		STEP(KVM_SET_IRQCHIP, &state.irqchips[2]),
	};

	if (size != sizeof(state))
		return error_set(err, EINVAL, "the saved VM has %zu bytes, not %zu", size, sizeof(state));
	memcpy(&state, data, sizeof(state));
	for (uint32_t i = 0; i < ARRAY_SIZE(state.irqchips); i++)
		if (state.irqchips[i].chip_id != i)
			return error_set(err, EINVAL, "the saved VM has no interrupt chip %u", i);
	/* What else was noted with the clock is of that host. */
	state.clock.flags &= clock_realtime ? KVM_CLOCK_REALTIME : 0;
	return run_steps(vm->fd, steps, ARRAY_SIZE(steps), err);
}
