/* What a sandbox may reach. */
#include <errno.h>
#include <stdlib.h>

#include "node/journal.h"
#include "node/sandbox_internal.h"

/* --- before its machine runs --- */

struct opening {
	struct sandbox *sandbox;
	unsigned start;
	void (*next)(struct sandbox *sandbox);
};

static void on_opened(void *context, const struct error *err)
{
	struct opening opening = *(struct opening *)context;
	struct error failure = { 0 };

	free(context);
	if (!sandbox_start_answer_counts(opening.sandbox, opening.start))
		return;
	if (!err) {
		opening.next(opening.sandbox);
		return;
	}
	error_set(&failure, EIO, "network: %s", err->message);
	failure.code = 500;
	sandbox_fail_start(opening.sandbox, &failure);
}

void sandbox_set_reach(struct sandbox *sandbox, void (*next)(struct sandbox *sandbox))
{
	const struct network_policy policy = { .internet = sandbox->internet };
	struct opening *opening;
	struct error err = { 0 };

	/* As every monitor begins. */
	if (policy.internet) {
		next(sandbox);
		return;
	}
	opening = malloc(sizeof(*opening));
	if (!opening) {
		error_set(&err, ENOMEM, "out of memory");
		err.code = 503;
		sandbox_fail_start(sandbox, &err);
		return;
	}
	*opening = (struct opening){ sandbox, sandbox->starts, next };
	sandbox->pending++;
	monitor_set_policy(sandbox->monitor, &policy, on_opened, opening);
}

static void on_cut_again(void *context, const struct error *err)
{
	struct sandbox *sandbox = context;

	if (!sandbox_answer_counts(sandbox) || !err)
		return;
	log_error("sandbox %s: it must not reach anything: %s", sandbox->id, err->message);
	if (sandbox->monitor)
		monitor_kill(sandbox->monitor);
}

void sandbox_adopt_reach(struct sandbox *sandbox)
{
	const struct network_policy policy = { .internet = false };

	if (sandbox->internet)
		return;
	sandbox->pending++;
	monitor_set_policy(sandbox->monitor, &policy, on_cut_again, sandbox);
}

/* --- a change --- */

struct switching {
	struct sandbox *sandbox;
	bool internet;
	node_done_fn *done;
	void *context;
};

static void tell(struct switching *switching, int status, const char *message)
{
	struct error err;

	error_set(&err, EIO, "%s", message);
	err.code = status;
	switching->done(switching->context, status < 300 ? NULL : &err);
	free(switching);
}

static int keep(struct sandbox *sandbox, struct error *err)
{
	return sandbox_is_paused(sandbox) ? journal_write_pause(sandbox, err)
	                                  : journal_write(sandbox, sandbox->state, sandbox->directory, err);
}

/* It is so from now on, also after a crash. -errno with `err`: it is as before. */
static int change(struct sandbox *sandbox, bool internet, struct error *err)
{
	int ret;

	sandbox->internet = internet;
	ret = keep(sandbox, err);
	if (ret < 0)
		sandbox->internet = !internet;
	return ret;
}

/*
 * "Off" is written before it is done, "on" after: whatever is lost in between, it is written as off, and done
 * when the sandbox is adopted.
 */
static void on_switched(void *context, const struct error *err)
{
	struct switching *switching = context;
	struct sandbox *sandbox = switching->sandbox;
	struct error failure = { 0 };
	bool internet = switching->internet;

	sandbox->switching = false;
	if (!sandbox_answer_counts(sandbox)) {
		tell(switching, 404, "the sandbox ended");
		return;
	}
	/* One that was paused meanwhile has no rules; it will have them when it is resumed. */
	if (err && !sandbox_is_paused(sandbox)) {
		error_set(&failure, EIO, "network: %s", err->message);
		internet = !internet;
	}
	if (sandbox->internet != internet && change(sandbox, internet, failure.code ? NULL : &failure) < 0) {
		log_error("sandbox %s: its journal cannot say what it may reach", sandbox->id);
		if (sandbox->monitor && !sandbox_is_paused(sandbox))
			sandbox_adopt_reach(sandbox);
	}
	tell(switching, failure.code ? 500 : 204, failure.message);
}

void sandbox_set_internet(struct sandbox *sandbox, bool internet, node_done_fn *done, void *context)
{
	const struct network_policy policy = { .internet = internet };
	struct switching *switching = malloc(sizeof(*switching));
	struct error err = { 0 };

	if (!switching) {
		error_set(&err, ENOMEM, "out of memory");
		err.code = 503;
		done(context, &err);
		return;
	}
	*switching = (struct switching){ sandbox, internet, done, context };
	if ((sandbox->state != SANDBOX_RUNNING && sandbox->state != SANDBOX_PAUSED) || sandbox->switching) {
		tell(switching, 409, "the sandbox is changing its state");
		return;
	}
	if (sandbox->internet == internet) {
		tell(switching, 204, "");
		return;
	}
	if ((!internet || sandbox->state == SANDBOX_PAUSED) && change(sandbox, internet, &err) < 0) {
		tell(switching, 500, err.message);
		return;
	}
	if (sandbox->state == SANDBOX_PAUSED) {
		tell(switching, 204, "");
		return;
	}
	sandbox->switching = true;
	sandbox->pending++;
	monitor_set_policy(sandbox->monitor, &policy, on_switched, switching);
}
