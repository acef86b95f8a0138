/* What the files of the sandbox share: sandbox.c (create to kill), pause.c (pause, resume, snapshot),
 * reboot.c (resume of a disk alone). Private to them. */
#pragma once

#include "node/sandbox.h"

void sandbox_disk_directory(const struct sandbox *sandbox, char path[NODE_PATH_MAX]);
void sandbox_vsock_path(const struct sandbox *sandbox, char path[NODE_PATH_MAX]);

/* An answer came that `pending` counted. False: too late, it ends, and the sandbox may be freed. */
bool sandbox_answer_counts(struct sandbox *sandbox);

/* The same, to a step of the start that sandbox->starts numbered: one that has come to nothing may be
 * answered when it is paused again, or started anew. */
bool sandbox_start_answer_counts(struct sandbox *sandbox, unsigned start);

/* Tell who waits for a create or a resume, once. */
void sandbox_report(struct sandbox *sandbox, const struct error *err);

/* Begin to load it into a shell. 0, or -errno with `err`, all of it being dealt with then. */
int sandbox_start_restore(struct sandbox *sandbox, struct error *err);

/* It could not be started: it ends, or goes back to its pause. */
void sandbox_fail_start(struct sandbox *sandbox, const struct error *err);

/* Tell the agent who it is: the last step of every start. */
void sandbox_introduce(struct sandbox *sandbox, node_done_fn *done, void *context);

/* Load its machine from its pause: `request` (taken) says how. Its monitor listens, and sees its files. */
void sandbox_start_load(struct sandbox *sandbox, json_t *request);

/* Boot its machine from its disk. Its monitor listens, and sees its files. The end of its resume. */
void sandbox_start_reboot(struct sandbox *sandbox, const struct template *template);

/* Answers of its machine: it runs, and the agent can be told; it goes on after all. */
void sandbox_on_machine_runs(int status, const char *data, size_t size, const struct error *err,
                             void *context);
void sandbox_on_gone_on(int status, const char *data, size_t size, const struct error *err, void *context);

/* Its monitor has ended, and it is paused: only its files stay. */
void sandbox_rest(struct sandbox *sandbox);

/* Have its monitor, before its machine runs, let it reach what it may; then `next`, or its start fails. */
void sandbox_set_reach(struct sandbox *sandbox, void (*next)(struct sandbox *sandbox));

/* A sandbox that an earlier life of the daemon left reaches no more than its journal says. */
void sandbox_adopt_reach(struct sandbox *sandbox);

void sandbox_start_deadline(struct sandbox *sandbox);
