/*
 * seccomp: which system calls the monitor's threads may make. Opens the folder.
 *
 * table.h is the list, a role per kind of thread; it is compiled when the monitor is built. Installing
 * allocates nothing and needs no library. A call that is not in the list kills the process (SIGSYS).
 */
#pragma once

#include "base/error.h"

enum seccomp_role {
	SECCOMP_API,
	SECCOMP_DEVICE,
	SECCOMP_VCPU,
};

/*
 * Hold the calling thread, and those that it starts from now on, to its role, for good; gives up new
 * privileges. Does nothing in builds with a sanitizer. 0, or -errno with `err`: the thread is as before then,
 * and must not go on.
 */
int seccomp_install(enum seccomp_role role, struct error *err);
