/* settings: what the environment tells the daemons beyond their places. */
#pragma once

#include "base/error.h"

#define SETTINGS_WORDS 7 /* options and values, and the NULL behind them */

/*
 * The arguments of `atoll supervise` that ATOLL_RATE_LIMIT, ATOLL_SANDBOX_CONNECTIONS and ATOLL_EGRESS_LIMIT
 * give, borrowed from the environment; the daemons' defaults hold for what is not set. 0, or -EINVAL with
 * `err`: what they would refuse is said before they are started.
 */
int settings_read(const char *words[SETTINGS_WORDS], struct error *err);
