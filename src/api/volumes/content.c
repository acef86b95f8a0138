/* Requests of the content API: who asks, for what, and all but the content of files. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/store/volumes.h"
#include "api/telemetry.h"
#include "api/volumes/live.h"

#define PREFIX     "/volumecontent/"
#define BODY_LIMIT (64 * 1024)
#define MODE_MAX   07777

/* --- errors --- */

void content_fail(struct http_exchange *exchange, int status, const char *format, ...)
{
	char message[ERROR_MESSAGE_SIZE];
	char code[16];
	va_list arguments;

	va_start(arguments, format);
	(void)vsnprintf(message, sizeof(message), format, arguments);
	va_end(arguments);
	(void)snprintf(code, sizeof(code), "%d", status);
	http_reply_json(exchange, status, json_pack("{s:s,s:s}", "code", code, "message", message));
}

static int status_of(int code)
{
	switch (code) {
	case ENOENT:
		return 404;
	case EEXIST:
	case EISDIR:
	case ENOTDIR:
	case ENOTEMPTY:
		return 409;
	case EINVAL:
	case ENAMETOOLONG:
		return 400;
	case EDQUOT:
	case ENOSPC:
		return 507;
	default:
		return 500;
	}
}

void content_fail_job(struct http_exchange *exchange, const struct job *job)
{
	int status = status_of(job->err.code);

	if (status == 500)
		log_error("volume %s: %s", job->volume->id, job->err.message);
	if (job->err.code == EDQUOT)
		content_fail(exchange, status, "The volume is full: it may use %llu MiB",
		             (unsigned long long)(job->volume->volumes->size_max >> 20));
	else
		content_fail(exchange, status, "%s", job->err.message);
}

/* --- jobs that answer with JSON, or nothing --- */

struct content_job {
	struct job job;
	struct http_exchange *exchange; /* NULL: the client is gone */
	struct content_request request;
	struct buffer json;
	int status; /* when it went well */
};

static void on_gone(struct http_exchange *exchange, void *context)
{
	struct content_job *content = context;

	(void)exchange;
	content->exchange = NULL;
}

static void on_done(struct job *job)
{
	struct content_job *content = (struct content_job *)(void *)job;
	struct http_exchange *exchange = content->exchange;

	if (exchange)
		http_exchange_on_close(exchange, NULL, NULL);
	if (exchange && job->err.code)
		content_fail_job(exchange, job);
	else if (exchange && content->status == 204)
		http_reply_empty(exchange, 204);
	else if (exchange)
		http_reply(exchange, content->status, "application/json", content->json.data,
		           content->json.size);
	buffer_fini(&content->json);
	free(content);
}

static void run_stat(struct job *job)
{
	struct content_job *content = (struct content_job *)(void *)job;

	(void)tree_stat(job->volume->root, content->request.path, &content->json, &job->err);
}

static void run_list(struct job *job)
{
	struct content_job *content = (struct content_job *)(void *)job;

	(void)tree_list(job->volume->root, content->request.path, content->request.depth, &content->json,
	                &job->err);
}

static void run_set_owner(struct job *job)
{
	struct content_job *content = (struct content_job *)(void *)job;

	(void)tree_set_owner(job->volume->root, content->request.path, &content->request.owner,
	                     &content->json, &job->err);
}

static void run_make_directory(struct job *job)
{
	struct content_job *content = (struct content_job *)(void *)job;
	const struct content_request *request = &content->request;

	(void)tree_make_directory(job->volume->root, request->path, &request->owner, request->force,
	                          job->room, &job->cost, &content->json, &job->err);
}

static void run_remove(struct job *job)
{
	struct content_job *content = (struct content_job *)(void *)job;

	(void)tree_remove(job->volume->root, content->request.path, &job->freed, &job->err);
}

typedef void content_begin_fn(struct volume *volume, struct job *job);

static void begin(struct volume *volume, struct http_exchange *exchange,
                  const struct content_request *request, void (*run)(struct job *job), int status,
                  content_begin_fn *how)
{
	struct content_job *content = calloc(1, sizeof(*content));

	if (!content) {
		content_fail(exchange, 500, "out of memory");
		return;
	}
	content->exchange = exchange;
	content->request = *request;
	content->status = status;
	content->job.run = run;
	content->job.done = on_done;
	buffer_init(&content->json, TREE_LIST_MAX);
	http_exchange_on_close(exchange, on_gone, content);
	how(volume, &content->job);
}

/* --- reading a request --- */

static int read_number(struct http_exchange *exchange, const char *name, uint32_t maximum, bool *ret_has,
                       uint32_t *ret, struct error *err)
{
	const char *text = http_request_query(exchange, name);
	unsigned long long value;

	if (!text)
		return 0;
	value = strlen(text) <= 10 ? strtoull(text, NULL, 10) : UINT64_MAX;
	if (!*text || strspn(text, "0123456789") != strlen(text) || value > maximum)
		return error_set(err, EINVAL, "%s must be a number from 0 to %u", name, maximum);
	*ret_has = true;
	*ret = (uint32_t)value;
	return 0;
}

static int read_bool(struct http_exchange *exchange, const char *name, bool *ret, struct error *err)
{
	const char *text = http_request_query(exchange, name);

	if (!text)
		return 0;
	*ret = strcasecmp(text, "true") == 0;
	return *ret || strcasecmp(text, "false") == 0
	               ? 0
	               : error_set(err, EINVAL, "%s must be true or false", name);
}

static int read_query(struct http_exchange *exchange, struct content_request *request, struct error *err)
{
	const char *path = http_request_query(exchange, "path");
	struct tree_owner *owner = &request->owner;
	uint32_t depth = 1;
	bool has_depth = false;
	int ret = path ? tree_normalize(path, request->path, err)
	               : error_set(err, EINVAL, "the query must have a path");

	if (ret == 0)
		ret = read_number(exchange, "uid", UINT32_MAX, &owner->has_uid, &owner->uid, err);
	if (ret == 0)
		ret = read_number(exchange, "gid", UINT32_MAX, &owner->has_gid, &owner->gid, err);
	if (ret == 0)
		ret = read_number(exchange, "mode", MODE_MAX, &owner->has_mode, &owner->mode, err);
	if (ret == 0)
		ret = read_bool(exchange, "force", &request->force, err);
	if (ret == 0)
		ret = read_number(exchange, "depth", UINT32_MAX, &has_depth, &depth, err);
	if (depth < 1)
		depth = 1;
	request->depth = depth < TREE_DEPTH_MAX ? depth : TREE_DEPTH_MAX;
	return ret;
}

static int read_field(const json_t *body, const char *name, uint32_t maximum, bool *ret_has, uint32_t *ret,
                      struct error *err)
{
	int64_t value = -1;
	int status = json_read_integer(body, name, JSON_OPTIONAL, 0, maximum, &value, err);

	*ret_has = status == 0 && value >= 0;
	*ret = *ret_has ? (uint32_t)value : 0;
	return status;
}

/* --- PATCH: its body first --- */

struct patch {
	struct volume *volume;
	struct content_request request;
};

static void on_patch_gone(struct http_exchange *exchange, void *context)
{
	struct patch *patch = context;

	(void)exchange;
	volume_put(patch->volume);
	free(patch);
}

static void on_patch(struct http_exchange *exchange, const char *data, size_t size, void *context)
{
	struct patch *patch = context;
	struct tree_owner *owner = &patch->request.owner;
	cleanup_json json_t *body = NULL;
	struct error err = { 0 };
	int ret = json_parse_object(data, size, &body, &err);

	http_exchange_on_close(exchange, NULL, NULL);
	if (ret == 0)
		ret = read_field(body, "uid", UINT32_MAX, &owner->has_uid, &owner->uid, &err);
	if (ret == 0)
		ret = read_field(body, "gid", UINT32_MAX, &owner->has_gid, &owner->gid, &err);
	if (ret == 0)
		ret = read_field(body, "mode", MODE_MAX, &owner->has_mode, &owner->mode, &err);
	if (ret < 0)
		content_fail(exchange, 400, "%s", err.message);
	else
		begin(patch->volume, exchange, &patch->request, run_set_owner, 200, volume_change);
	volume_put(patch->volume);
	free(patch);
}

static void patch_path(struct volume *volume, struct http_exchange *exchange,
                       const struct content_request *request)
{
	struct patch *patch = malloc(sizeof(*patch));

	if (!patch) {
		content_fail(exchange, 500, "out of memory");
		return;
	}
	if (http_request_content_length(exchange) > BODY_LIMIT) {
		free(patch);
		content_fail(exchange, 413, "the request body is larger than %d bytes", BODY_LIMIT);
		return;
	}
	patch->volume = volume;
	patch->request = *request;
	volume->users++;
	http_exchange_on_close(exchange, on_patch_gone, patch);
	http_request_collect(exchange, BODY_LIMIT, on_patch, patch);
}

/* --- dispatch --- */

static void serve(struct volume *volume, struct http_exchange *exchange, const char *what,
                  const struct content_request *request)
{
	const char *method = http_request_method(exchange);
	bool get = strcmp(method, "GET") == 0;

	if (strcmp(what, "/path") == 0 && get)
		begin(volume, exchange, request, run_stat, 200, volume_read);
	else if (strcmp(what, "/path") == 0 && strcmp(method, "PATCH") == 0)
		patch_path(volume, exchange, request);
	else if (strcmp(what, "/path") == 0 && strcmp(method, "DELETE") == 0)
		begin(volume, exchange, request, run_remove, 204, volume_change);
	else if (strcmp(what, "/dir") == 0 && get)
		begin(volume, exchange, request, run_list, 200, volume_read);
	else if (strcmp(what, "/dir") == 0 && strcmp(method, "POST") == 0)
		begin(volume, exchange, request, run_make_directory, 201, volume_change);
	else if (strcmp(what, "/file") == 0 && get)
		transfer_download(volume, exchange, request);
	else if (strcmp(what, "/file") == 0 && strcmp(method, "PUT") == 0)
		transfer_upload(volume, exchange, request);
	else
		content_fail(exchange, 405, "this method is not allowed here");
}

/* The endpoint as figures and logs name it; NULL: there is none. */
static const char *route_of(const char *what)
{
	static const char *const routes[] = { PREFIX "*/path", PREFIX "*/dir", PREFIX "*/file" };

	for (size_t i = 0; i < ARRAY_SIZE(routes); i++)
		if (strcmp(routes[i] + strlen(PREFIX "*"), what) == 0)
			return routes[i];
	return NULL;
}

/* 0, or the status of the refusal with `err`. */
static int authenticate(struct api *api, struct http_exchange *exchange, const char *id, struct error *err)
{
	const char *header = http_request_header(exchange, "Authorization");
	struct volume_record volume;
	int ret;

	if (!header || strncasecmp(header, "Bearer ", 7) != 0) {
		error_set(err, EACCES, "Missing volume token: send it as a bearer token");
		return 401;
	}
	ret = store_find_volume(api->store, id, &volume, err);
	if (ret == -EIO) {
		log_error("%s", err->message);
		error_set(err, EIO, "the volume cannot be looked up");
		return 500;
	}
	if (ret < 0) {
		error_set(err, ENOENT, "Volume %s not found", id);
		return 404;
	}
	if (!secret_equal(header + 7, volume.token)) {
		error_set(err, EACCES, "Invalid volume token");
		return 401;
	}
	telemetry_team(exchange, volume.team_id);
	return 0;
}

bool volumes_serve(struct api *api, struct http_exchange *exchange)
{
	const char *path = http_request_path(exchange);
	struct content_request request = { 0 };
	struct volume *volume;
	const char *route;
	struct error err = { 0 };
	char id[40];
	int status;

	if (strncmp(path, PREFIX, strlen(PREFIX)) != 0)
		return false;
	path += strlen(PREFIX);
	(void)snprintf(id, sizeof(id), "%.*s", (int)strcspn(path, "/"), path);
	path += strcspn(path, "/");
	route = route_of(path);
	if (!route) {
		content_fail(exchange, 404, "no such endpoint");
		return true;
	}
	telemetry_route(exchange, route);
	status = authenticate(api, exchange, id, &err);
	if (!status && read_query(exchange, &request, &err) < 0)
		status = 400;
	if (status) {
		content_fail(exchange, status, "%s", err.message);
		return true;
	}
	volume = volume_get(api->volumes, id, &err);
	if (!volume) {
		log_error("%s", err.message);
		content_fail(exchange, 500, "the volume cannot be opened");
		return true;
	}
	serve(volume, exchange, path, &request);
	volume_put(volume);
	return true;
}
