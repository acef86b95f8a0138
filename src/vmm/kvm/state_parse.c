/* Saved vCPUs and VMs as they come from a file: every count is checked, and what may be set. */
#include <errno.h>
#include <string.h>

#include "base/base.h"
#include "vmm/kvm/state_internal.h"

bool kvm_msr_is_state(uint32_t index)
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

/* KVM lets us set more than a guest may: none but what is saved. */
static int check_msrs(const struct msr_buffer *msrs, struct error *err)
{
	for (uint32_t i = 0; i < msrs->nmsrs; i++)
		if (!kvm_msr_is_state(msrs->entries[i].index))
			return error_set(err, EINVAL, "the saved vCPU has MSR %#x, which is no guest's state",
			                 msrs->entries[i].index);
	return 0;
}

int vcpu_parse_state(const void *data, size_t size, uint32_t host_xsave, struct vcpu_scratch *scratch,
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
	return check_msrs(&scratch->msrs, err);
}

int vm_parse_state(const void *data, size_t size, struct vm_state *ret, struct error *err)
{
	if (size != sizeof(*ret))
		return error_set(err, EINVAL, "the saved VM has %zu bytes, not %zu", size, sizeof(*ret));
	memcpy(ret, data, sizeof(*ret));
	for (uint32_t i = 0; i < ARRAY_SIZE(ret->irqchips); i++)
		if (ret->irqchips[i].chip_id != i)
			return error_set(err, EINVAL, "the saved VM has no interrupt chip %u", i);
	return 0;
}
