/* journal: a sandbox's journal.json. */
#pragma once

#include "node/sandbox.h"

/* Write it: the old one or the new is there after a crash. 0 or -errno with `err`. */
int journal_write(const struct sandbox *sandbox, const char *directory, struct error *err);

/* Fill a sandbox (allocated, empty) and the process it had. 0 or -errno with `err`. */
int journal_read(struct sandbox *sandbox, const char *directory, pid_t *ret_pid, uint64_t *ret_start_time,
                 uid_t *ret_uid, struct error *err);
