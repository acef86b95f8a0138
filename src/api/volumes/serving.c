#include "api/volumes/serving.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/volumes/operation.h"

#define REQUESTS_MAX 16           /* under way at a time */
#define WEIGHT_MAX   (512 * 1024) /* bytes that they take, but for a last one */
#define GREETING_MAX 128          /* bytes of the answer to ours */
#define SMALL_MAX    4096         /* an answer that is copied to be written in one piece */

struct serving {
	struct volumes *volumes;
	struct volume *volume; /* NULL: it has been deleted */
	struct stream *stream; /* NULL: the connection is gone */
	serving_done_fn *done; /* NULL: nobody waits for its end */
	void *context;
	struct buffer input;
	size_t weight; /* of the requests under way */
	unsigned requests;
	bool greeted;
	bool reading; /* requests are being taken from the input: not again inside of that */
};

struct request {
	struct job job;
	struct serving *serving;
	struct operation *operation;
};

static void take_requests(struct serving *serving);

/* --- its end --- */

/* When the connection is gone and nothing is under way any more. */
static void free_if_over(struct serving *serving)
{
	if (serving->stream || serving->requests || serving->reading)
		return;
	if (serving->volume)
		volume_put(serving->volume);
	buffer_fini(&serving->input);
	free(serving);
}

static void on_close(struct stream *stream, int status, void *context)
{
	struct serving *serving = context;
	serving_done_fn *done = serving->done;

	(void)stream;
	(void)status;
	serving->stream = NULL;
	serving->done = NULL;
	if (done)
		done(serving->greeted, serving->context);
	free_if_over(serving);
}

static void on_end(struct stream *stream, void *context)
{
	(void)context;
	stream_close(stream);
}

void serving_end(struct serving *serving)
{
	serving->done = NULL;
	if (serving->stream)
		stream_close(serving->stream);
}

void serving_hurry(struct serving *serving)
{
	if (!serving->greeted && serving->stream)
		stream_close(serving->stream);
}

/* --- answers --- */

static void answer(struct serving *serving, const struct operation *operation)
{
	struct volume_reply reply = operation_reply(operation);
	char whole[SMALL_MAX];

	if (!serving->stream)
		return;
	if (reply.size > sizeof(whole)) {
		(void)stream_write(serving->stream, &reply, sizeof(reply));
		(void)stream_write(serving->stream, operation->answer, reply.data_size);
		return;
	}
	memcpy(whole, &reply, sizeof(reply));
	if (reply.data_size)
		memcpy(whole + sizeof(reply), operation->answer, reply.data_size);
	(void)stream_write(serving->stream, whole, reply.size);
}

static void finish(struct serving *serving, struct operation *operation)
{
	answer(serving, operation);
	serving->requests--;
	serving->weight -= operation_weight(operation);
	operation_free(operation);
}

static void on_done(struct job *job)
{
	struct request *request = (struct request *)(void *)job;
	struct serving *serving = request->serving;

	/* The job itself came to nothing, or to nothing that is left. */
	if (job->volume->gone)
		request->operation->error = ESTALE;
	else if (job->err.code)
		request->operation->error = EIO;
	if (operation_hides(request->operation))
		job->volume->hidden = true;
	if (job->err.code && !job->volume->gone)
		log_error("volume %s: %s", job->volume->id, job->err.message);
	finish(serving, request->operation);
	free(request);
	take_requests(serving);
	free_if_over(serving);
}

/* --- requests --- */

static void run(struct job *job)
{
	struct request *request = (struct request *)(void *)job;

	request->operation->room = job->room;
	operation_run(request->operation, job->volume->root);
	job->cost = request->operation->cost;
	job->freed = request->operation->freed;
}

/* Have it done. */
static int start(struct serving *serving, struct operation *operation)
{
	struct request *request;

	serving->requests++;
	serving->weight += operation_weight(operation);
	if (!serving->volume || serving->volume->gone) {
		operation->error = ESTALE;
		finish(serving, operation);
		return 0;
	}
	request = calloc(1, sizeof(*request));
	if (!request) {
		operation->error = ENOMEM;
		finish(serving, operation);
		return -ENOMEM;
	}
	*request = (struct request){ .serving = serving, .operation = operation };
	request->job.run = run;
	request->job.done = on_done;
	operation->size_max = serving->volumes->size_max;
	if (operation_changes(operation))
		volume_change(serving->volume, &request->job);
	else
		volume_read(serving->volume, &request->job);
	return 0;
}

/* The next of the input. Bytes that it takes; 0: it is not whole; -errno: the connection is of no more use.
 */
static int take_request(struct serving *serving, const char *data, size_t size)
{
	struct volume_request head;
	struct volume_parts parts;
	struct operation *operation;
	struct error err = { 0 };
	int taken = volume_request_read(data, size, &head, &parts, &err);

	if (taken < 0)
		log_warn("a guest that has volume %s mounted: %s",
		         serving->volume ? serving->volume->id : "(deleted)", err.message);
	if (taken <= 0)
		return taken;
	operation = operation_new(&head, &parts);
	if (!operation)
		return -ENOMEM;
	return start(serving, operation) < 0 ? -ENOMEM : taken;
}

/* The agent's answer to the greeting. As take_request. */
static int take_greeting(struct serving *serving, const char *data, size_t size)
{
	const char *end = memchr(data, '\n', size);

	if (!end)
		return size < GREETING_MAX ? 0 : -EPROTO;
	if (end - data != 2 || memcmp(data, "OK", 2) != 0)
		return -EPROTO;
	serving->greeted = true;
	return 3;
}

static bool is_full(const struct serving *serving)
{
	return serving->requests >= REQUESTS_MAX || serving->weight >= WEIGHT_MAX ||
	       stream_pending(serving->stream) > STREAM_HIGH_WATER;
}

/* Begin what may be begun of what has come, and let more come, or not. */
static void take_requests(struct serving *serving)
{
	size_t used = 0;
	int taken = 1;

	if (!serving->stream || serving->reading)
		return;
	serving->reading = true;
	while (taken > 0 && serving->stream && used < serving->input.size && !is_full(serving)) {
		const char *data = serving->input.data + used;
		size_t size = serving->input.size - used;

		taken = serving->greeted ? take_request(serving, data, size)
		                         : take_greeting(serving, data, size);
		used += taken > 0 ? (size_t)taken : 0;
	}
	serving->reading = false;
	if (!serving->stream)
		return;
	buffer_consume(&serving->input, used);
	if (taken < 0)
		stream_close(serving->stream);
	else if (is_full(serving))
		stream_read_stop(serving->stream);
	else
		stream_read_start(serving->stream);
}

static void on_data(struct stream *stream, const char *data, size_t size, void *context)
{
	struct serving *serving = context;

	if (buffer_append(&serving->input, data, size) < 0)
		stream_close(stream);
	else
		take_requests(serving);
}

static void on_drain(struct stream *stream, void *context)
{
	(void)stream;
	take_requests(context);
}

/* --- its begin --- */

static int open_volume(struct serving *serving, const char *id, struct error *err)
{
	serving->volume = volume_get(serving->volumes, id, err);
	if (serving->volume || err->code == ENOENT)
		return 0;
	return -err->code;
}

struct serving *serving_new(struct volumes *volumes, const char *volume_id, struct stream *stream,
                            serving_done_fn *done, void *context, struct error *err)
{
	static const struct stream_events events = {
		.on_data = on_data, .on_end = on_end, .on_drain = on_drain, .on_close = on_close
	};
	struct serving *serving = calloc(1, sizeof(*serving));
	char greeting[64];
	int size;

	if (serving)
		*serving = (struct serving){
			.volumes = volumes, .stream = stream, .done = done, .context = context
		};
	else
		error_errno(err, ENOMEM, "serve volume %s", volume_id);
	if (!serving || open_volume(serving, volume_id, err) < 0) {
		free(serving);
		stream_close(stream);
		return NULL;
	}
	buffer_init(&serving->input, 2 * VOLUME_REQUEST_MAX);
	stream_set_events(stream, &events, serving);
	size = snprintf(greeting, sizeof(greeting), "VOLUME %s\n", volume_id);
	(void)stream_write(stream, greeting, (size_t)size);
	stream_read_start(stream);
	return serving;
}
