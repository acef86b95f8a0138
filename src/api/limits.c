/* How much a key may ask, and how much a team may have. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/control.h"

/* --- how often: a bucket of tokens per key --- */

struct caller {
	struct list link;
	char id[40];
	double tokens;
	int64_t filled_us;
};

static void fill(const struct control *control, struct caller *caller, int64_t now_us)
{
	caller->tokens += (double)(now_us - caller->filled_us) / 1e6 * control->rate;
	if (caller->tokens > control->burst)
		caller->tokens = control->burst;
	caller->filled_us = now_us;
}

/* Ids are UUIDs: their first digits spread them. Whose bucket is full again need not be remembered. */
static struct list *callers_of(struct control *control, const char *id)
{
	unsigned index = 0;

	for (size_t i = 0; i < 2 && id[i]; i++)
		index = index * 16 + (unsigned)(id[i] <= '9' ? id[i] : id[i] + 9) % 16;
	return &control->callers[index % CONTROL_CALLERS];
}

static struct caller *find_caller(struct control *control, const char *id, int64_t now_us)
{
	struct list *callers = callers_of(control, id);
	struct caller *caller;

	list_for_each_safe (node, callers) {
		caller = list_entry(node, struct caller, link);
		fill(control, caller, now_us);
		if (strcmp(caller->id, id) == 0)
			return caller;
		if (caller->tokens >= control->burst) {
			list_remove(&caller->link);
			free(caller);
		}
	}
	caller = calloc(1, sizeof(*caller));
	if (!caller)
		return NULL;
	(void)snprintf(caller->id, sizeof(caller->id), "%s", id);
	caller->tokens = control->burst;
	caller->filled_us = now_us;
	list_append(callers, &caller->link);
	return caller;
}

bool control_admit(struct api *api, const char *id, struct control_allowance *ret)
{
	struct control *control = api->control;
	int64_t now_us = time_monotonic_us();
	struct caller *caller;
	bool allowed;

	*ret = (struct control_allowance){ 0 };
	caller = control->rate ? find_caller(control, id, now_us) : NULL;
	if (!caller)
		return true;
	allowed = caller->tokens >= 1;
	if (allowed)
		caller->tokens -= 1;
	*ret = (struct control_allowance){
		.limit = control->burst,
		.remaining = (unsigned)caller->tokens,
		.reset_s = (unsigned)ceil((control->burst - caller->tokens) / control->rate),
		.retry_s = allowed ? 0 : (unsigned)ceil((1 - caller->tokens) / control->rate),
	};
	return allowed;
}

void control_forget_callers(struct api *api)
{
	for (size_t i = 0; i < ARRAY_SIZE(api->control->callers); i++) {
		list_for_each_safe (node, &api->control->callers[i]) {
			list_remove(node);
			free(list_entry(node, struct caller, link));
		}
	}
}

/* --- how much --- */

void control_usage(struct api *api, const char *team_id, struct control_usage *ret)
{
	*ret = (struct control_usage){ 0 };
	list_for_each (node, registry_all(api->registry)) {
		const struct record *record = list_entry(node, struct record, all);

		if (team_id && strcmp(record->team_id, team_id) != 0)
			continue;
		if (!record_takes_disk(record))
			continue;
		ret->disk_mib += record->disk_mib;
		if (!record_takes_room(record))
			continue;
		ret->sandboxes++;
		ret->starting += !record_has_machine(record);
		ret->vcpus += record->vcpu_count;
		ret->memory_mib += record->memory_mib;
	}
}

static int check(const struct limits *limits, const struct control_usage *usage, struct error *err)
{
	const struct {
		int64_t limit;
		int64_t used;
		const char *message;
	} all[] = {
		{ limits->sandboxes, usage->sandboxes,
		  "you have reached the maximum number of concurrent E2B sandboxes (%lld)" },
		{ limits->vcpus, usage->vcpus,
		  "you have reached the maximum number of vCPUs of concurrent sandboxes (%lld)" },
		{ limits->memory_mib, usage->memory_mib,
		  "you have reached the maximum memory of concurrent sandboxes (%lld MiB)" },
		{ limits->disk_mib, usage->disk_mib,
		  "you have reached the maximum disk space of sandboxes, paused ones included (%lld MiB)" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		char message[160];

		if (!all[i].limit || all[i].used <= all[i].limit)
			continue;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
		(void)snprintf(message, sizeof(message), all[i].message, (long long)all[i].limit);
#pragma GCC diagnostic pop
		return error_set(err, EDQUOT, "%s", message);
	}
	return 0;
}

static bool has_limits(const struct limits *limits)
{
	return limits->sandboxes || limits->vcpus || limits->memory_mib || limits->disk_mib;
}

/* Is there room for `count` more of this size? */
static int check_room(struct api *api, const char *team_id, unsigned count, const struct control_size *size,
                      struct error *err)
{
	struct control_usage usage;
	struct team team = { 0 };
	int ret = store_find_team(api->store, team_id, &team, err);

	if (ret < 0 || !has_limits(&team.limits))
		return ret;
	control_usage(api, team_id, &usage);
	usage.sandboxes += count;
	usage.vcpus += (int64_t)count * size->vcpus;
	usage.memory_mib += (int64_t)count * size->memory_mib;
	usage.disk_mib += (int64_t)count * size->disk_mib;
	return check(&team.limits, &usage, err);
}

int control_check_limits(struct api *api, const char *team_id, struct error *err)
{
	static const struct control_size nothing;

	return check_room(api, team_id, 0, &nothing, err);
}

static int check_status(const struct api *api, struct error *err)
{
	if (api->control->status == NODE_READY)
		return 0;
	return error_set(err, EBUSY, "the node is %s and takes no new sandboxes",
	                 control_status_name(api->control->status));
}

int control_may_start(struct api *api, const char *team_id, unsigned count, const struct control_size *size,
                      struct error *err)
{
	int ret = check_status(api, err);

	return ret < 0 ? ret : check_room(api, team_id, count, size, err);
}

int control_may_resume(struct api *api, const struct record *record, struct error *err)
{
	const struct control_size size = { record->vcpu_count, record->memory_mib, 0 };
	int ret;

	/* Another one asked before, and was let through. */
	if (record->state == RECORD_RESUMING || record->state == RECORD_TURNING)
		return 0;
	ret = check_status(api, err);
	if (ret < 0 || record_takes_room(record))
		return ret;
	return check_room(api, record->team_id, 1, &size, err);
}

int control_needs_size(struct api *api, const char *team_id, struct error *err)
{
	struct team team = { 0 };
	int ret = store_find_team(api->store, team_id, &team, err);

	return ret < 0 ? ret : team.limits.vcpus || team.limits.memory_mib || team.limits.disk_mib;
}
