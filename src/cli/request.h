/* One HTTP request and its whole answer, by libcurl: the command line waits anyway. */
#pragma once

#include <stdbool.h>

#include "base/buffer.h"
#include "base/error.h"

struct cli_request {
	const char *method;
	const char *url;
	const char *unix_socket; /* NULL: TCP */
	const char *headers[8];  /* "Name: value", NULL-terminated */
	const char *body;        /* JSON, NULL: none */
	long timeout_seconds;    /* 0: none */
	void (*on_line)(const char *line,
	                void *context); /* each line of the answer as it comes; NULL: collect */
	void *context;
};

/* *ret_status gets the HTTP status, `answer` (may be NULL) the body. 0, or -EIO with `err`. */
int cli_request_run(const struct cli_request *request, long *ret_status, struct buffer *answer,
                    struct error *err);
