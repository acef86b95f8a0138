/*
 * mounted: the volumes that sandboxes have mounted, each served over a connection of its own for as long as
 * the sandbox runs. A connection that ends is made anew, after a while that grows.
 */
#pragma once

#include <stdbool.h>

struct api;
struct mounted;
struct record;

/* The machine of `record` has just been started or resumed: connect at once. */
void mounted_begin(struct api *api, struct record *record);

/* As mounted_begin for one that runs and is not served, mounted_end for one that does not run. */
void mounted_follow(struct api *api, struct record *record);

/* Whether a sandbox has this volume mounted, be it paused. */
bool mounted_by_any(const struct api *api, const char *volume_id);

/* Its machine is no more. NULL is allowed. */
void mounted_end(struct mounted *mounted);
