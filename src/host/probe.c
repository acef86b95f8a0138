/* Can this machine's KVM run a kernel? Measured, not asked: some that pass every check emulate ring 0. */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/base.h"
#include "host/host.h"

#define CODE_GPA   0x1000
#define LOOP_COUNT 4000000u /* dec and jnz each */
#define PATIENCE   500      /* ms until a slow one is stopped */
#define RATE_SLOW  20.0     /* million instructions a second: hardware does a thousand, an emulator two */

/*
 *     mov ecx, LOOP_COUNT
 *  1: dec ecx
 *     jnz 1b
 *     hlt
 * in real mode with 32-bit operands.
 */
static const unsigned char code[] = {
	0x66,
	0xb9,
	LOOP_COUNT & 0xff,
	LOOP_COUNT >> 8 & 0xff,
	LOOP_COUNT >> 16 & 0xff,
	LOOP_COUNT >> 24,
	0x66,
	0x49,
	0x75,
	0xfc,
	0xf4,
};

enum host_kvm host_judge_rate(double rate)
{
	return rate < RATE_SLOW ? HOST_KVM_TOO_SLOW : HOST_KVM_USABLE;
}

static void on_alarm(int number)
{
	(void)number; /* it only has to interrupt KVM_RUN */
}

/* How much of the loop ran within the patience, as instructions; 0 when KVM does not run it. */
static uint32_t run_loop(int vcpu, struct kvm_run *run)
{
	struct kvm_regs regs = { .rip = CODE_GPA, .rflags = 2 };
	struct kvm_sregs sregs;
	struct sigaction action = { .sa_handler = on_alarm };
	struct sigaction before;
	struct itimerval timer = { .it_value = { .tv_usec = PATIENCE * 1000 } };
	struct itimerval off = { 0 };
	int ret;

	if (ioctl(vcpu, KVM_GET_SREGS, &sregs) < 0)
		return 0;
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	if (ioctl(vcpu, KVM_SET_SREGS, &sregs) < 0 || ioctl(vcpu, KVM_SET_REGS, &regs) < 0)
		return 0;
	(void)sigaction(SIGALRM, &action, &before);
	(void)setitimer(ITIMER_REAL, &timer, NULL);
	ret = ioctl(vcpu, KVM_RUN, 0);
	(void)setitimer(ITIMER_REAL, &off, NULL);
	(void)sigaction(SIGALRM, &before, NULL);
	if ((ret < 0 && errno != EINTR) || (ret == 0 && run->exit_reason != KVM_EXIT_HLT) ||
	    ioctl(vcpu, KVM_GET_REGS, &regs) < 0)
		return 0;
	return 2 * (LOOP_COUNT - (uint32_t)regs.rcx);
}

static void probe_vm(int kvm, struct host_probe *probe)
{
	cleanup_close int vm = ioctl(kvm, KVM_CREATE_VM, 0);
	cleanup_close int vcpu = -1;
	struct kvm_userspace_memory_region slot = { .guest_phys_addr = CODE_GPA, .memory_size = 4096 };
	size_t run_size = (size_t)ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	struct kvm_run *run = MAP_FAILED;
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int64_t started;
	uint32_t done;

	if (vm < 0 || page == MAP_FAILED) {
		(void)snprintf(probe->reason, sizeof(probe->reason), "no VM can be made: %s",
		               strerror(errno));
		return;
	}
	memcpy(page, code, sizeof(code));
	slot.userspace_addr = (uintptr_t)page;
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot) == 0)
		vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (vcpu >= 0)
		run = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED) {
		(void)snprintf(probe->reason, sizeof(probe->reason), "no vCPU can be made: %s",
		               strerror(errno));
	} else {
		started = time_monotonic_us();
		done = run_loop(vcpu, run);
		probe->rate = (double)done / (double)(time_monotonic_us() - started + 1);
		probe->kvm = done ? host_judge_rate(probe->rate) : HOST_KVM_NONE;
		if (!done)
			(void)snprintf(probe->reason, sizeof(probe->reason), "it runs no instructions");
		(void)munmap(run, run_size);
	}
	(void)munmap(page, 4096);
}

void host_probe(struct host_probe *probe)
{
	cleanup_close int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	*probe = (struct host_probe){ .kvm = HOST_KVM_NONE };
	if (kvm < 0)
		(void)snprintf(probe->reason, sizeof(probe->reason), "/dev/kvm: %s", strerror(errno));
	else if (ioctl(kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
		(void)snprintf(probe->reason, sizeof(probe->reason), "/dev/kvm speaks another version");
	else
		probe_vm(kvm, probe);
}
