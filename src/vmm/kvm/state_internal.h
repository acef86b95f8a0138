/*
 * What a saved vCPU and VM look like: shared by state.c, which asks KVM, and state_parse.c, which takes the
 * bytes of a file apart. Private to kvm/.
 */
#pragma once

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define MSRS_MAX  512
#define CPUID_MAX 256
#define XSAVE_MAX (64 * 1024)

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

/* As struct kvm_msrs, with room. */
struct msr_buffer {
	uint32_t nmsrs;
	uint32_t pad;
	struct kvm_msr_entry entries[MSRS_MAX];
};

/* A vCPU's state with what lies behind it. */
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

/* Whether an MSR is part of a guest's state; counters and the like of the host are not. */
bool kvm_msr_is_state(uint32_t index);

/*
 * Take saved bytes apart; nothing in them is trusted. `host_xsave`: bytes of an FPU state that KVM reads on
 * this host. 0, or -EINVAL with `err`.
 */
int vcpu_parse_state(const void *data, size_t size, uint32_t host_xsave, struct vcpu_scratch *ret,
                     struct error *err);
int vm_parse_state(const void *data, size_t size, struct vm_state *ret, struct error *err);
