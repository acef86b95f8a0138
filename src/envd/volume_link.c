#include "envd/volume_link.h"

#include <errno.h>
#include <linux/vm_sockets.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/base.h"

#define TICK_MS        1000
#define COMMAND_MAX    160               /* bytes of what a connection begins with */
#define UNDER_WAY_MAX  (4 * 1024 * 1024) /* bytes of requests */
#define STALL_TICKS    2                 /* that an answer may take once nobody wants it */
#define KEEP_CAPACITY  (64 * 1024)       /* of the inbox, when it is empty */
#define CALL_OVERHEAD  256               /* bytes that a request takes besides its message */
#define LISTEN_BACKLOG 4

struct connection {
	struct volume_link *link;
	struct stream *stream;
	struct buffer inbox;
	bool greeted;
};

struct volume_link {
	uv_loop_t *loop;
	uv_poll_t listener;
	int fd;
	uv_timer_t timer;
	const char *id;
	unsigned patience;
	struct connection *current; /* NULL: none */
	struct list calls;          /* under way, oldest first */
	size_t under_way;           /* bytes of them */
	uint32_t last_tag;
};

/* --- requests --- */

static void finish(struct volume_link *link, struct volume_call *call, const struct volume_reply *reply,
                   const char *data)
{
	list_remove(&call->link);
	link->under_way -= call->size + CALL_OVERHEAD;
	free(call->message);
	call->message = NULL;
	call->done(call, reply, data);
}

static void fail(struct volume_link *link, struct volume_call *call, int code)
{
	const struct volume_reply reply = { .size = sizeof(reply), .error = (uint32_t)code };

	finish(link, call, &reply, "");
}

static void send_call(struct volume_link *link, struct volume_call *call)
{
	struct volume_request head;

	if (call->sent) {
		memcpy(&head, call->message, sizeof(head));
		head.flags |= VOLUME_AGAIN;
		memcpy(call->message, &head, sizeof(head));
		call->again = true;
	}
	call->sent = true;
	call->waited = 0;
	(void)stream_write(link->current->stream, call->message, call->size);
}

/*
 * Time passes for those that wait. (It is counted, not measured: a guest that slept for an hour in a snapshot
 * has waited for nothing.)
 */
static void on_tick(uv_timer_t *timer)
{
	struct volume_link *link = timer->data;
	bool waiting = false;

	list_for_each_safe (node, &link->calls) {
		struct volume_call *call = list_entry(node, struct volume_call, link);

		if (call->interrupted && ++call->stalled >= STALL_TICKS)
			fail(link, call, EINTR);
		else if (!link->current && ++call->waited >= link->patience)
			fail(link, call, EIO);
		else
			waiting |= call->interrupted || !link->current;
	}
	if (!waiting)
		(void)uv_timer_stop(timer);
}

static void start_ticking(struct volume_link *link)
{
	if (!uv_is_active((uv_handle_t *)&link->timer))
		(void)uv_timer_start(&link->timer, on_tick, TICK_MS, TICK_MS);
}

int volume_link_ask(struct volume_link *link, struct volume_call *call,
                    const struct volume_question *question)
{
	struct volume_request head = question->head;
	char *to;

	head.size = (uint32_t)(sizeof(head) + head.path_size + head.other_size + (size_t)head.data_size);
	call->message = malloc(head.size);
	if (!call->message)
		return -ENOMEM;
	call->size = head.size;
	call->tag = head.tag = ++link->last_tag;
	call->waited = call->stalled = 0;
	call->sent = call->again = call->interrupted = false;
	to = mempcpy(call->message, &head, sizeof(head));
	to = mempcpy(to, question->path ? question->path : "", head.path_size);
	to = mempcpy(to, question->other ? question->other : "", head.other_size);
	memcpy(to, question->data ? question->data : "", head.data_size);
	list_append(&link->calls, &call->link);
	link->under_way += call->size + CALL_OVERHEAD;
	if (link->current)
		send_call(link, call);
	else
		start_ticking(link);
	return 0;
}

void volume_link_interrupt(struct volume_link *link, struct volume_call *call)
{
	if (!link->current) {
		fail(link, call, EINTR);
		return;
	}
	call->interrupted = true;
	start_ticking(link);
}

bool volume_link_is_full(const struct volume_link *link)
{
	return link->under_way > UNDER_WAY_MAX;
}

/* --- answers --- */

static struct volume_call *find_call(struct volume_link *link, uint32_t tag)
{
	list_for_each (node, &link->calls) {
		struct volume_call *call = list_entry(node, struct volume_call, link);

		if (call->tag == tag)
			return call;
	}
	return NULL;
}

/* Those that are whole at the begin of `data`: bytes used, or -EPROTO. (One that nobody waits for was given
 * up.) */
static ssize_t take_replies(struct connection *connection, const char *data, size_t size, struct error *err)
{
	struct volume_link *link = connection->link;
	size_t used = 0;

	while (link->current == connection) {
		struct volume_reply reply;
		const char *bytes;
		struct volume_call *call;
		int got = volume_reply_read(data + used, size - used, &reply, &bytes, err);

		if (got < 0)
			return got;
		if (got == 0)
			break;
		used += (size_t)got;
		call = find_call(link, reply.tag);
		if (call)
			finish(link, call, &reply, bytes);
	}
	return (ssize_t)used;
}

static void break_off(struct connection *connection, const char *why)
{
	log_warn("volume %s: the connection is ended: %s", connection->link->id, why);
	stream_close(connection->stream);
}

static void on_answer(struct stream *stream, const char *data, size_t size, void *context)
{
	struct connection *connection = context;
	struct buffer *inbox = &connection->inbox;
	struct error err = { 0 };
	ssize_t used;

	(void)stream;
	if (inbox->size == 0) {
		used = take_replies(connection, data, size, &err);
		if (used >= 0 && buffer_append(inbox, data + used, size - (size_t)used) < 0)
			used = error_errno(&err, ENOMEM, "take an answer");
	} else {
		used = buffer_append(inbox, data, size) < 0
		               ? error_errno(&err, ENOMEM, "take an answer")
		               : take_replies(connection, inbox->data, inbox->size, &err);
		if (used > 0)
			buffer_consume(inbox, (size_t)used);
	}
	if (used < 0)
		break_off(connection, err.message);
	else if (inbox->size == 0 && inbox->capacity > KEEP_CAPACITY)
		buffer_fini(inbox);
}

static void on_close(struct stream *stream, int status, void *context)
{
	struct connection *connection = context;
	struct volume_link *link = connection->link;

	(void)stream;
	(void)status;
	if (link->current == connection) {
		link->current = NULL;
		list_for_each_safe (node, &link->calls) {
			struct volume_call *call = list_entry(node, struct volume_call, link);

			if (call->interrupted)
				fail(link, call, EINTR);
		}
		if (!list_empty(&link->calls))
			start_ticking(link);
	}
	buffer_fini(&connection->inbox);
	free(connection);
}

static void on_end(struct stream *stream, void *context)
{
	(void)context;
	stream_close(stream);
}

static const struct stream_events answer_events = {
	.on_data = on_answer,
	.on_end = on_end,
	.on_close = on_close,
};

/* --- connections --- */

static const struct stream_events refused_events = { .on_close = on_close };

static void refuse(struct connection *connection, const char *reason)
{
	stream_set_events(connection->stream, &refused_events, connection);
	(void)stream_write(connection->stream, reason, strlen(reason));
	stream_close_after_writes(connection->stream);
}

/* It takes the place of the one before. */
static void accept_connection(struct connection *connection)
{
	struct volume_link *link = connection->link;
	struct connection *before = link->current;

	link->current = connection;
	if (before)
		stream_close(before->stream);
	stream_set_events(connection->stream, &answer_events, connection);
	(void)stream_write(connection->stream, "OK\n", 3);
	list_for_each (node, &link->calls)
		send_call(link, list_entry(node, struct volume_call, link));
}

static void on_command(struct stream *stream, const char *data, size_t size, void *context)
{
	struct connection *connection = context;
	struct buffer *inbox = &connection->inbox;
	const char *id = connection->link->id;
	char *newline;

	(void)stream;
	if (buffer_append(inbox, data, size) < 0) {
		stream_close(stream);
		return;
	}
	newline = memchr(inbox->data, '\n', inbox->size);
	if (!newline && inbox->size < COMMAND_MAX)
		return;
	if (newline)
		*newline = '\0';
	/* (What comes behind it could only answer what we have not asked.) */
	if (!newline || strncmp(inbox->data, "VOLUME ", 7) != 0 || newline + 1 != inbox->data + inbox->size) {
		refuse(connection, "ERR expected VOLUME <id>\n");
	} else if (strcmp(inbox->data + 7, id) != 0) {
		refuse(connection, "ERR another volume is mounted here\n");
	} else {
		buffer_clear(inbox);
		accept_connection(connection);
	}
}

static const struct stream_events command_events = {
	.on_data = on_command,
	.on_end = on_end,
	.on_close = on_close,
};

/* Programs of this guest have no business here. */
static bool is_allowed(int fd)
{
	struct sockaddr_vm address = { 0 };
	socklen_t size = sizeof(address);

	if (getpeername(fd, (struct sockaddr *)&address, &size) < 0)
		return false;
	return address.svm_family != AF_VSOCK || address.svm_cid == VMADDR_CID_HOST;
}

static void on_connection(uv_poll_t *poll, int status, int events)
{
	struct volume_link *link = poll->data;
	struct connection *connection;
	struct error err = { 0 };
	int fd = accept4(link->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	(void)status;
	(void)events;
	if (fd < 0)
		return;
	connection = is_allowed(fd) ? calloc(1, sizeof(*connection)) : NULL;
	if (!connection) {
		close(fd);
		return;
	}
	connection->link = link;
	buffer_init(&connection->inbox, 2 * VOLUME_REPLY_MAX);
	connection->stream = stream_new_fd(link->loop, fd, &err);
	if (!connection->stream) {
		log_warn("volume %s: %s", link->id, err.message);
		free(connection);
		return;
	}
	stream_set_events(connection->stream, &command_events, connection);
	stream_read_start(connection->stream);
}

struct volume_link *volume_link_new(uv_loop_t *loop, int fd, const char *id, unsigned patience,
                                    struct error *err)
{
	struct volume_link *link = calloc(1, sizeof(*link));
	int ret = link ? 0 : -ENOMEM;

	if (ret == 0) {
		*link = (struct volume_link){ .loop = loop, .fd = fd, .id = id, .patience = patience };
		list_init(&link->calls);
		(void)uv_timer_init(loop, &link->timer);
		link->timer.data = link->listener.data = link;
		ret = listen(fd, LISTEN_BACKLOG) < 0 ? -errno : uv_poll_init(loop, &link->listener, fd);
	}
	if (ret == 0)
		ret = uv_poll_start(&link->listener, UV_READABLE, on_connection);
	if (ret == 0)
		return link;
	error_errno(err, -ret, "listen for volume %s", id);
	close(fd);
	free(link);
	return NULL;
}
