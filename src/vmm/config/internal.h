/* What the files of the configuration share. Private to config/. */
#pragma once

#include "vmm/config/config.h"

/* Each reads its member of `root` into *config. */
int config_read_drives(const json_t *root, struct machine_config *config, struct error *err);
int config_read_nets(const json_t *root, struct machine_config *config, struct error *err);
int config_read_metadata(const json_t *root, struct machine_config *config, struct error *err);
int config_read_balloon(const json_t *root, struct machine_config *config, struct error *err);
int config_read_vsock(const json_t *root, struct machine_config *config, struct error *err);
int config_read_entropy(const json_t *root, struct machine_config *config, struct error *err);
int config_read_serial(const json_t *root, struct machine_config *config, struct error *err);

/* An identifier of Firecracker's API: letters, digits and '_'. */
int config_check_id(const char *id, const char *what, struct error *err);
