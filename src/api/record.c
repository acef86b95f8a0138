#include "api/record.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/volumes/mounted.h"

/* --- the moves --- */

static const char *const names[] = {
	[RECORD_CREATING] = "creating", [RECORD_RUNNING] = "running", [RECORD_PAUSING] = "pausing",
	[RECORD_TURNING] = "turning",   [RECORD_PAUSED] = "paused",   [RECORD_RESUMING] = "resuming",
};

#define TO(state) (1u << RECORD_##state)

/* Where one may go from each. */
static const unsigned moves[] = {
	[RECORD_CREATING] = TO(RUNNING) | TO(PAUSED),
	/* Resumed although it runs: its time is over, and its pause may have begun. */
	[RECORD_RUNNING] = TO(PAUSING) | TO(PAUSED) | TO(RESUMING),
	[RECORD_PAUSING] = TO(RUNNING) | TO(PAUSED) | TO(TURNING),
	/* Its two answers may come in either order. */
	[RECORD_TURNING] = TO(PAUSING) | TO(RESUMING) | TO(RUNNING),
	[RECORD_PAUSED] = TO(RESUMING) | TO(RUNNING),
	[RECORD_RESUMING] = TO(RUNNING) | TO(PAUSED),
};

_Static_assert(ARRAY_SIZE(names) == ARRAY_SIZE(moves), "each state has a name and moves");

const char *record_state_name(enum record_state state)
{
	return names[state];
}

static void move(struct record *record, enum record_state to)
{
	if (record->state == to)
		return;
	assert(moves[record->state] & 1u << to);
	record->state = to;
	record->changed_ms = time_wall_ms();
}

/* --- what happens --- */

void record_load_state(struct record *record, bool running, bool paused)
{
	record->state = paused ? RECORD_PAUSED : running ? RECORD_RUNNING : RECORD_CREATING;
}

bool record_begin_pause(struct record *record)
{
	if (record->state != RECORD_RUNNING)
		return false;
	move(record, RECORD_PAUSING);
	return true;
}

void record_end_pause(struct record *record, bool done)
{
	/* In any other state the answer to a resume came before this one, and tells more. */
	if (record->state == RECORD_TURNING)
		move(record, RECORD_RESUMING);
	else if (record->state == RECORD_PAUSING)
		move(record, done ? RECORD_PAUSED : RECORD_RUNNING);
}

bool record_begin_resume(struct record *record)
{
	if (!record_is_asleep(record))
		return false;
	if (record->state == RECORD_PAUSING)
		move(record, RECORD_TURNING);
	else if (record->state != RECORD_TURNING)
		move(record, RECORD_RESUMING);
	record->resumes++;
	return true;
}

void record_end_resume(struct record *record, bool done)
{
	record->resumes--;
	if (done && record->state != RECORD_PAUSING)
		move(record, RECORD_RUNNING);
	else if (record->resumes == 0 && record->state == RECORD_TURNING)
		move(record, RECORD_PAUSING);
	else if (record->resumes == 0 && record->state == RECORD_RESUMING)
		move(record, RECORD_PAUSED);
}

void record_set_end(struct record *record, int64_t end_at_ms)
{
	record->end_at_ms = end_at_ms;
	record->changed_ms = time_wall_ms();
}

bool record_take_plans(struct record *record, const json_t *sandbox)
{
	int64_t end_at_ms = json_integer_value(json_object_get(sandbox, "end_at_ms"));
	bool moved = end_at_ms > 0 && end_at_ms != record->end_at_ms;

	record->auto_pause_disk = json_is_false(json_object_get(sandbox, "auto_pause_memory"));
	record->disk_only = json_is_false(json_object_get(sandbox, "memory"));
	if (moved)
		record->end_at_ms = end_at_ms;
	return moved;
}

bool record_take(struct record *record, const json_t *sandbox)
{
	const char *vsock = json_string_value(json_object_get(sandbox, "vsock_path"));
	const char *state = json_string_value(json_object_get(sandbox, "state"));

	if (!vsock || !json_is_integer(json_object_get(sandbox, "started_at_ms")))
		return false;
	(void)snprintf(record->vsock_path, sizeof(record->vsock_path), "%s", vsock);
	record->started_at_ms = json_integer_value(json_object_get(sandbox, "started_at_ms"));
	record->vcpu_count = (int)json_integer_value(json_object_get(sandbox, "vcpu_count"));
	record->memory_mib = (int)json_integer_value(json_object_get(sandbox, "memory_mib"));
	record->disk_mib = (int)json_integer_value(json_object_get(sandbox, "disk_mib"));
	if (!record_is_moving(record))
		move(record, state && strcmp(state, "paused") == 0 ? RECORD_PAUSED : RECORD_RUNNING);
	(void)record_take_plans(record, sandbox);
	record->changed_ms = time_wall_ms();
	return true;
}

/* --- what it comes to --- */

bool record_has_machine(const struct record *record)
{
	return record->state == RECORD_RUNNING || record->state == RECORD_PAUSING ||
	       record->state == RECORD_TURNING;
}

bool record_is_running(const struct record *record)
{
	return record_has_machine(record) && record->end_at_ms > time_wall_ms();
}

bool record_is_paused(const struct record *record)
{
	return record->state == RECORD_PAUSED || record->state == RECORD_RESUMING ||
	       (record_has_machine(record) && record->auto_pause && record->end_at_ms <= time_wall_ms());
}

bool record_is_asleep(const struct record *record)
{
	return record->state == RECORD_PAUSING || record->state == RECORD_TURNING || record_is_paused(record);
}

bool record_is_moving(const struct record *record)
{
	return record->state == RECORD_PAUSING || record->state == RECORD_TURNING ||
	       record->state == RECORD_RESUMING;
}

bool record_takes_room(const struct record *record)
{
	return record->state == RECORD_CREATING || record->state == RECORD_TURNING ||
	       record->state == RECORD_RESUMING || record_is_running(record);
}

bool record_takes_disk(const struct record *record)
{
	return record_takes_room(record) || record_is_paused(record);
}

void record_free(struct record *record)
{
	if (!record)
		return;
	if (record->visits && record->visits->count)
		record->visits->orphaned = true;
	else
		free(record->visits);
	mounted_end(record->mounted);
	json_decref(record->volume_mounts);
	json_decref(record->metadata);
	free(record);
}

/* --- visits --- */

struct visits *record_enter(struct record *record, unsigned most)
{
	if (!record->visits)
		record->visits = calloc(1, sizeof(*record->visits));
	if (!record->visits || (most && record->visits->count >= most))
		return NULL;
	record->visits->count++;
	return record->visits;
}

void visits_leave(struct visits *visits)
{
	if (--visits->count == 0 && visits->orphaned)
		free(visits);
}
