#include "vmm/device/rate_limiter.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/base.h"

#define US_PER_MS   1000
#define US_PER_S    1000000
#define WAIT_MIN_US 1000 /* a wait is worth a timer: tokens for at least so long are waited for */

/* --- one bucket --- */

static bool bucket_limits(const struct token_bucket *bucket)
{
	return bucket->config.size && bucket->config.refill_time_ms;
}

void token_bucket_set(struct token_bucket *bucket, const struct token_bucket_config *config)
{
	*bucket = (struct token_bucket){ .config = *config,
		                         .burst = config->one_time_burst,
		                         .refilled_us = time_monotonic_us() };
	if (bucket->config.size > INT64_MAX)
		bucket->config.size = INT64_MAX;
	/* Beyond this, microseconds overflow; nobody can tell it from for ever. */
	if (bucket->config.refill_time_ms > INT64_MAX / US_PER_MS)
		bucket->config.refill_time_ms = INT64_MAX / US_PER_MS;
	bucket->budget = (int64_t)bucket->config.size;
}

/* Count the tokens that time has brought. What is less than a token stays in `refilled_us`. */
static void bucket_refill(struct token_bucket *bucket, int64_t now_us)
{
	int64_t size = (int64_t)bucket->config.size;
	int64_t period_us = (int64_t)bucket->config.refill_time_ms * US_PER_MS;
	__int128 tokens = (__int128)(now_us - bucket->refilled_us) * size / period_us;

	if (tokens <= 0)
		return;
	if (tokens >= (__int128)size - bucket->budget) {
		bucket->budget = size;
		bucket->refilled_us = now_us;
		return;
	}
	bucket->budget += (int64_t)tokens;
	bucket->refilled_us += (int64_t)((tokens * period_us + size - 1) / size);
}

static bool bucket_has(const struct token_bucket *bucket)
{
	return !bucket_limits(bucket) || bucket->burst || bucket->budget > 0;
}

static void bucket_take(struct token_bucket *bucket, uint64_t tokens)
{
	uint64_t from_burst = tokens < bucket->burst ? tokens : bucket->burst;

	if (!bucket_limits(bucket))
		return;
	bucket->burst -= from_burst;
	tokens -= from_burst;
	if (tokens > INT64_MAX / 2)
		tokens = INT64_MAX / 2;
	if (!checked_sub_signed(bucket->budget, (int64_t)tokens, &bucket->budget))
		bucket->budget = INT64_MIN / 2;
}

static void bucket_give_back(struct token_bucket *bucket, uint64_t tokens)
{
	if (!bucket_limits(bucket))
		return;
	if (tokens > INT64_MAX / 2)
		tokens = INT64_MAX / 2;
	/* To the budget, or what it cannot hold to the burst that it may have come from. */
	if (bucket->budget > (int64_t)bucket->config.size - (int64_t)tokens) {
		uint64_t rest = tokens - (bucket->config.size - (uint64_t)bucket->budget);

		bucket->burst += rest;
		bucket->budget = (int64_t)bucket->config.size;
		return;
	}
	bucket->budget += (int64_t)tokens;
}

bool token_bucket_try(struct token_bucket *bucket, uint64_t tokens)
{
	if (bucket_limits(bucket))
		bucket_refill(bucket, time_monotonic_us());
	if (!bucket_has(bucket))
		return false;
	bucket_take(bucket, tokens);
	return true;
}

/* Microseconds until it is worth to look again. 0: now. */
static int64_t bucket_wait(const struct token_bucket *bucket, int64_t now_us)
{
	int64_t size = (int64_t)bucket->config.size;
	int64_t period_us = (int64_t)bucket->config.refill_time_ms * US_PER_MS;
	__int128 wanted;
	__int128 wait;

	if (bucket_has(bucket))
		return 0;
	/* Half a bucket is never waited for: what flows in beyond a full one would be lost. */
	wanted = (__int128)size * WAIT_MIN_US / period_us;
	if (wanted > size / 2)
		wanted = size / 2;
	if (wanted < 1)
		wanted = 1;
	wait = ((wanted - bucket->budget) * period_us + size - 1) / size - (now_us - bucket->refilled_us);
	if (wait < 1)
		wait = 1;
	return wait > INT64_MAX / 2 ? INT64_MAX / 2 : (int64_t)wait;
}

/* --- the pair --- */

static void on_timer(void *context, uint32_t events)
{
	struct rate_limiter *limiter = context;
	uint64_t count;

	(void)events;
	if (read(limiter->timer, &count, sizeof(count)) < 0)
		return;
	limiter->waiting = false;
	limiter->ready(limiter->context);
}

static int make_timer(struct rate_limiter *limiter, struct error *err)
{
	limiter->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (limiter->timer < 0)
		return error_errno(err, errno, "make the timer of a rate limiter");
	limiter->source = loop_watch(limiter->loop, limiter->timer, EPOLLIN, on_timer, limiter, err);
	if (!limiter->source) {
		close(limiter->timer);
		limiter->timer = -1;
		return -EIO;
	}
	return 0;
}

static bool wait_for(struct rate_limiter *limiter, int64_t wait_us)
{
	struct itimerspec when = {
		.it_value = { .tv_sec = wait_us / US_PER_S, .tv_nsec = wait_us % US_PER_S * 1000 },
	};
	struct error err = { 0 };

	if (limiter->timer < 0 && make_timer(limiter, &err) < 0) {
		log_error("%s", err.message);
		return false;
	}
	if (timerfd_settime(limiter->timer, 0, &when, NULL) < 0) {
		log_error("set the timer of a rate limiter: %s", strerror(errno));
		return false;
	}
	limiter->waiting = true;
	return true;
}

void rate_limiter_init(struct rate_limiter *limiter, const struct rate_limiter_config *config,
                       struct loop *loop, void (*ready)(void *context), void *context)
{
	*limiter = (struct rate_limiter){ .loop = loop, .ready = ready, .context = context, .timer = -1 };
	if (config)
		rate_limiter_update(limiter, &config->bandwidth, &config->ops);
}

void rate_limiter_fini(struct rate_limiter *limiter)
{
	if (limiter->source)
		loop_unwatch(limiter->source);
	if (limiter->timer >= 0)
		close(limiter->timer);
	limiter->source = NULL;
	limiter->timer = -1;
}

bool rate_limiter_take(struct rate_limiter *limiter, uint64_t bytes)
{
	struct token_bucket *buckets[] = { &limiter->bandwidth, &limiter->ops };
	int64_t now_us;
	int64_t wait_us = 0;

	if (!bucket_limits(buckets[0]) && !bucket_limits(buckets[1]))
		return true;
	if (limiter->waiting)
		return false;
	now_us = time_monotonic_us();
	for (int i = 0; i < 2; i++) {
		int64_t wait;

		if (bucket_limits(buckets[i]))
			bucket_refill(buckets[i], now_us);
		wait = bucket_wait(buckets[i], now_us);
		wait_us = wait > wait_us ? wait : wait_us;
	}
	if (wait_us && wait_for(limiter, wait_us))
		return false;
	bucket_take(&limiter->bandwidth, bytes);
	bucket_take(&limiter->ops, 1);
	return true;
}

void rate_limiter_give_back(struct rate_limiter *limiter, uint64_t bytes)
{
	bucket_give_back(&limiter->bandwidth, bytes);
	bucket_give_back(&limiter->ops, 1);
}

void rate_limiter_charge(struct rate_limiter *limiter, uint64_t bytes)
{
	bucket_take(&limiter->bandwidth, bytes);
}

void rate_limiter_update(struct rate_limiter *limiter, const struct token_bucket_config *bandwidth,
                         const struct token_bucket_config *ops)
{
	if (bandwidth)
		token_bucket_set(&limiter->bandwidth, bandwidth);
	if (ops)
		token_bucket_set(&limiter->ops, ops);
	/* Who waits by the old rate should look at the new one. */
	if (limiter->waiting)
		(void)wait_for(limiter, 1);
}
