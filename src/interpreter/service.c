#include "interpreter/service.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "net/http_server.h"

enum {
	SERVICE_BODY_MAX = 64 * 1024 * 1024,
	SERVICE_ERROR_SIZE = 1024,
};

struct service {
	uv_loop_t *loop;
	struct context_host *host;
	struct http_server *server;
	char *default_cwd;
	struct list contexts;
	struct context *default_context; /* NULL after it was removed or when it could not be made */
};

/* A client that waits for a kernel, to be answered with `body` then. */
struct kernel_wait {
	struct context_waiter waiter;
	struct http_exchange *exchange;
	json_t *body; /* NULL = the JSON null */
};

static void reply_text(struct http_exchange *exchange, int status, const char *format, ...)
        __attribute__((format(printf, 3, 4)));

static void reply_text(struct http_exchange *exchange, int status, const char *format, ...)
{
	char text[SERVICE_ERROR_SIZE];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	http_reply(exchange, status, "text/plain; charset=utf-8", text, strlen(text));
}

static void reply_json_text(struct http_exchange *exchange, int status, const char *text)
{
	http_reply(exchange, status, "application/json", text, strlen(text));
}

static char *render_error(int status, const char *message)
{
	(void)status;
	return strdup(message);
}

static json_t *context_describe(const struct context *context)
{
	return json_pack("{s:s, s:s, s:s}", "id", context->id, "language", context->language, "cwd",
	                 context->cwd);
}

static struct context *service_find(const struct service *service, const char *id)
{
	list_for_each (node, &service->contexts) {
		struct context *context = list_entry(node, struct context, node);

		if (strcmp(context->id, id) == 0)
			return context;
	}
	return NULL;
}

static struct context *service_make_context(struct service *service, const char *language, const char *cwd,
                                            struct error *err)
{
	struct context *context = context_new(service->host, language, cwd, err);

	if (context)
		list_append(&service->contexts, &context->node);
	return context;
}

static struct context *service_default_context(struct service *service, struct error *err)
{
	if (!service->default_context)
		service->default_context = service_make_context(service, "python", service->default_cwd, err);
	return service->default_context;
}

/* 0 when `language` is one that we run, NULL meaning Python. */
static int language_check(const char *language, struct error *err)
{
	if (!language || strcmp(language, "python") == 0 || strcmp(language, "python3") == 0)
		return 0;
	return error_set(err, ENOTSUP,
	                 "Language %.64s is not supported: this sandbox has a kernel for python only",
	                 language);
}

static void wait_free(struct kernel_wait *wait)
{
	json_decref(wait->body);
	free(wait);
}

static void wait_done(struct context_waiter *waiter, const char *reason)
{
	struct kernel_wait *wait = list_entry(waiter, struct kernel_wait, waiter);

	if (reason)
		reply_text(wait->exchange, 500, "The kernel could not be started: %s", reason);
	else if (wait->body)
		http_reply_json(wait->exchange, 200, json_incref(wait->body));
	else
		reply_json_text(wait->exchange, 200, "null");
	wait_free(wait);
}

static void wait_on_close(struct http_exchange *exchange, void *data)
{
	struct kernel_wait *wait = data;

	(void)exchange;
	list_remove(&wait->waiter.node);
	wait_free(wait);
}

/* Answer `body` (taken; NULL = null) when the context's kernel is ready. */
static void reply_when_ready(struct http_exchange *exchange, struct context *context, json_t *body)
{
	struct kernel_wait *wait = calloc(1, sizeof(*wait));

	if (!wait) {
		json_decref(body);
		reply_text(exchange, 500, "out of memory");
		return;
	}
	wait->waiter.done = wait_done;
	wait->exchange = exchange;
	wait->body = body;
	list_init(&wait->waiter.node);
	http_exchange_on_close(exchange, wait_on_close, wait);
	context_wait(context, &wait->waiter);
}

static void handle_health(struct service *service, struct http_exchange *exchange)
{
	if (service->default_context && context_is_ready(service->default_context))
		reply_json_text(exchange, 200, "\"OK\"");
	else
		reply_text(exchange, 503, "The default kernel is starting");
}

static void handle_list(struct service *service, struct http_exchange *exchange)
{
	json_t *list = json_array();

	list_for_each (node, &service->contexts)
		json_array_append_new(list, context_describe(list_entry(node, struct context, node)));
	http_reply_json(exchange, 200, list);
}

static void on_create_body(struct http_exchange *exchange, const char *data, size_t size, void *context)
{
	struct service *service = context;
	cleanup_json json_t *body = NULL;
	const char *language = NULL, *cwd = service->default_cwd;
	struct context *made;
	struct error err;

	if ((size > 0 && json_parse_object(data, size, &body, &err) < 0) ||
	    (body && (json_read_string(body, "language", JSON_OPTIONAL, &language, &err) < 0 ||
	              json_read_string(body, "cwd", JSON_OPTIONAL, &cwd, &err) < 0))) {
		reply_text(exchange, 400, "%s", err.message);
		return;
	}
	if (language_check(language, &err) < 0 ||
	    !(made = service_make_context(service, "python", cwd, &err))) {
		reply_text(exchange, 500, "%s", err.message);
		return;
	}
	reply_when_ready(exchange, made, context_describe(made));
}

/* What POST /execute asks for. The values borrow from the body. */
struct execute_request {
	json_t *code;
	const char *context_id;
	const char *language;
	json_t *envs;
	bool rehearsal;
};

static int execute_request_read(struct execute_request *request, const json_t *body, struct error *err)
{
	const char *code = NULL;
	int rc = json_read_string(body, "code", JSON_REQUIRED, &code, err);

	if (rc == 0)
		rc = json_read_string(body, "context_id", JSON_OPTIONAL, &request->context_id, err);
	if (rc == 0)
		rc = json_read_string(body, "language", JSON_OPTIONAL, &request->language, err);
	if (rc == 0)
		rc = json_read_string_map(body, "env_vars", JSON_OPTIONAL, &request->envs, err);
	if (rc == 0)
		rc = json_read_bool(body, "rehearsal", JSON_OPTIONAL, &request->rehearsal, err);
	if (rc == 0 && request->context_id && request->language)
		rc = error_set(err, EINVAL, "Only one of context_id or language can be provided");
	request->code = json_object_get(body, "code");
	return rc;
}

static void on_execute_body(struct http_exchange *exchange, const char *data, size_t size, void *context)
{
	struct service *service = context;
	cleanup_json json_t *body = NULL;
	struct execute_request request = { 0 };
	struct execution *execution;
	struct context *target;
	struct error err;

	if (json_parse_object(data, size, &body, &err) < 0 ||
	    execute_request_read(&request, body, &err) < 0) {
		reply_text(exchange, 400, "%s", err.message);
		return;
	}
	if (request.context_id) {
		target = service_find(service, request.context_id);
		if (!target) {
			reply_text(exchange, 404, "Context %.64s not found", request.context_id);
			return;
		}
	} else if (language_check(request.language, &err) < 0 ||
	           !(target = service_default_context(service, &err))) {
		reply_text(exchange, 500, "%s", err.message);
		return;
	}
	execution = execution_new(exchange, request.code, request.envs,
	                          http_request_header(exchange, "X-Access-Token"));
	if (execution) {
		execution->rehearsal = request.rehearsal;
		context_execute(target, execution);
	} else {
		reply_text(exchange, 500, "out of memory");
	}
}

static void handle_remove(struct service *service, struct http_exchange *exchange, struct context *context)
{
	if (service->default_context == context)
		service->default_context = NULL;
	context_free(context);
	reply_json_text(exchange, 200, "null");
}

/* /contexts/{id} and /contexts/{id}/restart */
static void handle_context(struct service *service, struct http_exchange *exchange, const char *rest)
{
	const char *method = http_request_method(exchange);
	size_t id_size = strcspn(rest, "/");
	bool restart = strcmp(rest + id_size, "/restart") == 0;
	bool remove = rest[id_size] == '\0';
	struct context *context;
	char id[64];

	if (!restart && !remove) {
		reply_text(exchange, 404, "Not Found");
		return;
	}
	if (strcmp(method, restart ? "POST" : "DELETE") != 0) {
		reply_text(exchange, 405, "Method Not Allowed");
		return;
	}
	snprintf(id, sizeof(id), "%.*s", (int)(id_size < sizeof(id) ? id_size : sizeof(id) - 1), rest);
	context = service_find(service, id);
	if (!context) {
		reply_text(exchange, 404, "Context %s not found", id);
	} else if (restart) {
		context_restart(context);
		reply_when_ready(exchange, context, NULL);
	} else {
		handle_remove(service, exchange, context);
	}
}

static void service_on_request(struct http_exchange *exchange, void *data)
{
	struct service *service = data;
	const char *method = http_request_method(exchange);
	const char *path = http_request_path(exchange);
	bool get = strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;
	bool post = strcmp(method, "POST") == 0;

	if (strcmp(path, "/health") == 0 && get)
		handle_health(service, exchange);
	else if (strcmp(path, "/execute") == 0 && post)
		http_request_collect(exchange, SERVICE_BODY_MAX, on_execute_body, service);
	else if (strcmp(path, "/contexts") == 0 && post)
		http_request_collect(exchange, SERVICE_BODY_MAX, on_create_body, service);
	else if (strcmp(path, "/contexts") == 0 && get)
		handle_list(service, exchange);
	else if (strncmp(path, "/contexts/", 10) == 0)
		handle_context(service, exchange, path + 10);
	else if (strcmp(path, "/health") == 0 || strcmp(path, "/execute") == 0 ||
	         strcmp(path, "/contexts") == 0)
		reply_text(exchange, 405, "Method Not Allowed");
	else
		reply_text(exchange, 404, "Not Found");
}

struct service *service_new(uv_loop_t *loop, struct context_host *host, const struct service_options *options,
                            struct error *err)
{
	struct service *service = calloc(1, sizeof(*service));
	struct http_server_options http = {
		.on_request = service_on_request,
		.context = service,
		.render_error = render_error,
	};

	if (!service || !(service->default_cwd = strdup(options->default_cwd))) {
		free(service);
		error_set(err, ENOMEM, "make service: out of memory");
		return NULL;
	}
	service->loop = loop;
	service->host = host;
	list_init(&service->contexts);
	service->server = http_server_new(loop, &http);
	if (!service->server)
		error_set(err, ENOMEM, "make HTTP server: out of memory");
	else if (http_server_listen_tcp(service->server, options->ip, options->port, err) == 0 &&
	         service_default_context(service, err))
		return service;
	service_free(service);
	return NULL;
}

void service_free(struct service *service)
{
	if (!service)
		return;
	list_for_each_safe (node, &service->contexts)
		context_free(list_entry(node, struct context, node));
	if (service->server)
		http_server_free(service->server);
	free(service->default_cwd);
	free(service);
}
