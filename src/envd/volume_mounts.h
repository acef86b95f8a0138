/*
 * volume_mounts: which volumes are mounted in this guest, and the processes that serve them, one for each.
 * The agent looks into mounted volumes itself, and never serves one: who did both would wait for himself.
 *
 * Nor does it make or look up a mount's directory, which may lie where a file system does not answer: the
 * process does that, and tells how it went.
 */
#pragma once

#include <sys/types.h>

#include "envd/envd.h"
#include "volume/volume.h"

#define VOLUME_ARGUMENT  "--volume" /* of the agent, when it is such a process */
#define VOLUME_REPORT_FD 3          /* where it tells how its mount went: nothing, or why not */

struct volume_mounts;

struct volume_mount_request {
	const char *id;
	const char *path;
};

/*
 * What /init says in `volumeMounts`: strings are borrowed from `body`. How many, or -EINVAL with `err`.
 */
int volume_mounts_read(const json_t *body, struct volume_mount_request requests[VOLUME_MOUNTS_MAX],
                       struct error *err);

/* `door` (kept by reference): the prefix of the sockets of a native agent; NULL: vsock. NULL: no memory. */
struct volume_mounts *volume_mounts_new(struct envd *envd, const char *door);

/*
 * Have exactly these mounted. `done` is called once, perhaps before this returns: NULL, or why one of them is
 * not. One who still waits for an earlier call is told that.
 */
typedef void volume_mounts_fn(void *context, const struct error *err);
void volume_mounts_set(struct volume_mounts *mounts, const struct volume_mount_request *requests,
                       size_t count, volume_mounts_fn *done, void *context);

/* A child has ended. Whether it was one of these. */
bool volume_mounts_reaped(struct volume_mounts *mounts, pid_t pid);

/* The agent ends: so do they. */
void volume_mounts_stop(struct volume_mounts *mounts);

/* main() of such a process: `arguments` are its place, its id, its path, and its door or "". */
int volume_process_main(char **arguments, int count);
