/*
 * api: the machine API, Firecracker's REST interface on a unix socket, with the additions that
 * docs/interfaces.md lists. One request is carried out at a time, on the loop's thread.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <uv.h>

#include "base/error.h"
#include "vmm/machine/machine.h"

struct api;

struct api_options {
	const char *id;            /* told by GET / */
	const char *socket_path;   /* NULL: no API, only what api_boot is given */
	unsigned shell_vcpus;      /* make VM and vCPUs before the first request; 0: later */
	bool seccomp;              /* hold the threads to their system calls (vmm/seccomp) */
	bool trace;                /* log the steps of a restore */
	bool boot_timer;           /* log when the guest says that it is up */
	size_t metadata_limit;     /* bytes of the metadata service's document; 0: its default */
	const char *metadata_path; /* its first content, a JSON file; NULL: none */
	size_t body_limit;         /* bytes of a request; 0: Firecracker's default */
	/* The machine has ended, by itself (status 0), or by a failure that was logged. */
	void (*ended)(void *context, int status);
	void *context;
};

/*
 * Start to listen, and then install the calling thread's seccomp filter if the options say so: from then on
 * it may do nothing but serve. Options are borrowed for the life of the object. NULL with `err`.
 */
struct api *api_new(uv_loop_t *loop, const struct api_options *options, struct error *err);

/* Take the members "logger" and "metrics" of a configuration. */
int api_observe(struct api *api, const json_t *config, struct error *err);

/* Boot a machine from a whole configuration (config.h) with its log and metrics; its reference is taken. */
int api_boot_file(struct api *api, json_t *config, struct error *err);

/* Boot a machine from what is configured; takes the reference. */
int api_boot(struct api *api, json_t *config, struct error *err);

/* End the machine: stop it, flush its disks. */
void api_free(struct api *api);
