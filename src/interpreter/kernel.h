/*
 * kernel: one ipykernel process and the two channels that we use of it, shell (requests) and iopub (output).
 *
 * A kernel is made, becomes ready, takes requests and ends once; who wants another makes another.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <uv.h>

#include "base/error.h"
#include "interpreter/launcher.h"
#include "interpreter/message.h"

struct kernel;

/* Where kernels come from and live. */
struct kernel_host {
	uv_loop_t *loop;
	void *zmq; /* ZeroMQ context */
	struct launcher *launcher;
	const char *directory; /* runtime directory, mode 0700 */
};

enum kernel_channel {
	KERNEL_SHELL,
	KERNEL_IOPUB,
};

/* In each of these the kernel may be freed. */
struct kernel_events {
	/* It has run a cell, and its output has been seen. Once, at most. */
	void (*on_ready)(void *context);
	void (*on_message)(enum kernel_channel channel, const struct jupyter_message *message, void *context);
	/* It ended by itself, or never became ready. Once, and nothing follows. */
	void (*on_end)(const char *reason, void *context);
};

struct kernel *kernel_new(const struct kernel_host *host, const char *cwd, const struct kernel_events *events,
                          void *context, struct error *err);

/* End the process without ceremony and release everything. NULL is allowed. */
void kernel_free(struct kernel *kernel);

bool kernel_is_ready(const struct kernel *kernel);

/*
 * Send an execute_request; `keep` says whether it counts in the kernel's history; `metadata` may be NULL. The
 * id to which outputs refer is written to `id`. 0 or a negative errno.
 */
int kernel_execute(struct kernel *kernel, json_t *code, bool keep, const json_t *metadata,
                   char id[JUPYTER_ID_SIZE]);

/* SIGINT to the kernel and what it started, as Jupyter does: KeyboardInterrupt in the running cell. */
void kernel_interrupt(struct kernel *kernel);

/* Stop and start taking output, for a reader that is too slow. */
void kernel_pause(struct kernel *kernel);
void kernel_resume(struct kernel *kernel);
