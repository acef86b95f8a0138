/* config_file: a machine as a JSON file in the form of Firecracker's --config-file, with our drive fields. */
#pragma once

#include <jansson.h>

#include "vmm/machine.h"

/*
 * Read and check `path`. *ret_json owns the strings that `config` points to and must outlive it. Unknown
 * fields are refused by name. 0, or a negative errno with `err`.
 */
int config_file_read(const char *path, struct machine_config *config, json_t **ret_json, struct error *err);
