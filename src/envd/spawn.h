/* spawn: from options to a running program with its descriptors. */
#pragma once

#include "envd/process.h"

/* Our ends, non-blocking; -1 where there is none. */
struct spawn_result {
	pid_t pid;
	int in;
	int out;
	int err;
	int terminal;
};

/* 0, or a negative errno with `err`: also when the program could not be executed. */
int spawn_program(const struct process_options *options, struct spawn_result *result, struct error *err);
