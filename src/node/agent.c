#include "node/agent.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PORT_CONTROL    1024
#define ENTROPY_SIZE    64
#define INIT_TIMEOUT_MS 30000
#define AGAIN_UNTIL_MS  45000 /* no new attempt beyond: an agent that takes calls and answers none is dead */
#define POLL_MS         50
#define ATTEMPTS_MAX    20
#define ATTEMPT_MS      25 /* between two */
#define EVENTS_LIMIT    (1024 * 1024)

static struct http_endpoint control_of(const char *vsock)
{
	struct http_endpoint endpoint = { .vsock_port = PORT_CONTROL };

	(void)snprintf(endpoint.unix_path, sizeof(endpoint.unix_path), "%s", vsock);
	return endpoint;
}

void agent_get(struct node *node, const char *vsock, const char *target, unsigned timeout_ms,
               http_simple_fn *done, void *context)
{
	struct http_endpoint endpoint = control_of(vsock);

	http_call_simple(node->client, &endpoint, "GET", target, NULL, timeout_ms, done, context);
}

/* --- calls that answer 204 --- */

/* Each may be made again: a connection that breaks before its answer, as one can that meets a resume, is no
 * verdict. */
struct plain_call {
	struct node *node;
	struct http_endpoint endpoint;
	const char *target;
	const char *what;
	char *body;
	unsigned attempts;
	int64_t started_us;
	uv_timer_t timer;
	node_done_fn *done;
	void *context;
};

static void on_plain_closed(uv_handle_t *handle)
{
	struct plain_call *call = handle->data;

	free(call->body);
	free(call);
}

static void on_plain(int status, const char *data, size_t size, const struct error *err, void *context);

static void send_plain(uv_timer_t *timer)
{
	struct plain_call *call = timer->data;

	http_call_simple(call->node->client, &call->endpoint, "POST", call->target, call->body,
	                 INIT_TIMEOUT_MS, on_plain, call);
}

static void on_plain(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct plain_call *call = context;
	struct error failure = { 0 };

	if (status == 0 && ++call->attempts < ATTEMPTS_MAX &&
	    time_monotonic_us() - call->started_us < (int64_t)AGAIN_UNTIL_MS * 1000) {
		(void)uv_timer_start(&call->timer, send_plain, ATTEMPT_MS, 0);
		return;
	}
	if (status == 0)
		error_set(&failure, EIO, "%s: %s", call->what, err->message);
	else if (status != 204)
		error_set(&failure, EIO, "%s: the agent answered %d: %.*s", call->what, status, (int)size,
		          data);
	call->done(call->context, failure.code ? &failure : NULL);
	uv_close((uv_handle_t *)&call->timer, on_plain_closed);
}

static void post_plain(struct node *node, const char *vsock, const char *target, const char *what,
                       json_t *body, node_done_fn *done, void *context)
{
	struct plain_call *call = calloc(1, sizeof(*call));
	char *text = json_dumps(body, JSON_COMPACT);
	struct error err = { 0 };

	json_decref(body);
	if (!call || !text) {
		free(call);
		free(text);
		error_errno(&err, ENOMEM, "%s", what);
		done(context, &err);
		return;
	}
	*call = (struct plain_call){ .node = node,
		                     .endpoint = control_of(vsock),
		                     .target = target,
		                     .what = what,
		                     .body = text,
		                     .started_us = time_monotonic_us(),
		                     .done = done,
		                     .context = context };
	(void)uv_timer_init(node->loop, &call->timer);
	call->timer.data = call;
	send_plain(&call->timer);
}

static void set_optional(json_t *object, const char *key, const char *value)
{
	if (value)
		(void)json_object_set_new(object, key, json_string(value));
}

/* The agent's names for what the node API has its own for. */
static json_t *volumes_for_agent(const json_t *mounts)
{
	json_t *list = json_array();

	for (size_t i = 0; i < json_array_size(mounts); i++) {
		const json_t *mount = json_array_get(mounts, i);

		(void)json_array_append_new(list, json_pack("{s:O,s:O}", "volumeId",
		                                            json_object_get(mount, "volume_id"), "path",
		                                            json_object_get(mount, "path")));
	}
	return list;
}

void agent_init(struct node *node, const char *vsock, const struct agent_identity *identity,
                node_done_fn *done, void *context)
{
	cleanup_buffer struct buffer entropy = BUFFER_INIT;
	unsigned char bytes[ENTROPY_SIZE];
	char time[TIME_RFC3339_SIZE];
	json_t *body = json_object();

	random_bytes(bytes, sizeof(bytes));
	(void)base64_encode(&entropy, bytes, sizeof(bytes));
	set_optional(body, "timestamp", time_format_rfc3339(time_wall_ms(), time));
	set_optional(body, "entropy", entropy.data);
	set_optional(body, "hostname", "sandbox");
	set_optional(body, "sandboxId", identity->sandbox_id);
	set_optional(body, "templateId", identity->template_id);
	set_optional(body, "teamId", identity->team_id);
	set_optional(body, "accessToken", identity->access_token);
	set_optional(body, "defaultUser", identity->default_user);
	set_optional(body, "defaultWorkdir", identity->default_workdir);
	if (identity->env_vars)
		(void)json_object_set_new(body, "envVars", json_deep_copy(identity->env_vars));
	if (json_array_size(identity->volume_mounts))
		(void)json_object_set_new(body, "volumeMounts", volumes_for_agent(identity->volume_mounts));
	post_plain(node, vsock, "/init", "initialise the agent", body, done, context);
}

void agent_prepare_snapshot(struct node *node, const char *vsock, node_done_fn *done, void *context)
{
	post_plain(node, vsock, "/prepare-snapshot", "prepare the snapshot", json_object(), done, context);
}

/* --- waiting for it --- */

struct agent_wait {
	struct node *node;
	struct http_endpoint endpoint;
	uv_timer_t timer;
	int64_t deadline_us;
	node_done_fn *done;
	void *context;
};

static void on_wait_closed(uv_handle_t *handle)
{
	free(handle->data);
}

static void on_health(int status, const char *data, size_t size, const struct error *err, void *context);

static void ask_health(uv_timer_t *timer)
{
	struct agent_wait *wait = timer->data;

	http_call_simple(wait->node->client, &wait->endpoint, "GET", "/health", NULL, 5000, on_health, wait);
}

static void on_health(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct agent_wait *wait = context;
	struct error failure = { 0 };

	(void)data;
	(void)size;
	if (status != 204 && time_monotonic_us() < wait->deadline_us) {
		(void)uv_timer_start(&wait->timer, ask_health, POLL_MS, 0);
		return;
	}
	if (status != 204)
		error_set(&failure, ETIMEDOUT, "the agent does not answer: %s",
		          status ? "wrong status" : err->message);
	wait->done(wait->context, failure.code ? &failure : NULL);
	uv_close((uv_handle_t *)&wait->timer, on_wait_closed);
}

void agent_wait(struct node *node, const char *vsock, unsigned seconds, node_done_fn *done, void *context)
{
	struct agent_wait *wait = calloc(1, sizeof(*wait));
	struct error err = { 0 };

	if (!wait) {
		error_errno(&err, ENOMEM, "wait for the agent");
		done(context, &err);
		return;
	}
	wait->node = node;
	wait->endpoint = control_of(vsock);
	wait->deadline_us = time_monotonic_us() + (int64_t)seconds * 1000000;
	wait->done = done;
	wait->context = context;
	(void)uv_timer_init(node->loop, &wait->timer);
	wait->timer.data = wait;
	ask_health(&wait->timer);
}

/* --- commands, by process.Process/Start --- */

struct agent_call {
	bool wait;
	bool over;
	struct buffer events; /* bytes of the stream that are no whole event yet */
	agent_command_fn *done;
	void *context;
};

static void command_over(struct agent_call *command, int exit_code, const struct error *err)
{
	if (command->over)
		return;
	command->over = true;
	command->done(command->context, exit_code, err);
}

static void on_event(struct agent_call *command, const json_t *message)
{
	json_t *event = json_object_get(message, "event");
	json_t *end = json_object_get(event, "end");
	struct error err = { 0 };
	const char *text = json_string_value(json_object_get(json_object_get(message, "error"), "message"));

	if (text) {
		error_set(&err, EIO, "run a command: %s", text);
		command_over(command, -1, &err);
	} else if (end) {
		command_over(command, (int)json_integer_value(json_object_get(end, "exitCode")), NULL);
	} else if (!command->wait && json_object_get(event, "start")) {
		command_over(command, 0, NULL);
	}
}

static void on_data(struct http_call *call, const char *data, size_t size, void *context)
{
	struct agent_call *command = context;
	const unsigned char *bytes;

	(void)call;
	if (buffer_append(&command->events, data, size) < 0)
		return;
	for (;;) {
		uint32_t length;
		json_t *message;

		bytes = (const unsigned char *)command->events.data;
		if (command->events.size < 5)
			return;
		length = (uint32_t)bytes[1] << 24 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 8 |
		         bytes[4];
		if (command->events.size - 5 < length)
			return;
		message = json_loadb(command->events.data + 5, length, 0, NULL);
		on_event(command, message);
		json_decref(message);
		buffer_consume(&command->events, 5 + (size_t)length);
	}
}

static void command_free(struct agent_call *command)
{
	buffer_fini(&command->events);
	free(command);
}

static void on_stream_end(struct http_call *call, void *context)
{
	struct agent_call *command = context;
	struct error err = { 0 };

	(void)call;
	error_set(&err, EIO, "run a command: the agent broke off");
	command_over(command, -1, &err);
	command_free(command);
}

static void on_stream_error(struct http_call *call, enum http_call_error error, bool after, void *context)
{
	(void)error;
	(void)after;
	on_stream_end(call, context);
}

static void on_stream_response(struct http_call *call, int status, const struct http_header *headers,
                               size_t count, void *context)
{
	(void)call;
	(void)status;
	(void)headers;
	(void)count;
	(void)context;
}

static const struct http_call_events stream_events = {
	.on_response = on_stream_response,
	.on_data = on_data,
	.on_end = on_stream_end,
	.on_error = on_stream_error,
};

static void send_start(struct http_call *call, const char *user, const char *text)
{
	cleanup_buffer struct buffer basic = BUFFER_INIT;
	cleanup_buffer struct buffer body = BUFFER_INIT;
	char name[128];
	size_t size = strlen(text);
	unsigned char head[5] = { 0, (unsigned char)(size >> 24), (unsigned char)(size >> 16),
		                  (unsigned char)(size >> 8), (unsigned char)size };
	int length = snprintf(name, sizeof(name), "%s:", user);

	(void)buffer_append_string(&basic, "Basic ");
	(void)base64_encode(&basic, name, (size_t)length);
	http_call_header(call, "Host", "agent");
	http_call_header(call, "Content-Type", "application/connect+json");
	http_call_header(call, "Authorization", basic.data);
	(void)buffer_append(&body, head, sizeof(head));
	(void)buffer_append(&body, text, size);
	http_call_begin(call, (int64_t)body.size);
	http_call_write(call, body.data, body.size);
	http_call_end(call);
}

void agent_command(struct node *node, const char *vsock, const char *user, const char *command, bool wait,
                   agent_command_fn *done, void *context)
{
	struct http_endpoint endpoint = control_of(vsock);
	struct agent_call *state = calloc(1, sizeof(*state));
	cleanup_json json_t *request = json_pack("{s:{s:s,s:[s,s,s]},s:b}", "process", "cmd", "/bin/bash",
	                                         "args", "-l", "-c", command, "stdin", 0);
	cleanup_free char *text = json_dumps(request, JSON_COMPACT);
	struct error err = { 0 };
	struct http_call *call = NULL;

	if (state && text) {
		*state = (struct agent_call){
			.wait = wait, .events = { .limit = EVENTS_LIMIT }, .done = done, .context = context
		};
		call = http_call_new(node->client, &endpoint, "POST", "/process.Process/Start",
		                     &stream_events, state);
	}
	if (!call) {
		free(state);
		error_errno(&err, ENOMEM, "run a command");
		done(context, -1, &err);
		return;
	}
	send_start(call, user, text);
}
