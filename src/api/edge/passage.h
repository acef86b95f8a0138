/* passage: one request on its way into a sandbox, and its answer on the way back. */
#pragma once

#include "api/api.h"

#define AGENT_PORT 49983 /* the agent's own, which guards itself */

struct record;

/* Pass the exchange into a running sandbox, if there is room for one more in it. Takes the exchange. */
void passage_begin(struct api *api, struct http_exchange *exchange, struct record *record, unsigned port);

/* Is the name among the comma-separated ones of `list`? Without case. */
bool passage_is_in_list(const char *list, const char *name);
