/* machine: what the host that the sandboxes run on has, and what of it is in use, as the kernel tells. */
#pragma once

#include <jansson.h>
#include <stdint.h>

/* The CPU: family, model, name and architecture, under E2B's names. New reference. */
json_t *machine_info(void);

/*
 * Numbers of CPUs, memory, huge pages and of the disk that `directory` is on, under E2B's names; CPU use is
 * that since the last call, kept in `busy` and `total` (0 at first: since the start of the host). New
 * reference.
 */
json_t *machine_metrics(const char *directory, uint64_t *busy, uint64_t *total);
