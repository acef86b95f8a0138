/* What the control plane keeps of templates: whose they are and how often they were used. The node has the
 * rest. */
#pragma once

#include "api/store/store.h"

struct template_row {
	char team_id[64];
	bool public; /* every team may create from it */
	int64_t spawn_count;
	int64_t last_spawned_at_ms; /* 0: never */
	int64_t updated_at_ms;      /* 0: never */
};

/* By its name. One that nothing is known of was built by the host's owner: the first team's, and public. */
int store_get_template(struct store *store, const char *name, struct template_row *ret, struct error *err);

/* Whose it is from now on, and for whom. */
int store_put_template(struct store *store, const char *name, const char *team_id, bool public,
                       struct error *err);
int store_note_spawn(struct store *store, const char *name, struct error *err);
int store_forget_template(struct store *store, const char *name, struct error *err);
