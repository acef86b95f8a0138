/*
 * process: one program that a client started: its descriptors, its output to all who listen, its end.
 *
 * It lives for a while after its end, so that a client that connects late hears of it. Output that nobody
 * listens to is dropped; output that a listener does not take yet holds the program back, so that no byte is
 * lost.
 */
#pragma once

#include "envd/user.h"

struct process;

struct process_options {
	const char *command;
	const char *const *arguments;   /* without the command itself; NULL-terminated */
	const char *const *environment; /* "NAME=value", NULL-terminated */
	const char *directory;
	const struct user *user;
	const char *tag; /* NULL: none */
	json_t *config;  /* as the client gave it, for List; a reference is taken */
	bool terminal;
	unsigned columns; /* of the terminal */
	unsigned rows;
	bool input; /* a pipe on standard input; else /dev/null */
};

/* Start it. NULL with `err`: EINVAL for what the client named wrongly. */
struct process *process_start(struct processes *processes, const struct process_options *options,
                              struct error *err);

/* Find one that a client may still speak of. NULL: none. */
struct process *process_by_pid(struct processes *processes, pid_t pid);
struct process *process_by_tag(struct processes *processes, const char *tag);

/* [{"config","pid","tag"}] of those that run. New reference. */
json_t *process_list(struct processes *processes);

pid_t process_pid(const struct process *process);

/* Add a listener: it gets a start event, output from now on, and the end. The call belongs to the process
 * then. */
void process_listen(struct process *process, struct connect_call *call);

/* End the program after this time, whether or not anyone still listens. */
void process_set_deadline(struct process *process, uint64_t milliseconds);

/*
 * One who writes more than the program takes at once. `on_drain` is called when all that was written has been
 * taken, and when nobody will take it any more (`process` is NULL then).
 */
struct process_feeder {
	struct list link;
	struct process *process;
	void (*on_drain)(struct process_feeder *feeder);
};

void process_add_feeder(struct process *process, struct process_feeder *feeder);
void process_remove_feeder(struct process_feeder *feeder);

/* Bytes of input that the program has not taken yet. */
size_t process_input_pending(const struct process *process);

/* Send a signal to the program and what it started. 0, or -ESRCH when it has ended. */
int process_signal(struct process *process, int number);

/* Each is 0 or a negative errno with `err`. `terminal` tells which kind of input the client meant. */
int process_write(struct process *process, bool terminal, const void *data, size_t size, struct error *err);
int process_close_input(struct process *process, struct error *err);
int process_resize(struct process *process, unsigned columns, unsigned rows, struct error *err);
