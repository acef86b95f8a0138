/* POST /files: files from a client, as a form or as plain bytes, in constant memory. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "envd/multipart.h"
#include "envd/path.h"
#include "envd/signature.h"

struct upload {
	struct envd *envd;
	struct user user;
	char *target; /* the path query, or NULL: names come with the parts */
	struct multipart *form;
	int fd;          /* the file being written, or -1 */
	json_t *written; /* the answer so far */
	struct error err;
	int status; /* of the answer, once something failed */
};

static void upload_free(struct upload *upload)
{
	if (upload->fd >= 0)
		close(upload->fd);
	multipart_free(upload->form);
	json_decref(upload->written);
	free(upload->target);
	free(upload);
}

static int fail(struct upload *upload, int status, int code, const char *message, const char *detail)
{
	upload->status = status;
	return error_set(&upload->err, code, message, detail);
}

/* --- one file --- */

static bool written_before(const struct upload *upload, const char *path)
{
	size_t index;
	json_t *entry;

	json_array_foreach (upload->written, index, entry)
		if (strcmp(json_string_value(json_object_get(entry, "path")), path) == 0)
			return true;
	return false;
}

static int open_target(struct upload *upload, const char *path)
{
	struct stat st;

	if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
		return fail(upload, 400, EISDIR, "path is a directory: %s", path);
	if (path_make_parents(path, &upload->user, &upload->err) < 0) {
		upload->status = upload->err.code == ENOTDIR ? 400 : 500;
		return -upload->err.code;
	}
	upload->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NONBLOCK, 0666);
	if (upload->fd < 0)
		return fail(upload,
		            errno == ENOSPC   ? 507
		            : errno == EACCES ? 403
		                              : 500,
		            errno,
		            errno == ENOSPC ? "not enough disk space available" : "error opening file: %s",
		            strerror(errno));
	if (geteuid() == 0 && fchown(upload->fd, upload->user.uid, upload->user.gid) < 0)
		return fail(upload, 500, errno, "error changing the owner: %s", strerror(errno));
	return 0;
}

static int begin_file(struct upload *upload, const char *name)
{
	char path[4096];
	int ret;

	if (path_resolve(upload->envd, &upload->user, name, path, &upload->err) < 0) {
		upload->status = 400;
		return -EINVAL;
	}
	if (written_before(upload, path))
		return fail(upload, 400, EEXIST,
		            "you cannot upload multiple files to the same path '%s' in one upload request",
		            path);
	ret = open_target(upload, path);
	if (ret == 0 &&
	    json_array_append_new(upload->written, json_pack("{s:s,s:s,s:s}", "path", path, "name",
	                                                     strrchr(path, '/') + 1, "type", "file")) < 0)
		ret = fail(upload, 400, EILSEQ, "the path '%s' is not UTF-8", path);
	return ret;
}

static int write_file(struct upload *upload, const char *data, size_t size)
{
	int ret = upload->fd >= 0 ? fd_write_all(upload->fd, data, size) : 0;

	if (ret == -ENOSPC || ret == -EDQUOT)
		return fail(upload, 507, ENOSPC, "not enough disk space available%s", "");
	return ret < 0 ? fail(upload, 500, -ret, "error writing file: %s", strerror(-ret)) : 0;
}

static int end_file(struct upload *upload)
{
	int ret = upload->fd >= 0 && close(upload->fd) < 0 ? -errno : 0;

	upload->fd = -1;
	return ret < 0 ? fail(upload, 500, -ret, "error writing file: %s", strerror(-ret)) : 0;
}

/* --- forms --- */

static int on_part(const char *name, const char *filename, void *context)
{
	struct upload *upload = context;

	/* Other fields are no files: their content is passed over. */
	if (strcmp(name, "file") != 0)
		return 0;
	return begin_file(upload, upload->target ? upload->target : filename);
}

static int on_part_data(const char *data, size_t size, void *context)
{
	return write_file(context, data, size);
}

static int on_part_end(void *context)
{
	return end_file(context);
}

static const struct multipart_events form_events = {
	.on_part = on_part,
	.on_data = on_part_data,
	.on_part_end = on_part_end,
};

/* --- the request --- */

static void on_close(struct http_exchange *exchange, void *context)
{
	(void)exchange;
	upload_free(context);
}

static void answer_failure(struct http_exchange *exchange, struct upload *upload)
{
	struct error err = upload->err;
	int status = upload->status ? upload->status : 400;

	http_exchange_on_close(exchange, NULL, NULL);
	upload_free(upload);
	http_reply_error(exchange, status, "%s", err.code ? err.message : "the form is malformed");
}

static void on_data(struct http_exchange *exchange, const char *data, size_t size, void *context)
{
	struct upload *upload = context;
	int ret = upload->form ? multipart_feed(upload->form, data, size) : write_file(upload, data, size);

	if (ret < 0)
		answer_failure(exchange, upload);
}

static void on_end(struct http_exchange *exchange, void *context)
{
	struct upload *upload = context;
	json_t *written;

	if ((upload->form && !multipart_complete(upload->form)) || end_file(upload) < 0) {
		answer_failure(exchange, upload);
		return;
	}
	written = json_incref(upload->written);
	http_exchange_on_close(exchange, NULL, NULL);
	upload_free(upload);
	http_reply_json(exchange, 200, written);
}

static const struct http_body_events body_events = { .on_data = on_data, .on_end = on_end };

static int prepare(struct upload *upload, struct http_exchange *exchange)
{
	const char *type = http_request_header(exchange, "Content-Type");
	const char *coding = http_request_header(exchange, "Content-Encoding");
	const char *name = http_request_query(exchange, "username");
	const char *path = http_request_query(exchange, "path");

	if (user_lookup(name && name[0] ? name : upload->envd->default_user, &upload->user, &upload->err) <
	    0) {
		struct error inner = upload->err;

		return fail(upload, 401, ENOENT, "error looking up user: %s", inner.message);
	}
	if (coding && strcasecmp(coding, "identity") != 0)
		return fail(upload, 400, ENOTSUP, "unsupported content encoding '%s'", coding);
	upload->target = path && path[0] ? strdup(path) : NULL;
	if (type && strncasecmp(type, "application/octet-stream", 24) == 0)
		return upload->target
		               ? begin_file(upload, upload->target)
		               : fail(upload, 400, EINVAL, "the query parameter path is missing%s", "");
	upload->form = multipart_new(type ? type : "", &form_events, upload, &upload->err);
	if (!upload->form)
		upload->status = 400;
	return upload->form ? 0 : -EINVAL;
}

void files_post(struct envd *envd, struct http_exchange *exchange)
{
	struct upload *upload;

	if (!signature_allows(envd, exchange, "write"))
		return;
	upload = calloc(1, sizeof(*upload));
	if (!upload) {
		http_reply_error(exchange, 500, "out of memory");
		return;
	}
	upload->envd = envd;
	upload->fd = -1;
	upload->written = json_array();
	if (prepare(upload, exchange) < 0) {
		answer_failure(exchange, upload);
		return;
	}
	http_exchange_on_close(exchange, on_close, upload);
	http_request_stream(exchange, &body_events, upload);
}
