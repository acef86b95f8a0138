/*
 * context: a namespace in which code is run, with a kernel of its own and a queue of executions.
 *
 * One execution runs at a time. When the kernel dies the running execution ends with an error, a new kernel
 * is started, and the queue goes on in it. Three kernels in a row that do not even start fail what waits; the
 * next execution tries again.
 */
#pragma once

#include <stdbool.h>

#include "base/list.h"
#include "interpreter/agent.h"
#include "interpreter/execution.h"
#include "interpreter/kernel.h"

struct context_host {
	struct kernel_host kernels;
	struct agent *agent;
};

struct context {
	struct list node; /* the owner's */
	struct context_host *host;
	char id[37]; /* a UUID */
	char *language;
	char *cwd;
	struct kernel *kernel;     /* NULL when it failed to start */
	struct execution *current; /* the one that runs */
	struct list queue;         /* of executions that wait */
	struct list waiters;       /* for a ready kernel */
	struct agent_fetch *fetch; /* before `current` is sent */
	uint64_t generation;       /* of the sandbox's environment that the kernel has */
	bool fresh;                /* the kernel has run nothing for a client */
	unsigned failed_starts;
};

/* Somebody who waits for the kernel. `reason` is NULL when it is ready. The waiter is unlinked when called.
 */
struct context_waiter {
	struct list node;
	void (*done)(struct context_waiter *waiter, const char *reason);
};

/* Make a context and start its kernel. `cwd` must be a directory. NULL with `err` on failure. */
struct context *context_new(struct context_host *host, const char *language, const char *cwd,
                            struct error *err);

/* End the kernel; executions end with an error, waiters are told. */
void context_free(struct context *context);

bool context_is_ready(const struct context *context);

/* Take an execution and run it when its turn comes. */
void context_execute(struct context *context, struct execution *execution);

/* Replace the kernel by a new one. The running execution ends with the error ContextRestarting. */
void context_restart(struct context *context);

/* Be told when the kernel is ready or has failed; at once when it is so already. */
void context_wait(struct context *context, struct context_waiter *waiter);
