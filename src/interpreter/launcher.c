#include "interpreter/launcher.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

/* kernel.py, embedded at build time. */
extern const char interpreter_kernel_script[];
extern const size_t interpreter_kernel_script_size;

enum {
	LAUNCHER_CHANNEL_FD = 3, /* what kernel.py expects */
	LAUNCHER_RESTART_MS = 500,
	LAUNCHER_LINE_MAX = 4096,
};

struct launch {
	struct list node;
	char *line; /* the request, until it has been sent */
	launch_done_fn *done;
	void *context;
};

struct launcher {
	uv_loop_t *loop;
	char *python;
	char *script;
	uv_timer_t restart;
	struct list launches; /* in the order in which they are answered */
	struct worker *worker;
};

/* One run of the process. It outlives its place in the launcher by the closing of its handles. */
struct worker {
	struct launcher *launcher; /* NULL once replaced or freed */
	uv_process_t process;
	uv_pipe_t pipe;
	struct buffer input;
	int open_handles;
	bool ready;
};

struct line_write {
	uv_write_t request;
	char *line;
};

static void launcher_start_worker(struct launcher *launcher);

static void launch_finish(struct launch *launch, pid_t pid)
{
	list_remove(&launch->node);
	if (launch->done)
		launch->done(pid, launch->context);
	else if (pid > 0)
		kill(-pid, SIGKILL); /* cancelled meanwhile */
	free(launch->line);
	free(launch);
}

static void on_line_written(uv_write_t *request, int status)
{
	struct line_write *write = (struct line_write *)request;

	(void)status; /* a broken pipe is seen by the reader as well */
	free(write->line);
	free(write);
}

static void worker_send(struct worker *worker, struct launch *launch)
{
	struct line_write *write = calloc(1, sizeof(*write));
	uv_buf_t part;

	if (!write)
		return; /* the launch is failed when the process ends */
	write->line = TAKE_PTR(launch->line);
	part = uv_buf_init(write->line, (unsigned)strlen(write->line));
	if (uv_write(&write->request, (uv_stream_t *)&worker->pipe, &part, 1, on_line_written) < 0)
		on_line_written(&write->request, 0);
}

static void worker_on_line(struct worker *worker, const char *line, size_t size)
{
	struct launcher *launcher = worker->launcher;
	cleanup_json json_t *answer = NULL;
	struct error err;
	int64_t pid = 0;

	if (json_parse_object(line, size, &answer, &err) < 0 ||
	    json_read_integer(answer, "pid", JSON_OPTIONAL, 1, INT32_MAX, &pid, &err) < 0) {
		log_error("kernel launcher: %s", err.message);
		return;
	}
	if (pid == 0) {
		worker->ready = true;
		list_for_each (node, &launcher->launches)
			worker_send(worker, list_entry(node, struct launch, node));
		return;
	}
	if (!list_empty(&launcher->launches))
		launch_finish(list_entry(launcher->launches.next, struct launch, node), (pid_t)pid);
}

static void worker_on_closed(uv_handle_t *handle)
{
	struct worker *worker = handle->data;

	if (--worker->open_handles > 0)
		return;
	buffer_fini(&worker->input);
	free(worker);
}

static void worker_close(struct worker *worker)
{
	if (uv_process_get_pid(&worker->process) > 0)
		uv_process_kill(&worker->process, SIGKILL);
	if (!uv_is_closing((uv_handle_t *)&worker->pipe))
		uv_close((uv_handle_t *)&worker->pipe, worker_on_closed);
	if (!uv_is_closing((uv_handle_t *)&worker->process))
		uv_close((uv_handle_t *)&worker->process, worker_on_closed);
}

static void launcher_on_restart(uv_timer_t *timer)
{
	launcher_start_worker(timer->data);
}

/* The process is gone or unusable. Launches that it has not answered fail; those are told after the fact. */
static void worker_fail(struct worker *worker)
{
	struct launcher *launcher = worker->launcher;
	struct list failed;

	log_error("the process that forks kernels ended, starting another one");
	worker->launcher = NULL;
	worker_close(worker);
	launcher->worker = NULL;
	uv_timer_start(&launcher->restart, launcher_on_restart, LAUNCHER_RESTART_MS, 0);
	list_init(&failed); /* those who are told may launch again */
	list_for_each_safe (node, &launcher->launches) {
		list_remove(node);
		list_append(&failed, node);
	}
	while (!list_empty(&failed))
		launch_finish(list_entry(failed.next, struct launch, node), -EPIPE);
}

static void worker_on_exit(uv_process_t *process, int64_t status, int signal_number)
{
	struct worker *worker = process->data;

	log_debug("kernel launcher: status %lld, signal %d", (long long)status, signal_number);
	if (worker->launcher)
		worker_fail(worker);
}

static void worker_on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret)
{
	struct worker *worker = handle->data;

	(void)suggested;
	*ret = uv_buf_init(NULL, 0);
	if (buffer_reserve(&worker->input, 512) == 0)
		*ret = uv_buf_init(worker->input.data + worker->input.size, 512);
}

static void worker_on_read(uv_stream_t *stream, ssize_t size, const uv_buf_t *data)
{
	struct worker *worker = stream->data;
	char *end;

	(void)data;
	if (!worker->launcher || size == 0)
		return;
	if (size < 0) {
		worker_fail(worker);
		return;
	}
	worker->input.size += (size_t)size;
	while (worker->launcher && worker->input.size > 0 &&
	       (end = memchr(worker->input.data, '\n', worker->input.size))) {
		size_t length = (size_t)(end - worker->input.data);

		worker_on_line(worker, worker->input.data, length);
		buffer_consume(&worker->input, length + 1);
	}
}

static int worker_spawn(struct worker *worker)
{
	struct launcher *launcher = worker->launcher;
	char *arguments[] = { launcher->python, launcher->script, NULL };
	uv_stdio_container_t stdio[LAUNCHER_CHANNEL_FD + 1] = {
		{ .flags = UV_IGNORE },
		{ .flags = UV_INHERIT_FD, .data.fd = STDERR_FILENO },
		{ .flags = UV_INHERIT_FD, .data.fd = STDERR_FILENO },
		{ .flags = UV_CREATE_PIPE | UV_READABLE_PIPE | UV_WRITABLE_PIPE,
		  .data.stream = (uv_stream_t *)&worker->pipe },
	};
	uv_process_options_t options = {
		.exit_cb = worker_on_exit,
		.file = launcher->python,
		.args = arguments,
		.stdio = stdio,
		.stdio_count = ARRAY_SIZE(stdio),
	};
	int rc = uv_spawn(launcher->loop, &worker->process, &options);

	if (rc == 0)
		rc = uv_read_start((uv_stream_t *)&worker->pipe, worker_on_alloc, worker_on_read);
	return rc;
}

static void launcher_start_worker(struct launcher *launcher)
{
	struct worker *worker = calloc(1, sizeof(*worker));
	int rc;

	if (!worker) {
		uv_timer_start(&launcher->restart, launcher_on_restart, LAUNCHER_RESTART_MS, 0);
		return;
	}
	worker->launcher = launcher;
	buffer_init(&worker->input, LAUNCHER_LINE_MAX);
	uv_pipe_init(launcher->loop, &worker->pipe, 0);
	worker->pipe.data = worker;
	worker->process.data = worker;
	worker->open_handles = 2;
	rc = worker_spawn(worker);
	if (rc < 0) {
		log_error("start %s: %s", launcher->python, uv_strerror(rc));
		worker_fail(worker);
		return;
	}
	launcher->worker = worker;
}

struct launcher *launcher_new(uv_loop_t *loop, const char *python, const char *directory, struct error *err)
{
	struct launcher *launcher = calloc(1, sizeof(*launcher));
	int rc = -ENOMEM;

	if (launcher) {
		launcher->python = strdup(python);
		if (asprintf(&launcher->script, "%s/kernel.py", directory) < 0)
			launcher->script = NULL;
	}
	if (!launcher || !launcher->python || !launcher->script)
		error_set(err, ENOMEM, "start kernel launcher: out of memory");
	else
		rc = file_write_atomic(launcher->script, interpreter_kernel_script,
		                       interpreter_kernel_script_size, 0600, err);
	if (rc < 0) {
		if (launcher) {
			free(launcher->python);
			free(launcher->script);
		}
		free(launcher);
		return NULL;
	}
	launcher->loop = loop;
	list_init(&launcher->launches);
	uv_timer_init(loop, &launcher->restart);
	launcher->restart.data = launcher;
	launcher_start_worker(launcher);
	return launcher;
}

static void launcher_on_closed(uv_handle_t *handle)
{
	struct launcher *launcher = handle->data;

	free(launcher->python);
	free(launcher->script);
	free(launcher);
}

void launcher_free(struct launcher *launcher)
{
	if (!launcher)
		return;
	list_for_each_safe (node, &launcher->launches) {
		struct launch *launch = list_entry(node, struct launch, node);

		launch->done = NULL;
		launch_finish(launch, -ECANCELED);
	}
	if (launcher->worker) {
		launcher->worker->launcher = NULL;
		worker_close(launcher->worker);
	}
	uv_close((uv_handle_t *)&launcher->restart, launcher_on_closed);
}

struct launch *launcher_launch(struct launcher *launcher, const char *connection_file, const char *cwd,
                               launch_done_fn *done, void *context)
{
	struct launch *launch = calloc(1, sizeof(*launch));
	cleanup_json json_t *request =
	        json_pack("{s:s, s:s}", "connection_file", connection_file, "cwd", cwd);
	cleanup_free char *text = request ? json_dumps(request, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;

	if (!launch || !text || asprintf(&launch->line, "%s\n", text) < 0) {
		free(launch);
		return NULL;
	}
	launch->done = done;
	launch->context = context;
	list_append(&launcher->launches, &launch->node);
	if (launcher->worker && launcher->worker->ready)
		worker_send(launcher->worker, launch);
	return launch;
}

void launch_cancel(struct launch *launch)
{
	launch->done = NULL;
}
