#include "interpreter/context.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/base.h"

enum {
	CONTEXT_FAILED_STARTS_MAX = 3,
};

static void context_advance(struct context *context);
static int context_start_kernel(struct context *context, struct error *err);

static void context_tell_waiters(struct context *context, const char *reason)
{
	list_for_each_safe (node, &context->waiters) {
		struct context_waiter *waiter = list_entry(node, struct context_waiter, node);

		list_remove(node);
		waiter->done(waiter, reason);
	}
}

static void context_fail_queue(struct context *context, const char *name, const char *reason)
{
	while (!list_empty(&context->queue)) {
		struct execution *execution = list_entry(context->queue.next, struct execution, node);

		execution_publish_error(execution, name, reason);
		execution_finish(execution);
	}
}

static void context_end_current(struct context *context)
{
	struct execution *execution = TAKE_PTR(context->current);

	if (context->fetch) {
		agent_fetch_cancel(context->fetch);
		context->fetch = NULL;
	}
	if (execution)
		execution_finish(execution);
}

static void context_fail_current(struct context *context, const char *name, const char *reason)
{
	if (context->current)
		execution_publish_error(context->current, name, reason);
	context_end_current(context);
}

static void context_drop_kernel(struct context *context)
{
	kernel_free(context->kernel);
	context->kernel = NULL;
	context->generation = 0;
	context->fresh = true;
}

static void context_give_up(struct context *context, const char *reason)
{
	context->failed_starts = 0;
	context_fail_queue(context, "KernelError", reason);
	context_tell_waiters(context, reason);
}

static void context_on_kernel_ready(void *data)
{
	struct context *context = data;

	context->failed_starts = 0;
	context_tell_waiters(context, NULL);
	context_advance(context);
}

static void context_on_kernel_end(const char *reason, void *data)
{
	struct context *context = data;
	bool was_ready = kernel_is_ready(context->kernel);
	struct error err;

	log_warn("context %s: %s", context->id, reason);
	context_drop_kernel(context);
	context_fail_current(context, "UnexpectedEndOfExecution", reason);
	context->failed_starts = was_ready ? 0 : context->failed_starts + 1;
	if (context->failed_starts >= CONTEXT_FAILED_STARTS_MAX)
		context_give_up(context, reason);
	else if (context_start_kernel(context, &err) < 0)
		context_give_up(context, err.message);
}

/* The answer on the shell channel says nothing new but for a request that the kernel would not run. */
static void context_on_reply(struct context *context, const struct jupyter_message *message)
{
	const char *status = json_string_value(json_object_get(message->content, "status"));

	if (status && strcmp(status, "aborted") == 0)
		execution_publish_error(context->current, "ExecutionAborted", "Execution was aborted");
}

static void context_on_message(enum kernel_channel channel, const struct jupyter_message *message, void *data)
{
	struct context *context = data;
	struct execution *current = context->current;

	if (!current || strcmp(message->parent_id, current->id) != 0)
		return; /* printed by a thread whose cell is over, or not an answer at all */
	if (channel == KERNEL_SHELL) {
		context_on_reply(context, message);
	} else if (execution_publish(current, message) == OUTPUT_IDLE) {
		context_end_current(context);
		context_advance(context);
	}
}

static int context_start_kernel(struct context *context, struct error *err)
{
	static const struct kernel_events events = {
		.on_ready = context_on_kernel_ready,
		.on_message = context_on_message,
		.on_end = context_on_kernel_end,
	};

	context->fresh = true;
	context->generation = 0;
	context->kernel = kernel_new(&context->host->kernels, context->cwd, &events, context, err);
	return context->kernel ? 0 : -err->code;
}

/* The request's metadata (see kernel.py): which environment to run in, NULL for nothing special. */
static json_t *context_metadata(struct context *context, const struct execution *execution)
{
	struct agent *agent = context->host->agent;
	uint64_t generation = agent_generation(agent, execution->token);
	json_t *extra;

	if (execution->rehearsal)
		return NULL;
	extra = json_object();
	if (generation != 0 && generation != context->generation) {
		json_object_set(extra, "sandbox_envs", agent_envs(agent));
		json_object_set_new(extra, "reseed", json_true());
		context->generation = generation;
	}
	if (context->fresh)
		json_object_set_new(extra, "reseed", json_true());
	context->fresh = false;
	if (json_object_size(execution->envs) > 0)
		json_object_set(extra, "envs", execution->envs);
	if (json_object_size(extra) > 0)
		return json_pack("{s:o}", "atoll", extra);
	json_decref(extra);
	return NULL;
}

static void context_send_current(struct context *context)
{
	struct execution *execution = context->current;
	cleanup_json json_t *metadata = context_metadata(context, execution);
	int rc = kernel_execute(context->kernel, execution->code, !execution->rehearsal, metadata,
	                        execution->id);

	if (rc == 0)
		return;
	context_fail_current(context, "KernelError", strerror(-rc));
	context_advance(context);
}

static void context_on_fetched(void *data)
{
	struct context *context = data;

	context->fetch = NULL;
	context_send_current(context);
}

static void context_advance(struct context *context)
{
	struct execution *execution;

	if (context->current || list_empty(&context->queue) || !kernel_is_ready(context->kernel))
		return;
	execution = list_entry(context->queue.next, struct execution, node);
	list_remove(&execution->node);
	context->current = execution;
	if (!execution->rehearsal && agent_generation(context->host->agent, execution->token) == 0)
		context->fetch =
		        agent_fetch_envs(context->host->agent, execution->token, context_on_fetched, context);
	if (!context->fetch)
		context_send_current(context);
}

static void context_on_execution_gone(struct execution *execution, void *data)
{
	struct context *context = data;

	if (execution != context->current) {
		execution_finish(execution);
	} else if (context->fetch) {
		context_end_current(context);
		context_advance(context);
	} else {
		kernel_interrupt(context->kernel); /* it stays current until the kernel is done with it */
	}
}

static void context_on_execution_full(struct execution *execution, bool full, void *data)
{
	struct context *context = data;

	if (execution != context->current || !context->kernel)
		return;
	if (full)
		kernel_pause(context->kernel);
	else
		kernel_resume(context->kernel);
}

static int context_check_cwd(const char *cwd, struct error *err)
{
	struct stat status;

	if (cwd[0] != '/')
		return error_set(err, EINVAL, "cwd %s: not an absolute path", cwd);
	if (stat(cwd, &status) < 0)
		return error_errno(err, errno, "cwd %s", cwd);
	if (!S_ISDIR(status.st_mode))
		return error_errno(err, ENOTDIR, "cwd %s", cwd);
	return 0;
}

static void uuid_make(char text[37])
{
	unsigned char bytes[16];

	random_bytes(bytes, sizeof(bytes));
	bytes[6] = (unsigned char)((bytes[6] & 0x0f) | 0x40);
	bytes[8] = (unsigned char)((bytes[8] & 0x3f) | 0x80);
	for (size_t i = 0, at = 0; i < sizeof(bytes); i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			text[at++] = '-';
		snprintf(text + at, 3, "%02x", bytes[i]);
		at += 2;
	}
}

struct context *context_new(struct context_host *host, const char *language, const char *cwd,
                            struct error *err)
{
	struct context *context;

	if (context_check_cwd(cwd, err) < 0)
		return NULL;
	context = calloc(1, sizeof(*context));
	if (context) {
		context->language = strdup(language);
		context->cwd = strdup(cwd);
	}
	if (!context || !context->language || !context->cwd) {
		error_set(err, ENOMEM, "make context: out of memory");
		goto fail;
	}
	uuid_make(context->id);
	context->host = host;
	list_init(&context->node);
	list_init(&context->queue);
	list_init(&context->waiters);
	if (context_start_kernel(context, err) == 0)
		return context;
fail:
	if (context) {
		free(context->language);
		free(context->cwd);
	}
	free(context);
	return NULL;
}

void context_free(struct context *context)
{
	static const char reason[] = "The context was removed before the execution was finished";

	context_drop_kernel(context);
	context_fail_current(context, "UnexpectedEndOfExecution", reason);
	context_fail_queue(context, "UnexpectedEndOfExecution", reason);
	context_tell_waiters(context, "the context was removed");
	list_remove(&context->node);
	free(context->language);
	free(context->cwd);
	free(context);
}

bool context_is_ready(const struct context *context)
{
	return kernel_is_ready(context->kernel);
}

void context_execute(struct context *context, struct execution *execution)
{
	static const struct execution_events events = {
		.on_gone = context_on_execution_gone,
		.on_full = context_on_execution_full,
	};
	struct error err;

	execution_set_events(execution, &events, context);
	list_append(&context->queue, &execution->node);
	if (context->current)
		execution_begin(execution);
	if (!context->kernel && context_start_kernel(context, &err) < 0)
		context_give_up(context, err.message);
	else
		context_advance(context);
}

void context_restart(struct context *context)
{
	struct error err;

	context_drop_kernel(context);
	context_fail_current(context, "ContextRestarting", "Context was restarted");
	context->failed_starts = 0;
	if (context_start_kernel(context, &err) < 0)
		context_give_up(context, err.message);
}

void context_wait(struct context *context, struct context_waiter *waiter)
{
	if (kernel_is_ready(context->kernel)) {
		waiter->done(waiter, NULL);
	} else if (!context->kernel) {
		waiter->done(waiter, "the kernel could not be started");
	} else {
		list_append(&context->waiters, &waiter->node);
	}
}
