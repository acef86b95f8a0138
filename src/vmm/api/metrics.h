/* The monitor's counters as JSON in Firecracker's shape, and as Prometheus' text. Private to api/. */
#pragma once

#include "vmm/api/resources.h"

/* All counters since the start: an object of objects of integers. New reference, NULL when out of memory. */
json_t *metrics_collect(const struct api *api);

/* What came since `previous` (NULL: the start), with the time: one line of Firecracker's file. */
json_t *metrics_line(const json_t *now, const json_t *previous);

/* atoll_vmm_<group>_<counter>{machine="id"[,device="..."]} value: a new string. */
char *metrics_prometheus(const json_t *now, const char *id);
