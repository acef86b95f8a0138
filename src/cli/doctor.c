/* atoll doctor: what this machine can do, which mode is used, what is missing and how to mend it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "cli/cli.h"

struct need {
	const char *path;
	const char *what;
	const char *mend;
};

static const struct need lab_needs[] = {
	{ "/usr/bin/qemu-system-x86_64", "QEMU, to emulate a machine with KVM",
	  "apt-get install qemu-system-x86" },
	{ "/usr/lib/qemu/virtiofsd", "virtiofsd, to share the file system",
	  "apt-get install qemu-system-common" },
	{ "/usr/bin/dbclient", "dropbear's client, to reach the lab host", "apt-get install dropbear-bin" },
	{ "/bin/busybox", "busybox, for the lab host's first steps", "apt-get install busybox-static" },
};

static const char *const programs[] = { "atoll-api", "atoll-node", "atoll-vmm", "atoll-envd",
	                                "atoll-interpreter" };

static bool check(const char *path, const char *what, const char *mend)
{
	if (access(path, F_OK) == 0)
		return true;
	printf("missing: %s (%s)\n         mend it with: %s\n", path, what, mend);
	return false;
}

static void say_kvm(const struct host_probe *probe)
{
	switch (probe->kvm) {
	case HOST_KVM_USABLE:
		printf("KVM: usable (%.0f million ring-0 instructions a second)\n", probe->rate);
		break;
	case HOST_KVM_TOO_SLOW:
		printf("KVM: present but too slow: %.1f million ring-0 instructions a second; no kernel "
		       "boots on it\n",
		       probe->rate);
		break;
	case HOST_KVM_NONE:
		printf("KVM: none (%s)\n", probe->reason);
		break;
	}
}

/* The node knows what it needs. In a lab host it is the lab's kernel that must have it, whose log tells. */
static bool check_network(const struct cli_places *places)
{
	char path[400];
	int status = 0;
	pid_t child;

	(void)snprintf(path, sizeof(path), "%s/atoll-node", places->bin);
	if (places->lab || geteuid() != 0 || access(path, X_OK) != 0)
		return true;
	(void)fflush(stdout);
	child = fork();
	if (child == 0) {
		(void)execl(path, "atoll-node", "--probe-network", (char *)NULL);
		_exit(127);
	}
	if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status))
		return false;
	if (WEXITSTATUS(status) != 0)
		puts("         mend it with: modprobe -a tun veth nf_tables nft_chain_nat nft_masq nft_nat "
		     "nft_ct nft_limit nft_connlimit nft_objref nf_conntrack_netlink");
	return WEXITSTATUS(status) == 0;
}

int cli_doctor(int argc, char **argv)
{
	struct cli_places places = { 0 };
	struct host_probe probe;
	struct error err = { 0 };
	bool whole = true;

	(void)argc;
	(void)argv;
	if (cli_find_places(&places, &err) < 0)
		return cli_fail(&err);
	cli_choose_mode(&places, &probe);
	say_kvm(&probe);
	printf("mode: %s\n", places.lab ? "lab host (software emulation, about 15 times slower than hardware)"
	                                : "directly on this machine's KVM");
	if (geteuid() != 0) {
		puts("missing: root\n         mend it with: sudo make up");
		whole = false;
	}
	for (size_t i = 0; places.lab && i < ARRAY_SIZE(lab_needs); i++)
		whole &= check(lab_needs[i].path, lab_needs[i].what, lab_needs[i].mend);
	for (size_t i = 0; i < ARRAY_SIZE(programs); i++) {
		char path[400];

		(void)snprintf(path, sizeof(path), "%s/%s", places.bin, programs[i]);
		whole &= check(path, "one of Atoll's programs", "make build");
	}
	whole &= check_network(&places);
	puts(whole ? "all that is needed is there" : "not all that is needed is there");
	return whole ? EXIT_SUCCESS : EXIT_FAILURE;
}
