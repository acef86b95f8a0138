/*
 * Turns table.h into BPF, when the monitor is built: `generate OUTPUT` writes a C file with the programs that
 * seccomp.c installs. libseccomp is needed here only.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <linux/sockios.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/checked.h"

#define CONDITIONS_MAX 4

enum role {
	API = 1 << 0,
	DEVICE = 1 << 1 | API,
	VCPU = 1 << 2 | API,
	EVERY = DEVICE | VCPU,
};

struct rule {
	const char *name;
	unsigned roles;
	int call;
	uint32_t action;
	unsigned count;
	struct scmp_arg_cmp conditions[CONDITIONS_MAX];
};

#define SETXID_SIGNAL (__SIGRTMIN + 1) /* by which the C library's setuid reaches all threads */
#define KICK_SIGNAL   (__SIGRTMIN + 2) /* SIGRTMIN: the C library keeps two for itself */
#define IS(argument, value)                                                                                  \
	{                                                                                                    \
		(argument), SCMP_CMP_MASKED_EQ, UINT32_MAX, (uint32_t)(value)                                \
	}
#define WITHOUT(argument, set)                                                                               \
	{                                                                                                    \
		(argument), SCMP_CMP_MASKED_EQ, (set), 0                                                     \
	}
#define COUNT(...) (sizeof((struct scmp_arg_cmp[]){ __VA_ARGS__ }) / sizeof(struct scmp_arg_cmp))
#define RULE(who, what, ...)                                                                                 \
	{ .name = #what,                                                                                     \
	  .roles = (who),                                                                                    \
	  .call = SCMP_SYS(what),                                                                            \
	  .action = SCMP_ACT_ALLOW,                                                                          \
	  .count = COUNT(__VA_ARGS__),                                                                       \
	  .conditions = { __VA_ARGS__ } },
#define REFUSE(who, what, error)                                                                             \
	{ .name = #what, .roles = (who), .call = SCMP_SYS(what), .action = SCMP_ACT_ERRNO(error) },

static const struct rule rules[] = {
#include "vmm/seccomp/table.h"
};

static const struct {
	const char *name;
	unsigned bit;
} roles[] = {
	{ "api", 1 << 0 },
	{ "device", 1 << 1 },
	{ "vcpu", 1 << 2 },
};

static void check(int ret, const char *what, const char *name)
{
	if (ret >= 0)
		return;
	fprintf(stderr, "generate: %s %s: %s\n", what, name, strerror(-ret));
	exit(EXIT_FAILURE);
}

static scmp_filter_ctx make_filter(unsigned bit)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);

	check(filter ? 0 : -ENOMEM, "make a", "filter");
	check(seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS), "set", "BADARCH");
	/* A binary tree of the calls' numbers. */
	check(seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2), "set", "OPTIMIZE");
	for (size_t i = 0; i < ARRAY_SIZE(rules); i++) {
		const struct rule *rule = &rules[i];

		if (rule->roles & bit)
			check(seccomp_rule_add_exact_array(filter, rule->action, rule->call, rule->count,
			                                   rule->conditions),
			      "add a rule for", rule->name);
	}
	return filter;
}

static void write_filter(FILE *to, const char *name, unsigned bit)
{
	scmp_filter_ctx filter = make_filter(bit);
	struct sock_filter instruction;
	size_t count = 0;
	FILE *program = tmpfile();

	check(program ? 0 : -errno, "make a", "temporary file");
	check(seccomp_export_bpf(filter, fileno(program)), "compile", name);
	seccomp_release(filter);
	rewind(program);
	fprintf(to, "\nstatic const struct sock_filter %s_program[] = {\n", name);
	for (; fread(&instruction, sizeof(instruction), 1, program) == 1; count++)
		fprintf(to, "\t{ 0x%02x, %u, %u, 0x%08x },\n", instruction.code, instruction.jt,
		        instruction.jf, instruction.k);
	fprintf(to, "};\n");
	fclose(program);
	check(count > 0 && count <= BPF_MAXINSNS ? 0 : -E2BIG, "compile", name);
}

int main(int argc, char **argv)
{
	FILE *to = argc == 2 ? fopen(argv[1], "w") : NULL;

	if (!to) {
		fprintf(stderr, "usage: generate OUTPUT\n");
		return EXIT_FAILURE;
	}
	fprintf(to, "/* Made from table.h by generate.c. */\n#pragma once\n\n#include <linux/filter.h>\n");
	for (size_t i = 0; i < ARRAY_SIZE(roles); i++)
		write_filter(to, roles[i].name, roles[i].bit);
	return fclose(to) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
