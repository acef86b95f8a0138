/*
 * sandbox_state: the life of a sandbox on its node.
 *
 * It is in one state at any time. Which there are stands here; which follow on which, what clients see of
 * each and what the journal says of it stands in the table in sandbox_state.c. sandbox_move() alone goes from
 * one to another; journal_read() and journal_read_pause() set what an earlier life of the daemon left.
 */
#pragma once

#include <stdbool.h>

struct sandbox;

enum sandbox_state {
	SANDBOX_STARTING,   /* it was asked for, and its agent has not been told who it is */
	SANDBOX_REHEARSING, /* nobody's: restored in advance, it touches what it needs to start */
	SANDBOX_SPARE,      /* nobody's: it has done that, and its machine stands still until a create */
	SANDBOX_DISCARDED,  /* nobody's, and never to be: its monitor ends */
	SANDBOX_RUNNING,    /* its machine runs, and nothing is done to it */
	SANDBOX_COPYING,    /* the same, but for moments: it is made a template */
	SANDBOX_PAUSING,    /* the same: it is written to files. Its pause does not count yet */
	SANDBOX_RESTING,    /* its pause counts: its monitor ends */
	SANDBOX_PAUSED,     /* it has no monitor, only its files are there */
	SANDBOX_RESUMING,   /* it is started from its pause, which still counts */
	SANDBOX_RELAPSING,  /* that failed: its monitor ends, and it is paused as before */
	SANDBOX_WAKING,     /* its pause counts no more, and its agent has not been told who it is */
	SANDBOX_ENDING,     /* it was killed, or failed: its monitor ends */
	SANDBOX_GONE,       /* nothing of it is there but answers that are still to come */
};

/* Go to `to`. A move that is not in the table is a bug, and ends the daemon. */
void sandbox_move(struct sandbox *sandbox, enum sandbox_state to);

/* What the journal of a machine in that state calls it. */
const char *sandbox_state_in_journal(enum sandbox_state state);

/* Clients know it and see it as one that runs, or as one that is paused. */
bool sandbox_is_running(const struct sandbox *sandbox);
bool sandbox_is_paused(const struct sandbox *sandbox);
bool sandbox_is_known(const struct sandbox *sandbox); /* either */

/* Nobody's. */
bool sandbox_is_spare(const struct sandbox *sandbox);

/* It ends, or has: what its machine answers counts no more. */
bool sandbox_is_over(const struct sandbox *sandbox);
