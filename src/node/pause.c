/* Pause, resume and snapshot: a sandbox becomes files, goes on from them, or stands model for others. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "node/agent.h"
#include "node/journal.h"
#include "node/model.h"
#include "node/sandbox_internal.h"

/* Something that is done to a running sandbox, step by step. */
struct saving {
	struct sandbox *sandbox;
	node_done_fn *done;
	void *context;
	struct stack next; /* what the stack will be */
	bool memory;       /* is kept, too */
	char build_id[40];
	bool ephemeral; /* it goes with the last sandbox that began from it */
	struct error failure;
};

/* --- common --- */

static void take_up_resume(struct sandbox *sandbox);

static void finish(struct saving *saving, const struct error *err)
{
	struct sandbox *sandbox = saving->sandbox;

	sandbox_move(sandbox, SANDBOX_RUNNING);
	saving->done(saving->context, err);
	free(saving);
	/* Its end may have come meanwhile, and could do nothing. */
	if (sandbox->state == SANDBOX_RUNNING)
		sandbox_start_deadline(sandbox);
	take_up_resume(sandbox);
}

static void call_machine(struct saving *saving, const char *method, const char *target, json_t *body,
                         http_simple_fn *done)
{
	saving->sandbox->pending++;
	monitor_call(saving->sandbox->monitor, method, target, body, done, saving);
}

/* What the sandbox began from. NULL: it is gone, saving->failure says so. */
static const struct template *need_template(struct saving *saving)
{
	const struct template *template = template_find(saving->sandbox->node, saving->sandbox->build_id);

	if (!template) {
		error_set(&saving->failure, ENOENT, "the sandbox's template is gone");
		saving->failure.code = 500;
	}
	return template;
}

/* The answer to a step. False: it failed, or the sandbox ends meanwhile; saving->failure says why. */
static bool step_done(struct saving *saving, const char *what, int status, const char *data, size_t size,
                      const struct error *err)
{
	if (!sandbox_answer_counts(saving->sandbox)) {
		error_set(&saving->failure, EIO, "the sandbox ended");
		saving->failure.code = 404;
		return false;
	}
	if (status == 204)
		return true;
	monitor_refusal(&saving->failure, what, status, data, size, err);
	saving->failure.code = 500;
	return false;
}

void sandbox_on_gone_on(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct sandbox *sandbox = context;
	struct error failure;

	/* Paused meanwhile: it stood still, or will be loaded anew. */
	if (!sandbox_answer_counts(sandbox) || status == 204 || sandbox_is_paused(sandbox))
		return;
	monitor_refusal(&failure, "it does not go on", status, data, size, err);
	log_error("sandbox %s: %s", sandbox->id, failure.message);
	monitor_kill(sandbox->monitor);
}

/* It did not work out: what was written goes, and the guest goes on. */
static void give_up(struct saving *saving)
{
	struct sandbox *sandbox = saving->sandbox;
	char disk[NODE_PATH_MAX];

	log_error("save %s: %s", sandbox->id, saving->failure.message);
	if (saving->failure.code == 404) {
		/* It is not even ours to look at any more. */
		saving->done(saving->context, &saving->failure);
		free(saving);
		return;
	}
	sandbox_disk_directory(sandbox, disk);
	stack_clean(disk, &sandbox->stack);
	sandbox->pending++;
	monitor_set_state(sandbox->monitor, MONITOR_RESUMED, sandbox_on_gone_on, sandbox);
	finish(saving, &saving->failure);
}

static void refuse(node_done_fn *done, void *context, int status, const char *message)
{
	struct error err;

	error_set(&err, EINVAL, "%s", message);
	err.code = status;
	done(context, &err);
}

/* --- saving --- */

/* From here on it is paused, whatever happens: the journal of the pause is there. */
static void rest_from_now(struct saving *saving)
{
	struct sandbox *sandbox = saving->sandbox;

	sandbox->stack = saving->next;
	sandbox_move(sandbox, SANDBOX_RESTING);
	(void)uv_timer_stop(&sandbox->deadline);
	/* Told when the monitor has ended and its files are nobody's but ours. */
	sandbox->on_created = saving->done;
	sandbox->create_context = saving->context;
	free(saving);
	monitor_kill(sandbox->monitor);
}

static void commit_pause(struct saving *saving)
{
	struct sandbox *sandbox = saving->sandbox;
	struct stack before = sandbox->stack;
	char disk[NODE_PATH_MAX];
	int ret;

	sandbox_disk_directory(sandbox, disk);
	ret = stack_seal(disk, &saving->next, sandbox->monitor->uid, &saving->failure);
	if (ret == 0)
		ret = file_sync_directory(disk, &saving->failure);
	if (ret == 0) {
		sandbox->stack = saving->next;
		ret = journal_write_pause(sandbox, &saving->failure);
		sandbox->stack = before;
	}
	if (ret < 0) {
		saving->failure.code = 500;
		give_up(saving);
	} else {
		rest_from_now(saving);
	}
}

static void freeze(struct saving *saving);

static void on_saved(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct saving *saving = context;

	if (!step_done(saving, "save the machine", status, data, size, err))
		give_up(saving);
	else if (saving->sandbox->state == SANDBOX_PAUSING)
		commit_pause(saving);
	else
		freeze(saving);
}

static void on_stopped(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct saving *saving = context;
	const struct template *template = NULL;

	if (step_done(saving, "stop the machine", status, data, size, err))
		template = need_template(saving);
	if (!template) {
		give_up(saving);
		return;
	}
	if (!saving->memory) {
		saving->next = stack_paused_disk(&template->stack, &saving->sandbox->stack);
		if (saving->next.void_top)
			freeze(saving);
		else
			commit_pause(saving);
		return;
	}
	saving->next = stack_paused(&template->stack, &saving->sandbox->stack);
	call_machine(saving, "PUT", "/snapshot/create",
	             stack_pause_request(&template->stack, &saving->sandbox->stack), on_saved);
}

/* `state`: what it is in from now on. NULL: it has been refused. */
static struct saving *begin(struct sandbox *sandbox, enum sandbox_state state, node_done_fn *done,
                            void *context)
{
	struct saving *saving;

	if (sandbox->state != SANDBOX_RUNNING) {
		refuse(done, context, 409,
		       sandbox_is_paused(sandbox) ? "the sandbox is paused already"
		                                  : "the sandbox is changing its state");
		return NULL;
	}
	saving = calloc(1, sizeof(*saving));
	if (!saving) {
		refuse(done, context, 503, "out of memory");
		return NULL;
	}
	*saving = (struct saving){ .sandbox = sandbox, .done = done, .context = context };
	sandbox_move(sandbox, state);
	return saving;
}

static void stop_machine(struct saving *saving)
{
	saving->sandbox->pending++;
	monitor_set_state(saving->sandbox->monitor, MONITOR_PAUSED, on_stopped, saving);
}

/* The guest's file systems are on its disk. */
static void on_synced(void *context, const struct error *err)
{
	struct saving *saving = context;

	if (!sandbox_answer_counts(saving->sandbox)) {
		error_set(&saving->failure, EIO, "the sandbox ended");
		saving->failure.code = 404;
	} else if (err) {
		error_set(&saving->failure, EIO, "%s", err->message);
		saving->failure.code = 500;
	}
	if (saving->failure.code == 404) {
		give_up(saving);
	} else if (saving->failure.code) {
		/* Its machine has not been stopped. */
		log_error("save %s: %s", saving->sandbox->id, saving->failure.message);
		finish(saving, &saving->failure);
	} else {
		stop_machine(saving);
	}
}

static void sync_guest(struct saving *saving)
{
	struct sandbox *sandbox = saving->sandbox;
	const struct template *template = need_template(saving);
	char vsock[NODE_PATH_MAX];

	if (template && !template->bootable) {
		error_set(&saving->failure, ENOTSUP,
		          "the template has no kernel to boot: only one that is built anew has");
		saving->failure.code = 501;
	}
	if (saving->failure.code) {
		finish(saving, &saving->failure);
		return;
	}
	sandbox_vsock_path(sandbox, vsock);
	sandbox->pending++;
	agent_prepare_snapshot(sandbox->node, vsock, on_synced, saving);
}

void sandbox_pause(struct sandbox *sandbox, bool memory, node_done_fn *done, void *context)
{
	struct saving *saving = begin(sandbox, SANDBOX_PAUSING, done, context);

	if (!saving)
		return;
	saving->memory = memory;
	if (memory)
		stop_machine(saving);
	else
		sync_guest(saving);
}

/* What came while it was on its way is dealt with now. */
static void take_up_resume(struct sandbox *sandbox)
{
	node_done_fn *done = sandbox->on_rest;

	sandbox->on_rest = NULL;
	if (done)
		sandbox_resume(sandbox, sandbox->rest_end_at_ms, done, sandbox->rest_context);
}

void sandbox_rest(struct sandbox *sandbox)
{
	struct error err = { 0 };
	char path[NODE_PATH_MAX];

	/* Its machine ended before it could be used. */
	if (sandbox->state == SANDBOX_RESUMING) {
		error_set(&err, EIO, "the machine ended while the sandbox was being resumed");
		err.code = 500;
	}
	sandbox->starts++;
	(void)uv_timer_stop(&sandbox->deadline);
	sandbox_vsock_path(sandbox, path);
	http_client_forget(sandbox->node->client, path);
	(void)file_remove_tree(sandbox->directory, NULL);
	sandbox_disk_directory(sandbox, path);
	stack_clean(path, &sandbox->stack);
	(void)stack_drop_top(path, &sandbox->stack, NULL);
	monitor_release(sandbox->monitor);
	sandbox->monitor = NULL;
	sandbox_move(sandbox, SANDBOX_PAUSED);
	log_info("sandbox %s is paused", sandbox->id);
	sandbox_report(sandbox, err.code ? &err : NULL);
	take_up_resume(sandbox);
}

/* --- resume --- */

void sandbox_resume(struct sandbox *sandbox, int64_t end_at_ms, node_done_fn *done, void *context)
{
	struct error err = { 0 };

	if ((sandbox->state == SANDBOX_PAUSING || sandbox->state == SANDBOX_RESTING) && !sandbox->on_rest) {
		sandbox->on_rest = done;
		sandbox->rest_context = context;
		sandbox->rest_end_at_ms = end_at_ms;
		return;
	}
	if (sandbox->state != SANDBOX_PAUSED) {
		refuse(done, context, 409,
		       sandbox->state == SANDBOX_RUNNING ? "the sandbox is running already"
		                                         : "the sandbox is changing its state");
		return;
	}
	sandbox_move(sandbox, SANDBOX_RESUMING);
	sandbox->end_at_ms = end_at_ms;
	sandbox->on_created = done;
	sandbox->create_context = context;
	(void)sandbox_start_restore(sandbox, &err);
}

struct loading {
	struct sandbox *sandbox;
	unsigned start;
};

/* It is loaded, and stands still: its pause counts no more, then it goes on. */
static void on_loaded(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct loading loading = *(struct loading *)context;
	struct sandbox *sandbox = loading.sandbox;
	struct error failure = { 0 };

	free(context);
	if (!sandbox_start_answer_counts(sandbox, loading.start))
		return;
	if (status != 204)
		monitor_refusal(&failure, "restore", status, data, size, err);
	if (status != 204 || journal_write(sandbox, SANDBOX_WAKING, sandbox->directory, &failure) < 0) {
		failure.code = 500;
		sandbox_fail_start(sandbox, &failure);
		return;
	}
	journal_drop_pause(sandbox);
	sandbox_move(sandbox, SANDBOX_WAKING);
	sandbox->pending++;
	monitor_set_state(sandbox->monitor, MONITOR_RESUMED, sandbox_on_machine_runs, sandbox);
}

void sandbox_start_load(struct sandbox *sandbox, json_t *request)
{
	struct loading *loading = malloc(sizeof(*loading));
	struct error err = { 0 };

	if (!loading) {
		json_decref(request);
		error_set(&err, ENOMEM, "out of memory");
		err.code = 503;
		sandbox_fail_start(sandbox, &err);
		return;
	}
	*loading = (struct loading){ .sandbox = sandbox, .start = sandbox->starts };
	sandbox->pending++;
	monitor_call(sandbox->monitor, "PUT", "/snapshot/load", request, on_loaded, loading);
}

/* --- snapshot --- */

static json_t *describe(const struct saving *saving, const struct template *template,
                        const struct stack_template *stack)
{
	const struct sandbox *sandbox = saving->sandbox;

	return json_pack("{s:s,s:s,s:s,s:s,s:i,s:i,s:i,s:I,s:s,s:s,s:s,s:O,s:b,s:b,s:b,s:i,s:i}", "boot_args",
	                 template->boot_args, "start_cmd", template->start_cmd, "name", saving->build_id,
	                 "source", sandbox->id, "vcpu_count", (int)sandbox->vcpu_count, "memory_mib",
	                 (int)sandbox->memory_mib, "disk_mib", (int)sandbox->disk_mib, "created_at_ms",
	                 (json_int_t)time_wall_ms(), "default_user", template->default_user,
	                 "default_workdir", template->default_workdir, "warm_cmd", "", "env_vars",
	                 sandbox->env_vars, "snapshot", 1, "network", template->network, "ephemeral",
	                 saving->ephemeral, "memory_layers", (int)stack->memory_layers, "disk_layers",
	                 (int)stack->disk_layers);
}

/* A directory with links to all that the snapshot consists of, put in place as a whole. */
static int make_template(struct saving *saving, const struct template *template, struct error *err)
{
	struct sandbox *sandbox = saving->sandbox;
	struct stack_template stack = { 0 };
	cleanup_json json_t *json = NULL;
	cleanup_free char *text = NULL;
	char disk[NODE_PATH_MAX];
	char half[NODE_PATH_MAX];
	char path[NODE_PATH_MAX + 32];
	int ret;

	sandbox_disk_directory(sandbox, disk);
	(void)snprintf(half, sizeof(half), "%.180s/templates/.new-%s", sandbox->node->data, saving->build_id);
	ret = file_make_directories(half, 0755, err);
	if (ret == 0)
		ret = stack_link(template->directory, &template->stack, disk, &saving->next, half, &stack,
		                 err);
	json = describe(saving, template, &stack);
	text = json ? json_dumps(json, JSON_INDENT(2)) : NULL;
	(void)snprintf(path, sizeof(path), "%s/template.json", half);
	if (ret == 0)
		ret = text ? file_write_atomic(path, text, strlen(text), 0644, err)
		           : error_errno(err, ENOMEM, "describe the snapshot");
	/* A client will know its name; of a model nobody asks after a crash of the host. */
	if (ret == 0 && !template_put(sandbox->node, half, saving->build_id, !saving->ephemeral, err))
		ret = -err->code;
	if (ret < 0)
		(void)file_remove_tree(half, NULL);
	else if (saving->ephemeral)
		models_watch(sandbox->node);
	return ret;
}

static void on_goes_on(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct saving *saving = context;
	struct sandbox *sandbox = saving->sandbox;
	const struct template *template = NULL;
	char disk[NODE_PATH_MAX];

	if (step_done(saving, "let the machine go on", status, data, size, err))
		template = need_template(saving);
	if (!template) {
		give_up(saving);
		return;
	}
	if (make_template(saving, template, &saving->failure) < 0)
		saving->failure.code = 500;
	sandbox_disk_directory(sandbox, disk);
	stack_clean(disk, &sandbox->stack);
	finish(saving, saving->failure.code ? &saving->failure : NULL);
}

static void on_frozen(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct saving *saving = context;
	struct sandbox *sandbox = saving->sandbox;
	char disk[NODE_PATH_MAX];

	if (!step_done(saving, "freeze the disk", status, data, size, err)) {
		give_up(saving);
		return;
	}
	if (sandbox->state == SANDBOX_PAUSING) {
		commit_pause(saving);
		return;
	}
	sandbox_disk_directory(sandbox, disk);
	if (stack_seal(disk, &saving->next, sandbox->monitor->uid, &saving->failure) < 0) {
		saving->failure.code = 500;
		give_up(saving);
		return;
	}
	sandbox->pending++;
	monitor_set_state(sandbox->monitor, MONITOR_RESUMED, on_goes_on, saving);
}

/* The journal first: a disk that is frozen must never be taken for the one that is written to. */
static void freeze(struct saving *saving)
{
	struct sandbox *sandbox = saving->sandbox;
	const struct template *template = need_template(saving);
	struct stack before = sandbox->stack;

	if (!template) {
		give_up(saving);
		return;
	}
	sandbox->stack = stack_frozen(&before);
	if (journal_write(sandbox, sandbox->state, sandbox->directory, &saving->failure) < 0) {
		sandbox->stack = before;
		saving->failure.code = 500;
		give_up(saving);
		return;
	}
	saving->next.frozen = sandbox->stack.frozen;
	call_machine(saving, "PATCH", "/drives/rootfs", stack_freeze_request(&template->stack, &before),
	             on_frozen);
}

void sandbox_snapshot(struct sandbox *sandbox, const char *build_id, bool ephemeral, node_done_fn *done,
                      void *context)
{
	struct saving *saving = begin(sandbox, SANDBOX_COPYING, done, context);

	if (!saving)
		return;
	(void)snprintf(saving->build_id, sizeof(saving->build_id), "%s", build_id);
	saving->ephemeral = ephemeral;
	saving->memory = true;
	stop_machine(saving);
}
