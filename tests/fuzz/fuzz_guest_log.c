/* Fuzz what a guest's agent says of its use and its logs, as the node takes and gives it. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "node/guest_log.h"
#include "node/usage.h"

#define NOW_MS 1000000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const char *path, struct guest_log *log)
{
	const struct guest_log_query all = { .limit = UINT32_MAX };
	cleanup_json json_t *list = guest_log_read(path, &all);
	int64_t before_ms = 0;
	json_t *entry;
	size_t index;

	json_array_foreach (list, index, entry) {
		int64_t time_ms = json_integer_value(json_object_get(entry, "time_ms"));

		if (time_ms < before_ms || time_ms > NOW_MS ||
		    guest_log_level(json_string_value(json_object_get(entry, "level"))) < 0 ||
		    !json_is_object(json_object_get(entry, "fields")))
			abort();
		before_ms = time_ms;
	}
	if (log->time_ms != before_ms)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char path[64];
	cleanup_json json_t *answer = json_loadb((const char *)data, size, 0, NULL);
	struct usage_sample sample;
	struct guest_log log;

	if (!path[0])
		(void)snprintf(path, sizeof(path), "/tmp/atoll-fuzz-log-%d", (int)getpid());
	(void)unlink(path);
	guest_log_open(&log, path);
	if (usage_parse(answer, 1, &sample, NULL) == 0 && !(sample.cpu_used_percent >= 0))
		abort();
	if (guest_log_take(&log, answer, NOW_MS, NULL) >= 0)
		check(path, &log);
	(void)unlink(path);
	return 0;
}
