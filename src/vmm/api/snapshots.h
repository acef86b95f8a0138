/* PUT /snapshot/create and /snapshot/load. Private to api/. */
#pragma once

#include "vmm/api/resources.h"

int snapshots_create(const struct api_call *call, struct error *err);
int snapshots_load(const struct api_call *call, struct error *err);
