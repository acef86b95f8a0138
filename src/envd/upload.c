/* POST /files: files from a client, as a form or as plain bytes, in constant memory. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "envd/encoding.h"
#include "envd/gzip.h"
#include "envd/metadata.h"
#include "envd/multipart.h"
#include "envd/path.h"
#include "envd/signature.h"

struct upload {
	struct envd *envd;
	struct user user;
	char *target;               /* the path query, or NULL: names come with the parts */
	struct gzip_reader *packed; /* NULL: the body is plain */
	struct multipart *form;     /* NULL: the body is one file */
	int fd;                     /* the file being written, or -1 */
	json_t *metadata;           /* of every file of the request */
	json_t *written;            /* the answer so far */
	struct error err;
	int status; /* of the answer, once something failed */
};

static void upload_free(struct upload *upload)
{
	if (upload->fd >= 0)
		close(upload->fd);
	gzip_reader_free(upload->packed);
	multipart_free(upload->form);
	json_decref(upload->metadata);
	json_decref(upload->written);
	free(upload->target);
	free(upload);
}

static int fail(struct upload *upload, int status, int code, const char *message, const char *detail)
{
	upload->status = status;
	return error_set(&upload->err, code, message, detail);
}

/* The HTTP status that tells of an error of the file system. */
static int status_of(int code)
{
	return code == ENOSPC || code == EDQUOT ? 507 : code == ENOTDIR ? 400 : code == EACCES ? 403 : 500;
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
		upload->status = status_of(upload->err.code);
		return -upload->err.code;
	}
	upload->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NONBLOCK, 0666);
	if (upload->fd < 0)
		return fail(upload, status_of(errno), errno, "error opening file: %s", strerror(errno));
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
		return fail(upload, 507, -ret, "not enough disk space available%s", "");
	return ret < 0 ? fail(upload, 500, -ret, "error writing file: %s", strerror(-ret)) : 0;
}

/* The metadata that the file now has goes into the answer. */
static void show_metadata(const struct upload *upload)
{
	json_t *entry = json_array_get(upload->written, json_array_size(upload->written) - 1);
	json_t *metadata = metadata_read(json_string_value(json_object_get(entry, "path")));

	if (metadata)
		(void)json_object_set_new(entry, "metadata", metadata);
}

static int end_file(struct upload *upload)
{
	int ret;

	if (upload->fd < 0)
		return 0;
	ret = metadata_write(upload->fd, upload->metadata, &upload->err);
	if (ret < 0)
		upload->status = status_of(-ret);
	if (close(upload->fd) < 0 && ret == 0)
		ret = fail(upload, status_of(errno), errno, "error writing file: %s", strerror(errno));
	upload->fd = -1;
	if (ret == 0)
		show_metadata(upload);
	return ret;
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

/* The body, unpacked. */
static int take_plain(const char *data, size_t size, void *context)
{
	struct upload *upload = context;

	return upload->form ? multipart_feed(upload->form, data, size) : write_file(upload, data, size);
}

static int take_packed(struct upload *upload, const char *data, size_t size)
{
	int ret = gzip_reader_feed(upload->packed, data, size);

	if (ret == -EINVAL && !upload->err.code)
		ret = fail(upload, 400, EINVAL, "error decompressing request body%s", "");
	return ret;
}

static void on_data(struct http_exchange *exchange, const char *data, size_t size, void *context)
{
	struct upload *upload = context;
	int ret = upload->packed ? take_packed(upload, data, size) : take_plain(data, size, upload);

	if (ret < 0)
		answer_failure(exchange, upload);
}

/* Nothing is missing at the end of the body. */
static int check_whole(struct upload *upload)
{
	if (upload->packed && !gzip_reader_complete(upload->packed))
		return fail(upload, 400, EINVAL, "error decompressing request body: it is cut short%s", "");
	if (upload->form && !multipart_complete(upload->form))
		return fail(upload, 400, EINVAL, "the form is cut short%s", "");
	return end_file(upload);
}

static void on_end(struct http_exchange *exchange, void *context)
{
	struct upload *upload = context;
	json_t *written;

	if (check_whole(upload) < 0) {
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
	enum encoding coding = encoding_of_content(http_request_header(exchange, "Content-Encoding"));
	const char *name = http_request_query(exchange, "username");
	const char *path = http_request_query(exchange, "path");

	if (user_lookup(name && name[0] ? name : upload->envd->default_user, &upload->user, &upload->err) <
	    0) {
		struct error inner = upload->err;

		return fail(upload, 401, ENOENT, "error looking up user: %s", inner.message);
	}
	if (coding == ENCODING_NONE)
		return fail(upload, 400, ENOTSUP, "unsupported Content-Encoding: %s, supported: [gzip]",
		            http_request_header(exchange, "Content-Encoding"));
	if (coding == ENCODING_GZIP && !(upload->packed = gzip_reader_new(take_plain, upload)))
		return fail(upload, 500, ENOMEM, "out of memory%s", "");
	upload->metadata = metadata_of_request(exchange, &upload->err);
	if (!upload->metadata) {
		upload->status = 400;
		return -EINVAL;
	}
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
