/* volumes: their names and tokens. Their files are the business of volumes/. */
#pragma once

#include <stdbool.h>

#include "api/store/store.h"

struct volume_record {
	char id[40];
	char team_id[64];
	char name[128];
	char token[80]; /* of the content API: clients ask for it again, so it is kept as it is */
	int64_t created_at_ms;
};

/* 0; -EEXIST: the team has one of that name; -EIO with `err`. */
int store_put_volume(struct store *store, const struct volume_record *volume, struct error *err);

/* 0, -ENOENT, -EIO with `err`. */
int store_find_volume(struct store *store, const char *id, struct volume_record *ret, struct error *err);
/* A team's of that name. As store_find_volume. */
int store_find_volume_named(struct store *store, const char *team_id, const char *name,
                            struct volume_record *ret, struct error *err);
int store_delete_volume(struct store *store, const char *id, struct error *err);

/* A team's by age. 0 or -EIO with `err`. */
int store_list_volumes(struct store *store, const char *team_id,
                       void (*take)(void *context, const struct volume_record *volume), void *context,
                       struct error *err);
