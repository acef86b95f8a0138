#include "envd/process.h"

#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "envd/records.h"
#include "envd/spawn.h"
#include "envd/volume_mounts.h"

#define RETAIN_MS  30000              /* how long the end of a process can be asked for */
#define OUTPUT_MAX 32768              /* bytes per event */
#define INPUT_MAX  (64 * 1024 * 1024) /* bytes that wait for a program to take them */

/* What a stream of output is called in an event. */
enum process_output {
	PROCESS_STDOUT,
	PROCESS_STDERR,
	PROCESS_PTY,
	PROCESS_OUTPUTS,
};

static const char *const output_names[] = { "stdout", "stderr", "pty" };

struct processes {
	struct envd *envd;
	struct list all;
};

struct listener {
	struct list link;
	struct process *process;
	struct connect_call *call;
};

struct process {
	struct list link;
	struct processes *owner;
	pid_t pid;
	char *tag;
	json_t *config; /* NULL once it has ended */
	bool terminal;
	struct stream *input;
	struct stream *outputs[PROCESS_OUTPUTS];
	int terminal_fd; /* to resize; belongs to outputs[PROCESS_PTY] */
	struct list listeners;
	struct list feeders;
	bool reaped;
	int status;       /* wait status, once reaped */
	bool ended;       /* its end event was made */
	uv_timer_t timer; /* its deadline; after its end, until it is forgotten */
};

struct processes *processes_new(struct envd *envd)
{
	struct processes *processes = calloc(1, sizeof(*processes));

	if (processes) {
		processes->envd = envd;
		list_init(&processes->all);
	}
	return processes;
}

bool processes_idle(const struct processes *processes)
{
	return list_empty(&processes->all);
}

/* --- events --- */

static json_t *start_event(const struct process *process)
{
	return json_pack("{s:{s:{s:i}}}", "event", "start", "pid", (int)process->pid);
}

/* "exit status 3", "signal: killed": the words of the reference, which clients show. */
static void describe_end(int status, char text[96])
{
	const char *name;

	if (!WIFSIGNALED(status)) {
		(void)snprintf(text, 96, "exit status %d", WEXITSTATUS(status));
		return;
	}
	name = sigdescr_np(WTERMSIG(status));
	(void)snprintf(text, 96, "signal: %s%s", name ? name : "unknown",
	               WCOREDUMP(status) ? " (core dumped)" : "");
	text[8] = (char)tolower((unsigned char)text[8]);
}

static json_t *end_event(const struct process *process)
{
	bool exited = WIFEXITED(process->status);
	int code = exited ? WEXITSTATUS(process->status) : -1;
	char text[96];
	json_t *end;

	describe_end(process->status, text);
	end = json_pack("{s:i,s:b,s:s}", "exitCode", code, "exited", exited, "status", text);
	if (code != 0)
		(void)json_object_set_new(end, "error", json_string(text));
	return json_pack("{s:{s:o}}", "event", "end", end);
}

/* --- what the logs say of it --- */

static void record_start(const struct process *process, const char *command)
{
	char pid[16];
	char message[64];

	(void)snprintf(pid, sizeof(pid), "%d", (int)process->pid);
	(void)snprintf(message, sizeof(message), "Process with pid %d started", (int)process->pid);
	records_add(process->owner->envd->records, RECORD_INFO, message,
	            json_pack("{s:s,s:s,s:o?}", "event_type", "process_start", "pid", pid, "command",
	                      records_text(command)));
}

static void record_end(const struct process *process)
{
	bool exited = WIFEXITED(process->status);
	char status[96];
	char pid[16];
	char code[16];
	char message[64];

	describe_end(process->status, status);
	(void)snprintf(pid, sizeof(pid), "%d", (int)process->pid);
	(void)snprintf(code, sizeof(code), "%d", exited ? WEXITSTATUS(process->status) : -1);
	(void)snprintf(message, sizeof(message), "Process with pid %d ended", (int)process->pid);
	records_add(process->owner->envd->records, RECORD_INFO, message,
	            json_pack("{s:s,s:s,s:s,s:s}", "event_type", "process_end", "pid", pid, "exit_code", code,
	                      "status", status));
}

static void listener_free(struct listener *listener)
{
	list_remove(&listener->link);
	free(listener);
}

static void tell_feeders(struct process *process, bool gone)
{
	list_for_each_safe (node, &process->feeders) {
		struct process_feeder *feeder = list_entry(node, struct process_feeder, link);

		if (gone)
			process_remove_feeder(feeder);
		feeder->on_drain(feeder);
	}
}

static void on_retained(uv_handle_t *handle)
{
	struct process *process = handle->data;

	tell_feeders(process, true);
	list_remove(&process->link);
	json_decref(process->config);
	free(process->tag);
	free(process);
}

static void on_retention(uv_timer_t *timer)
{
	uv_close((uv_handle_t *)timer, on_retained);
}

/* When the program is gone and all it wrote has been passed on: tell everyone. */
static void end_if_over(struct process *process)
{
	if (process->ended || !process->reaped)
		return;
	for (int i = 0; i < PROCESS_OUTPUTS; i++)
		if (process->outputs[i])
			return;
	process->ended = true;
	/* (Only those that run are listed. It is the most of what a process takes here.) */
	json_decref(process->config);
	process->config = NULL;
	record_end(process);
	if (process->input)
		stream_close(process->input);
	list_for_each_safe (node, &process->listeners) {
		struct listener *listener = list_entry(node, struct listener, link);
		struct connect_call *call = listener->call;

		listener_free(listener);
		connect_send(call, end_event(process));
		connect_end(call);
	}
	(void)uv_timer_start(&process->timer, on_retention, RETAIN_MS, 0);
}

/* --- output --- */

static void set_reading(struct process *process, bool read)
{
	for (int i = 0; i < PROCESS_OUTPUTS; i++) {
		if (!process->outputs[i])
			continue;
		if (read)
			stream_read_start(process->outputs[i]);
		else
			stream_read_stop(process->outputs[i]);
	}
}

static bool someone_is_slow(const struct process *process)
{
	list_for_each (node, &process->listeners)
		if (connect_pending(list_entry(node, struct listener, link)->call) > STREAM_HIGH_WATER)
			return true;
	return false;
}

static void send_output(struct process *process, enum process_output kind, const char *data, size_t size)
{
	cleanup_buffer struct buffer text = BUFFER_INIT;
	cleanup_json json_t *event = NULL;

	if (list_empty(&process->listeners) || base64_encode(&text, data, size) < 0)
		return;
	event = json_pack("{s:{s:{s:s%}}}", "event", "data", output_names[kind], text.data, text.size);
	list_for_each (node, &process->listeners)
		connect_send(list_entry(node, struct listener, link)->call, json_incref(event));
}

static void on_output(struct stream *stream, const char *data, size_t size, void *context)
{
	struct process *process = context;
	enum process_output kind = PROCESS_STDOUT;

	while (process->outputs[kind] != stream)
		kind++;
	while (size) {
		size_t part = size < OUTPUT_MAX ? size : OUTPUT_MAX;

		send_output(process, kind, data, part);
		data += part;
		size -= part;
	}
	if (someone_is_slow(process))
		set_reading(process, false);
}

static void on_output_end(struct stream *stream, void *context)
{
	(void)context;
	stream_close(stream);
}

static void on_output_close(struct stream *stream, int status, void *context)
{
	struct process *process = context;

	/* A terminal whose last user is gone fails with EIO: that is its end. */
	(void)status;
	for (int i = 0; i < PROCESS_OUTPUTS; i++)
		if (process->outputs[i] == stream)
			process->outputs[i] = NULL;
	if (process->terminal && process->input == stream)
		process->input = NULL;
	end_if_over(process);
}

/* (A terminal is both: its input drains here.) */
static void on_input_drain(struct stream *stream, void *context)
{
	(void)stream;
	tell_feeders(context, false);
}

static const struct stream_events output_events = {
	.on_data = on_output,
	.on_end = on_output_end,
	.on_drain = on_input_drain,
	.on_close = on_output_close,
};

/* --- input --- */

static void on_input_close(struct stream *stream, int status, void *context)
{
	struct process *process = context;

	(void)status;
	if (process->input == stream)
		process->input = NULL;
	tell_feeders(process, false);
}

static const struct stream_events input_events = { .on_drain = on_input_drain, .on_close = on_input_close };

int process_write(struct process *process, bool terminal, const void *data, size_t size, struct error *err)
{
	if (terminal != process->terminal)
		return error_set(err, EINVAL,
		                 terminal ? "the process has no terminal"
		                          : "the process has a terminal: write to that");
	if (!process->input)
		return error_set(err, EPIPE, "stdin is closed or was not asked for");
	if (size > INPUT_MAX - stream_pending(process->input))
		return error_set(err, ENOBUFS, "the process does not take its input: %d MiB wait",
		                 INPUT_MAX >> 20);
	return stream_write(process->input, data, size);
}

void process_add_feeder(struct process *process, struct process_feeder *feeder)
{
	feeder->process = process;
	list_append(&process->feeders, &feeder->link);
}

void process_remove_feeder(struct process_feeder *feeder)
{
	if (feeder->process)
		list_remove(&feeder->link);
	feeder->process = NULL;
}

size_t process_input_pending(const struct process *process)
{
	return process->input ? stream_pending(process->input) : 0;
}

int process_close_input(struct process *process, struct error *err)
{
	if (process->terminal)
		return error_set(err, ENOTTY,
		                 "cannot close stdin for PTY process, send Ctrl+D (0x04) instead");
	if (process->input)
		stream_close_after_writes(process->input);
	process->input = NULL;
	return 0;
}

int process_resize(struct process *process, unsigned columns, unsigned rows, struct error *err)
{
	struct winsize size = { .ws_col = (unsigned short)columns, .ws_row = (unsigned short)rows };

	if (!process->terminal || !process->outputs[PROCESS_PTY])
		return error_set(err, ENOTTY, "tty not assigned to process");
	return ioctl(process->terminal_fd, TIOCSWINSZ, &size) < 0
	               ? error_errno(err, errno, "resize the terminal")
	               : 0;
}

/* --- listeners --- */

static void on_listener_gone(struct connect_call *call, void *data)
{
	struct listener *listener = data;
	struct process *process = listener->process;

	(void)call;
	listener_free(listener);
	if (!someone_is_slow(process))
		set_reading(process, true);
}

static void on_listener_drained(struct connect_call *call, void *data)
{
	struct listener *listener = data;

	(void)call;
	if (!someone_is_slow(listener->process))
		set_reading(listener->process, true);
}

static void on_deadline_listen(struct connect_call *call, void *data)
{
	listener_free(data);
	connect_fail(call, CONNECT_DEADLINE_EXCEEDED, "context deadline exceeded");
}

void process_listen(struct process *process, struct connect_call *call)
{
	struct listener *listener = calloc(1, sizeof(*listener));

	if (!listener) {
		connect_fail(call, CONNECT_RESOURCE_EXHAUSTED, "out of memory");
		return;
	}
	connect_send(call, start_event(process));
	if (process->ended) {
		free(listener);
		connect_send(call, end_event(process));
		connect_end(call);
		return;
	}
	listener->process = process;
	listener->call = call;
	list_append(&process->listeners, &listener->link);
	connect_set_data(call, listener);
	connect_on_close(call, on_listener_gone);
	connect_on_drain(call, on_listener_drained);
	connect_on_deadline(call, on_deadline_listen);
	connect_keep_alive(call, json_pack("{s:{s:{}}}", "event", "keepalive"));
}

static void on_deadline(uv_timer_t *timer)
{
	(void)process_signal(timer->data, SIGKILL);
}

void process_set_deadline(struct process *process, uint64_t milliseconds)
{
	if (!process->ended)
		(void)uv_timer_start(&process->timer, on_deadline, milliseconds, 0);
}

/* --- finding --- */

struct process *process_by_pid(struct processes *processes, pid_t pid)
{
	/* The newest first: a number may have been used again. */
	for (struct list *node = processes->all.prev; node != &processes->all; node = node->prev) {
		struct process *process = list_entry(node, struct process, link);

		if (process->pid == pid)
			return process;
	}
	return NULL;
}

struct process *process_by_tag(struct processes *processes, const char *tag)
{
	for (struct list *node = processes->all.prev; node != &processes->all; node = node->prev) {
		struct process *process = list_entry(node, struct process, link);

		if (process->tag && strcmp(process->tag, tag) == 0)
			return process;
	}
	return NULL;
}

json_t *process_list(struct processes *processes)
{
	json_t *list = json_array();

	list_for_each (node, &processes->all) {
		const struct process *process = list_entry(node, struct process, link);
		json_t *entry;

		if (process->reaped)
			continue;
		entry = json_pack("{s:O,s:i}", "config", process->config, "pid", (int)process->pid);
		if (process->tag)
			(void)json_object_set_new(entry, "tag", json_string(process->tag));
		(void)json_array_append_new(list, entry);
	}
	return list;
}

pid_t process_pid(const struct process *process)
{
	return process->pid;
}

int process_signal(struct process *process, int number)
{
	if (process->reaped)
		return -ESRCH;
	/* Each program leads a session of its own, and so a process group. */
	return kill(-process->pid, number) < 0 && kill(process->pid, number) < 0 ? -errno : 0;
}

/* --- start and end --- */

static void take_output(struct process *process, enum process_output kind, int fd)
{
	struct error err = { 0 };

	if (fd < 0)
		return;
	process->outputs[kind] = stream_new_fd(process->owner->envd->loop, fd, &err);
	if (!process->outputs[kind]) {
		log_warn("output of process %d: %s", (int)process->pid, err.message);
		return;
	}
	stream_set_events(process->outputs[kind], &output_events, process);
	stream_read_start(process->outputs[kind]);
}

static void take_streams(struct process *process, const struct spawn_result *spawned)
{
	struct error err = { 0 };

	take_output(process, PROCESS_STDOUT, spawned->out);
	take_output(process, PROCESS_STDERR, spawned->err);
	take_output(process, PROCESS_PTY, spawned->terminal);
	process->terminal_fd = spawned->terminal;
	if (process->terminal) {
		process->input = process->outputs[PROCESS_PTY];
	} else if (spawned->in >= 0) {
		process->input = stream_new_fd(process->owner->envd->loop, spawned->in, &err);
		if (process->input)
			stream_set_events(process->input, &input_events, process);
	}
}

struct process *process_start(struct processes *processes, const struct process_options *options,
                              struct error *err)
{
	struct process *process = calloc(1, sizeof(*process));
	struct spawn_result spawned;

	if (!process || (options->tag && !(process->tag = strdup(options->tag)))) {
		free(process);
		error_errno(err, ENOMEM, "start a process");
		return NULL;
	}
	if (spawn_program(options, &spawned, err) < 0) {
		free(process->tag);
		free(process);
		return NULL;
	}
	process->owner = processes;
	process->pid = spawned.pid;
	process->config = json_incref(options->config);
	process->terminal = options->terminal;
	list_init(&process->listeners);
	list_init(&process->feeders);
	list_append(&processes->all, &process->link);
	(void)uv_timer_init(processes->envd->loop, &process->timer);
	process->timer.data = process;
	take_streams(process, &spawned);
	record_start(process, options->command);
	return process;
}

void processes_reap(struct processes *processes)
{
	int status;
	pid_t pid;

	/* As init we also inherit orphans, which nobody asks for. */
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (volume_mounts_reaped(processes->envd->volumes, pid))
			continue;
		list_for_each (node, &processes->all) {
			struct process *process = list_entry(node, struct process, link);

			if (process->pid == pid && !process->reaped) {
				process->reaped = true;
				process->status = status;
				end_if_over(process);
				break;
			}
		}
	}
}
