/*
 * rate_limiter: what a device may move per time, as Firecracker's API has it: two token buckets, one of bytes
 * and one of operations, each with a one-time burst that is used up first.
 *
 * A device asks before each request. A request that finds any tokens goes through whole, and what it takes
 * beyond them is a debt that the next one waits for: so the rate holds for requests of any size. Everything
 * happens on the device loop.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "vmm/device/loop.h"

/* Firecracker's TokenBucket. A size or refill time of 0 means no limit. */
struct token_bucket_config {
	uint64_t size;           /* tokens that it can hold, and holds at first */
	uint64_t one_time_burst; /* tokens beyond those, once */
	uint64_t refill_time_ms; /* from empty to full */
};

/* Firecracker's RateLimiter. */
struct rate_limiter_config {
	struct token_bucket_config bandwidth; /* bytes */
	struct token_bucket_config ops;       /* requests, or packets */
};

struct token_bucket {
	struct token_bucket_config config;
	uint64_t burst;      /* left of the one-time burst */
	int64_t budget;      /* tokens; negative: a debt */
	int64_t refilled_us; /* when the budget was last counted */
};

/* A bucket by itself, for who drops rather than waits: no limit when it was never set. */
void token_bucket_set(struct token_bucket *bucket, const struct token_bucket_config *config);
bool token_bucket_try(struct token_bucket *bucket, uint64_t tokens);

struct rate_limiter {
	struct token_bucket bandwidth;
	struct token_bucket ops;
	struct loop *loop;
	void (*ready)(void *context);
	void *context;
	int timer; /* timerfd; -1 until the first wait */
	struct loop_source *source;
	bool waiting;
};

/* `ready(context)` is called after a refusal, when there are tokens again. No limits without `config` (NULL).
 */
void rate_limiter_init(struct rate_limiter *limiter, const struct rate_limiter_config *config,
                       struct loop *loop, void (*ready)(void *context), void *context);
void rate_limiter_fini(struct rate_limiter *limiter);

/*
 * Take one operation of `bytes`. False: not now, `ready` will be called. A failure to make the timer is
 * logged, and lets the request through: a limit is lost rather than a device stuck.
 */
bool rate_limiter_take(struct rate_limiter *limiter, uint64_t bytes);

/* The operation of `bytes` that was taken did not take place. */
void rate_limiter_give_back(struct rate_limiter *limiter, uint64_t bytes);

/* `bytes` more went with the operation that was taken last, whose size was not known then. A debt if need be.
 */
void rate_limiter_charge(struct rate_limiter *limiter, uint64_t bytes);

/* Change buckets: the new one starts full; NULL leaves one as it is. */
void rate_limiter_update(struct rate_limiter *limiter, const struct token_bucket_config *bandwidth,
                         const struct token_bucket_config *ops);
