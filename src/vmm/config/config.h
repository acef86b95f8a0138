/*
 * config: a machine as JSON, in the names of Firecracker's API: one object with a member per resource
 * ("machine-config", "boot-source", "drives", "network-interfaces", "vsock", "entropy", "balloon", "serial",
 * "mmds-config", "logger", "metrics"). The same form is a configuration file, what GET /vm/config shows, and
 * the first section of a snapshot. Opens the folder.
 */
#pragma once

#include <jansson.h>

#include "vmm/machine/machine.h"

/*
 * Check `root` and take it apart; strings in *config belong to `root`. Missing and null members are allowed,
 * unknown ones refused by name. "logger" and "metrics" are checked elsewhere; config->mmds stays NULL. 0, or
 * -EINVAL with `err`.
 */
int config_read(const json_t *root, struct machine_config *config, struct error *err);

/* Read and check a file that describes a whole machine. New reference in *ret_json. */
int config_read_file(const char *path, json_t **ret_json, struct error *err);

/* Give machine-config, drives and so on the defaults that Firecracker's API shows for what was left out. */
void config_complete(json_t *root);

/* Refuse members that `known` (ended by NULL) does not name: a misspelt limit must not be a missing one. */
int config_only_known(const json_t *object, const char *what, const char *const *known, struct error *err);

/* Read a drive's "layers". */
int config_read_layers(const json_t *object, struct block_config *drive, struct error *err);

/*
 * Read the RateLimiter that is `object`'s member `key`. *ret_present (may be NULL) tells which buckets were
 * given: an update leaves the other one alone.
 */
struct config_buckets {
	bool bandwidth;
	bool ops;
};

int config_read_limiter(const json_t *object, const char *key, struct rate_limiter_config *ret,
                        struct config_buckets *ret_present, struct error *err);
int config_read_bucket(const json_t *object, const char *key, struct token_bucket_config *ret,
                       bool *ret_present, struct error *err);
