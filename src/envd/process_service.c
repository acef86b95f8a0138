/* The Connect service process.Process (spec/envd/process/process.proto of E2B). */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "envd/path.h"
#include "envd/process.h"
#include "envd/schema.h"

#define ARGUMENTS_MAX 4096
#define DEFAULT_PATH  "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* --- start --- */

static const char **read_arguments(const json_t *config, struct error *err)
{
	json_t *array = NULL;
	const char **arguments;
	size_t count;

	if (json_read_array(config, "args", JSON_OPTIONAL, &array, err) < 0)
		return NULL;
	count = json_array_size(array);
	if (count > ARGUMENTS_MAX) {
		error_set(err, E2BIG, "more than %d arguments", ARGUMENTS_MAX);
		return NULL;
	}
	arguments = calloc(count + 1, sizeof(*arguments));
	for (size_t i = 0; arguments && i < count; i++) {
		arguments[i] = json_string_value(json_array_get(array, i));
		if (!arguments[i]) {
			free(arguments);
			error_set(err, EINVAL, "args must be strings");
			return NULL;
		}
	}
	return arguments;
}

/* Later names win, as in the reference: defaults, then the sandbox's variables, then the request's. */
static json_t *merge_environment(const struct envd *envd, const struct user *user, json_t *request)
{
	const char *path = envd->native ? getenv("PATH") : NULL;
	json_t *merged = json_pack("{s:s,s:s,s:s,s:s}", "PATH", path ? path : DEFAULT_PATH, "HOME",
	                           user->home, "USER", user->name, "LOGNAME", user->name);

	(void)json_object_update(merged, envd->env_vars);
	if (request)
		(void)json_object_update(merged, request);
	return merged;
}

static void free_strings(char **strings)
{
	for (char **string = strings; string && *string; string++)
		free(*string);
	free(strings);
}

static char **make_environment(const json_t *variables)
{
	char **environment = calloc(json_object_size(variables) + 1, sizeof(*environment));
	size_t count = 0;
	const char *name;
	json_t *value;

	json_object_foreach ((json_t *)(uintptr_t)variables, name, value) {
		if (!environment || !json_is_string(value))
			continue;
		if (asprintf(&environment[count], "%s=%s", name, json_string_value(value)) < 0) {
			environment[count] = NULL;
			break;
		}
		count++;
	}
	return environment;
}

static int read_size(const json_t *pty, struct process_options *options, struct error *err)
{
	json_t *size = NULL;
	int64_t columns = 80;
	int64_t rows = 24;
	int ret = json_read_object(pty, "size", JSON_OPTIONAL, &size, err);

	if (ret == 0 && size)
		ret = json_read_integer(size, "cols", JSON_OPTIONAL, 0, UINT16_MAX, &columns, err);
	if (ret == 0 && size)
		ret = json_read_integer(size, "rows", JSON_OPTIONAL, 0, UINT16_MAX, &rows, err);
	options->columns = (unsigned)columns;
	options->rows = (unsigned)rows;
	return ret;
}

/* The parts of a Start request whose storage the caller keeps. */
struct start_request {
	struct process_options options;
	struct user *user;
	char directory[4096];
	json_t *environment;
};

static int read_start(const struct envd *envd, const json_t *request, struct start_request *start,
                      struct error *err)
{
	struct process_options *options = &start->options;
	json_t *environment = NULL;
	json_t *pty = NULL;
	const char *cwd = "";
	int ret = json_read_object(request, "process", JSON_REQUIRED, &options->config, err);

	if (ret == 0)
		ret = json_read_object(request, "pty", JSON_OPTIONAL, &pty, err);
	if (ret == 0)
		ret = json_read_string(request, "tag", JSON_OPTIONAL, &options->tag, err);
	options->input = true;
	if (ret == 0)
		ret = json_read_bool(request, "stdin", JSON_OPTIONAL, &options->input, err);
	if (ret == 0)
		ret = json_read_string(options->config, "cmd", JSON_REQUIRED, &options->command, err);
	if (ret == 0)
		ret = json_read_string(options->config, "cwd", JSON_OPTIONAL, &cwd, err);
	if (ret == 0)
		ret = json_read_string_map(options->config, "envs", JSON_OPTIONAL, &environment, err);
	options->terminal = pty != NULL;
	if (ret == 0 && pty)
		ret = read_size(pty, options, err);
	if (ret == 0)
		ret = path_resolve(envd, start->user, cwd, start->directory, err);
	if (ret == 0)
		start->environment = merge_environment(envd, start->user, environment);
	options->directory = start->directory;
	options->user = start->user;
	return ret;
}

static void handle_start(struct connect_call *call, const json_t *request, void *context)
{
	struct envd *envd = context;
	struct user user;
	struct start_request start = { .user = &user };
	struct process *process = NULL;
	struct error err = { 0 };
	const char **arguments = NULL;
	char **environment = NULL;

	if (user_of_call(envd, call, &user) < 0)
		return;
	if (read_start(envd, request, &start, &err) == 0)
		arguments = read_arguments(start.options.config, &err);
	if (arguments)
		environment = make_environment(start.environment);
	if (environment) {
		start.options.arguments = arguments;
		start.options.environment = (const char *const *)environment;
		process = process_start(envd->processes, &start.options, &err);
	}
	free(arguments);
	free_strings(environment);
	json_decref(start.environment);
	if (!process) {
		connect_fail(call, CONNECT_INVALID_ARGUMENT, "%s", err.message);
		return;
	}
	if (connect_timeout(call))
		process_set_deadline(process, connect_timeout(call));
	process_listen(process, call);
}

/* --- the others --- */

/* The process that {"process": {"pid" | "tag"}} names. NULL: the call has been ended. */
static struct process *select_process(struct envd *envd, struct connect_call *call, const json_t *request)
{
	json_t *selector = NULL;
	struct process *process = NULL;
	const char *tag = NULL;
	struct error err = { 0 };
	int64_t pid = 0;
	int ret = json_read_object(request, "process", JSON_REQUIRED, &selector, &err);

	if (ret == 0)
		ret = json_read_integer(selector, "pid", JSON_OPTIONAL, 1, UINT32_MAX, &pid, &err);
	if (ret == 0)
		ret = json_read_string(selector, "tag", JSON_OPTIONAL, &tag, &err);
	if (ret == 0 && !pid && !tag)
		ret = error_set(&err, EINVAL, "a process is named by pid or tag");
	if (ret < 0) {
		connect_fail(call, CONNECT_INVALID_ARGUMENT, "%s", err.message);
		return NULL;
	}
	process = tag ? process_by_tag(envd->processes, tag) : process_by_pid(envd->processes, (pid_t)pid);
	if (!process && tag)
		connect_fail(call, CONNECT_NOT_FOUND, "process with tag %s not found", tag);
	else if (!process)
		connect_fail(call, CONNECT_NOT_FOUND, "process with pid %lld not found", (long long)pid);
	return process;
}

static void handle_list(struct connect_call *call, const json_t *request, void *context)
{
	struct envd *envd = context;

	(void)request;
	connect_reply(call, json_pack("{s:o}", "processes", process_list(envd->processes)));
}

static void handle_connect(struct connect_call *call, const json_t *request, void *context)
{
	struct process *process = select_process(context, call, request);

	if (process)
		process_listen(process, call);
}

static void finish(struct connect_call *call, int ret, enum connect_code code, const struct error *err)
{
	if (ret < 0)
		connect_fail(call, code, "%s", err->message);
	else
		connect_reply(call, json_object());
}

static void handle_update(struct connect_call *call, const json_t *request, void *context)
{
	struct process *process = select_process(context, call, request);
	struct process_options size = { 0 };
	struct error err = { 0 };
	json_t *pty = NULL;
	int ret;

	if (!process)
		return;
	ret = json_read_object(request, "pty", JSON_OPTIONAL, &pty, &err);
	if (ret == 0 && pty)
		ret = read_size(pty, &size, &err);
	if (ret < 0) {
		connect_fail(call, CONNECT_INVALID_ARGUMENT, "%s", err.message);
		return;
	}
	if (pty)
		ret = process_resize(process, size.columns, size.rows, &err);
	finish(call, ret, CONNECT_INTERNAL, &err);
}

/* Write what {"input": {"stdin" | "pty"}} has. False: the call has been ended. */
static bool write_input(struct connect_call *call, struct process *process, const json_t *request)
{
	cleanup_buffer struct buffer bytes = BUFFER_INIT;
	const char *text = NULL;
	const char *terminal = NULL;
	json_t *input = NULL;
	struct error err = { 0 };
	int ret = json_read_object(request, "input", JSON_REQUIRED, &input, &err);

	if (ret == 0)
		ret = json_read_string(input, "stdin", JSON_OPTIONAL, &text, &err);
	if (ret == 0)
		ret = json_read_string(input, "pty", JSON_OPTIONAL, &terminal, &err);
	if (ret == 0 && terminal)
		text = terminal;
	if (ret == 0 && (!text || base64_decode(&bytes, text, strlen(text)) < 0))
		ret = error_set(&err, EINVAL, "input must be stdin or pty with base64");
	if (ret < 0) {
		connect_fail(call, CONNECT_INVALID_ARGUMENT, "%s", err.message);
		return false;
	}
	ret = process_write(process, terminal != NULL, bytes.data, bytes.size, &err);
	if (ret < 0)
		connect_fail(call, ret == -ENOBUFS ? CONNECT_RESOURCE_EXHAUSTED : CONNECT_INTERNAL, "%s",
		             err.message);
	return ret == 0;
}

static void handle_send_input(struct connect_call *call, const json_t *request, void *context)
{
	struct process *process = select_process(context, call, request);

	if (process && write_input(call, process, request))
		connect_reply(call, json_object());
}

/* --- input as a stream --- */

struct input_stream {
	struct process_feeder feeder;
	struct connect_call *call;
};

static void input_stream_free(struct input_stream *stream)
{
	process_remove_feeder(&stream->feeder);
	free(stream);
}

static void on_input_stream_close(struct connect_call *call, void *data)
{
	(void)call;
	if (data)
		input_stream_free(data);
}

static void on_input_taken(struct process_feeder *feeder)
{
	connect_resume(((struct input_stream *)feeder)->call);
}

/* The first message: whose input it is. */
static void open_input_stream(struct envd *envd, struct connect_call *call, const json_t *start)
{
	struct process *process = select_process(envd, call, start);
	struct input_stream *stream = process ? calloc(1, sizeof(*stream)) : NULL;

	if (!process)
		return;
	if (!stream) {
		connect_fail(call, CONNECT_RESOURCE_EXHAUSTED, "out of memory");
		return;
	}
	stream->call = call;
	stream->feeder.on_drain = on_input_taken;
	process_add_feeder(process, &stream->feeder);
	connect_set_data(call, stream);
	connect_on_close(call, on_input_stream_close);
}

/* More input. The client waits while the program is behind. */
static void feed_input_stream(struct connect_call *call, struct input_stream *stream, const json_t *data)
{
	struct process *process = stream->feeder.process;

	if (!process) {
		input_stream_free(stream);
		connect_fail(call, CONNECT_NOT_FOUND, "the process has ended");
	} else if (!write_input(call, process, data)) {
		input_stream_free(stream);
	} else if (process_input_pending(process) > STREAM_HIGH_WATER) {
		connect_pause(call);
	}
}

static void handle_stream_input(struct connect_call *call, const json_t *message, void *context)
{
	struct input_stream *stream = connect_data(call);
	const json_t *start = json_object_get(message, "start");
	const json_t *data = json_object_get(message, "data");

	if (!message) {
		if (stream)
			input_stream_free(stream);
		connect_finish(call, json_object());
	} else if (!stream && json_is_object(start)) {
		open_input_stream(context, call, start);
	} else if (stream && json_is_object(data)) {
		feed_input_stream(call, stream, data);
	} else if (!json_object_get(message, "keepalive")) {
		if (stream)
			input_stream_free(stream);
		connect_fail(call, CONNECT_INVALID_ARGUMENT,
		             stream ? "a message must be data or keepalive"
		                    : "the first message must be start");
	}
}

static void handle_close_stdin(struct connect_call *call, const json_t *request, void *context)
{
	struct process *process = select_process(context, call, request);
	struct error err = { 0 };

	if (process)
		finish(call, process_close_input(process, &err), CONNECT_UNKNOWN, &err);
}

/* Enumerations come by name or by number. */
static int read_signal(const json_t *request)
{
	const json_t *value = json_object_get(request, "signal");
	const char *name = json_string_value(value);

	if (name)
		return strcmp(name, "SIGNAL_SIGKILL") == 0   ? SIGKILL
		       : strcmp(name, "SIGNAL_SIGTERM") == 0 ? SIGTERM
		                                             : 0;
	return json_integer_value(value) == SIGKILL   ? SIGKILL
	       : json_integer_value(value) == SIGTERM ? SIGTERM
	                                              : 0;
}

static void handle_send_signal(struct connect_call *call, const json_t *request, void *context)
{
	struct process *process = select_process(context, call, request);
	int number = read_signal(request);
	struct error err = { 0 };
	int ret;

	if (!process)
		return;
	if (number == 0) {
		connect_fail(call, CONNECT_UNIMPLEMENTED, "invalid signal");
		return;
	}
	ret = process_signal(process, number);
	if (ret == -ESRCH)
		connect_fail(call, CONNECT_NOT_FOUND, "process with pid %d not found",
		             (int)process_pid(process));
	else
		finish(call, ret < 0 ? error_errno(&err, -ret, "send the signal") : 0, CONNECT_INTERNAL,
		       &err);
}

const struct connect_method process_methods[] = {
	{ "/process.Process/List", CONNECT_UNARY, handle_list, &schema_empty, &schema_list_response },
	{ "/process.Process/Start", CONNECT_SERVER_STREAM, handle_start, &schema_start_request,
	  &schema_event_response },
	{ "/process.Process/Connect", CONNECT_SERVER_STREAM, handle_connect, &schema_selector_request,
	  &schema_event_response },
	{ "/process.Process/Update", CONNECT_UNARY, handle_update, &schema_update_request, &schema_empty },
	{ "/process.Process/SendInput", CONNECT_UNARY, handle_send_input, &schema_send_input_request,
	  &schema_empty },
	{ "/process.Process/StreamInput", CONNECT_CLIENT_STREAM, handle_stream_input,
	  &schema_stream_input_request, &schema_empty },
	{ "/process.Process/SendSignal", CONNECT_UNARY, handle_send_signal, &schema_send_signal_request,
	  &schema_empty },
	{ "/process.Process/CloseStdin", CONNECT_UNARY, handle_close_stdin, &schema_selector_request,
	  &schema_empty },
	{ 0 },
};
