/*
 * agent: asks the guest agent which environment the sandbox was created with, and remembers the answer.
 *
 * A template's snapshot is taken before any sandbox exists, so identity and environment are known only when
 * the first client comes. The client's access token tells one sandbox from another.
 */
#pragma once

#include <jansson.h>
#include <stdint.h>
#include <uv.h>

#include "base/error.h"

struct agent;
struct agent_fetch;

/* `url` is http://IP[:PORT]. NULL with `err` on failure. */
struct agent *agent_new(uv_loop_t *loop, const char *url, struct error *err);
void agent_free(struct agent *agent);

/* The number of the environment that is known for `token` (NULL = the client sent none), or 0. */
uint64_t agent_generation(const struct agent *agent, const char *token);

/* The environment that is known, an object of strings; borrowed. */
json_t *agent_envs(const struct agent *agent);

/*
 * GET /envs with the token. `done` is called once, later, whether or not the answer came; the fetch is over
 * and its pointer invalid then. NULL when out of memory.
 */
struct agent_fetch *agent_fetch_envs(struct agent *agent, const char *token, void (*done)(void *context),
                                     void *context);

/* Give up; no callback follows. */
void agent_fetch_cancel(struct agent_fetch *fetch);
