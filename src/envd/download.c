/* GET /files: a file to a client, in constant memory. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "envd/path.h"
#include "envd/signature.h"

#define CHUNK (128 * 1024) /* bytes read at once */

struct download {
	int fd;
	uint64_t left;
};

static void download_free(struct download *download)
{
	close(download->fd);
	free(download);
}

static void on_close(struct http_exchange *exchange, void *context)
{
	(void)exchange;
	download_free(context);
}

/* Send until the client is behind; its drain brings us back. */
static void send_more(struct http_exchange *exchange, void *context)
{
	struct download *download = context;
	cleanup_free char *chunk = malloc(CHUNK);

	while (download->left && http_reply_pending(exchange) < STREAM_HIGH_WATER) {
		size_t want = download->left < CHUNK ? (size_t)download->left : CHUNK;
		ssize_t got = chunk ? read(download->fd, chunk, want) : -1;

		if (got <= 0) {
			/* It shrank meanwhile: a broken transfer must not look whole. */
			download_free(download);
			http_exchange_abort(exchange);
			return;
		}
		http_reply_write(exchange, chunk, (size_t)got);
		download->left -= (uint64_t)got;
	}
	if (download->left)
		return;
	http_exchange_on_close(exchange, NULL, NULL);
	download_free(download);
	http_reply_end(exchange);
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
	http_reply_header(exchange, "Accept-Ranges", "bytes");
	http_reply_header(exchange, "Vary", "Accept-Encoding");
	http_reply_header(exchange, "Content-Type", "application/octet-stream");
}

static void send_file(struct http_exchange *exchange, int fd, uint64_t size, const char *path)
{
	struct download *download = calloc(1, sizeof(*download));
	uint64_t first = 0;
	uint64_t count = size;
	char range[96];
	int ret = parse_range(http_request_header(exchange, "Range"), size, &first, &count);

	if (!download || ret < 0 || lseek(fd, (off_t)first, SEEK_SET) < 0) {
		close(fd);
		free(download);
		(void)snprintf(range, sizeof(range), "bytes */%llu", (unsigned long long)size);
		http_reply_header(exchange, "Content-Range", range);
		http_reply_error(exchange, ret < 0 ? 416 : 500, "the range cannot be served");
		return;
	}
	add_headers(exchange, path);
	if (ret > 0) {
		(void)snprintf(range, sizeof(range), "bytes %llu-%llu/%llu", (unsigned long long)first,
		               (unsigned long long)(first + count - 1), (unsigned long long)size);
		http_reply_header(exchange, "Content-Range", range);
	}
	*download = (struct download){ .fd = fd, .left = count };
	http_exchange_on_close(exchange, on_close, download);
	http_reply_on_drain(exchange, send_more, download);
	http_reply_begin(exchange, ret > 0 ? 206 : 200, (int64_t)count);
	if (strcmp(http_request_method(exchange), "HEAD") == 0)
		download->left = 0;
	send_more(exchange, download);
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
		send_file(exchange, fd, (uint64_t)st.st_size, path);
	}
}
