#include "api/resume.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "api/control.h"
#include "api/registry.h"
#include "api/volumes/mounted.h"

struct resume {
	struct api *api;
	resume_done_fn *done;
	void *context;
	char id[64];
};

static void on_answer(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct resume *resume = context;
	const struct resume_answer answer = { status, data, size, err };
	struct record *record = registry_find(resume->api->registry, resume->id);
	cleanup_json json_t *sandbox = status == 201 ? json_loadb(data, size, 0, NULL) : NULL;
	bool resumed = record && record_take(record, sandbox);
	struct error failure = { 0 };

	if (record)
		record_end_resume(record, resumed);
	if (!resumed)
		api_reconcile_soon(resume->api);
	else if (registry_update(resume->api->registry, record, &failure) < 0)
		log_error("%s", failure.message);
	if (resumed)
		mounted_begin(resume->api, record);
	resume->done(record, resumed, &answer, resume->context);
	free(resume);
}

int resume_ask(struct api *api, struct record *record, int64_t seconds, bool boot, resume_done_fn *done,
               void *context, struct error *err)
{
	struct resume *resume;
	char target[160];
	int ret;

	ret = control_may_resume(api, record, err);
	if (ret < 0)
		return ret;
	resume = malloc(sizeof(*resume));
	if (!resume)
		return error_errno(err, ENOMEM, "resume the sandbox");
	if (!record_begin_resume(record)) {
		free(resume);
		return error_set(err, EINVAL, "the sandbox is %s", record_state_name(record->state));
	}
	*resume = (struct resume){ .api = api, .done = done, .context = context };
	(void)snprintf(resume->id, sizeof(resume->id), "%s", record->id);
	(void)snprintf(target, sizeof(target), "/v1/sandboxes/%s/resume", record->id);
	api_call_node(api, "POST", target,
	              json_pack("{s:I,s:b,s:b}", "end_at_ms", (json_int_t)(time_wall_ms() + seconds * 1000),
	                        "auto_pause", record->auto_pause, "boot", boot),
	              on_answer, resume);
	return 0;
}
