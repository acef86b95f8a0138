/* rate_limiter: buckets of bytes and of operations, and that they hold their rate. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/base.h"
#include "vmm/device/rate_limiter.h"

#define KIB          1024ull
#define MIB          (1024 * KIB)
#define MEASURE_US   2000000
#define TOLERANCE_PC 5

/* Somebody who always has one more request. */
struct source {
	struct loop *loop;
	struct rate_limiter limiter;
	uint64_t request; /* bytes of each */
	uint64_t taken;   /* bytes */
	uint64_t count;
	int64_t end_us;
};

static void take_all(void *context)
{
	struct source *source = context;

	while (rate_limiter_take(&source->limiter, source->request)) {
		source->taken += source->request;
		source->count++;
	}
	if (time_monotonic_us() >= source->end_us)
		loop_stop(source->loop);
}

static void start(struct source *source, const struct rate_limiter_config *config)
{
	source->loop = loop_new(NULL);
	assert_non_null(source->loop);
	rate_limiter_init(&source->limiter, config, source->loop, take_all, source);
}

static void stop(struct source *source)
{
	rate_limiter_fini(&source->limiter);
	loop_free(source->loop);
}

/* What came in MEASURE_US, by what should have in the time that really passed. Never much more. */
static double share(struct source *source, uint64_t *counter, double per_second)
{
	int64_t begin_us = time_monotonic_us();
	double wanted;

	source->end_us = begin_us + MEASURE_US;
	*counter = 0;
	assert_int_equal(loop_run(source->loop), 0);
	wanted = per_second * (double)(time_monotonic_us() - begin_us) / 1e6;
	return (double)*counter / wanted;
}

static bool is_near(double seen)
{
	return seen * 100 >= 100 - TOLERANCE_PC && seen * 100 <= 100 + TOLERANCE_PC;
}

/*
 * What is there at once must be `at_once`; then tokens come at the rate. Who does not get the processor for
 * as long as a bucket takes to fill loses tokens, and what gathered before a measurement comes with it: that
 * spoils one, and a wrong rate all of them.
 */
static void measure(struct source *source, uint64_t *counter, uint64_t at_once, double per_second)
{
	int64_t begin_us = time_monotonic_us();
	double seen = 0;

	source->end_us = INT64_MAX;
	take_all(source);
	assert_true(*counter >= at_once);
	assert_true((double)*counter <= (double)(at_once + 2 * source->request) +
	                                        per_second * (double)(time_monotonic_us() - begin_us) / 1e6);
	for (int i = 0; i < 8 && !is_near(seen); i++)
		seen = share(source, counter, per_second);
	if (!is_near(seen))
		fail_msg("%.2f of the rate is not within %d %%", seen, TOLERANCE_PC);
}

static void test_bandwidth(void **state)
{
	struct rate_limiter_config config = { .bandwidth = { .size = MIB, .refill_time_ms = 500 } };
	struct source source = { .request = 16 * KIB };

	(void)state;
	start(&source, &config);
	measure(&source, &source.taken, MIB, 2.0 * MIB);
	stop(&source);
}

/* Requests larger than the bucket pass, and cost what they cost. */
static void test_large_requests(void **state)
{
	struct rate_limiter_config config = { .bandwidth = { .size = 320 * KIB, .refill_time_ms = 50 } };
	struct source source = { .request = 640 * KIB };

	(void)state;
	start(&source, &config);
	measure(&source, &source.taken, 320 * KIB, 6400.0 * KIB);
	stop(&source);
}

static void test_operations(void **state)
{
	struct rate_limiter_config config = { .ops = { .size = 500, .refill_time_ms = 1000 } };
	struct source source = { .request = 1 };

	(void)state;
	start(&source, &config);
	measure(&source, &source.count, 500, 500);
	stop(&source);
}

/* The smaller of two limits counts. */
static void test_both(void **state)
{
	struct rate_limiter_config config = { .bandwidth = { .size = 100 * MIB, .refill_time_ms = 100 },
		                              .ops = { .size = 1000, .refill_time_ms = 1000 } };
	struct source source = { .request = 4 * KIB };

	(void)state;
	start(&source, &config);
	measure(&source, &source.count, 1000, 1000);
	stop(&source);
}

static void test_burst_is_once(void **state)
{
	struct rate_limiter_config config = {
		.bandwidth = { .size = 1000, .one_time_burst = 9000, .refill_time_ms = 3600000000 }
	};
	struct source source = { .request = 100, .end_us = INT64_MAX };

	(void)state;
	start(&source, &config);
	take_all(&source);
	assert_int_equal(source.taken, 10000);
	rate_limiter_give_back(&source.limiter, 100);
	source.limiter.waiting = false;
	take_all(&source);
	assert_int_equal(source.taken, 10100);
	stop(&source);
}

static void test_no_limit(void **state)
{
	struct rate_limiter_config config = { .bandwidth = { .size = 0, .refill_time_ms = 100 },
		                              .ops = { .size = 10, .refill_time_ms = 0 } };
	struct source source = { 0 };

	(void)state;
	start(&source, &config);
	for (int i = 0; i < 10000; i++)
		assert_true(rate_limiter_take(&source.limiter, MIB));
	stop(&source);
}

/* A wider limit ends a wait by the old one at once; what is not named stays. */
static void test_update(void **state)
{
	struct rate_limiter_config config = { .bandwidth = { .size = 100, .refill_time_ms = 3600000 },
		                              .ops = { .size = 40, .refill_time_ms = 3600000 } };
	struct token_bucket_config wider = { .size = 1000, .refill_time_ms = 3600000 };
	struct source source = { .request = 10, .end_us = INT64_MAX };

	(void)state;
	start(&source, &config);
	take_all(&source);
	assert_int_equal(source.count, 10);
	source.end_us = 0;
	rate_limiter_update(&source.limiter, &wider, NULL);
	assert_int_equal(loop_run(source.loop), 0);
	assert_int_equal(source.count, 40);
	stop(&source);
}

/* Numbers at their limits neither overflow nor open the gate. */
static void test_extremes(void **state)
{
	struct rate_limiter_config config = {
		.bandwidth = { .size = UINT64_MAX, .refill_time_ms = UINT64_MAX },
		.ops = { .size = 1, .one_time_burst = UINT64_MAX, .refill_time_ms = UINT64_MAX }
	};
	struct source source = { 0 };

	(void)state;
	start(&source, &config);
	for (int i = 0; i < 4; i++)
		(void)rate_limiter_take(&source.limiter, UINT64_MAX);
	rate_limiter_give_back(&source.limiter, UINT64_MAX);
	assert_false(rate_limiter_take(&source.limiter, 1) &&
	             rate_limiter_take(&source.limiter, UINT64_MAX) && rate_limiter_take(&source.limiter, 1));
	stop(&source);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bandwidth),     cmocka_unit_test(test_large_requests),
		cmocka_unit_test(test_operations),    cmocka_unit_test(test_both),
		cmocka_unit_test(test_burst_is_once), cmocka_unit_test(test_no_limit),
		cmocka_unit_test(test_update),        cmocka_unit_test(test_extremes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
