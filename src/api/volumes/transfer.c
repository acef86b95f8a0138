/* The content of files, both ways: one piece at a time is in memory. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/volumes/live.h"

#define PIECE (128 * 1024)

/* --- download --- */

struct download {
	struct job job;
	struct volume *volume;
	struct http_exchange *exchange; /* NULL: the client is gone */
	struct content_request request;
	uv_fs_t read;
	uint64_t left;
	int64_t offset;
	int fd;
	bool busy; /* the job or a read is on its way */
	char piece[PIECE];
};

static void download_free(struct download *download)
{
	if (download->fd >= 0)
		close(download->fd);
	volume_put(download->volume);
	free(download);
}

static void on_download_gone(struct http_exchange *exchange, void *context)
{
	struct download *download = context;

	(void)exchange;
	download->exchange = NULL;
	/* Else whoever reads, or opens, frees it. */
	if (!download->busy)
		download_free(download);
}

static void download_read(struct download *download);

static void on_download_drain(struct http_exchange *exchange, void *context)
{
	struct download *download = context;

	if (download->busy)
		return;
	http_reply_on_drain(exchange, NULL, NULL);
	download_read(download);
}

static void on_piece(uv_fs_t *read)
{
	struct download *download = read->data;
	struct http_exchange *exchange = download->exchange;
	ssize_t size = read->result;

	uv_fs_req_cleanup(read);
	download->busy = false;
	if (!exchange) {
		download_free(download);
		return;
	}
	/* It has become shorter, or cannot be read: what was promised cannot be given. */
	if (size <= 0) {
		http_exchange_abort(exchange);
		download_free(download);
		return;
	}
	download->offset += size;
	download->left -= (uint64_t)size;
	http_reply_write(exchange, download->piece, (size_t)size);
	if (download->left && http_reply_pending(exchange))
		http_reply_on_drain(exchange, on_download_drain, download);
	else
		download_read(download);
}

static void download_read(struct download *download)
{
	size_t size = download->left < PIECE ? (size_t)download->left : PIECE;
	uv_buf_t piece = uv_buf_init(download->piece, (unsigned)size);
	struct http_exchange *exchange = download->exchange;

	if (!size) {
		http_exchange_on_close(exchange, NULL, NULL);
		http_reply_end(exchange);
		download_free(download);
		return;
	}
	download->read.data = download;
	download->busy = true;
	(void)uv_fs_read(http_exchange_loop(exchange), &download->read, download->fd, &piece, 1,
	                 download->offset, on_piece);
}

static void run_open(struct job *job)
{
	struct download *download = (struct download *)(void *)job;

	download->fd = tree_open(job->volume->root, download->request.path, &download->left, &job->err);
}

static void on_opened(struct job *job)
{
	struct download *download = (struct download *)(void *)job;
	struct http_exchange *exchange = download->exchange;

	download->busy = false;
	if (exchange && job->err.code) {
		http_exchange_on_close(exchange, NULL, NULL);
		content_fail_job(exchange, job);
	}
	if (!exchange || job->err.code) {
		download_free(download);
		return;
	}
	http_reply_header(exchange, "Content-Type", "application/octet-stream");
	http_reply_begin(exchange, 200, (int64_t)download->left);
	download_read(download);
}

void transfer_download(struct volume *volume, struct http_exchange *exchange,
                       const struct content_request *request)
{
	struct download *download = calloc(1, sizeof(*download));

	if (!download) {
		content_fail(exchange, 500, "out of memory");
		return;
	}
	download->volume = volume;
	download->exchange = exchange;
	download->request = *request;
	download->fd = -1;
	download->busy = true;
	download->job.run = run_open;
	download->job.done = on_opened;
	volume->users++;
	http_exchange_on_close(exchange, on_download_gone, download);
	volume_read(volume, &download->job);
}

/* --- upload --- */

struct upload {
	struct job job;
	struct volume *volume;
	struct http_exchange *exchange; /* NULL: the client is gone */
	struct content_request request;
	uv_fs_t write;
	struct buffer piece; /* what is being written */
	struct buffer json;  /* the answer */
	uint64_t size;
	uint64_t reserved; /* of the volume */
	int fd;
	bool busy;   /* a job or a write is on its way */
	bool placed; /* the file has its name */
	bool ended;
	char name[32];
};

static void upload_free(struct upload *upload)
{
	upload->volume->reserved -= upload->reserved;
	if (upload->fd >= 0)
		close(upload->fd);
	if (upload->fd >= 0 && !upload->placed)
		(void)unlinkat(upload->volume->uploads, upload->name, 0);
	volume_put(upload->volume);
	buffer_fini(&upload->piece);
	buffer_fini(&upload->json);
	free(upload);
}

static void on_upload_gone(struct http_exchange *exchange, void *context)
{
	struct upload *upload = context;

	(void)exchange;
	upload->exchange = NULL;
	if (!upload->busy)
		upload_free(upload);
}

/* Answer and forget it. */
static void upload_fail(struct upload *upload, int code, const char *what)
{
	struct http_exchange *exchange = upload->exchange;

	upload->job.volume = upload->volume;
	error_errno(&upload->job.err, code, "%s", what);
	if (exchange) {
		http_exchange_on_close(exchange, NULL, NULL);
		content_fail_job(exchange, &upload->job);
	}
	upload_free(upload);
}

/* Have `size` bytes of content counted against the volume. */
static bool reserve(struct upload *upload, uint64_t size)
{
	uint64_t cost = tree_cost(size);

	if (cost <= upload->reserved)
		return true;
	if (cost - upload->reserved > volume_room(upload->volume))
		return false;
	upload->volume->reserved += cost - upload->reserved;
	upload->reserved = cost;
	return true;
}

static void run_place(struct job *job)
{
	struct upload *upload = (struct upload *)(void *)job;
	const struct content_request *request = &upload->request;

	upload->placed =
	        tree_put(job->volume->root, job->volume->uploads, upload->name, upload->fd, request->path,
	                 &request->owner, request->force, &job->freed, &upload->json, &job->err) == 0;
	job->cost = upload->placed ? upload->reserved : 0;
	if (!upload->placed)
		job->freed = 0;
}

static void on_placed(struct job *job)
{
	struct upload *upload = (struct upload *)(void *)job;
	struct http_exchange *exchange = upload->exchange;

	if (exchange)
		http_exchange_on_close(exchange, NULL, NULL);
	if (exchange && job->err.code)
		content_fail_job(exchange, job);
	else if (exchange)
		http_reply(exchange, 201, "application/json", upload->json.data, upload->json.size);
	upload_free(upload);
}

/* All of it is in the file: it gets its name, in its turn. */
static void place(struct upload *upload)
{
	upload->busy = true;
	upload->job = (struct job){ .run = run_place, .done = on_placed };
	volume_change(upload->volume, &upload->job);
}

static void on_written(uv_fs_t *write);

static void write_piece(struct upload *upload)
{
	uv_buf_t piece = uv_buf_init(upload->piece.data, (unsigned)upload->piece.size);

	upload->busy = true;
	upload->write.data = upload;
	(void)uv_fs_write(upload->volume->volumes->api->loop, &upload->write, upload->fd, &piece, 1, -1,
	                  on_written);
}

static void on_written(uv_fs_t *write)
{
	struct upload *upload = write->data;
	ssize_t size = write->result;

	uv_fs_req_cleanup(write);
	upload->busy = false;
	if (!upload->exchange) {
		upload_free(upload);
		return;
	}
	if (size <= 0) {
		upload_fail(upload, size < 0 ? (int)-size : EIO, "write the file");
		return;
	}
	buffer_consume(&upload->piece, (size_t)size);
	if (upload->piece.size)
		write_piece(upload);
	else if (upload->ended)
		place(upload);
	else
		http_request_resume(upload->exchange);
}

static void on_upload_data(struct http_exchange *exchange, const char *data, size_t size, void *context)
{
	struct upload *upload = context;

	upload->size += size;
	if (!reserve(upload, upload->size)) {
		upload_fail(upload, EDQUOT, "the volume is full");
		return;
	}
	if (buffer_append(&upload->piece, data, size) < 0) {
		upload_fail(upload, ENOMEM, "take the file");
		return;
	}
	http_request_pause(exchange);
	if (!upload->busy)
		write_piece(upload);
}

static void on_upload_end(struct http_exchange *exchange, void *context)
{
	struct upload *upload = context;

	(void)exchange;
	upload->ended = true;
	if (!upload->busy)
		place(upload);
}

static const struct http_body_events upload_events = { on_upload_data, on_upload_end };

/* Look whether it may be, before its content is taken. */
static void run_begin(struct job *job)
{
	struct upload *upload = (struct upload *)(void *)job;

	if (tree_may_put(job->volume->root, upload->request.path, upload->request.force, &job->err) < 0)
		return;
	upload->fd =
	        openat(job->volume->uploads, upload->name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (upload->fd < 0)
		error_errno(&job->err, errno, "take the file");
}

static void on_begun(struct job *job)
{
	struct upload *upload = (struct upload *)(void *)job;
	struct http_exchange *exchange = upload->exchange;
	int64_t length = exchange ? http_request_content_length(exchange) : 0;

	upload->busy = false;
	if (exchange && !job->err.code && !reserve(upload, length > 0 ? (uint64_t)length : 0))
		error_set(&job->err, EDQUOT, "the volume is full");
	if (exchange && job->err.code) {
		http_exchange_on_close(exchange, NULL, NULL);
		content_fail_job(exchange, job);
	}
	if (!exchange || job->err.code)
		upload_free(upload);
	else
		http_request_stream(exchange, &upload_events, upload);
}

void transfer_upload(struct volume *volume, struct http_exchange *exchange,
                     const struct content_request *request)
{
	struct upload *upload = calloc(1, sizeof(*upload));

	if (!upload) {
		content_fail(exchange, 500, "out of memory");
		return;
	}
	upload->volume = volume;
	upload->exchange = exchange;
	upload->request = *request;
	upload->fd = -1;
	upload->busy = true;
	upload->job.run = run_begin;
	upload->job.done = on_begun;
	buffer_init(&upload->json, TREE_LIST_MAX);
	(void)snprintf(upload->name, sizeof(upload->name), "%u", volume->volumes->uploads++);
	volume->users++;
	http_exchange_on_close(exchange, on_upload_gone, upload);
	volume_change(volume, &upload->job);
}
