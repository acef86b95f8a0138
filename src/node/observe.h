/*
 * observe: asks the agents of running sandboxes what they use, and fetches what they logged, every
 * node->observe_ms each. A sandbox that is on its way into or out of a pause is left alone.
 */
#pragma once

#include "node/node.h"

/* Begin; never when node->observe_ms is 0. */
void observe_start(struct node *node);

/* GET /v1/sandboxes/ID/metrics and /logs, GET /v1/metrics. `id` need not be that of one that lives. */
void observe_reply_metrics(struct node *node, struct http_exchange *exchange, const char *id);
void observe_reply_logs(struct node *node, struct http_exchange *exchange, const char *id);
void observe_reply_latest(struct node *node, struct http_exchange *exchange);

/* GET /v1/templates/ID/logs: what the build said as it was made, where that was kept. */
void observe_reply_build_logs(struct node *node, struct http_exchange *exchange, const char *build_id);
