/* Resume of a sandbox whose pause kept its disk alone: a new machine boots from it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "node/agent.h"
#include "node/boot.h"
#include "node/history.h"
#include "node/journal.h"
#include "node/sandbox_internal.h"

#define PATIENCE_SECONDS 110 /* until the agent answers: atoll-api waits a little longer for us */

/*
 * Its pause counts until the agent has answered and been told who it is. What the guest writes to its disk up
 * to then goes to a layer that is removed if it does not come to that, or if the daemon ends before.
 */
struct reboot {
	struct sandbox *sandbox;
	unsigned start; /* which one of its starts this is */
	unsigned requests_made;
};

static void fail(struct reboot *reboot, const char *what, const char *why)
{
	struct error failure;

	/* The guest's console tells how far it came. */
	monitor_log_tail(reboot->sandbox->monitor);
	error_set(&failure, EIO, "%s: %s", what, why);
	failure.code = 500;
	sandbox_fail_start(reboot->sandbox, &failure);
	free(reboot);
}

/* An answer came. False: too late, and this is freed. */
static bool answer_counts(struct reboot *reboot)
{
	if (sandbox_start_answer_counts(reboot->sandbox, reboot->start))
		return true;
	free(reboot);
	return false;
}

static void on_command(void *context, int exit_code, const struct error *err)
{
	struct sandbox *sandbox = context;

	(void)exit_code;
	if (sandbox_answer_counts(sandbox) && err)
		log_warn("sandbox %s: its template's start command: %s", sandbox->id, err->message);
}

/* What the template has running since it was built is not in a memory now. */
static void start_command(struct sandbox *sandbox)
{
	const struct template *template = template_find(sandbox->node, sandbox->build_id);
	char vsock[NODE_PATH_MAX];

	if (!template || !template->start_cmd[0])
		return;
	sandbox_vsock_path(sandbox, vsock);
	sandbox->pending++;
	agent_command(sandbox->node, vsock, template->default_user[0] ? template->default_user : "root",
	              template->start_cmd, false, on_command, sandbox);
}

/* The journal of what runs first, then the pause goes: in between, the pause counts. */
static int commit(struct sandbox *sandbox, struct error *err)
{
	struct stack before = sandbox->stack;
	int64_t end_before = sandbox->end_at_ms;

	sandbox->stack.void_top = false;
	/* Its time begins now: a boot is no matter of milliseconds. */
	sandbox->end_at_ms += (time_monotonic_us() - sandbox->started_us) / 1000;
	if (journal_write(sandbox, SANDBOX_RUNNING, sandbox->directory, err) < 0) {
		sandbox->stack = before;
		sandbox->end_at_ms = end_before;
		return -err->code;
	}
	journal_drop_pause(sandbox);
	sandbox_move(sandbox, SANDBOX_RUNNING);
	return 0;
}

static void on_introduced(void *context, const struct error *err)
{
	struct reboot *reboot = context;
	struct sandbox *sandbox = reboot->sandbox;
	struct error failure = { 0 };

	if (!answer_counts(reboot))
		return;
	if (err) {
		fail(reboot, "initialise", err->message);
		return;
	}
	if (commit(sandbox, &failure) < 0) {
		fail(reboot, "resume", failure.message);
		return;
	}
	free(reboot);
	log_info("sandbox %s was booted", sandbox->id);
	/* The agent has begun to count anew. */
	if (sandbox->history)
		sandbox->history->log.seq = 0;
	start_command(sandbox);
	sandbox_start_deadline(sandbox);
	sandbox_report(sandbox, NULL);
}

static void on_agent_up(void *context, const struct error *err)
{
	struct reboot *reboot = context;

	if (!answer_counts(reboot))
		return;
	if (err)
		fail(reboot, "boot", err->message);
	else
		sandbox_introduce(reboot->sandbox, on_introduced, reboot);
}

static void on_configured(int status, const char *data, size_t size, const struct error *err, void *context);

/* NULL: there are no more. */
static json_t *next_request(struct reboot *reboot, const struct template *template, const char **method,
                            const char **target)
{
	const struct sandbox *sandbox = reboot->sandbox;
	cleanup_json json_t *drive = stack_drive_request(&template->stack, &sandbox->stack);
	const struct boot boot = {
		.vcpu_count = sandbox->vcpu_count,
		.memory_mib = sandbox->memory_mib,
		.inside = TEMPLATE_INSIDE,
		.initrd = template->initrd,
		.emulated = sandbox->node->emulated,
		.network = template->network && network_has_taps(sandbox->node->network),
		.args = template->boot_args,
		.drive = drive,
	};

	return boot_request(&boot, reboot->requests_made++, method, target);
}

static void configure_next(struct reboot *reboot)
{
	struct sandbox *sandbox = reboot->sandbox;
	const struct template *template = template_find(sandbox->node, sandbox->build_id);
	const char *method;
	const char *target;
	char vsock[NODE_PATH_MAX];
	json_t *body;

	if (!template) {
		fail(reboot, "boot", "the sandbox's template is gone");
		return;
	}
	body = next_request(reboot, template, &method, &target);
	sandbox->pending++;
	if (body) {
		monitor_call(sandbox->monitor, method, target, body, on_configured, reboot);
		return;
	}
	sandbox_vsock_path(sandbox, vsock);
	agent_wait(sandbox->node, vsock, PATIENCE_SECONDS, on_agent_up, reboot);
}

static void on_configured(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct reboot *reboot = context;
	struct error failure;

	if (!answer_counts(reboot))
		return;
	if (status == 204) {
		configure_next(reboot);
		return;
	}
	monitor_refusal(&failure, "", status, data, size, err);
	fail(reboot, "configure the machine", failure.message);
}

void sandbox_start_reboot(struct sandbox *sandbox, const struct template *template)
{
	struct reboot *reboot = calloc(1, sizeof(*reboot));
	struct error err = { 0 };

	if (!reboot || !template->bootable) {
		error_set(&err, ENOENT, reboot ? "the template has no kernel to boot" : "out of memory");
		err.code = 500;
		free(reboot);
		sandbox_fail_start(sandbox, &err);
		return;
	}
	*reboot = (struct reboot){ .sandbox = sandbox, .start = sandbox->starts };
	configure_next(reboot);
}
