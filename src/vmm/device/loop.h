/*
 * loop: the device thread's epoll loop. One thread runs it; every device callback happens there.
 *
 * Other threads reach it by loop_call(), which runs a function on the loop's thread and waits for its end:
 * that is how pausing, saving and the machine API touch devices without locks.
 */
#pragma once

#include <stdint.h>

#include "base/error.h"

struct loop;

/* `events` is the EPOLL* mask that was seen. */
typedef void loop_fn(void *context, uint32_t events);

struct loop_source; /* one watched descriptor */

struct loop *loop_new(struct error *err);
void loop_free(struct loop *loop);

/* Watch `fd` (not owned) for EPOLLIN, EPOLLOUT, ...: from the loop's thread, or before it runs. NULL on
 * failure. */
struct loop_source *loop_watch(struct loop *loop, int fd, uint32_t events, loop_fn *callback, void *context,
                               struct error *err);
int loop_modify(struct loop_source *source, uint32_t events);
void loop_unwatch(struct loop_source *source);

/* Run until loop_stop. Returns 0, or a negative errno. */
int loop_run(struct loop *loop);
void loop_stop(struct loop *loop); /* from any thread or a signal handler */

/* Run `function(context)` on the loop's thread and wait for it. Called on that thread, or before loop_run:
 * directly. */
void loop_call(struct loop *loop, void (*function)(void *context), void *context);
