#include "base/clock.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

int64_t time_monotonic_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

int64_t time_wall_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

const char *time_format_rfc3339(int64_t wall_ms, char text[TIME_RFC3339_SIZE])
{
	time_t seconds = (time_t)(wall_ms / 1000);
	int fraction = (int)(wall_ms % 1000);
	struct tm utc;
	size_t used;

	if (fraction < 0) {
		fraction += 1000;
		seconds--;
	}
	if (!gmtime_r(&seconds, &utc))
		memset(&utc, 0, sizeof(utc));
	used = strftime(text, TIME_RFC3339_SIZE, "%Y-%m-%dT%H:%M:%S", &utc);
	(void)snprintf(text + used, TIME_RFC3339_SIZE - used, ".%03dZ", fraction);
	return text;
}

/* The zone at the end of a time: seconds east of UTC. */
static bool parse_zone(const char *text, long *ret_offset)
{
	int hours;
	int minutes;
	int used = 0;

	if ((text[0] == 'Z' || text[0] == 'z') && text[1] == '\0') {
		*ret_offset = 0;
		return true;
	}
	if (text[0] != '+' && text[0] != '-')
		return false;
	/* The widths bound the numbers: sscanf cannot overflow here. NOLINTNEXTLINE(cert-err34-c) */
	if (sscanf(text + 1, "%2d:%2d%n", &hours, &minutes, &used) != 2 || text[1 + used] != '\0')
		return false;
	*ret_offset = (hours * 3600L + minutes * 60L) * (text[0] == '-' ? -1 : 1);
	return true;
}

int time_parse_rfc3339(const char *text, int64_t *ret_wall_ns)
{
	struct tm utc = { 0 };
	const char *rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &utc);
	int64_t nanoseconds = 0;
	int64_t scale = 100000000;
	int64_t seconds;
	long offset;

	if (!rest)
		return -EINVAL;
	if (*rest == '.') {
		rest++;
		if (!isdigit((unsigned char)*rest))
			return -EINVAL;
		for (; isdigit((unsigned char)*rest); rest++, scale /= 10)
			nanoseconds += (*rest - '0') * scale;
	}
	if (!parse_zone(rest, &offset))
		return -EINVAL;
	seconds = (int64_t)timegm(&utc) - offset;
	if (__builtin_mul_overflow(seconds, (int64_t)1000000000, ret_wall_ns) ||
	    __builtin_add_overflow(*ret_wall_ns, nanoseconds, ret_wall_ns))
		return -EINVAL;
	return 0;
}
