/*
 * jail: what a monitor may see and do, set up between fork and exec. Opens the folder.
 *
 * A jail is namespaces of its own (mounts, network, IPC, host name), a root directory with nothing but what
 * is named here, a cgroup, limits, and an unprivileged user without capabilities. jail_enter() does all of it
 * in the calling process, which then execs the program: atoll-jail (main.c) for those who start monitors by
 * hand, as Firecracker's jailer; the node in its own child. (System calls are the monitor's own matter:
 * vmm/seccomp.)
 *
 * Callers are trusted, what lies in the root directory is not: an earlier program of the same user may have
 * left links there. Nothing below it is reached through a symbolic link.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

#define JAIL_ID_MAX 64

/* A file or directory of the host that is to be seen inside. */
struct jail_bind {
	const char *source;
	const char *target; /* path inside; the mount point is made when it is missing */
	bool read_only;
	bool executable;
};

/* A file of the cgroup ("memory.max") and what is written to it. */
struct jail_setting {
	const char *file;
	const char *value;
};

/* Strings and arrays are borrowed during the call. What is zero or NULL is left out. */
struct jail {
	uid_t uid;
	gid_t gid;
	gid_t kvm; /* group of /dev/kvm: the one supplementary group, where there is no `root` */

	/*
	 * Directory that becomes "/", made when it is missing (its parent too). It gets device nodes that the
	 * user owns (kvm, net/tun, urandom, userfaultfd: those that the host has), and /run. Without it the
	 * host's tree stays visible.
	 */
	const char *root;
	const char
	        *program; /* copied to /NAME in `root`; a caller with a descriptor (fexecve) needs it not */
	const struct jail_bind *binds;
	size_t bind_count;
	bool proc; /* a /proc in it that shows its own processes only: a monitor finds dirty pages there */

	const char *netns; /* network namespace to join, a path; NULL: a new one, empty */

	/* Version 2 only. With settings PARENT/NAME is made and joined, otherwise PARENT is joined if it
	 * exists. */
	const char *cgroup_parent;
	const char *cgroup_name;
	const struct jail_setting *settings;
	size_t setting_count;

	uint64_t file_size; /* bytes of the largest file it may write */
	uint64_t files;     /* descriptors; 0: enough for a monitor's vsock connections */
};

/*
 * What jail_build has made outside of the process, to take it back. No more than a child's frame holds: the
 * descriptors are close-on-exec.
 */
struct jail_made {
	struct {
		int directory; /* owned */
		char name[256];
		bool is_directory;
	} entries[48];
	unsigned count;
	int mounts_home; /* the mount namespace where the process was */
	int cgroup_home; /* cgroup.procs of where it was; -1: it was not moved */
};

/* Letters, digits and hyphens, at most JAIL_ID_MAX, as in Firecracker's jailer. 0, or -EINVAL. */
int jail_check_id(const char *id, struct error *err);

/* A relative path without "." and ".." (a cgroup's). 0, or -EINVAL. */
int jail_check_relative(const char *path, const char *what, struct error *err);

/*
 * Enter the jail; the caller is a fresh child with one thread, which execs or ends. Standard descriptors
 * stay, the others are closed by exec. On failure what was made on the host is removed again. 0, or -errno
 * with `err`.
 */
int jail_enter(const struct jail *jail, struct error *err);

/*
 * The same in two steps, for what has to be done between them: jail_build leaves a process that is still
 * root, jail_drop gives everything up. jail_undo removes what was made, also after a failed exec of another
 * process; jail_build does so by itself when it fails.
 */
int jail_build(const struct jail *jail, struct jail_made *made, struct error *err);
int jail_drop(const struct jail *jail, struct error *err);
void jail_undo(struct jail_made *made);

/*
 * Show a directory to a process that is in its jail already: its mount point is made there. For root, who
 * waits a moment. 0, or -errno with `err`.
 */
int jail_show(pid_t pid, const struct jail_bind *bind, struct error *err);
