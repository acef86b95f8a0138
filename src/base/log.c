#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *const level_names[] = { "error", "warn", "info", "debug" };

/* The one piece of process-wide state that we allow: every part of a program shares its log. */
static const char *log_program = "atoll";
static enum log_level log_threshold = LOG_LEVEL_INFO;
static int log_fd = STDERR_FILENO;

void log_init(const char *program, enum log_level level)
{
	const char *wanted = getenv("ATOLL_LOG");

	log_program = program;
	log_threshold = level;
	if (!wanted)
		return;
	for (size_t i = 0; i < sizeof(level_names) / sizeof(level_names[0]); i++) {
		if (strcmp(wanted, level_names[i]) == 0)
			log_threshold = (enum log_level)i;
	}
}

void log_set_level(enum log_level level)
{
	log_threshold = level;
}

void log_to(int fd)
{
	if (log_fd != STDERR_FILENO)
		close(log_fd);
	log_fd = fd;
}

int log_enabled(enum log_level level)
{
	return level <= log_threshold;
}

void log_write(enum log_level level, const char *format, ...)
{
	char line[2048];
	struct timespec now;
	struct tm utc;
	va_list args;
	int used;
	int more;

	if (!log_enabled(level))
		return;
	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &utc);
	used = (int)strftime(line, sizeof(line), "%Y-%m-%dT%H:%M:%S", &utc);
	used += snprintf(line + used, sizeof(line) - (size_t)used, ".%03ldZ %s %s: ", now.tv_nsec / 1000000,
	                 level_names[level], log_program);
	va_start(args, format);
	more = vsnprintf(line + used, sizeof(line) - (size_t)used - 1, format, args);
	va_end(args);
	if (more > 0)
		used += more;
	if ((size_t)used > sizeof(line) - 2)
		used = (int)sizeof(line) - 2;
	line[used++] = '\n';
	/* One write per line, so that lines of several processes on one file do not mix. */
	if (write(log_fd, line, (size_t)used) < 0)
		return;
}
