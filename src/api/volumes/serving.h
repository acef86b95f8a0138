/*
 * serving: one connection to the agent in a sandbox, over which it asks for the files of one volume. Private
 * to the folder.
 *
 * What a guest may have under way is limited, in requests and in bytes; beyond that, and while it does not
 * take its answers, nothing is read from it. Reads are done as they come, several at a time; changes after
 * all that the volume was asked for before, over whichever connection: what is sent again on a new connection
 * can never be overtaken by what was left of the old one.
 */
#pragma once

#include "api/volumes/live.h"

struct serving;

/* The connection is gone, and the serving with it; `greeted`: the agent had the volume mounted. */
typedef void serving_done_fn(bool greeted, void *context);

/*
 * Greet the agent on `stream`, which is connected and is taken, and serve it until the connection ends. Of a
 * volume that has been deleted all is stale (ESTALE). NULL with `err`: `done` will not be called.
 */
struct serving *serving_new(struct volumes *volumes, const char *volume_id, struct stream *stream,
                            serving_done_fn *done, void *context, struct error *err);

/* End it: `done` is not called any more. */
void serving_end(struct serving *serving);

/* End the connection, if the agent has not answered the greeting: `done` is called soon. */
void serving_hurry(struct serving *serving);
