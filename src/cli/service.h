/* The service as the command line sees it: its key, its health, starting and stopping it. */
#pragma once

#include "cli/cli.h"

#define CLI_KEY_SIZE 64

/* The API key; `make` makes it when it is missing (mode 0600). 0, or -errno with `err`. */
int service_key(const struct cli_places *places, bool make, char key[CLI_KEY_SIZE], struct error *err);

/* Whether the API answers. */
bool service_healthy(const struct cli_places *places);

/* Start what is not running and wait until it is healthy. 0, or -errno with `err`. */
int service_start(const struct cli_places *places, struct error *err);

/* End all of it, monitors included. */
int service_stop(const struct cli_places *places, struct error *err);
