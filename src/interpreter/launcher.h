/*
 * launcher: the process that forks kernels (kernel.py), started once and started again when it ends.
 *
 * It owns the copy of kernel.py in the runtime directory and the socket to the process. Kernels are children
 * of that process, and die with it.
 */
#pragma once

#include <sys/types.h>
#include <uv.h>

#include "base/error.h"

struct launcher;
struct launch;

/* Write kernel.py below `directory` and start it with the interpreter `python`. NULL with `err` on failure.
 */
struct launcher *launcher_new(uv_loop_t *loop, const char *python, const char *directory, struct error *err);

/* End the process and with it all kernels; pending launches are dropped. */
void launcher_free(struct launcher *launcher);

/* The kernel's process id, or a negative errno when the launcher ended before it could answer. */
typedef void launch_done_fn(pid_t pid, void *context);

/*
 * Ask for a kernel that reads `connection_file` and works in `cwd`. `done` is called once, later; the launch
 * is over and its pointer invalid then. NULL when out of memory.
 */
struct launch *launcher_launch(struct launcher *launcher, const char *connection_file, const char *cwd,
                               launch_done_fn *done, void *context);

/* Forget a launch that is not done: a kernel that still comes of it is killed. */
void launch_cancel(struct launch *launch);
