/*
 * service: the HTTP face, as the SDK's code interpreter expects it (E2B code interpreter server, port 49999).
 *
 *     GET /health                  200 "OK" once the default kernel has run a cell, 503 before
 *     POST /execute                NDJSON stream of one execution
 *     GET, POST /contexts          list, make
 *     DELETE /contexts/{id}        remove
 *     POST /contexts/{id}/restart  new kernel, same id
 *
 * Errors are text/plain.
 */
#pragma once

#include <stdint.h>

#include "base/error.h"
#include "interpreter/context.h"

struct service;

struct service_options {
	const char *ip;
	uint16_t port;
	const char *default_cwd; /* of contexts that name none */
};

/* Listen, and start the default context. `host` is borrowed. NULL with `err` on failure. */
struct service *service_new(uv_loop_t *loop, struct context_host *host, const struct service_options *options,
                            struct error *err);

/* End all contexts and stop listening. */
void service_free(struct service *service);
