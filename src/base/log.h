/*
 * log: one line to standard error, "2026-01-01T00:00:00.000Z level program: message".
 *
 * Only programs and their top-level modules log. Libraries return errors. A message never holds a secret.
 */
#pragma once

#include <sys/types.h>

enum log_level {
	LOG_LEVEL_OFF = -1, /* a threshold only */
	LOG_LEVEL_ERROR,
	LOG_LEVEL_WARN,
	LOG_LEVEL_INFO,
	LOG_LEVEL_DEBUG,
};

/* Name the program (kept by reference) and choose what is shown. The environment's ATOLL_LOG overrides
 * `level`. */
void log_init(const char *program, enum log_level level);

/* Change what is shown; and where lines go: a descriptor that is the log's from now on. */
void log_set_level(enum log_level level);
void log_to(int fd);

/* Whether a message of `level` would be written. */
int log_enabled(enum log_level level);

void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...)  log_write(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...)  log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)

/*
 * Keep a log file from growing without bound: when the regular file that is open as `fd`, for appending, is
 * larger than `limit` bytes, its content goes to the file of the same name with ".1" behind it, in place of
 * what was there, and it starts anew. Writers keep their descriptors; a line written at that moment may be
 * lost. 0, also when there was nothing to do, or -errno with the log as it was.
 */
int log_rotate(int fd, off_t limit);
