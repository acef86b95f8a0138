/*
 * config: a machine as JSON, in the names of Firecracker's API: one object with a member per resource
 * ("machine-config", "boot-source", "drives", "vsock", "entropy", "serial"). The same form is a
 * configuration file, what GET /vm/config shows, and the first section of a snapshot.
 */
#pragma once

#include <jansson.h>

#include "vmm/machine.h"

/*
 * Check `root` and take it apart; strings in *config belong to `root`. Missing members are allowed, unknown
 * ones refused by name. 0, or -EINVAL with `err`.
 */
int config_read(const json_t *root, struct machine_config *config, struct error *err);

/* Read and check a file that describes a whole machine. New reference in *ret_json. */
int config_read_file(const char *path, json_t **ret_json, struct error *err);

/* Refuse members that `known` (ended by NULL) does not name: a misspelt limit must not be a missing one. */
int config_only_known(const json_t *object, const char *what, const char *const *known, struct error *err);
