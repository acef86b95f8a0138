/* boot: the machine API's requests that boot a machine: of a template that is built, and of a sandbox whose
 * pause kept its disk alone. */
#pragma once

#include <jansson.h>

#include "node/node.h"

/* In a template's directory, beside what stack.h names. */
#define BOOT_KERNEL "vmlinux"
#define BOOT_INITRD "initrd" /* not every kernel has one */

/* Strings and objects are borrowed. */
struct boot {
	unsigned vcpu_count;
	unsigned memory_mib;
	const char *inside; /* where the machine's monitor sees the kernel */
	bool initrd;
	bool emulated;
	bool network;     /* it has an interface */
	const char *args; /* for this kernel, beside those that all get */
	json_t *drive;    /* the body of PUT /drives/rootfs */
};

/* The request with this number: its body (new), method and target. NULL: there are no more, and it boots. */
json_t *boot_request(const struct boot *boot, unsigned index, const char **method, const char **target);
