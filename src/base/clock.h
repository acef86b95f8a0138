/* clock: time, and times as the clients write them (RFC 3339, UTC). */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define TIME_RFC3339_SIZE 32

/* CLOCK_MONOTONIC in microseconds. */
int64_t time_monotonic_us(void);

/* CLOCK_REALTIME in milliseconds since 1970. */
int64_t time_wall_ms(void);

/* Write `wall_ms` as "2026-01-01T00:00:00.000Z" into `text`; returns `text`. */
const char *time_format_rfc3339(int64_t wall_ms, char text[TIME_RFC3339_SIZE]);

/* Parse RFC 3339 with optional fraction and "Z" or "+hh:mm" to nanoseconds since 1970. 0, or -EINVAL. */
int time_parse_rfc3339(const char *text, int64_t *ret_wall_ns);
