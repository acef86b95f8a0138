#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int error_set(struct error *err, int code, const char *format, ...)
{
	va_list args;

	if (code <= 0)
		code = EIO;
	if (!err)
		return -code;
	err->code = code;
	va_start(args, format);
	(void)vsnprintf(err->message, sizeof(err->message), format, args);
	va_end(args);
	return -code;
}

int error_errno(struct error *err, int code, const char *format, ...)
{
	va_list args;
	size_t used;

	if (code <= 0)
		code = EIO;
	if (!err)
		return -code;
	err->code = code;
	va_start(args, format);
	(void)vsnprintf(err->message, sizeof(err->message), format, args);
	va_end(args);
	used = strlen(err->message);
	(void)snprintf(err->message + used, sizeof(err->message) - used, ": %s", strerror(code));
	return -code;
}

int error_wrap(struct error *err, const char *format, ...)
{
	char inner[ERROR_MESSAGE_SIZE];
	va_list args;
	size_t used;

	if (!err)
		return -EIO;
	memcpy(inner, err->message, sizeof(inner));
	va_start(args, format);
	(void)vsnprintf(err->message, sizeof(err->message), format, args);
	va_end(args);
	used = strlen(err->message);
	(void)snprintf(err->message + used, sizeof(err->message) - used, ": %s", inner);
	return err->code > 0 ? -err->code : -EIO;
}
