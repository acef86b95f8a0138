/* Which template a request means: shared by the handlers of templates and of their builds. */
#pragma once

#include "api/rest/rest.h"
#include "api/store/templates.h"

/* What a request names: a snapshot of the team, or a template of anyone. */
struct template_subject {
	char name[128];    /* of a template; of a snapshot what the client calls it */
	char build_id[40]; /* of a snapshot; "": it is none */
	struct template_row row;
	struct rest_page page;
};

/* Look `reference` up. NULL: the call has been answered. Else the call's own, to be freed. */
struct template_subject *templates_find_subject(struct rest_call *call, const char *reference);

/* Whether it belongs to the caller's team. */
bool templates_is_own(const struct rest_call *call, const struct template_subject *subject);

/* Send the node a request about the subject. */
void templates_ask_node(struct rest_call *call, const struct template_subject *subject, const char *method,
                        http_simple_fn *done);

/* The node's builds of the subject, newest first. NULL: the call has been answered, and the subject is freed.
 */
json_t *templates_take_builds(struct rest_call *call, int status, const char *data, size_t size,
                              const struct error *err);
