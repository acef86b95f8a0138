/*
 * history: what is kept of a sandbox besides itself, and a while longer than itself: what it used (usage.h)
 * and what its agent logged (guest_log.h).
 *
 * The directory <data>/history/ID belongs to root and holds `owner` (the team), `usage` and `logs.jsonl`. It
 * is removed HISTORY_KEEP_S after the last was written to it, once the sandbox has ended.
 */
#pragma once

#include "node/guest_log.h"
#include "node/node.h"
#include "node/usage.h"

#define HISTORY_KEEP_S (24 * 3600)

struct sandbox;

struct history {
	struct usage *usage;
	struct guest_log log;
};

/* Of a sandbox that clients know. NULL: it cannot be kept, which is logged; the sandbox does without. */
struct history *history_open(const struct sandbox *sandbox);
void history_close(struct history *history);

/* The place of its log, and the team that it is of, also when it has ended. 0; -ENOENT: there is none. `id`
 * is checked. */
int history_find(const struct node *node, const char *id, char log_path[NODE_PATH_MAX], char team_id[64]);

/* Remove what is too old, now and from time to time. */
void history_start(struct node *node);
