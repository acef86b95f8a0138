/* builder: from a kernel and a root file system to a template: boot, start what is to run, wait, snapshot. */
#pragma once

#include "node/template.h"

/*
 * What a build said as it was made, in the template's directory: one JSON object a line,
 * {"time_ms","level","step","message"}. Not of snapshots, nor of templates of before there was such a file.
 */
#define BUILD_LOG     "build.log"
#define BUILD_LOG_MAX (1 << 20) /* bytes; what comes then is not kept */

/* Strings and objects are borrowed during the call. */
struct build_request {
	const char *name;
	const char *source;
	const char *kernel;
	const char *initrd;    /* "": none */
	const char *boot_args; /* for this kernel, beside those that every template has */
	const char *rootfs;
	const char *start_cmd;
	const char *ready_cmd;
	const char *warm_cmd;
	const char *default_user;
	const char *default_workdir;
	json_t *env_vars;
	unsigned vcpu_count;
	unsigned memory_mib;
};

struct build_events {
	/* What is done now, and in which step of the build; `elapsed_ms` since its start. */
	void (*step)(void *context, const char *step, const char *message, int64_t elapsed_ms);
	/* The end: a template that is in place, or NULL with `err`. */
	void (*done)(void *context, const struct template *template, const struct error *err);
};

/* Begin. The events come until `done`; a `context` that goes away earlier calls build_forget. */
struct build *build_start(struct node *node, const struct build_request *request,
                          const struct build_events *events, void *context);

/* Go on without telling anyone. */
void build_forget(struct build *build);
