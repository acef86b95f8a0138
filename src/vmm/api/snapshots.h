/* PUT /snapshot/create and /snapshot/load. Private to api/. */
#pragma once

#include "vmm/api/resources.h"

int snapshots_create(struct api *api, const json_t *body, struct error *err);
int snapshots_load(struct api *api, const json_t *body, struct error *err);
