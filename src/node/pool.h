/* pool: monitors started in advance. A create takes one and has only to load a snapshot into it. */
#pragma once

#include "node/monitor.h"

/* Keep `size` shells, all of one vCPU; those of an earlier life are killed. NULL with `err`. */
struct pool *pool_new(struct node *node, unsigned size, struct error *err);

/* Kill what waits; at the end, or before a restart. */
void pool_drain(struct pool *pool);

/* A monitor that is ready; the caller owns it (monitor_release). NULL: none is. */
struct monitor *pool_take(struct pool *pool, unsigned vcpu_count);

/* Make up what is missing, soon. */
void pool_refill(struct pool *pool);
