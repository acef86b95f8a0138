/*
 * observer: what the monitor tells of itself: its log, and metrics as Firecracker writes them (one JSON
 * object per line, to a file or a named pipe, every minute, when asked and at the end) or as Prometheus reads
 * them.
 */
#pragma once

#include "vmm/api/resources.h"

struct observer;

struct observer *observer_new(struct api *api, struct error *err);

/* Write the last metrics and free. */
void observer_free(struct observer *observer);

/* PUT /logger and /metrics, also for the members of a configuration file. */
int observer_put_logger(const struct api_call *call, struct error *err);
int observer_put_metrics(const struct api_call *call, struct error *err);
int observer_configure(struct observer *observer, const json_t *config, struct error *err);

/* Write a line of metrics now. -EINVAL with `err` when nobody said where to. */
int observer_flush(struct observer *observer, struct error *err);

/* All metrics since the start in Prometheus' text format; a new string, NULL when out of memory. */
char *observer_prometheus(struct observer *observer);
