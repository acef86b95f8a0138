/*
 * host: what the machine can do, and the lab host that stands in for what it cannot. Opens the folder.
 *
 * On a machine whose /dev/kvm runs ordinary kernels at speed the service runs directly. Elsewhere it runs in
 * a lab host: QEMU's software emulation with nested SVM, Debian's cloud kernel with its kvm-amd, the
 * machine's root file system read-only under a writable layer, data on a disk image.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* --- the probe --- */

enum host_kvm {
	HOST_KVM_NONE,     /* no /dev/kvm, or it cannot be used */
	HOST_KVM_TOO_SLOW, /* it emulates ring 0: no kernel will ever boot on it */
	HOST_KVM_USABLE,
};

struct host_probe {
	enum host_kvm kvm;
	double rate;      /* ring-0 instructions per second, millions; 0 when none ran */
	char reason[256]; /* for HOST_KVM_NONE: why */
};

/* Run a few million ring-0 instructions in a throw-away VM and time them; takes at most a second. */
void host_probe(struct host_probe *probe);

/* Judge a measured rate (millions of instructions per second). */
enum host_kvm host_judge_rate(double rate);

/* --- the lab host --- */

struct lab {
	const char
	        *data; /* the service's data directory on the machine; the lab keeps its files in data/lab */
	const char *bin;     /* our programs, absolute */
	const char *scripts; /* src/host/lab, absolute */
	const char *ip;      /* where the service's port is offered on the machine */
	uint16_t port;
	const char *tls_ip; /* the same for TLS */
	uint16_t tls_port;  /* 0: none */
	const char *const
	        *settings; /* more arguments of `atoll supervise`, ended by NULL; NULL: none. No newlines */
};

/* Whether it runs. */
bool lab_running(const struct lab *lab);

/*
 * Whether it runs programs other than those in lab->bin now: it has a copy of its own, because it would not
 * see that a file it knows was replaced.
 */
bool lab_outdated(const struct lab *lab);

/* Start it and wait until it can be used; a running one is left alone. 0, or a negative errno with `err`. */
int lab_start(const struct lab *lab, struct error *err);

/* End the service in it, write its disks out and switch it off. Fine when it does not run. */
int lab_stop(const struct lab *lab, struct error *err);

/*
 * Replace this process by `argv` run as root inside, with our standard streams; its exit status becomes ours.
 * `argv` NULL: a login shell. Returns only on failure.
 */
int lab_exec(const struct lab *lab, const char *const argv[], struct error *err);
