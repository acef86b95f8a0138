#include "node/sandbox_state.h"

#include <assert.h>

#include "node/sandbox.h"

enum view {
	HIDDEN,
	AS_RUNNING,
	AS_PAUSED,
};

#define TO(state) (1u << SANDBOX_##state)

static const struct {
	const char *name;
	enum view view;      /* what clients see */
	const char *journal; /* its machine's; NULL: none is written */
	unsigned moves;      /* where it may go */
} states[] = {
	/* Gone at once, here and below: no monitor could be had, or it ended unasked. */
	[SANDBOX_STARTING] = { "starting", HIDDEN, "starting", TO(RUNNING) | TO(ENDING) | TO(GONE) },
	[SANDBOX_REHEARSING] = { "rehearsing", HIDDEN, "starting", TO(SPARE) | TO(DISCARDED) | TO(GONE) },
	/* A create takes it, or its template has been replaced. */
	[SANDBOX_SPARE] = { "spare", HIDDEN, NULL, TO(STARTING) | TO(DISCARDED) | TO(GONE) },
	[SANDBOX_DISCARDED] = { "discarded", HIDDEN, NULL, TO(GONE) },
	[SANDBOX_RUNNING] = { "running", AS_RUNNING, "running",
	                      TO(COPYING) | TO(PAUSING) | TO(ENDING) | TO(GONE) },
	/* Back whether it came to a template or not. */
	[SANDBOX_COPYING] = { "copying", AS_RUNNING, "running", TO(RUNNING) | TO(ENDING) | TO(GONE) },
	/* It runs on when it cannot be written. */
	[SANDBOX_PAUSING] = { "pausing", AS_RUNNING, "running",
	                      TO(RUNNING) | TO(RESTING) | TO(ENDING) | TO(GONE) },
	/* Once its monitor has ended its files are nobody's but ours. */
	[SANDBOX_RESTING] = { "resting", AS_PAUSED, NULL, TO(PAUSED) | TO(ENDING) },
	[SANDBOX_PAUSED] = { "paused", AS_PAUSED, NULL, TO(RESUMING) | TO(ENDING) },
	/* From memory its pause is given up before its machine goes on, so that it never runs twice. A boot
	 * ends with that. Paused at once: no monitor could be had, or it ended unasked. */
	[SANDBOX_RESUMING] = { "resuming", AS_PAUSED, "resuming",
	                       TO(WAKING) | TO(RUNNING) | TO(RELAPSING) | TO(PAUSED) | TO(ENDING) },
	[SANDBOX_RELAPSING] = { "relapsing", AS_PAUSED, NULL, TO(PAUSED) | TO(ENDING) },
	[SANDBOX_WAKING] = { "waking", AS_RUNNING, "resuming", TO(RUNNING) | TO(ENDING) | TO(GONE) },
	[SANDBOX_ENDING] = { "ending", HIDDEN, NULL, TO(GONE) },
	[SANDBOX_GONE] = { "gone", HIDDEN, NULL, 0 },
};

void sandbox_move(struct sandbox *sandbox, enum sandbox_state to)
{
	if (!(states[sandbox->state].moves & 1u << to)) {
		log_error("sandbox %s: it is %s and cannot be %s", sandbox->id, states[sandbox->state].name,
		          states[to].name);
		assert(false);
	}
	sandbox->state = to;
}

const char *sandbox_state_in_journal(enum sandbox_state state)
{
	assert(states[state].journal);
	return states[state].journal;
}

bool sandbox_is_running(const struct sandbox *sandbox)
{
	return states[sandbox->state].view == AS_RUNNING;
}

bool sandbox_is_paused(const struct sandbox *sandbox)
{
	return states[sandbox->state].view == AS_PAUSED;
}

bool sandbox_is_known(const struct sandbox *sandbox)
{
	return states[sandbox->state].view != HIDDEN;
}

bool sandbox_is_spare(const struct sandbox *sandbox)
{
	return sandbox->state == SANDBOX_REHEARSING || sandbox->state == SANDBOX_SPARE ||
	       sandbox->state == SANDBOX_DISCARDED;
}

bool sandbox_is_over(const struct sandbox *sandbox)
{
	return sandbox->state == SANDBOX_DISCARDED || sandbox->state == SANDBOX_ENDING ||
	       sandbox->state == SANDBOX_GONE;
}
