/* GET /metrics: what the machine uses, in the fields that the SDK's getMetrics reads. */
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "envd/records.h"

#define TEXT_LIMIT 65536

/* The number behind `key` in "key: 123 kB" lines, in bytes. */
static uint64_t memory_field(const char *text, const char *key)
{
	const char *line = strstr(text, key);
	unsigned long long kib = 0;

	if (line)
		(void)sscanf(line + strlen(key), " %llu", &kib);
	return kib * 1024;
}

/* Busy share of all CPUs since the last call by the same door, percent. The first call tells the share since
 * the start. */
static double cpu_used(int door)
{
	static unsigned long long busy_before[2];
	static unsigned long long all_before[2];
	unsigned long long last_busy = busy_before[door];
	unsigned long long last_all = all_before[door];
	cleanup_buffer struct buffer text = { .limit = TEXT_LIMIT };
	unsigned long long v[8] = { 0 };
	unsigned long long all = 0;
	unsigned long long busy;
	double share;

	if (file_read("/proc/stat", &text, NULL) < 0 || !text.data)
		return 0;
	(void)sscanf(text.data, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &v[0], &v[1], &v[2], &v[3],
	             &v[4], &v[5], &v[6], &v[7]);
	for (size_t i = 0; i < ARRAY_SIZE(v); i++)
		all += v[i];
	busy = all - v[3] - v[4];
	share = all > last_all ? 100.0 * (double)(busy - last_busy) / (double)(all - last_all) : 0;
	busy_before[door] = busy;
	all_before[door] = all;
	/* Two decimals. */
	return (double)(long long)(share * 100 + 0.5) / 100;
}

void metrics_handle(struct envd *envd, struct http_exchange *exchange)
{
	cleanup_buffer struct buffer text = { .limit = TEXT_LIMIT };
	int door = http_exchange_tag(exchange) == ENVD_DOOR_CONTROL ? ENVD_DOOR_CONTROL : ENVD_DOOR_PUBLIC;
	struct statvfs disk = { 0 };
	uint64_t total;
	uint64_t used;
	uint64_t cache;
	json_t *answer;

	if (file_read("/proc/meminfo", &text, NULL) < 0 || statvfs("/", &disk) < 0) {
		http_reply_error(exchange, 500, "the metrics cannot be read");
		return;
	}
	total = memory_field(text.data, "MemTotal:");
	cache = memory_field(text.data, "\nCached:");
	used = total - memory_field(text.data, "MemAvailable:");
	http_reply_header(exchange, "Cache-Control", "no-store");
	answer = json_pack("{s:I,s:I,s:f,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "ts", (json_int_t)time(NULL),
	                   "cpu_count", (json_int_t)sysconf(_SC_NPROCESSORS_ONLN), "cpu_used_pct",
	                   cpu_used(door), "mem_total", (json_int_t)total, "mem_used", (json_int_t)used,
	                   "mem_cache", (json_int_t)cache, "mem_total_mib", (json_int_t)(total >> 20),
	                   "mem_used_mib", (json_int_t)(used >> 20), "disk_used",
	                   (json_int_t)((disk.f_blocks - disk.f_bfree) * disk.f_frsize), "disk_total",
	                   (json_int_t)(disk.f_blocks * disk.f_frsize));
	/* So that the node need not ask for logs when there are none. */
	if (door == ENVD_DOOR_CONTROL)
		(void)json_object_set_new(answer, "log_seq", json_integer(records_last(envd->records)));
	http_reply_json(exchange, 200, answer);
}
