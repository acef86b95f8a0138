#include "vmm/seccomp/seccomp.h"

#include <errno.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/checked.h"
#include "vmm/seccomp/programs.h"

#ifdef __has_feature
#define HAS_FEATURE(name) __has_feature(name)
#else
#define HAS_FEATURE(name) 0
#endif

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || HAS_FEATURE(address_sanitizer) ||       \
        HAS_FEATURE(thread_sanitizer) || HAS_FEATURE(memory_sanitizer)
#define SANITIZED true
#else
#define SANITIZED false
#endif

#define PROGRAM(array)                                                                                       \
	{                                                                                                    \
		(unsigned short)ARRAY_SIZE(array), (struct sock_filter *)(uintptr_t)(array)                  \
	}

static const struct {
	const char *name;
	struct sock_fprog program;
} filters[] = {
	[SECCOMP_API] = { "API", PROGRAM(api_program) },
	[SECCOMP_DEVICE] = { "device", PROGRAM(device_program) },
	[SECCOMP_VCPU] = { "vCPU", PROGRAM(vcpu_program) },
};

int seccomp_install(enum seccomp_role role, struct error *err)
{
	if (SANITIZED)
		return 0;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return error_errno(err, errno, "give up new privileges");
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filters[role].program) < 0)
		return error_errno(err, errno, "install the %s thread's seccomp filter", filters[role].name);
	return 0;
}
