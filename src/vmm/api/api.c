#include "vmm/api/api.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "net/net.h"
#include "vmm/api/observer.h"
#include "vmm/api/resources.h"
#include "vmm/seccomp/seccomp.h"

#define BODY_LIMIT        51200      /* bytes: Firecracker's default */
#define METADATA_FILE_MAX (64 << 20) /* bytes */
#define FATAL_LATENCY     50         /* ms for the last reply to leave */

/* Firecracker's error body. */
static void reply_fault(struct http_exchange *exchange, int status, const char *message)
{
	http_reply_json(exchange, status, json_pack("{s:s%}", "fault_message", message, strlen(message)));
}

static void on_fatal(uv_timer_t *timer)
{
	struct api *api = timer->data;

	api->options->ended(api->options->context, EXIT_FAILURE);
}

static void on_body(struct http_exchange *exchange, const char *data, size_t size, void *context)
{
	struct api *api = context;
	cleanup_json json_t *body = NULL;
	json_t *reply = NULL;
	struct error err = { 0 };
	int ret = 0;

	if (size)
		ret = json_parse_object(data, size, &body, &err);
	if (ret == 0)
		ret = resources_handle(api, http_request_method(exchange), http_request_path(exchange), body,
		                       &reply, &err);
	if (ret < 0)
		reply_fault(exchange, ret == -EMSGSIZE ? 413 : 400, err.message);
	else if (reply)
		http_reply_json(exchange, 200, reply);
	else
		http_reply_empty(exchange, 204);
	if (api->fatal && !uv_is_active((uv_handle_t *)&api->fatal_timer)) {
		log_error("%s", err.message);
		(void)uv_timer_start(&api->fatal_timer, on_fatal, FATAL_LATENCY, 0);
	}
}

/* Not Firecracker's: what Prometheus reads. */
static void reply_metrics(struct http_exchange *exchange, struct api *api)
{
	cleanup_free char *text = observer_prometheus(api->observer);

	if (!text) {
		reply_fault(exchange, 500, "out of memory");
		return;
	}
	http_reply_header(exchange, "Content-Type", "text/plain; version=0.0.4");
	http_reply_begin(exchange, 200, (int64_t)strlen(text));
	http_reply_write(exchange, text, strlen(text));
	http_reply_end(exchange);
}

static void on_request(struct http_exchange *exchange, void *context)
{
	struct api *api = context;

	if (strcmp(http_request_method(exchange), "GET") == 0 &&
	    strcmp(http_request_path(exchange), "/metrics") == 0)
		reply_metrics(exchange, api);
	else
		http_request_collect(exchange,
		                     api->options->body_limit ? api->options->body_limit : BODY_LIMIT,
		                     on_body, api);
}

/* What HTTP itself refuses has another key than what the API refuses. */
static char *render_error(int status, const char *message)
{
	json_t *object = json_pack("{s:s}", "error", message);
	char *text = json_dumps(object, JSON_COMPACT);

	(void)status;
	json_decref(object);
	return text;
}

/* --- the machine's life --- */

static void on_machine_end(uv_poll_t *poll, int status, int events)
{
	struct api *api = poll->data;
	struct error err = { 0 };
	bool failed = machine_failure(api->machine, &err) < 0;

	(void)status;
	(void)events;
	(void)uv_poll_stop(poll);
	if (failed)
		log_error("%s", err.message);
	api->options->ended(api->options->context, failed ? EXIT_FAILURE : EXIT_SUCCESS);
}

int api_make_machine(struct api *api, unsigned vcpus, struct error *err)
{
	if (api->machine)
		return 0;
	api->machine = machine_new(vcpus, api->options->seccomp, err);
	if (!api->machine)
		return -EIO;
	machine_trace(api->machine, api->options->trace);
	if (uv_poll_init(api->loop, &api->end_poll, machine_end_fd(api->machine)) < 0 ||
	    uv_poll_start(&api->end_poll, UV_READABLE, on_machine_end) < 0)
		return error_set(err, EIO, "watch the machine");
	return 0;
}

int api_boot(struct api *api, json_t *config, struct error *err)
{
	struct machine_config parsed;
	int ret;

	json_decref(api->config);
	api->config = config;
	ret = config_read(config, &parsed, err);
	parsed.boot_timer = api->options->boot_timer;
	parsed.mmds = api->mmds;
	if (ret == 0)
		ret = mmds_configure(api->mmds, &parsed.metadata, err);
	if (ret == 0 && !parsed.kernel_image_path)
		ret = error_set(err, EINVAL, "the boot source must be set before the machine can start");
	if (ret == 0)
		ret = api_make_machine(api, 0, err);
	return ret < 0 ? ret : machine_boot(api->machine, &parsed, err);
}

int api_observe(struct api *api, const json_t *config, struct error *err)
{
	return observer_configure(api->observer, config, err);
}

int api_boot_file(struct api *api, json_t *config, struct error *err)
{
	int ret = observer_configure(api->observer, config, err);

	if (ret < 0) {
		json_decref(config);
		return ret;
	}
	return api_boot(api, config, err);
}

static int listen_api(struct api *api, struct error *err)
{
	struct http_server_options options = {
		.on_request = on_request, .context = api, .max_connections = 10, .render_error = render_error
	};

	if (!api->options->socket_path)
		return 0;
	if (access(api->options->socket_path, F_OK) == 0)
		return error_set(err, EADDRINUSE, "the API socket %s exists already",
		                 api->options->socket_path);
	api->server = http_server_new(api->loop, &options);
	return api->server ? http_server_listen_unix(api->server, api->options->socket_path, 0660, err)
	                   : error_errno(err, ENOMEM, "make the machine API");
}

static int read_metadata(struct api *api, struct error *err)
{
	cleanup_buffer struct buffer text = { .limit = METADATA_FILE_MAX };
	int ret;

	if (!api->options->metadata_path)
		return 0;
	ret = file_read(api->options->metadata_path, &text, err);
	if (ret == 0)
		ret = mmds_put(api->mmds, text.data ? text.data : "", text.size, err);
	return ret < 0 ? error_wrap(err, "metadata %s", api->options->metadata_path) : 0;
}

struct api *api_new(uv_loop_t *loop, const struct api_options *options, struct error *err)
{
	struct api *api = calloc(1, sizeof(*api));

	if (!api) {
		error_errno(err, ENOMEM, "make the machine API");
		return NULL;
	}
	api->loop = loop;
	api->options = options;
	api->config = json_object();
	api->end_poll.data = api;
	(void)uv_timer_init(loop, &api->fatal_timer);
	api->fatal_timer.data = api;
	api->observer = observer_new(api, err);
	api->mmds = mmds_new(options->metadata_limit, NULL, err);
	if (!api->observer || !api->mmds || read_metadata(api, err) < 0 ||
	    (options->shell_vcpus && api_make_machine(api, options->shell_vcpus, err) < 0) ||
	    listen_api(api, err) < 0 || (options->seccomp && seccomp_install(SECCOMP_API, err) < 0)) {
		api_free(api);
		return NULL;
	}
	return api;
}

void api_free(struct api *api)
{
	if (!api)
		return;
	if (api->machine)
		(void)uv_poll_stop(&api->end_poll);
	/* While there still is something to count. */
	observer_free(api->observer);
	machine_free(api->machine);
	mmds_free(api->mmds);
	json_decref(api->config);
	if (api->server) {
		http_server_free(api->server);
		(void)unlink(api->options->socket_path);
	}
	free(api);
}
