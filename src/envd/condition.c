#include "envd/condition.h"

#include <stdio.h>
#include <string.h>

static const char *const months[] = { "Jan", "Feb", "Mar", "Apr", "May", "Jun",
	                              "Jul", "Aug", "Sep", "Oct", "Nov", "Dec" };
static const char *const days[] = { "Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat" };

void condition_etag(const struct stat *st, char etag[CONDITION_ETAG_SIZE])
{
	(void)snprintf(etag, CONDITION_ETAG_SIZE, "\"%llx-%llx-%lx\"", (unsigned long long)st->st_size,
	               (unsigned long long)st->st_mtim.tv_sec, (unsigned long)st->st_mtim.tv_nsec);
}

void condition_date(const struct stat *st, char date[CONDITION_DATE_SIZE])
{
	struct tm tm = { .tm_mday = 1 };

	(void)gmtime_r(&st->st_mtim.tv_sec, &tm);
	/* (Not strftime: names are English whatever the locale. A year has four digits.) */
	(void)snprintf(date, CONDITION_DATE_SIZE, "%s, %02u %s %04u %02u:%02u:%02u GMT", days[tm.tm_wday % 7],
	               (unsigned)tm.tm_mday % 32, months[tm.tm_mon % 12],
	               (unsigned)(tm.tm_year + 1900) % 10000, (unsigned)tm.tm_hour % 24,
	               (unsigned)tm.tm_min % 60, (unsigned)tm.tm_sec % 61);
}

time_t condition_parse_date(const char *text)
{
	struct tm tm = { 0 };
	char month[4];
	int used = 0;

	if (sscanf(text, "%*3[A-Za-z], %2d %3[A-Za-z] %4d %2d:%2d:%2d GMT%n", &tm.tm_mday, month, &tm.tm_year,
	           &tm.tm_hour, &tm.tm_min, &tm.tm_sec, &used) != 6 ||
	    !used || text[used])
		return -1;
	tm.tm_mon = -1;
	for (int i = 0; i < 12; i++)
		if (strcmp(months[i], month) == 0)
			tm.tm_mon = i;
	if (tm.tm_mon < 0 || tm.tm_mday < 1 || tm.tm_mday > 31 || tm.tm_year < 1970 || tm.tm_hour < 0 ||
	    tm.tm_hour > 23 || tm.tm_min < 0 || tm.tm_min > 59 || tm.tm_sec < 0 || tm.tm_sec > 60)
		return -1;
	tm.tm_year -= 1900;
	return timegm(&tm);
}

/* Whether a list of entity tags ("*" too) has ours. A weak one counts only where `weak` does. */
static bool has_tag(const char *list, const char *etag, bool weak)
{
	const char *at = list + strspn(list, " \t");

	if (strcmp(at, "*") == 0)
		return true;
	while (*at) {
		bool is_weak = strncmp(at, "W/", 2) == 0;
		const char *tag = is_weak ? at + 2 : at;
		const char *end = *tag == '"' ? strchr(tag + 1, '"') : NULL;

		if (!end)
			return false;
		end++;
		if ((weak || !is_weak) && (size_t)(end - tag) == strlen(etag) &&
		    memcmp(tag, etag, strlen(etag)) == 0)
			return true;
		at = end + strspn(end, " \t,");
	}
	return false;
}

int condition_check(const struct condition *condition, const struct stat *st)
{
	char etag[CONDITION_ETAG_SIZE];
	time_t modified = st->st_mtim.tv_sec;
	time_t since;

	condition_etag(st, etag);
	if (condition->if_match) {
		if (!has_tag(condition->if_match, etag, false))
			return 412;
	} else if (condition->if_unmodified_since) {
		since = condition_parse_date(condition->if_unmodified_since);
		if (since >= 0 && modified > since)
			return 412;
	}
	if (condition->if_none_match)
		return has_tag(condition->if_none_match, etag, true) ? 304 : 0;
	since = condition->if_modified_since ? condition_parse_date(condition->if_modified_since) : -1;
	return since >= 0 && modified <= since ? 304 : 0;
}

bool condition_allows_range(const struct condition *condition, const struct stat *st)
{
	char etag[CONDITION_ETAG_SIZE];

	if (!condition->if_range)
		return true;
	if (condition->if_range[0] == '"') {
		condition_etag(st, etag);
		return strcmp(condition->if_range, etag) == 0;
	}
	return condition_parse_date(condition->if_range) == st->st_mtim.tv_sec;
}
