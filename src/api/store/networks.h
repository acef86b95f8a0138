/* networks: what a sandbox's network was asked to be, as JSON. A row goes with its sandbox's. */
#pragma once

#include "api/store/store.h"

/* 0 or -EIO with `err`. */
int store_put_network(struct store *store, const char *sandbox_id, const char *setting, struct error *err);

/* *ret is to be freed. 0; -ENOENT: nothing was set; -EIO with `err`. */
int store_get_network(struct store *store, const char *sandbox_id, char **ret, struct error *err);
