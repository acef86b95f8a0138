/*
 * condition: conditional requests for a file (RFC 9110, section 13), with Last-Modified and a strong ETag
 * made of size and time of change.
 */
#pragma once

#include <stdbool.h>
#include <sys/stat.h>
#include <time.h>

#define CONDITION_ETAG_SIZE 64
#define CONDITION_DATE_SIZE 32

/* Of a request: NULL where absent. */
struct condition {
	const char *if_match;
	const char *if_none_match;
	const char *if_modified_since;
	const char *if_unmodified_since;
	const char *if_range;
};

/* The validators of a file. */
void condition_etag(const struct stat *st, char etag[CONDITION_ETAG_SIZE]);
void condition_date(const struct stat *st, char date[CONDITION_DATE_SIZE]);

/* 0: go on; 304: the client has it; 412: it is not what the client means. */
int condition_check(const struct condition *condition, const struct stat *st);

/* Whether a Range header counts: it does not when If-Range names another state of the file. */
bool condition_allows_range(const struct condition *condition, const struct stat *st);

/* Seconds since 1970 of an IMF-fixdate ("Sun, 06 Nov 1994 08:49:37 GMT"), or -1. */
time_t condition_parse_date(const char *text);
