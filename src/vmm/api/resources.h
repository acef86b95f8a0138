/* The requests of the machine API, without HTTP around them. Private to api/. */
#pragma once

#include "vmm/api/api.h"
#include "vmm/config/config.h"

struct http_server;
struct observer;

enum api_phase {
	API_ANY,
	API_BEFORE, /* not after the machine has started */
	API_AFTER,
};

struct api_call;

/* A row of the API's table: one method on one path. */
struct api_resource {
	const char *method;
	const char *path; /* a trailing '/' wants an id behind it */
	enum api_phase phase;
	/* 0, or a negative errno with `err`: 400, or 413 for -EMSGSIZE. */
	int (*handle)(const struct api_call *call, struct error *err);
	const char *member; /* of the configuration, for those that only set it */
	const char *metric; /* Firecracker's name for calls of it: "drive"; NULL: not counted */
	bool bodiless;      /* the body may be missing */
};

/* Private to the request that is carried out. */
struct api_call {
	struct api *api;
	const struct api_resource *resource;
	const char *id; /* the part of the path behind the resource, or NULL */
	const json_t *body;
	json_t **ret_reply;
};

/* How long the last of each took, microseconds (Firecracker's latencies_us). */
struct api_latencies {
	int64_t full_create_snapshot;
	int64_t diff_create_snapshot;
	int64_t load_snapshot;
	int64_t pause_vm;
	int64_t resume_vm;
};

#define API_RESOURCES_MAX 48

struct api {
	uv_loop_t *loop;
	const struct api_options *options;
	struct http_server *server;
	struct machine *machine; /* NULL until it is needed */
	struct observer *observer;
	struct mmds *mmds;
	uv_poll_t end_poll;
	uv_timer_t fatal_timer;
	json_t *config; /* what was configured so far, or restored */
	bool fatal;     /* a restore failed half-way: the process ends */
	struct api_latencies latencies;
	uint64_t calls[API_RESOURCES_MAX]; /* by row of the table */
	uint64_t failures[API_RESOURCES_MAX];
};

/*
 * Carry out a request. `body` is NULL when there was none. *ret_reply gets a new reference, or stays NULL for
 * 204. A negative errno means 400 (-EMSGSIZE: 413) with err->message as fault_message.
 */
int resources_handle(struct api *api, const char *method, const char *path, const json_t *body,
                     json_t **ret_reply, struct error *err);

/* Add what was called how often, as Firecracker's get_, put_ and patch_api_requests. */
void resources_count(const struct api *api, json_t *metrics);

bool api_started(const struct api *api);

/* Make the machine as a shell if it does not exist. */
int api_make_machine(struct api *api, unsigned vcpus, struct error *err);

/* --- configure.c: what is set before the start --- */

int configure_member(const struct api_call *call, struct error *err);
int configure_machine(const struct api_call *call, struct error *err); /* PATCH */
int configure_drive(const struct api_call *call, struct error *err);
int configure_net(const struct api_call *call, struct error *err);
int configure_get_machine(const struct api_call *call, struct error *err);
int configure_get_all(const struct api_call *call, struct error *err);
int configure_get_balloon(const struct api_call *call, struct error *err);

/* --- update.c: what changes while it runs --- */

int update_drive(const struct api_call *call, struct error *err);
int update_net(const struct api_call *call, struct error *err);

/* --- balloon.c --- */

int balloon_patch(const struct api_call *call, struct error *err);
int balloon_patch_statistics(const struct api_call *call, struct error *err);
int balloon_get_statistics(const struct api_call *call, struct error *err);
int balloon_start(const struct api_call *call, struct error *err);
int balloon_stop(const struct api_call *call, struct error *err);
int balloon_get_status(const struct api_call *call, struct error *err);

/* --- metadata.c --- */

int metadata_put(const struct api_call *call, struct error *err);
int metadata_patch(const struct api_call *call, struct error *err);
int metadata_get(const struct api_call *call, struct error *err);
