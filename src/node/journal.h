/* journal: what must be known of a sandbox after a crash. */
#pragma once

#include "node/sandbox.h"

/*
 * Write it, in the state that it is in or is about to be: the old one or the new is there after a crash. 0 or
 * -errno with `err`.
 */
int journal_write(const struct sandbox *sandbox, enum sandbox_state state, const char *directory,
                  struct error *err);

/*
 * The journal of a pause, in the data directory: while it is there the sandbox is paused. Written, and
 * dropped, it is on disk when the call returns.
 */
int journal_write_pause(const struct sandbox *sandbox, struct error *err);
void journal_drop_pause(const struct sandbox *sandbox);
int journal_read_pause(struct sandbox *sandbox, const char *id, struct error *err);

/* Fill a sandbox (allocated, empty) and the process it had. It is SANDBOX_STARTING, SANDBOX_WAKING or
 * SANDBOX_RUNNING. 0 or -errno with `err`. */
int journal_read(struct sandbox *sandbox, const char *directory, pid_t *ret_pid, uint64_t *ret_start_time,
                 uid_t *ret_uid, struct error *err);
