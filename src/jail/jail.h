/*
 * jail: what a monitor may not do, set up in the child between fork and exec. Opens the folder.
 *
 * So far: an unprivileged user of its own, namespaces of its own (mounts, network, IPC, host name), limits,
 * no new privileges, no descriptors but the standard ones. (A root file system of its own, cgroups and
 * seccomp are to come.)
 */
#pragma once

#include <sys/types.h>

#include "base/error.h"

struct jail {
	uid_t uid;
	gid_t gid;
	gid_t kvm; /* group of /dev/kvm: the one supplementary group */
};

/* Enter it; the caller is a fresh child with one thread. 0, or -errno with `err`: the child must end then. */
int jail_enter(const struct jail *jail, struct error *err);
