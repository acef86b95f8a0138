#include "interpreter/kernel.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <zmq.h>

#include "base/base.h"
#include "interpreter/channel.h"
#include "interpreter/connection.h"

enum {
	KERNEL_NUDGE_MS = 50,
	KERNEL_START_TIMEOUT_MS =
	        300 * 1000, /* software emulation on a busy machine needs a good part of it */
};

struct kernel {
	struct kernel_host host;
	struct kernel_events events;
	void *context;
	struct connection connection;
	char session[JUPYTER_ID_SIZE];
	struct launch *launch; /* until the process id is known */
	pid_t pid;
	int pidfd;
	uv_poll_t exit_watch;
	uv_timer_t timer; /* nudges, while starting */
	uint64_t deadline;
	struct channel *shell;
	struct channel *iopub;
	char warm_up_id[JUPYTER_ID_SIZE]; /* the first cell's request, "" before it is sent */
	int open_handles;
	bool watching;
	bool ready;
	bool closed;
};

static void kernel_end(struct kernel *kernel, const char *reason)
{
	if (!kernel->closed)
		kernel->events.on_end(reason, kernel->context);
}

static int kernel_request(struct kernel *kernel, const char *type, const json_t *content,
                          const json_t *metadata, char id[JUPYTER_ID_SIZE])
{
	cleanup_jupyter_wire struct jupyter_wire wire = { 0 };
	int rc;

	rc = jupyter_request_encode(&wire, kernel->session, type, content, metadata, id);
	return rc < 0 ? rc : channel_send(kernel->shell, wire.frames, JUPYTER_WIRE_PARTS);
}

int kernel_execute(struct kernel *kernel, json_t *code, bool keep, const json_t *metadata,
                   char id[JUPYTER_ID_SIZE])
{
	cleanup_json json_t *content =
	        json_pack("{s:O, s:b, s:b, s:{}, s:b, s:b}", "code", code, "silent", 0, "store_history", keep,
	                  "user_expressions", "allow_stdin", 0, "stop_on_error", 0);

	return content ? kernel_request(kernel, "execute_request", content, metadata, id) : -ENOMEM;
}

/*
 * A subscriber sees only what is published after its subscription has arrived, so requests are repeated until
 * one of them has shown up on iopub. Then one cell is run, to prove that cells run.
 */
static void kernel_nudge(struct kernel *kernel)
{
	cleanup_json json_t *content = json_object();
	char id[JUPYTER_ID_SIZE];

	if (content)
		kernel_request(kernel, "kernel_info_request", content, NULL, id);
}

static void kernel_warm_up(struct kernel *kernel)
{
	cleanup_json json_t *code = json_string("None");

	if (code)
		kernel_execute(kernel, code, false, NULL, kernel->warm_up_id);
}

static void kernel_on_timer(uv_timer_t *timer)
{
	struct kernel *kernel = timer->data;

	if (uv_now(kernel->host.loop) >= kernel->deadline)
		kernel_end(kernel, "the kernel did not start in time");
	else if (!kernel->warm_up_id[0] && kernel->pid > 0)
		kernel_nudge(kernel);
}

static bool message_is_idle(const struct jupyter_message *message)
{
	const char *state = json_string_value(json_object_get(message->content, "execution_state"));

	return strcmp(message->type, "status") == 0 && state && strcmp(state, "idle") == 0;
}

static void kernel_on_starting_message(struct kernel *kernel, enum kernel_channel channel,
                                       const struct jupyter_message *message)
{
	if (channel != KERNEL_IOPUB || !message_is_idle(message))
		return;
	if (!kernel->warm_up_id[0]) {
		kernel_warm_up(kernel);
	} else if (strcmp(message->parent_id, kernel->warm_up_id) == 0) {
		kernel->ready = true;
		uv_timer_stop(&kernel->timer);
		kernel->events.on_ready(kernel->context);
	}
}

static void kernel_on_frames(struct kernel *kernel, enum kernel_channel channel,
                             const struct jupyter_frame *frames, size_t count)
{
	cleanup_jupyter_message struct jupyter_message message = { 0 };
	struct error err;

	if (jupyter_message_decode(&message, frames, count, &err) < 0) {
		log_warn("kernel %d: %s", (int)kernel->pid, err.message);
		return;
	}
	if (kernel->ready)
		kernel->events.on_message(channel, &message, kernel->context);
	else
		kernel_on_starting_message(kernel, channel, &message);
}

static void kernel_on_shell(const struct jupyter_frame *frames, size_t count, void *context)
{
	kernel_on_frames(context, KERNEL_SHELL, frames, count);
}

static void kernel_on_iopub(const struct jupyter_frame *frames, size_t count, void *context)
{
	kernel_on_frames(context, KERNEL_IOPUB, frames, count);
}

static void kernel_on_exit(uv_poll_t *poll, int status, int events)
{
	struct kernel *kernel = poll->data;

	(void)status;
	(void)events;
	uv_poll_stop(poll);
	kernel_end(kernel, "the kernel process died");
}

/* Watch by pidfd: the kernel is not our child. */
static int kernel_watch_exit(struct kernel *kernel)
{
	int rc;

	kernel->pidfd = (int)syscall(SYS_pidfd_open, kernel->pid, 0);
	if (kernel->pidfd < 0)
		return -errno;
	rc = uv_poll_init(kernel->host.loop, &kernel->exit_watch, kernel->pidfd);
	if (rc < 0)
		return rc;
	kernel->exit_watch.data = kernel;
	kernel->watching = true;
	kernel->open_handles++;
	return uv_poll_start(&kernel->exit_watch, UV_READABLE, kernel_on_exit);
}

static void kernel_on_launched(pid_t pid, void *context)
{
	struct kernel *kernel = context;

	kernel->launch = NULL;
	if (pid < 0) {
		kernel_end(kernel, "the process that forks kernels ended");
		return;
	}
	kernel->pid = pid;
	if (kernel_watch_exit(kernel) < 0)
		kernel_end(kernel, "the kernel process died at once");
	else
		uv_timer_start(&kernel->timer, kernel_on_timer, 0, KERNEL_NUDGE_MS);
}

static int kernel_connect(struct kernel *kernel, struct error *err)
{
	char endpoint[CONNECTION_ENDPOINT_SIZE];

	connection_endpoint(&kernel->connection, CONNECTION_SHELL, endpoint);
	kernel->shell = channel_open(kernel->host.loop, kernel->host.zmq, ZMQ_DEALER, endpoint,
	                             kernel_on_shell, kernel, err);
	if (!kernel->shell)
		return -err->code;
	connection_endpoint(&kernel->connection, CONNECTION_IOPUB, endpoint);
	kernel->iopub = channel_open(kernel->host.loop, kernel->host.zmq, ZMQ_SUB, endpoint, kernel_on_iopub,
	                             kernel, err);
	return kernel->iopub ? 0 : -err->code;
}

static int kernel_start(struct kernel *kernel, const char *cwd, struct error *err)
{
	int rc = connection_create(&kernel->connection, kernel->host.directory, err);

	if (rc == 0)
		rc = kernel_connect(kernel, err);
	if (rc < 0)
		return rc;
	kernel->launch = launcher_launch(kernel->host.launcher, kernel->connection.file, cwd,
	                                 kernel_on_launched, kernel);
	if (!kernel->launch)
		return error_set(err, ENOMEM, "launch kernel: out of memory");
	kernel->deadline = uv_now(kernel->host.loop) + KERNEL_START_TIMEOUT_MS;
	return uv_timer_start(&kernel->timer, kernel_on_timer, KERNEL_START_TIMEOUT_MS, 0);
}

struct kernel *kernel_new(const struct kernel_host *host, const char *cwd, const struct kernel_events *events,
                          void *context, struct error *err)
{
	struct kernel *kernel = calloc(1, sizeof(*kernel));

	if (!kernel) {
		error_set(err, ENOMEM, "make kernel: out of memory");
		return NULL;
	}
	kernel->host = *host;
	kernel->events = *events;
	kernel->context = context;
	kernel->pidfd = -1;
	random_hex(kernel->session, (JUPYTER_ID_SIZE - 1) / 2);
	uv_timer_init(host->loop, &kernel->timer);
	kernel->timer.data = kernel;
	kernel->open_handles = 1;
	if (kernel_start(kernel, cwd, err) < 0) {
		kernel_free(kernel);
		return NULL;
	}
	return kernel;
}

static void kernel_on_closed(uv_handle_t *handle)
{
	struct kernel *kernel = handle->data;

	if (--kernel->open_handles > 0)
		return;
	if (kernel->pidfd >= 0)
		close(kernel->pidfd);
	free(kernel);
}

void kernel_free(struct kernel *kernel)
{
	if (!kernel || kernel->closed)
		return;
	kernel->closed = true;
	if (kernel->launch)
		launch_cancel(kernel->launch);
	if (kernel->pidfd >= 0)
		syscall(SYS_pidfd_send_signal, kernel->pidfd, SIGKILL, NULL, 0);
	if (kernel->pid > 0)
		kill(-kernel->pid, SIGKILL); /* and what its cells have started */
	channel_close(kernel->shell);
	channel_close(kernel->iopub);
	if (kernel->connection.base[0])
		connection_remove(&kernel->connection);
	if (kernel->watching)
		uv_close((uv_handle_t *)&kernel->exit_watch, kernel_on_closed);
	uv_close((uv_handle_t *)&kernel->timer, kernel_on_closed);
}

bool kernel_is_ready(const struct kernel *kernel)
{
	return kernel && kernel->ready;
}

void kernel_interrupt(struct kernel *kernel)
{
	if (kernel->pid > 0)
		kill(-kernel->pid, SIGINT);
}

void kernel_pause(struct kernel *kernel)
{
	channel_pause(kernel->iopub);
}

void kernel_resume(struct kernel *kernel)
{
	channel_resume(kernel->iopub);
}
