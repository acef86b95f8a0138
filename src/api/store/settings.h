/* What the control plane was told or has counted. */
#pragma once

#include "api/store/store.h"

/* A text by its name; what was never set stays as `value` was. */
int store_get_setting(struct store *store, const char *name, char *value, size_t size, struct error *err);
int store_put_setting(struct store *store, const char *name, const char *value, struct error *err);

/* A team's sandboxes at a time. */
struct sample {
	int64_t at_ms;
	int64_t concurrent;
	int64_t started; /* since the sample before */
	double seconds;  /* ago that it was */
};

int store_put_sample(struct store *store, const char *team_id, const struct sample *sample,
                     struct error *err);
int store_list_samples(struct store *store, const char *team_id, int64_t from_ms, int64_t to_ms,
                       void (*take)(void *context, const struct sample *sample), void *context,
                       struct error *err);
int store_drop_samples(struct store *store, int64_t before_ms, struct error *err);

/* Is there a secret at all, of any team? */
int store_any_secret(struct store *store, bool *ret, struct error *err);
