/*
 * error: how a failure reaches a person.
 *
 * Functions that can fail return 0 or a negative errno. Where a person will read about it they also take a
 * `struct error *` and fill it with what was attempted, on what, and why it failed. The object lives in the
 * caller's frame and never allocates, so that reporting out-of-memory works. Passing NULL is allowed
 * everywhere.
 */
#pragma once

#include <stddef.h>

#define ERROR_MESSAGE_SIZE 512

struct error {
	int code; /* positive errno, 0 when nothing failed */
	char message[ERROR_MESSAGE_SIZE];
};

/*
 * Fill `err` (may be NULL) and return -code, so that a failure is one line:
 *     return error_set(err, errno, "open kernel image %s: %s", path, strerror(errno));
 * A code of 0 or less becomes EIO: an error is never mistaken for success.
 */
int error_set(struct error *err, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* As error_set with the system's text for `code` appended (": No such file or directory"). */
int error_errno(struct error *err, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Put context before the message that is already there ("restore template base: ..."). Returns -err->code. */
int error_wrap(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
