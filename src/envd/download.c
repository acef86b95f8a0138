/* GET /files: a file to a client, in constant memory. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "envd/condition.h"
#include "envd/encoding.h"
#include "envd/gzip.h"
#include "envd/path.h"
#include "envd/signature.h"

#define CHUNK (128 * 1024) /* bytes read at once */
#define TURN  (16 * CHUNK) /* bytes read before others have their turn */

/* What one transfer needs. */
struct download {
	struct http_exchange *exchange;
	uv_idle_t idle; /* goes on in the next turn of the loop */
	int fd;
	uint64_t left;
	struct gzip_writer *packer; /* NULL: sent as it is; otherwise until the end of the file */
};

static void on_idle_closed(uv_handle_t *handle)
{
	free(handle->data);
}

static void download_free(struct download *download)
{
	close(download->fd);
	gzip_writer_free(download->packer);
	uv_close((uv_handle_t *)&download->idle, on_idle_closed);
}

static struct download *download_new(struct http_exchange *exchange, int fd, bool packed)
{
	struct download *download = calloc(1, sizeof(*download));

	if (!download || (packed && !(download->packer = gzip_writer_new()))) {
		free(download);
		return NULL;
	}
	download->exchange = exchange;
	download->fd = fd;
	download->idle.data = download;
	(void)uv_idle_init(http_exchange_loop(exchange), &download->idle);
	return download;
}

static void on_close(struct http_exchange *exchange, void *context)
{
	(void)exchange;
	download_free(context);
}

static void finish(struct download *download)
{
	struct http_exchange *exchange = download->exchange;

	http_exchange_on_close(exchange, NULL, NULL);
	download_free(download);
	http_reply_end(exchange);
}

/* It shrank meanwhile, or cannot be read: a broken transfer must not look whole. */
static void break_off(struct download *download)
{
	struct http_exchange *exchange = download->exchange;

	download_free(download);
	http_exchange_abort(exchange);
}

/* Read and send a piece. The bytes read, 0 at the end of what is to be sent, or a negative errno. */
static ssize_t send_piece(struct download *download)
{
	cleanup_buffer struct buffer packed = BUFFER_INIT;
	cleanup_free char *chunk = malloc(CHUNK);
	size_t want = download->left < CHUNK ? (size_t)download->left : CHUNK;
	ssize_t got = chunk && want ? read(download->fd, chunk, want) : chunk ? 0 : -1;

	if (got < 0 || (got == 0 && want && !download->packer))
		return -EIO;
	download->left -= (uint64_t)got;
	if (!download->packer) {
		http_reply_write(download->exchange, chunk, (size_t)got);
		return got;
	}
	if (gzip_writer_feed(download->packer, chunk, (size_t)got, got == 0, &packed) < 0)
		return -ENOMEM;
	http_reply_write(download->exchange, packed.data, packed.size);
	return got;
}

static void send_more(struct http_exchange *exchange, void *context);

static void on_idle(uv_idle_t *idle)
{
	struct download *download = idle->data;

	(void)uv_idle_stop(idle);
	send_more(download->exchange, download);
}

/* Send until the client is behind (its drain brings us back) or others must have their turn. */
static void send_more(struct http_exchange *exchange, void *context)
{
	struct download *download = context;
	size_t sent = 0;

	while (http_reply_pending(exchange) < STREAM_HIGH_WATER) {
		ssize_t got = send_piece(download);

		if (got < 0) {
			break_off(download);
			return;
		}
		if (got == 0 || (!download->left && !download->packer)) {
			finish(download);
			return;
		}
		sent += (size_t)got;
		if (sent >= TURN) {
			(void)uv_idle_start(&download->idle, on_idle);
			return;
		}
	}
}

/* "bytes=FIRST-LAST", "bytes=FIRST-", "bytes=-COUNT". 0 none or not understood, 1 taken, -ERANGE. */
static int parse_range(const char *text, uint64_t size, uint64_t *first, uint64_t *count)
{
	unsigned long long from = 0;
	unsigned long long to = 0;
	int used = 0;

	if (!text || strchr(text, ','))
		return 0;
	if (sscanf(text, "bytes=%llu-%llu%n", &from, &to, &used) == 2 && !text[used]) {
		if (to < from)
			return 0;
	} else if (sscanf(text, "bytes=-%llu%n", &to, &used) == 1 && used && !text[used]) {
		from = to < size ? size - to : 0;
		to = UINT64_MAX;
	} else if (sscanf(text, "bytes=%llu-%n", &from, &used) == 1 && used && !text[used]) {
		to = UINT64_MAX;
	} else {
		return 0;
	}
	if (from >= size)
		return -ERANGE;
	*first = from;
	*count = (to >= size ? size - 1 : to) - from + 1;
	return 1;
}

/* What browsers show by themselves; all else is bytes. */
static const char *content_type(const char *path)
{
	static const char *const types[][2] = {
		{ ".avif", "image/avif" },
		{ ".css", "text/css; charset=utf-8" },
		{ ".csv", "text/csv; charset=utf-8" },
		{ ".gif", "image/gif" },
		{ ".htm", "text/html; charset=utf-8" },
		{ ".html", "text/html; charset=utf-8" },
		{ ".jpeg", "image/jpeg" },
		{ ".jpg", "image/jpeg" },
		{ ".js", "text/javascript; charset=utf-8" },
		{ ".json", "application/json" },
		{ ".mjs", "text/javascript; charset=utf-8" },
		{ ".pdf", "application/pdf" },
		{ ".png", "image/png" },
		{ ".svg", "image/svg+xml" },
		{ ".txt", "text/plain; charset=utf-8" },
		{ ".wasm", "application/wasm" },
		{ ".webp", "image/webp" },
		{ ".xml", "text/xml; charset=utf-8" },
	};
	const char *extension = strrchr(strrchr(path, '/'), '.');

	for (size_t i = 0; extension && i < ARRAY_SIZE(types); i++)
		if (strcasecmp(extension, types[i][0]) == 0)
			return types[i][1];
	return "application/octet-stream";
}

static void add_headers(struct http_exchange *exchange, const char *path)
{
	cleanup_buffer struct buffer name = BUFFER_INIT;
	const char *base = strrchr(path, '/') + 1;

	if (percent_encode(&name, base) == 0 && buffer_printf(&name, "%s", "") == 0) {
		char header[4096 * 3];

		if (strcmp(name.data ? name.data : "", base) == 0)
			(void)snprintf(header, sizeof(header), "inline; filename=%s", base);
		else
			(void)snprintf(header, sizeof(header), "inline; filename*=utf-8''%s", name.data);
		http_reply_header(exchange, "Content-Disposition", header);
	}
	http_reply_header(exchange, "Content-Type", content_type(path));
}

/* (The packed form is not byte by byte the plain one: a weak tag.) */
static void add_validators(struct http_exchange *exchange, const struct stat *st, bool packed)
{
	char etag[CONDITION_ETAG_SIZE + 2] = "W/";
	char date[CONDITION_DATE_SIZE];

	condition_etag(st, etag + 2);
	condition_date(st, date);
	http_reply_header(exchange, "ETag", packed ? etag : etag + 2);
	http_reply_header(exchange, "Last-Modified", date);
	http_reply_header(exchange, "Vary", "Accept-Encoding");
}

/* Answer with `count` bytes of `fd` from where it is; all of the file, packed, when `packed` is set. */
static void send_body(struct http_exchange *exchange, int fd, int status, uint64_t count, bool packed)
{
	struct download *download = download_new(exchange, fd, packed);

	if (!download) {
		close(fd);
		http_reply_error(exchange, 500, "out of memory");
		return;
	}
	download->left = count;
	http_exchange_on_close(exchange, on_close, download);
	http_reply_on_drain(exchange, send_more, download);
	http_reply_begin(exchange, status, packed ? -1 : (int64_t)count);
	if (strcmp(http_request_method(exchange), "HEAD") == 0)
		finish(download);
	else
		send_more(exchange, download);
}

static void send_packed(struct http_exchange *exchange, int fd, const struct stat *st, const char *path)
{
	http_reply_header(exchange, "Content-Encoding", "gzip");
	add_headers(exchange, path);
	add_validators(exchange, st, true);
	send_body(exchange, fd, 200, UINT64_MAX, true);
}

static void send_plain(struct http_exchange *exchange, int fd, const struct stat *st, const char *path,
                       const char *range)
{
	uint64_t size = (uint64_t)st->st_size;
	uint64_t first = 0;
	uint64_t count = size;
	char text[96];
	int ret = parse_range(range, size, &first, &count);

	if (ret < 0 || lseek(fd, (off_t)first, SEEK_SET) < 0) {
		close(fd);
		(void)snprintf(text, sizeof(text), "bytes */%llu", (unsigned long long)size);
		http_reply_header(exchange, "Content-Range", text);
		http_reply_error(exchange, ret < 0 ? 416 : 500, "the range cannot be served");
		return;
	}
	add_headers(exchange, path);
	add_validators(exchange, st, false);
	http_reply_header(exchange, "Accept-Ranges", "bytes");
	if (ret > 0) {
		(void)snprintf(text, sizeof(text), "bytes %llu-%llu/%llu", (unsigned long long)first,
		               (unsigned long long)(first + count - 1), (unsigned long long)size);
		http_reply_header(exchange, "Content-Range", text);
	}
	send_body(exchange, fd, ret > 0 ? 206 : 200, count, false);
}

/* Takes `fd`. */
static void send_file(struct http_exchange *exchange, int fd, const struct stat *st, const char *path)
{
	struct condition condition = {
		.if_match = http_request_header(exchange, "If-Match"),
		.if_none_match = http_request_header(exchange, "If-None-Match"),
		.if_modified_since = http_request_header(exchange, "If-Modified-Since"),
		.if_unmodified_since = http_request_header(exchange, "If-Unmodified-Since"),
		.if_range = http_request_header(exchange, "If-Range"),
	};
	const char *range = http_request_header(exchange, "Range");
	bool plain_only = range || condition.if_match || condition.if_none_match ||
	                  condition.if_modified_since || condition.if_unmodified_since || condition.if_range;
	bool plain_will_do;
	enum encoding encoding =
	        encoding_accepted(http_request_header(exchange, "Accept-Encoding"), &plain_will_do);
	int status;

	/* Parts and validators are those of the plain file, so then it is not packed. */
	if (encoding == ENCODING_NONE || (plain_only && !plain_will_do)) {
		close(fd);
		http_reply_error(exchange, 406, "no acceptable encoding found, supported: [identity, gzip]");
		return;
	}
	status = condition_check(&condition, st);
	if (status) {
		close(fd);
		add_validators(exchange, st, false);
		http_reply_empty(exchange, status);
	} else if (encoding == ENCODING_GZIP && !plain_only) {
		send_packed(exchange, fd, st, path);
	} else {
		send_plain(exchange, fd, st, path, condition_allows_range(&condition, st) ? range : NULL);
	}
}

void files_get(struct envd *envd, struct http_exchange *exchange)
{
	const char *text = http_request_query(exchange, "path");
	const char *name = http_request_query(exchange, "username");
	struct error err = { 0 };
	struct user user;
	struct stat st;
	char path[4096];
	int fd;

	if (!signature_allows(envd, exchange, "read"))
		return;
	if (user_lookup(name && name[0] ? name : envd->default_user, &user, &err) < 0) {
		http_reply_error(exchange, 401, "error looking up user '%s': %s", name ? name : "",
		                 err.message);
		return;
	}
	if (path_resolve(envd, &user, text ? text : "", path, &err) < 0) {
		http_reply_error(exchange, 400, "%s", err.message);
		return;
	}
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st) < 0) {
		int code = errno;

		if (fd >= 0)
			close(fd);
		if (code == ENOENT || code == ENOTDIR)
			http_reply_error(exchange, 404, "path '%s' does not exist", path);
		else
			http_reply_error(exchange, code == EACCES ? 403 : 500, "open '%s': %s", path,
			                 strerror(code));
	} else if (!S_ISREG(st.st_mode)) {
		close(fd);
		http_reply_error(exchange, 400, "path '%s' is %s", path,
		                 S_ISDIR(st.st_mode) ? "a directory" : "not a regular file");
	} else {
		send_file(exchange, fd, &st, path);
	}
}
