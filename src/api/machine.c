#include "api/machine.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/base.h"

/* --- /proc/cpuinfo --- */

/* The value of the first line "key : value". */
static void take_value(const char *line, const char *key, char *value, size_t size)
{
	size_t length = strlen(key);
	const char *colon = strchr(line, ':');

	if (value[0] || strncmp(line, key, length) != 0 || !colon ||
	    strspn(line + length, " \t") != (size_t)(colon - line) - length)
		return;
	colon += 1 + strspn(colon + 1, " \t");
	(void)snprintf(value, size, "%.*s", (int)strcspn(colon, "\n"), colon);
}

json_t *machine_info(void)
{
	char family[32] = "";
	char model[32] = "";
	char name[128] = "";
	struct utsname host = { 0 };
	char line[512];
	FILE *file = fopen("/proc/cpuinfo", "re");

	while (file && fgets(line, sizeof(line), file)) {
		take_value(line, "cpu family", family, sizeof(family));
		take_value(line, "model", model, sizeof(model));
		take_value(line, "model name", name, sizeof(name));
		if (line[0] == '\n')
			break;
	}
	if (file)
		(void)fclose(file);
	(void)uname(&host);
	return json_pack("{s:s,s:s,s:s,s:s}", "cpuFamily", family, "cpuModel", model, "cpuModelName", name,
	                 "cpuArchitecture", host.machine);
}

/* --- /proc/stat, /proc/meminfo --- */

/* Percent of all CPUs that was used since the last call. */
static unsigned cpu_percent(uint64_t *busy, uint64_t *total)
{
	uint64_t ticks[8] = { 0 };
	uint64_t idle;
	uint64_t all = 0;
	unsigned percent = 0;
	FILE *file = fopen("/proc/stat", "re");

	if (file && fscanf(file,
	                   "cpu %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64
	                   " %" SCNu64 " %" SCNu64,
	                   &ticks[0], &ticks[1], &ticks[2], &ticks[3], &ticks[4], &ticks[5], &ticks[6],
	                   &ticks[7]) < 4)
		(void)memset(ticks, 0, sizeof(ticks));
	if (file)
		(void)fclose(file);
	for (size_t i = 0; i < ARRAY_SIZE(ticks); i++)
		all += ticks[i];
	idle = ticks[3] + ticks[4];
	if (all > *total && all - idle >= *busy)
		percent = (unsigned)((all - idle - *busy) * 100 / (all - *total));
	*busy = all - idle;
	*total = all;
	return percent;
}

struct memory {
	uint64_t total_kib;
	uint64_t available_kib;
	uint64_t huge_total;
	uint64_t huge_free;
	uint64_t huge_reserved;
	uint64_t huge_kib;
};

static void read_memory(struct memory *memory)
{
	const struct {
		const char *format;
		uint64_t *value;
	} all[] = {
		{ "MemTotal:", &memory->total_kib },           { "MemAvailable:", &memory->available_kib },
		{ "HugePages_Total:", &memory->huge_total },   { "HugePages_Free:", &memory->huge_free },
		{ "HugePages_Rsvd:", &memory->huge_reserved }, { "Hugepagesize:", &memory->huge_kib },
	};
	char line[256];
	FILE *file = fopen("/proc/meminfo", "re");

	while (file && fgets(line, sizeof(line), file))
		for (size_t i = 0; i < ARRAY_SIZE(all); i++)
			if (strncmp(line, all[i].format, strlen(all[i].format)) == 0)
				(void)sscanf(line + strlen(all[i].format), "%" SCNu64, all[i].value);
	if (file)
		(void)fclose(file);
}

/* --- the disk --- */

/* Where the file system of `directory` is mounted, from which device, of which type. */
static void find_mount(const char *directory, char mount[256], char device[256], char type[64])
{
	char line[1024];
	struct stat st;
	FILE *file = stat(directory, &st) == 0 ? fopen("/proc/self/mountinfo", "re") : NULL;

	while (file && fgets(line, sizeof(line), file)) {
		unsigned major_id = 0;
		unsigned minor_id = 0;
		char place[256];
		const char *rest = strstr(line, " - ");

		if (!rest || sscanf(line, "%*d %*d %u:%u %*s %255s", &major_id, &minor_id, place) != 3 ||
		    major_id != major(st.st_dev) || minor_id != minor(st.st_dev) ||
		    strncmp(directory, place, strlen(place)) != 0)
			continue;
		(void)snprintf(mount, 256, "%s", place);
		(void)sscanf(rest, " - %63s %255s", type, device);
	}
	if (file)
		(void)fclose(file);
}

static json_t *disk(const char *directory)
{
	char mount[256] = "";
	char device[256] = "";
	char type[64] = "";
	struct statvfs space = { 0 };

	if (statvfs(directory, &space) < 0)
		return NULL;
	find_mount(directory, mount, device, type);
	return json_pack("{s:s,s:s,s:s,s:I,s:I}", "mountPoint", mount[0] ? mount : directory, "device",
	                 device, "filesystemType", type, "usedBytes",
	                 (json_int_t)((space.f_blocks - space.f_bfree) * space.f_frsize), "totalBytes",
	                 (json_int_t)(space.f_blocks * space.f_frsize));
}

json_t *machine_metrics(const char *directory, uint64_t *busy, uint64_t *total)
{
	struct memory memory = { 0 };
	json_t *disks = json_array();
	json_t *one = disk(directory);

	read_memory(&memory);
	if (one)
		(void)json_array_append_new(disks, one);
	return json_pack("{s:i,s:i,s:I,s:I,s:I,s:I,s:I,s:I,s:o}", "cpuPercent", (int)cpu_percent(busy, total),
	                 "cpuCount", (int)sysconf(_SC_NPROCESSORS_ONLN), "memoryTotalBytes",
	                 (json_int_t)(memory.total_kib * 1024), "memoryUsedBytes",
	                 (json_int_t)((memory.total_kib - memory.available_kib) * 1024), "hugePagesTotal",
	                 (json_int_t)memory.huge_total, "hugePagesUsed",
	                 (json_int_t)(memory.huge_total - memory.huge_free), "hugePagesReserved",
	                 (json_int_t)memory.huge_reserved, "hugePageSizeBytes",
	                 (json_int_t)(memory.huge_kib * 1024), "disks", disks);
}
