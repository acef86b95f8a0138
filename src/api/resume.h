/*
 * resume: asking the node to resume a sandbox, for a client's request and for traffic alike.
 */
#pragma once

#include "api/api.h"

struct record;

/* What the node said: as in http_call_simple, during the call. */
struct resume_answer {
	int status;
	const char *data;
	size_t size;
	const struct error *err;
};

/* `record` is as the answer leaves it, NULL when the sandbox is no more; `resumed`: it runs. */
typedef void resume_done_fn(struct record *record, bool resumed, const struct resume_answer *answer,
                            void *context);

/*
 * Ask for a sandbox that is asleep, to live `seconds` from now on; `boot`: also when its memory was not kept.
 * Its team's limits are looked at first. 0, and `done` is called later; -EDQUOT, -EBUSY, -EIO as
 * control_may_resume, -EINVAL for one that is not asleep, -ENOMEM, with `err`.
 */
int resume_ask(struct api *api, struct record *record, int64_t seconds, bool boot, resume_done_fn *done,
               void *context, struct error *err);
