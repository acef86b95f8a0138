/*
 * snapshots: sandboxes as they were, which clients list, name and create from. The node has their files.
 *
 * A row is written before the node makes the files and goes after them, so that no crash leaves files of
 * which nobody knows. Between the two it is unsettled: clients do not see it, and the node is asked again.
 */
#pragma once

#include <stdbool.h>

#include "api/store/store.h"

struct snapshot {
	char build_id[40]; /* what the node calls it */
	char id[64];       /* what clients call it, without its tag */
	char team_id[64];
	char name[128]; /* "": none */
	char sandbox_id[128];
	int64_t created_at_ms;
};

/* A new one, unsettled. */
int store_put_snapshot(struct store *store, const struct snapshot *snapshot, struct error *err);

/* The node has its files; or is about to be asked to remove them. */
int store_settle_snapshot(struct store *store, const char *build_id, bool settled, struct error *err);
int store_delete_snapshot(struct store *store, const char *build_id, struct error *err);

/* A team's that are settled, newest first; or without a team all that are not. Until `take` gives false. */
int store_list_snapshots(struct store *store, const char *team_id,
                         bool (*take)(void *context, const struct snapshot *snapshot), void *context,
                         struct error *err);

/*
 * The build that a team means by a snapshot's name or id, or by the build's own. 0; -ENOENT when it is none
 * of a snapshot; -EACCES when it is another team's; -EIO.
 */
int store_find_snapshot(struct store *store, const char *team_id, const char *name, char build_id[40]);
