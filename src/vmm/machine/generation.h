/*
 * generation: the VM generation ID, by which a guest learns that it is a copy (Microsoft's "Virtual Machine
 * Generation ID"; Linux's drivers/virt/vmgenid.c reseeds its random numbers then). 16 random bytes in guest
 * memory that ACPI points to, and an interrupt of the generic event device (ACPI 6.5, 5.6.9) that tells of a
 * change.
 */
#pragma once

#include "base/error.h"
#include "vmm/kvm/kvm.h"
#include "vmm/memory.h"

struct generation {
	int irq; /* eventfd behind LAYOUT_GSI_GENERATION; -1: not made */
};

/* Connect the interrupt. 0 or -errno with `err`. */
int generation_init(struct generation *generation, struct vm *vm, struct error *err);
void generation_fini(struct generation *generation);

/* A new ID in guest memory; and tell a guest that was restored, when it runs on. */
void generation_renew(const struct guest_memory *memory);
void generation_notify(const struct generation *generation);
