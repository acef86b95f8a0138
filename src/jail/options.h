/* options: the command line of atoll-jail, which is that of Firecracker's jailer. */
#pragma once

#include <limits.h>

#include "jail/jail.h"

#define JAIL_SETTINGS_MAX 32

struct jail_options {
	struct jail jail; /* points into this object and into the arguments */
	const char *id;
	const char *base;         /* --chroot-base-dir */
	char program[PATH_MAX];   /* --exec-file without links */
	const char *program_name; /* its last component */
	char root[PATH_MAX];
	bool new_pid_ns;
	bool daemonize;
	char *const *arguments; /* for the program; ends with NULL */
	struct jail_setting settings[JAIL_SETTINGS_MAX];
};

/* What parsing comes to when it does not fail. */
enum jail_options_result {
	JAIL_OPTIONS_RUN,
	JAIL_OPTIONS_HELP,
	JAIL_OPTIONS_VERSION,
};

/*
 * Parse and check everything that can be checked without making anything. The arguments are borrowed, and
 * changed ("file=value" is taken apart). An enum jail_options_result, or -errno with `err`.
 */
int jail_options_parse(int argc, char **argv, struct jail_options *options, struct error *err);
