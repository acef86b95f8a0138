/* RateLimiter and TokenBucket of Firecracker's API. */
#include <errno.h>

#include "base/base.h"
#include "vmm/config/config.h"

int config_read_bucket(const json_t *object, const char *key, struct token_bucket_config *ret,
                       bool *ret_present, struct error *err)
{
	static const char *const known[] = { "size", "one_time_burst", "refill_time", NULL };
	json_t *bucket = NULL;
	int64_t size = 0;
	int64_t burst = 0;
	int64_t refill = 0;
	int result = json_read_object(object, key, JSON_OPTIONAL, &bucket, err);

	*ret_present = bucket != NULL;
	if (result < 0 || !bucket)
		return result;
	result = config_only_known(bucket, key, known, err);
	if (result == 0)
		result = json_read_integer(bucket, "size", JSON_REQUIRED, 0, INT64_MAX, &size, err);
	if (result == 0)
		result =
		        json_read_integer(bucket, "one_time_burst", JSON_OPTIONAL, 0, INT64_MAX, &burst, err);
	if (result == 0)
		result = json_read_integer(bucket, "refill_time", JSON_REQUIRED, 0, INT64_MAX, &refill, err);
	*ret = (struct token_bucket_config){ (uint64_t)size, (uint64_t)burst, (uint64_t)refill };
	return result;
}

int config_read_limiter(const json_t *object, const char *key, struct rate_limiter_config *ret,
                        struct config_buckets *ret_present, struct error *err)
{
	static const char *const known[] = { "bandwidth", "ops", NULL };
	struct config_buckets present = { 0 };
	json_t *limiter = NULL;
	int result = json_read_object(object, key, JSON_OPTIONAL, &limiter, err);

	if (result == 0 && limiter) {
		result = config_only_known(limiter, key, known, err);
		if (result == 0)
			result = config_read_bucket(limiter, "bandwidth", &ret->bandwidth, &present.bandwidth,
			                            err);
		if (result == 0)
			result = config_read_bucket(limiter, "ops", &ret->ops, &present.ops, err);
	}
	if (ret_present)
		*ret_present = present;
	return result;
}
