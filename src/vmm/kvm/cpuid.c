#include "vmm/kvm/kvm.h"

#define LEAF_FEATURES            0x1
#define LEAF_TOPOLOGY            0xb
#define LEAF_AMD_SIZE            0x80000008u
#define LEAF_AMD_ID              0x8000001eu

#define FEATURE_ECX_TSC_DEADLINE (1u << 24)
#define FEATURE_ECX_HYPERVISOR   (1u << 31)
#define FEATURE_EDX_HTT          (1u << 28)

/* Bits that hold `count` different values. */
static unsigned width_of(unsigned count)
{
	unsigned width = 0;

	while ((1u << width) < count)
		width++;
	return width;
}

static void adjust_features(struct kvm_cpuid_entry2 *entry, unsigned index, unsigned count)
{
	entry->ebx = (entry->ebx & 0xffff) | (1u << width_of(count)) << 16 | index << 24;
	entry->ecx |= FEATURE_ECX_TSC_DEADLINE | FEATURE_ECX_HYPERVISOR;
	if (count > 1)
		entry->edx |= FEATURE_EDX_HTT;
	else
		entry->edx &= ~FEATURE_EDX_HTT;
}

/* One socket of `count` cores with one thread each; the x2APIC id is the index. */
static void adjust_topology(struct kvm_cpuid_entry2 *entry, unsigned index, unsigned count)
{
	entry->edx = index;
	if (entry->index == 0) {
		entry->eax = 0;
		entry->ebx = 1;
		entry->ecx = 1 << 8;
	} else if (entry->index == 1) {
		entry->eax = width_of(count);
		entry->ebx = count;
		entry->ecx = 2 << 8 | 1;
	} else {
		entry->eax = 0;
		entry->ebx = 0;
		entry->ecx = entry->index;
	}
}

void cpuid_adjust(struct kvm_cpuid2 *cpuid, unsigned index, unsigned count)
{
	for (uint32_t i = 0; i < cpuid->nent; i++) {
		struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];

		switch (entry->function) {
		case LEAF_FEATURES:
			adjust_features(entry, index, count);
			break;
		case LEAF_TOPOLOGY:
			adjust_topology(entry, index, count);
			break;
		case LEAF_AMD_SIZE:
			entry->ecx = (entry->ecx & ~0xf0ffu) | (count - 1) | width_of(count) << 12;
			break;
		case LEAF_AMD_ID:
			entry->eax = index;
			entry->ebx = index;
			entry->ecx = 0;
			break;
		default:
			break;
		}
	}
}
