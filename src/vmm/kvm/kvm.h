/*
 * kvm: the machine as KVM gives it. Opens the folder.
 *
 * A struct vm is the VM with its memory slots and in-kernel interrupt chip; a struct vcpu is one thread that
 * runs a virtual CPU and hands its exits to the machine. Sources: the kernel's
 * Documentation/virt/kvm/api.rst.
 */
#pragma once

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"
#include "vmm/memory.h"

struct vm {
	int kvm; /* /dev/kvm */
	int fd;
	size_t run_size;          /* bytes of a vCPU's shared page(s) */
	struct kvm_cpuid2 *cpuid; /* what KVM can offer here */
};

/* Open KVM, check what we need of it, make the VM. The interrupt chip comes with vm_create_irqchip. */
int vm_init(struct vm *vm, struct error *err);
void vm_fini(struct vm *vm);

/*
 * Give the guest its memory, with KVM's dirty log when memory->dirty is there: before vm_create_irqchip,
 * which makes slot changes slow for a while.
 */
int vm_set_memory(struct vm *vm, const struct guest_memory *memory, struct error *err);

/* Add to memory->dirty what vCPUs have written since the last call, or the start. */
int vm_collect_dirty(struct vm *vm, const struct guest_memory *memory, struct error *err);

/* In-kernel PIC, IOAPIC, LAPICs and PIT. */
int vm_create_irqchip(struct vm *vm, struct error *err);

/* Connect an eventfd to a GSI; and a 4-byte write of `value` to `gpa` to an eventfd. */
int vm_set_irqfd(struct vm *vm, int eventfd, uint32_t gsi, struct error *err);
int vm_set_ioeventfd(struct vm *vm, int eventfd, uint64_t gpa, uint32_t value, struct error *err);

/* Why a vCPU's thread ended. */
enum vcpu_end {
	VCPU_END_STOPPED, /* vcpu_stop */
	VCPU_END_RESET,   /* the guest asked for it */
	VCPU_END_CRASHED, /* a triple fault: see the error, which names the vCPU */
	VCPU_END_FAILED,  /* KVM gave up: see the error */
};

/* What the machine does with a vCPU's exits; called on the vCPU's thread. */
struct vcpu_handler {
	void *context;
	/* Called before all else; a negative errno with `err` ends the thread: VCPU_END_FAILED. */
	int (*started)(void *context, struct error *err);
	/* One access of 1, 2 or 4 bytes. False asks for the machine's end (reset). */
	bool (*port)(void *context, uint16_t port, bool write, void *data, unsigned size);
	void (*mmio)(void *context, uint64_t gpa, bool write, void *data, unsigned size);
	void (*ended)(void *context, enum vcpu_end end, const struct error *err);
};

/* What a vCPU's thread is asked to do. */
enum vcpu_wish {
	VCPU_WISH_RUN,
	VCPU_WISH_PAUSE,
	VCPU_WISH_STOP,
};

/* Exits so far; counted by the vCPU's thread, read by any. */
struct vcpu_counters {
	_Atomic uint64_t port_in;
	_Atomic uint64_t port_out;
	_Atomic uint64_t mmio_read;
	_Atomic uint64_t mmio_write;
	_Atomic uint64_t failures;
};

struct vcpu {
	int fd;
	unsigned index;
	struct kvm_run *run;
	size_t run_size;
	const struct vcpu_handler *handler;
	pthread_t thread;
	bool started;
	_Atomic enum vcpu_wish wish;
	pthread_mutex_t lock; /* guards `parked`, and changes of `wish` */
	pthread_cond_t changed;
	struct vcpu_counters counters;
	bool parked; /* the thread touches neither guest nor KVM */
};

/* Make vCPU `index` of `count`, with its CPUID. */
int vcpu_init(struct vcpu *vcpu, struct vm *vm, unsigned index, unsigned count,
              const struct vcpu_handler *handler, struct error *err);

/* Registers for Linux's 64-bit entry (Documentation/x86/boot.rst): kernel at `entry`, zero page at
 * `zero_page`. */
int vcpu_set_boot_state(struct vcpu *vcpu, uint64_t entry, uint64_t zero_page, struct error *err);

/* Start the thread; it waits for vcpu_resume. */
int vcpu_start(struct vcpu *vcpu, struct error *err);

/*
 * Ask it to leave the guest and wait; and wait until it does. Its state is complete then: an exit that was
 * being handled is finished. Two calls, so that several vCPUs stop together.
 */
void vcpu_pause(struct vcpu *vcpu);
void vcpu_wait_paused(struct vcpu *vcpu);
void vcpu_resume(struct vcpu *vcpu);

/* Tell the guest's clock that it was stopped, before it runs on. */
void vcpu_notice_pause(struct vcpu *vcpu);

/* End its thread; waits for it. */
void vcpu_stop(struct vcpu *vcpu);
void vcpu_fini(struct vcpu *vcpu);

/*
 * Append the state of a paused (or not yet started) vCPU; and put such bytes, which are not trusted, into one
 * of the same machine shape on the same kind of host. 0, or a negative errno with `err`.
 */
int vcpu_save(struct vcpu *vcpu, const struct vm *vm, struct buffer *to, struct error *err);
int vcpu_restore(struct vcpu *vcpu, const struct vm *vm, const void *data, size_t size, struct error *err);

/*
 * The same for interrupt chips, timer and clock. After the vCPUs' when restoring. The guest's clock goes on
 * from the saved instant, or with `clock_realtime` advanced by the wall-clock time since (where KVM has noted
 * it).
 */
int vm_save(const struct vm *vm, struct buffer *to, struct error *err);
int vm_restore(const struct vm *vm, const void *data, size_t size, bool clock_realtime, struct error *err);

/* Adjust the CPUID that KVM offers to vCPU `index` of `count` (Intel SDM vol. 2 CPUID; AMD APM vol. 3
 * appendix E). */
void cpuid_adjust(struct kvm_cpuid2 *cpuid, unsigned index, unsigned count);
