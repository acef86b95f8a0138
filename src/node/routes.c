/* The node API. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/builder.h"
#include "node/node.h"
#include "node/observe.h"
#include "node/sandbox.h"
#include "volume/volume.h"

#define BODY_LIMIT (4 * 1024 * 1024)

/* --- sandboxes --- */

/* A create in progress and the exchange that waits for it; the exchange may go away first. */
struct creation {
	struct node *node;
	struct http_exchange *exchange;
	struct sandbox *sandbox;
};

static void on_creation_gone(struct http_exchange *exchange, void *context)
{
	struct creation *creation = context;

	(void)exchange;
	creation->exchange = NULL;
}

static void ignore_done(void *context, const struct error *err)
{
	(void)context;
	(void)err;
}

static void on_created(void *context, const struct error *err)
{
	struct creation *creation = context;
	struct node_figures *figures = &creation->node->figures;

	if (err)
		figures->create_failures++;
	else
		figures->creates++;
	if (!creation->exchange) {
		/* Who asked is gone, and will never know of it. */
		if (!err)
			sandbox_kill(creation->sandbox, ignore_done, NULL);
	} else {
		http_exchange_on_close(creation->exchange, NULL, NULL);
		if (err)
			http_reply_error(creation->exchange, err->code < 400 ? 500 : err->code, "%s",
			                 err->message);
		else
			http_reply_json(creation->exchange, 201, sandbox_json(creation->sandbox));
	}
	free(creation);
}

static int read_volume_mounts(const json_t *body, json_t **ret, struct error *err)
{
	int result = json_read_array(body, "volume_mounts", JSON_OPTIONAL, ret, err);

	if (result == 0 && json_array_size(*ret) > VOLUME_MOUNTS_MAX)
		result = error_set(err, EINVAL, "volume_mounts: more than %d", VOLUME_MOUNTS_MAX);
	for (size_t i = 0; result == 0 && i < json_array_size(*ret); i++) {
		const json_t *mount = json_array_get(*ret, i);
		const char *id = "";
		const char *path = "";

		if (!json_is_object(mount))
			return error_set(err, EINVAL, "volume_mounts: an entry is no object");
		result = json_read_string(mount, "volume_id", JSON_REQUIRED, &id, err);
		if (result == 0)
			result = json_read_string(mount, "path", JSON_REQUIRED, &path, err);
		if (result < 0)
			return error_wrap(err, "volume_mounts");
		if (!*id || strlen(id) > VOLUME_ID_MAX)
			result = error_set(err, EINVAL, "volume_mounts: '%.80s' is no id of a volume", id);
		if (result == 0 &&
		    (strlen(path) > VOLUME_MOUNT_PATH_MAX || !file_path_is_plain(path) || !path[1]))
			result =
			        error_set(err, EINVAL,
			                  "volume_mounts: '%.200s' is no absolute, normalised path below the "
			                  "root",
			                  path);
	}
	return result;
}

static int read_create(const json_t *body, struct sandbox_request *request, struct error *err)
{
	int ret = json_read_string(body, "template", JSON_REQUIRED, &request->template, err);

	if (ret == 0)
		ret = json_read_string(body, "sandbox_id", JSON_OPTIONAL, &request->sandbox_id, err);
	/* It becomes the name of directories. */
	if (ret == 0 && request->sandbox_id &&
	    (strlen(request->sandbox_id) < 8 || strlen(request->sandbox_id) > 32 ||
	     strspn(request->sandbox_id, "abcdefghijklmnopqrstuvwxyz0123456789") !=
	             strlen(request->sandbox_id)))
		ret = error_set(err, EINVAL, "'%s' is no id of a sandbox", request->sandbox_id);
	if (ret == 0)
		ret = json_read_integer(body, "end_at_ms", JSON_REQUIRED, 0, INT64_MAX, &request->end_at_ms,
		                        err);
	if (ret == 0)
		ret = json_read_string(body, "access_token", JSON_OPTIONAL, &request->access_token, err);
	if (ret == 0)
		ret = json_read_string(body, "team_id", JSON_OPTIONAL, &request->team_id, err);
	if (ret == 0)
		ret = json_read_string(body, "template_id", JSON_OPTIONAL, &request->template_id, err);
	if (ret == 0)
		ret = json_read_string(body, "alias", JSON_OPTIONAL, &request->alias, err);
	if (ret == 0)
		ret = json_read_bool(body, "auto_pause", JSON_OPTIONAL, &request->auto_pause, err);
	request->auto_pause_memory = true;
	if (ret == 0)
		ret = json_read_bool(body, "auto_pause_memory", JSON_OPTIONAL, &request->auto_pause_memory,
		                     err);
	request->internet = true;
	if (ret == 0)
		ret = json_read_bool(body, "internet", JSON_OPTIONAL, &request->internet, err);
	if (ret == 0)
		ret = json_read_string_map(body, "metadata", JSON_OPTIONAL, &request->metadata, err);
	if (ret == 0)
		ret = json_read_string_map(body, "env_vars", JSON_OPTIONAL, &request->env_vars, err);
	if (ret == 0)
		ret = read_volume_mounts(body, &request->volume_mounts, err);
	return ret;
}

static void create_sandbox(struct node *node, struct http_exchange *exchange, const json_t *body)
{
	struct sandbox_request request = { 0 };
	struct creation *creation = calloc(1, sizeof(*creation));
	struct error err = { 0 };
	struct sandbox *sandbox;

	if (!creation || read_create(body, &request, &err) < 0) {
		http_reply_error(exchange, creation ? 400 : 503, "%s", err.message);
		free(creation);
		return;
	}
	creation->node = node;
	creation->exchange = exchange;
	http_exchange_on_close(exchange, on_creation_gone, creation);
	sandbox = sandbox_create(node, &request, on_created, creation);
	if (sandbox && sandbox->on_created)
		creation->sandbox = sandbox;
}

static void list_sandboxes(struct node *node, struct http_exchange *exchange)
{
	json_t *list = json_array();

	list_for_each (link, &node->sandboxes) {
		const struct sandbox *sandbox = list_entry(link, struct sandbox, link);

		if (sandbox_is_known(sandbox))
			(void)json_array_append_new(list, sandbox_json(sandbox));
	}
	http_reply_json(exchange, 200, list);
}

struct killing {
	struct http_exchange *exchange;
};

static void on_killing_gone(struct http_exchange *exchange, void *context)
{
	struct killing *killing = context;

	(void)exchange;
	killing->exchange = NULL;
}

static void on_killed(void *context, const struct error *err)
{
	struct killing *killing = context;

	(void)err;
	if (killing->exchange) {
		http_exchange_on_close(killing->exchange, NULL, NULL);
		http_reply_empty(killing->exchange, 204);
	}
	free(killing);
}

static void delete_sandbox(struct sandbox *sandbox, struct http_exchange *exchange)
{
	struct killing *killing = malloc(sizeof(*killing));

	if (!killing) {
		http_reply_error(exchange, 503, "out of memory");
		return;
	}
	killing->exchange = exchange;
	http_exchange_on_close(exchange, on_killing_gone, killing);
	sandbox_kill(sandbox, on_killed, killing);
}

/* --- pause, resume, snapshot --- */

/* Somebody who waits for a change of state; the exchange may go away first, the change goes on. */
struct change {
	struct http_exchange *exchange;
	struct sandbox *sandbox;
	uint64_t *succeeded; /* what to count; NULL: nothing */
	uint64_t *failed;
	int status; /* of the answer when it went well; with a sandbox as body when it is 201 */
};

static void on_change_gone(struct http_exchange *exchange, void *context)
{
	struct change *change = context;

	(void)exchange;
	change->exchange = NULL;
}

static void on_changed(void *context, const struct error *err)
{
	struct change *change = context;
	uint64_t *figure = err ? change->failed : change->succeeded;

	if (figure)
		(*figure)++;
	if (change->exchange) {
		http_exchange_on_close(change->exchange, NULL, NULL);
		if (err)
			http_reply_error(change->exchange, err->code < 400 ? 500 : err->code, "%s",
			                 err->message);
		else if (change->status == 201)
			http_reply_json(change->exchange, 201, sandbox_json(change->sandbox));
		else
			http_reply_empty(change->exchange, change->status);
	}
	free(change);
}

static struct change *change_new(struct sandbox *sandbox, struct http_exchange *exchange, int status)
{
	struct change *change = malloc(sizeof(*change));

	if (!change) {
		http_reply_error(exchange, 503, "out of memory");
		return NULL;
	}
	*change = (struct change){ .exchange = exchange, .sandbox = sandbox, .status = status };
	http_exchange_on_close(exchange, on_change_gone, change);
	return change;
}

static void pause_sandbox(struct sandbox *sandbox, struct http_exchange *exchange, const json_t *body)
{
	struct node_figures *figures = &sandbox->node->figures;
	struct change *change;
	struct error err = { 0 };
	bool memory = true;

	if (json_read_bool(body, "memory", JSON_OPTIONAL, &memory, &err) < 0) {
		http_reply_error(exchange, 400, "%s", err.message);
		return;
	}
	change = change_new(sandbox, exchange, 204);
	if (!change)
		return;
	change->succeeded = &figures->pauses;
	change->failed = &figures->pause_failures;
	sandbox_pause(sandbox, memory, on_changed, change);
}

static void resume_sandbox(struct sandbox *sandbox, struct http_exchange *exchange, const json_t *body)
{
	struct change *change;
	struct error err = { 0 };
	int64_t end_at_ms = 0;
	bool boot = true;

	if (json_read_integer(body, "end_at_ms", JSON_REQUIRED, 0, INT64_MAX, &end_at_ms, &err) < 0 ||
	    json_read_bool(body, "boot", JSON_OPTIONAL, &boot, &err) < 0 ||
	    json_read_bool(body, "auto_pause", JSON_OPTIONAL, &sandbox->auto_pause, &err) < 0) {
		http_reply_error(exchange, 400, "%s", err.message);
		return;
	}
	if (!boot && sandbox_is_paused(sandbox) && sandbox->stack.fresh) {
		http_reply_error(exchange, 412, "the sandbox has no memory: it would be booted");
		return;
	}
	change = change_new(sandbox, exchange, 201);
	if (!change)
		return;
	change->succeeded = &sandbox->node->figures.resumes;
	change->failed = &sandbox->node->figures.resume_failures;
	sandbox_resume(sandbox, end_at_ms, on_changed, change);
}

/* It becomes the name of a directory. */
static bool is_uuid(const char *text)
{
	return strlen(text) == 36 && strspn(text, "0123456789abcdef-") == 36;
}

static void snapshot_sandbox(struct sandbox *sandbox, struct http_exchange *exchange, const json_t *body)
{
	struct change *change;
	struct error err = { 0 };
	const char *build_id = NULL;
	bool ephemeral = false;
	int ret = json_read_string(body, "build_id", JSON_REQUIRED, &build_id, &err);

	if (ret == 0)
		ret = json_read_bool(body, "ephemeral", JSON_OPTIONAL, &ephemeral, &err);
	if (ret == 0 && !is_uuid(build_id))
		ret = error_set(&err, EINVAL, "build_id must be a UUID, not '%s'", build_id);
	if (ret == 0 && template_find(sandbox->node, build_id))
		ret = error_set(&err, EEXIST, "there is a build %s already", build_id);
	if (ret < 0) {
		http_reply_error(exchange, 400, "%s", err.message);
		return;
	}
	change = change_new(sandbox, exchange, 204);
	if (change)
		sandbox_snapshot(sandbox, build_id, ephemeral, on_changed, change);
}

static void put_deadline(struct sandbox *sandbox, struct http_exchange *exchange, const json_t *body)
{
	struct error err = { 0 };
	int64_t end_at_ms = 0;

	if (json_read_integer(body, "end_at_ms", JSON_REQUIRED, 0, INT64_MAX, &end_at_ms, &err) < 0)
		http_reply_error(exchange, 400, "%s", err.message);
	else if (sandbox_set_end(sandbox, end_at_ms, &err) < 0)
		http_reply_error(exchange, 500, "%s", err.message);
	else
		http_reply_empty(exchange, 204);
}

static void put_network(struct sandbox *sandbox, struct http_exchange *exchange, const json_t *body)
{
	struct error err = { 0 };
	struct change *change;
	bool internet = false;

	if (json_read_bool(body, "internet", JSON_REQUIRED, &internet, &err) < 0) {
		http_reply_error(exchange, 400, "%s", err.message);
		return;
	}
	change = change_new(sandbox, exchange, 204);
	if (change)
		sandbox_set_internet(sandbox, internet, on_changed, change);
}

/* --- templates --- */

static void list_templates(struct node *node, struct http_exchange *exchange)
{
	json_t *list = json_array();

	list_for_each (link, &node->templates) {
		const struct template *template = list_entry(link, struct template, link);

		/* Only what a create would take. */
		if (!template->snapshot && template_find(node, template->name) == template)
			(void)json_array_append_new(list, template_json(template));
	}
	http_reply_json(exchange, 200, list);
}

/* Is this build meant: by its own id, or as one of a name's? Snapshots go by their id alone. */
static bool is_meant(const struct template *template, const char *name_or_build)
{
	return strcmp(template->build_id, name_or_build) == 0 ||
	       (!template->snapshot && strcmp(template->name, name_or_build) == 0);
}

/* Newest first. */
static void list_builds(struct node *node, struct http_exchange *exchange, const char *name_or_build)
{
	json_t *list = json_array();

	list_for_each (link, &node->templates) {
		const struct template *template = list_entry(link, struct template, link);
		size_t at = 0;

		if (!is_meant(template, name_or_build) || template->ephemeral)
			continue;
		while (at < json_array_size(list) &&
		       json_integer_value(json_object_get(json_array_get(list, at), "created_at_ms")) >
		               template->created_at_ms)
			at++;
		(void)json_array_insert_new(list, at, template_json(template));
	}
	if (json_array_size(list) > 0) {
		http_reply_json(exchange, 200, list);
		return;
	}
	json_decref(list);
	http_reply_error(exchange, 404, "there is no template '%s'", name_or_build);
}

/* Sandboxes that have files of a build below them, whatever they do. Those restored in advance do not count:
 * they go with it. */
static unsigned count_users(const struct node *node, const struct template *template)
{
	unsigned count = 0;

	list_for_each (link, &node->sandboxes) {
		const struct sandbox *sandbox = list_entry(link, struct sandbox, link);

		count += !sandbox_is_spare(sandbox) && strcmp(sandbox->build_id, template->build_id) == 0;
	}
	return count;
}

/*
 * All builds that are meant, or none. Templates need no other template's files: a snapshot has links of its
 * own to what it is made of (stack.h), which stay when the name that they were made under goes.
 */
static void delete_template(struct node *node, struct http_exchange *exchange, const char *name_or_build)
{
	unsigned users = 0;
	unsigned found = 0;

	list_for_each (link, &node->templates) {
		const struct template *template = list_entry(link, struct template, link);

		if (is_meant(template, name_or_build)) {
			found++;
			users += count_users(node, template) + template->ephemeral;
		}
	}
	if (!found) {
		http_reply_error(exchange, 404, "there is no template '%s'", name_or_build);
		return;
	}
	if (users) {
		http_reply_error(exchange, 409, "template '%s' is needed by %u sandbox%s", name_or_build,
		                 users, users == 1 ? "" : "es");
		return;
	}
	list_for_each_safe (link, &node->templates) {
		struct template *template = list_entry(link, struct template, link);

		if (is_meant(template, name_or_build)) {
			log_info("template %s (%s) is deleted", template->name, template->build_id);
			template_remove(template);
		}
	}
	/* That also ends what was restored from it in advance. */
	sandboxes_warm_up(node);
	http_reply_empty(exchange, 204);
}

static void send_line(struct http_exchange *exchange, json_t *message)
{
	cleanup_free char *text = json_dumps(message, JSON_COMPACT);
	cleanup_buffer struct buffer line = BUFFER_INIT;

	json_decref(message);
	if (text && buffer_printf(&line, "%s\n", text) == 0)
		http_reply_write(exchange, line.data, line.size);
}

static void on_step(void *context, const char *step, const char *message, int64_t elapsed_ms)
{
	send_line(context, json_pack("{s:s,s:s,s:I}", "step", step, "message", message, "elapsed_ms",
	                             (json_int_t)elapsed_ms));
}

static void on_build_done(void *context, const struct template *template, const struct error *err)
{
	struct http_exchange *exchange = context;

	if (err)
		send_line(exchange, json_pack("{s:s}", "error", err->message));
	else
		send_line(exchange, json_pack("{s:b,s:s}", "done", 1, "build_id", template->build_id));
	http_exchange_on_close(exchange, NULL, NULL);
	http_reply_end(exchange);
}

static const struct build_events build_events = { .step = on_step, .done = on_build_done };

static void on_build_gone(struct http_exchange *exchange, void *context)
{
	(void)exchange;
	build_forget(context);
}

static int read_build(const json_t *body, struct build_request *request, struct error *err)
{
	int64_t vcpus = 1;
	int64_t memory = 512;
	const struct {
		const char *key;
		enum json_need need;
		const char **value;
	} strings[] = {
		{ "name", JSON_REQUIRED, &request->name },
		{ "kernel", JSON_REQUIRED, &request->kernel },
		{ "initrd", JSON_OPTIONAL, &request->initrd },
		{ "boot_args", JSON_OPTIONAL, &request->boot_args },
		{ "rootfs", JSON_REQUIRED, &request->rootfs },
		{ "source", JSON_OPTIONAL, &request->source },
		{ "start_cmd", JSON_OPTIONAL, &request->start_cmd },
		{ "ready_cmd", JSON_OPTIONAL, &request->ready_cmd },
		{ "warm_cmd", JSON_OPTIONAL, &request->warm_cmd },
		{ "default_user", JSON_OPTIONAL, &request->default_user },
		{ "default_workdir", JSON_OPTIONAL, &request->default_workdir },
	};
	int ret = json_read_string_map(body, "env_vars", JSON_OPTIONAL, &request->env_vars, err);

	for (size_t i = 0; ret == 0 && i < ARRAY_SIZE(strings); i++)
		ret = json_read_string(body, strings[i].key, strings[i].need, strings[i].value, err);
	if (ret == 0)
		ret = json_read_integer(body, "vcpu_count", JSON_OPTIONAL, 1, 16, &vcpus, err);
	if (ret == 0)
		ret = json_read_integer(body, "memory_mib", JSON_OPTIONAL, 128, 32768, &memory, err);
	request->vcpu_count = (unsigned)vcpus;
	request->memory_mib = (unsigned)memory;
	return ret;
}

static void create_template(struct node *node, struct http_exchange *exchange, const json_t *body)
{
	struct build_request request = { .initrd = "",
		                         .boot_args = "",
		                         .source = "",
		                         .start_cmd = "",
		                         .ready_cmd = "",
		                         .warm_cmd = "",
		                         .default_user = "",
		                         .default_workdir = "" };
	struct error err = { 0 };
	struct build *build;

	if (read_build(body, &request, &err) < 0) {
		http_reply_error(exchange, 400, "%s", err.message);
		return;
	}
	http_reply_header(exchange, "Content-Type", "application/x-ndjson");
	http_reply_begin(exchange, 200, -1);
	build = build_start(node, &request, &build_events, exchange);
	if (build)
		http_exchange_on_close(exchange, on_build_gone, build);
}

/* --- figures --- */

static void reply_figures(const struct node *node, struct http_exchange *exchange)
{
	const struct node_figures *figures = &node->figures;
	unsigned running = 0;
	unsigned paused = 0;
	unsigned spare = 0;
	unsigned templates = 0;

	list_for_each (link, &node->sandboxes) {
		const struct sandbox *sandbox = list_entry(link, struct sandbox, link);

		running += sandbox_is_running(sandbox);
		paused += sandbox_is_paused(sandbox);
		spare += sandbox->state == SANDBOX_SPARE;
	}
	list_for_each (link, &node->templates)
		templates += !list_entry(link, struct template, link)->snapshot;
	http_reply_json(exchange, 200,
	                json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "creates_total",
	                          (json_int_t)figures->creates, "create_failures_total",
	                          (json_int_t)figures->create_failures, "resumes_total",
	                          (json_int_t)figures->resumes, "resume_failures_total",
	                          (json_int_t)figures->resume_failures, "pauses_total",
	                          (json_int_t)figures->pauses, "pause_failures_total",
	                          (json_int_t)figures->pause_failures, "sandboxes_running",
	                          (json_int_t)running, "sandboxes_paused", (json_int_t)paused,
	                          "sandboxes_spare", (json_int_t)spare, "templates", (json_int_t)templates));
}

/* --- dispatch --- */

static void route_sandbox(struct node *node, struct http_exchange *exchange, const char *rest,
                          const json_t *body)
{
	const char *method = http_request_method(exchange);
	char id[64];
	struct sandbox *sandbox;

	(void)snprintf(id, sizeof(id), "%.*s", (int)strcspn(rest, "/"), rest);
	rest += strcspn(rest, "/");
	sandbox = sandbox_find(node, id);
	if (strcmp(method, "GET") == 0 && strcmp(rest, "/metrics") == 0)
		observe_reply_metrics(node, exchange, id);
	else if (strcmp(method, "GET") == 0 && strcmp(rest, "/logs") == 0)
		observe_reply_logs(node, exchange, id);
	else if (!sandbox)
		http_reply_error(exchange, 404, "sandbox '%s' does not exist", id);
	else if (strcmp(method, "GET") == 0 && !*rest)
		http_reply_json(exchange, 200, sandbox_json(sandbox));
	else if (strcmp(method, "DELETE") == 0 && !*rest)
		delete_sandbox(sandbox, exchange);
	else if (strcmp(method, "PUT") == 0 && strcmp(rest, "/network") == 0)
		put_network(sandbox, exchange, body);
	else if (strcmp(method, "PUT") == 0 && strcmp(rest, "/deadline") == 0)
		put_deadline(sandbox, exchange, body);
	else if (strcmp(method, "POST") == 0 && strcmp(rest, "/pause") == 0)
		pause_sandbox(sandbox, exchange, body);
	else if (strcmp(method, "POST") == 0 && strcmp(rest, "/resume") == 0)
		resume_sandbox(sandbox, exchange, body);
	else if (strcmp(method, "POST") == 0 && strcmp(rest, "/snapshot") == 0)
		snapshot_sandbox(sandbox, exchange, body);
	else
		http_reply_error(exchange, 404, "no such request: %s %s", method,
		                 http_request_path(exchange));
}

static void route_template(struct node *node, struct http_exchange *exchange, const char *rest)
{
	const char *method = http_request_method(exchange);
	const char *slash = strchr(rest, '/');
	bool get = strcmp(method, "GET") == 0;
	char id[64];

	(void)snprintf(id, sizeof(id), "%.*s", (int)strcspn(rest, "/"), rest);
	if (get && slash && strcmp(slash, "/logs") == 0)
		observe_reply_build_logs(node, exchange, id);
	else if (get)
		list_builds(node, exchange, rest);
	else if (strcmp(method, "DELETE") == 0)
		delete_template(node, exchange, rest);
	else
		http_reply_error(exchange, 404, "no such request: %s %s", method,
		                 http_request_path(exchange));
}

static void on_body(struct http_exchange *exchange, const char *data, size_t size, void *context)
{
	struct node *node = context;
	const char *method = http_request_method(exchange);
	const char *path = http_request_path(exchange);
	cleanup_json json_t *body = NULL;
	struct error err = { 0 };
	bool get = strcmp(method, "GET") == 0;
	bool post = strcmp(method, "POST") == 0;

	if (size && json_parse_object(data, size, &body, &err) < 0) {
		http_reply_error(exchange, 400, "%s", err.message);
		return;
	}
	if (!body)
		body = json_object();
	if (get && strcmp(path, "/v1/health") == 0)
		http_reply_json(exchange, 200, json_pack("{s:s}", "mode", node->emulated ? "lab" : "kvm"));
	else if (get && strcmp(path, "/v1/sandboxes") == 0)
		list_sandboxes(node, exchange);
	else if (post && strcmp(path, "/v1/sandboxes") == 0)
		create_sandbox(node, exchange, body);
	else if (get && strcmp(path, "/v1/figures") == 0)
		reply_figures(node, exchange);
	else if (get && strcmp(path, "/v1/metrics") == 0)
		observe_reply_latest(node, exchange);
	else if (get && strcmp(path, "/v1/templates") == 0)
		list_templates(node, exchange);
	else if (post && strcmp(path, "/v1/templates") == 0)
		create_template(node, exchange, body);
	else if (strncmp(path, "/v1/templates/", 14) == 0)
		route_template(node, exchange, path + 14);
	else if (strncmp(path, "/v1/sandboxes/", 14) == 0)
		route_sandbox(node, exchange, path + 14, body);
	else
		http_reply_error(exchange, 404, "no such request: %s %s", method, path);
}

/* Requests that somebody of the outside had made, by the id that they know it by. */
static void on_end(struct http_exchange *exchange, int status, void *context)
{
	const char *id = http_request_header(exchange, "X-Request-Id");

	(void)context;
	if (id && strlen(id) <= 64)
		log_info("request id=%s method=%s path=%.100s status=%d", id, http_request_method(exchange),
		         http_request_path(exchange), status);
}

void node_route(struct http_exchange *exchange, void *context)
{
	http_exchange_on_end(exchange, on_end, NULL);
	http_request_collect(exchange, BODY_LIMIT, on_body, context);
}
