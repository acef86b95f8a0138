/* The requests of the machine API, without HTTP around them. Private to api/. */
#pragma once

#include "vmm/api/api.h"
#include "vmm/config.h"

struct http_server;

struct api {
	uv_loop_t *loop;
	const struct api_options *options;
	struct http_server *server;
	struct machine *machine; /* NULL until it is needed */
	uv_poll_t end_poll;
	uv_timer_t fatal_timer;
	json_t *config; /* what was configured so far, or restored */
	bool fatal;     /* a restore failed half-way: the process ends */
};

/*
 * Carry out a request. `body` is NULL when there was none. *ret_reply gets a new reference, or stays NULL for
 * 204. A negative errno means 400 with err->message as fault_message.
 */
int resources_handle(struct api *api, const char *method, const char *path, const json_t *body,
                     json_t **ret_reply, struct error *err);

/* Make the machine as a shell if it does not exist. */
int api_make_machine(struct api *api, unsigned vcpus, struct error *err);
