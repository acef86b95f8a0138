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
#include "vmm/kvm/state_internal.h"

#define MSR_TSC          0x10
#define MSR_TSC_DEADLINE 0x6e0
#define TSC_TOLERANCE    250 /* parts per million: what NTP can still steer */

/* --- MSRs --- */

/* As struct kvm_msr_list, with room. */
struct msr_list {
	uint32_t nmsrs;
	uint32_t indices[MSRS_MAX];
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
		else if (kvm_msr_is_state(list.indices[i]))
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
	ret = vcpu_parse_state(data, size, xsave_size(vm), scratch, err);
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
	int ret = vm_parse_state(data, size, &state, err);

	if (ret < 0)
		return ret;
	/* What else was noted with the clock is of that host. */
	state.clock.flags &= clock_realtime ? KVM_CLOCK_REALTIME : 0;
	return run_steps(vm->fd, steps, ARRAY_SIZE(steps), err);
}
