/* POST /files/compose: several files made one, inside the kernel; the parts are removed then. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "envd/path.h"

#define REQUEST_LIMIT (4 * 1024 * 1024)
#define STEP          (64 * 1024 * 1024) /* bytes copied before others have their turn */
#define SOURCES_MAX   10000

struct compose {
	struct http_exchange *exchange; /* NULL: the client went away */
	uv_idle_t idle;
	struct user user;
	json_t *sources; /* resolved paths */
	size_t next;     /* the source that is copied */
	int from;        /* it, or -1 */
	int to;          /* the file being made, or -1 */
	char destination[4096];
	char temporary[4096 + 32];
	struct error err;
	int status;
};

static void on_idle_closed(uv_handle_t *handle)
{
	free(handle->data);
}

static int fail(struct compose *compose, int status, int code, const char *message, const char *detail)
{
	if (code == ENOSPC || code == EDQUOT) {
		compose->status = 507;
		return error_set(&compose->err, code, "not enough disk space available");
	}
	compose->status = status;
	return error_set(&compose->err, code, message, detail);
}

/* End it: with the new file, or without a trace. */
static void compose_free(struct compose *compose)
{
	if (compose->from >= 0)
		close(compose->from);
	if (compose->to >= 0) {
		close(compose->to);
		(void)unlink(compose->temporary);
	}
	json_decref(compose->sources);
	uv_close((uv_handle_t *)&compose->idle, on_idle_closed);
}

/* --- the request --- */

static int add_source(struct compose *compose, const struct envd *envd, const json_t *value)
{
	const char *text = json_string_value(value);
	char path[4096];
	struct stat st;

	if (!text)
		return fail(compose, 400, EINVAL, "source_paths must be strings%s", "");
	if (path_resolve(envd, &compose->user, text, path, &compose->err) < 0)
		return -EINVAL;
	if (strcmp(path, compose->destination) == 0)
		return fail(compose, 400, EINVAL, "source path '%s' cannot be the same as destination", text);
	if (stat(path, &st) < 0)
		return fail(compose, 404, ENOENT, "source file not found: %s", text);
	if (!S_ISREG(st.st_mode))
		return fail(compose, 400, EINVAL, "source path is not a regular file: %s", text);
	return json_array_append_new(compose->sources, json_string(path));
}

static int read_request(struct compose *compose, const struct envd *envd, const json_t *body)
{
	const char *destination = "";
	const char *name = NULL;
	json_t *sources = NULL;
	struct error *err = &compose->err;
	int ret = json_read_array(body, "source_paths", JSON_OPTIONAL, &sources, err);

	if (ret == 0)
		ret = json_read_string(body, "destination", JSON_OPTIONAL, &destination, err);
	if (ret == 0)
		ret = json_read_string(body, "username", JSON_OPTIONAL, &name, err);
	if (ret == 0 && (json_array_size(sources) == 0 || json_array_size(sources) > SOURCES_MAX))
		ret = error_set(err, EINVAL, "source_paths must not be empty or longer than %d", SOURCES_MAX);
	if (ret == 0 && !destination[0])
		ret = error_set(err, EINVAL, "destination is required");
	if (ret < 0)
		return ret;
	if (user_lookup(name && name[0] ? name : envd->default_user, &compose->user, err) < 0) {
		compose->status = 401;
		return -ENOENT;
	}
	ret = path_resolve(envd, &compose->user, destination, compose->destination, err);
	for (size_t i = 0; ret == 0 && i < json_array_size(sources); i++)
		ret = add_source(compose, envd, json_array_get(sources, i));
	return ret;
}

/* --- the work --- */

/* Beside the destination, so that the rename at the end takes its place at once. */
static int make_temporary(struct compose *compose)
{
	char id[17];

	if (path_make_parents(compose->destination, &compose->user, &compose->err) < 0) {
		compose->status = compose->err.code == ENOSPC ? 507 : 500;
		return -compose->err.code;
	}
	random_id(id, sizeof(id) - 1);
	id[sizeof(id) - 1] = '\0';
	(void)snprintf(compose->temporary, sizeof(compose->temporary), "%s.compose.%s", compose->destination,
	               id);
	compose->to = open(compose->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	if (compose->to < 0)
		return fail(compose, 500, errno, "error creating destination file: %s", strerror(errno));
	if (geteuid() == 0 && fchown(compose->to, compose->user.uid, compose->user.gid) < 0)
		return fail(compose, 500, errno, "error changing file ownership: %s", strerror(errno));
	return 0;
}

/* Without the kernel's help: between file systems that cannot copy by themselves. */
static ssize_t copy_by_hand(int from, int to)
{
	static char piece[65536];
	ssize_t got = read(from, piece, sizeof(piece));
	int ret = got > 0 ? fd_write_all(to, piece, (size_t)got) : 0;

	if (ret < 0)
		errno = -ret;
	return ret < 0 ? -1 : got;
}

/* Copy a part. 1 to go on, 0 when all is copied, negative when it failed. */
static int copy_step(struct compose *compose)
{
	const char *path = json_string_value(json_array_get(compose->sources, compose->next));
	ssize_t got;

	if (!path)
		return 0;
	if (compose->from < 0)
		compose->from = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (compose->from < 0)
		return fail(compose, 500, errno, "error opening source file: %s", strerror(errno));
	got = copy_file_range(compose->from, NULL, compose->to, NULL, STEP, 0);
	/* (It gives 0 for files that have no size, such as those of /proc.) */
	if (got <= 0 &&
	    (got == 0 || errno == EXDEV || errno == EINVAL || errno == EOPNOTSUPP || errno == ENOSYS))
		got = copy_by_hand(compose->from, compose->to);
	if (got < 0)
		return fail(compose, 500, errno, "error composing: %s", strerror(errno));
	if (got == 0) {
		close(compose->from);
		compose->from = -1;
		compose->next++;
	}
	return 1;
}

static int put_in_place(struct compose *compose)
{
	size_t index;
	json_t *source;
	int ret = close(compose->to) < 0 ? errno : 0;

	compose->to = -1;
	if (ret == 0 && rename(compose->temporary, compose->destination) < 0)
		ret = errno;
	if (ret) {
		(void)unlink(compose->temporary);
		return fail(compose, 500, ret, "error finalizing compose: %s", strerror(ret));
	}
	json_array_foreach (compose->sources, index, source)
		(void)unlink(json_string_value(source));
	return 0;
}

static void answer_failure(struct compose *compose)
{
	http_exchange_on_close(compose->exchange, NULL, NULL);
	http_reply_error(compose->exchange, compose->status ? compose->status : 400, "%s",
	                 compose->err.message);
	compose_free(compose);
}

static void on_idle(uv_idle_t *idle)
{
	struct compose *compose = idle->data;
	int ret = copy_step(compose);

	if (ret > 0)
		return;
	if (ret == 0)
		ret = put_in_place(compose);
	if (ret < 0) {
		answer_failure(compose);
		return;
	}
	http_exchange_on_close(compose->exchange, NULL, NULL);
	http_reply_json(compose->exchange, 200,
	                json_pack("{s:s,s:s,s:s}", "path", compose->destination, "name",
	                          strrchr(compose->destination, '/') + 1, "type", "file"));
	compose_free(compose);
}

static void on_close(struct http_exchange *exchange, void *context)
{
	(void)exchange;
	compose_free(context);
}

static void on_body(struct http_exchange *exchange, const char *data, size_t size, void *context)
{
	struct envd *envd = context;
	cleanup_json json_t *body = NULL;
	struct compose *compose = calloc(1, sizeof(*compose));

	if (!compose) {
		http_reply_error(exchange, 500, "out of memory");
		return;
	}
	compose->exchange = exchange;
	compose->from = -1;
	compose->to = -1;
	compose->sources = json_array();
	compose->idle.data = compose;
	(void)uv_idle_init(envd->loop, &compose->idle);
	if (json_parse_object(data, size, &body, &compose->err) < 0 ||
	    read_request(compose, envd, body) < 0 || make_temporary(compose) < 0) {
		answer_failure(compose);
		return;
	}
	http_exchange_on_close(exchange, on_close, compose);
	(void)uv_idle_start(&compose->idle, on_idle);
}

void files_compose(struct envd *envd, struct http_exchange *exchange)
{
	http_request_collect(exchange, REQUEST_LIMIT, on_body, envd);
}
