/*
 * reach: what a sandbox may reach, as it is kept, and that the node has it so.
 *
 * Kept is what the team asked for: {"network": {...} or null, "internet": true, false or null}. The node
 * knows the internet or nothing: who denies some of it reaches nothing, so that no rule that denies is
 * broken.
 */
#pragma once

#include "api/api.h"
#include "api/record.h"

/* Keep it. 0; -EINVAL: it is too large; -ENOMEM, -EIO. With `err`. */
int reach_keep(struct api *api, const char *id, json_t *network, json_t *internet, struct error *err);

/* What is kept. New reference; NULL: nothing is, or it cannot be read (that is logged). */
json_t *reach_load(struct api *api, const char *id);

/* Keep the same for sandbox `to` as for `from`. 0 or -EIO with `err`. */
int reach_copy(struct api *api, const char *from, const char *to, struct error *err);

/* Put into a request to the node what it needs to know of this. */
void reach_tell_node(struct api *api, const char *id, json_t *request);

/*
 * Have the node do what is kept; `done` gets its answer. One change of a sandbox at a time
 * (record->switching), since two questions to the node may overtake each other.
 */
void reach_switch(struct api *api, struct record *record, http_simple_fn *done, void *context);

/* A change is under way: `go` is called when it is over, whatever has become of the sandbox. 0 or -ENOMEM
 * with `err`. */
int reach_wait(struct api *api, const struct record *record, void (*go)(void *context), void *context,
               struct error *err);

/*
 * The node lists `sandbox` and is not being asked to change it: if it has it otherwise than it is kept, which
 * only a crash in the middle of a change leaves, it is asked again.
 */
void reach_follow(struct api *api, struct record *record, const json_t *sandbox);
