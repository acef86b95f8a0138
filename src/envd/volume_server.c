/* Requests of the kernel, and what the volume is asked for each. */
#include "envd/volume_server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/base.h"
#include "envd/volume_server_internal.h"

#define INPUT_SIZE     (VOLUME_WRITE_MAX + 4096) /* a write, its heads, and not less than the kernel wants */
#define BACKGROUND_MAX 16                        /* requests that nobody waits for, at once */
#define READS_MAX      16                        /* requests taken before others get their turn */
#define MODE_BITS      07777

/* A request of the kernel as it came: `body` of `size` bytes, a zero behind it. */
struct kernel_request {
	struct fuse_in_header head;
	const char *body;
	size_t size;
};

/* --- calls --- */

static struct kernel_call *call_new(struct volume_server *server, const struct kernel_request *request,
                                    const char *name, const char *to_name)
{
	size_t name_size = name ? strlen(name) + 1 : 0;
	size_t to_size = to_name ? strlen(to_name) + 1 : 0;
	struct kernel_call *kernel = calloc(1, sizeof(*kernel) + name_size + to_size);

	if (!kernel)
		return NULL;
	kernel->call.done = volume_answer;
	kernel->server = server;
	kernel->unique = request->head.unique;
	kernel->opcode = request->head.opcode;
	if (name)
		kernel->name = memcpy(kernel->names, name, name_size);
	if (to_name)
		kernel->to_name = memcpy(kernel->names + name_size, to_name, to_size);
	list_append(&server->calls, &kernel->link);
	return kernel;
}

void volume_server_end_call(struct kernel_call *kernel)
{
	struct volume_server *server = kernel->server;

	if (server->alone == kernel)
		server->alone = NULL;
	if (kernel->opening)
		volume_hidden_close(server, kernel->node);
	volume_nodes_release(server->nodes, kernel->aside);
	volume_nodes_release(server->nodes, kernel->node);
	volume_nodes_release(server->nodes, kernel->to);
	list_remove(&kernel->link);
	free(kernel);
	volume_server_go_on(server);
}

void volume_server_refuse(struct kernel_call *kernel, int code)
{
	volume_kernel_error(kernel->server->fd, kernel->unique, code);
	volume_server_end_call(kernel);
}

void volume_server_ask_of(struct kernel_call *kernel, struct volume_question *question,
                          const struct volume_node *node, const char *name, const struct volume_node *to,
                          const char *to_name)
{
	char path[VOLUME_PATH_MAX];
	char other[VOLUME_PATH_MAX];
	int size = volume_nodes_path(node, name, path);
	int to_size = size >= 0 && to ? volume_nodes_path(to, to_name, other) : 0;

	if (size < 0 || to_size < 0) {
		volume_server_refuse(kernel, size < 0 ? -size : -to_size);
		return;
	}
	if (question->head.other_size > VOLUME_PATH_MAX) {
		volume_server_refuse(kernel, ENAMETOOLONG);
		return;
	}
	kernel->op = question->head.op;
	question->head.path_size = (uint16_t)size;
	question->path = path;
	if (to) {
		question->head.other_size = (uint16_t)to_size;
		question->other = other;
	}
	if (volume_link_ask(kernel->server->link, &kernel->call, question) < 0)
		volume_server_refuse(kernel, ENOMEM);
}

void volume_server_ask(struct kernel_call *kernel, struct volume_question *question)
{
	volume_server_ask_of(kernel, question, kernel->node, kernel->name, kernel->to, kernel->to_name);
}

/* --- each kind of request --- */

/* What one kind is: of what size its head is, and how many names follow. */
typedef void ask_fn(struct kernel_call *kernel, const struct kernel_request *request,
                    struct volume_question *question);

static void ask_stat(struct kernel_call *kernel, const struct kernel_request *request,
                     struct volume_question *question)
{
	(void)kernel;
	(void)request;
	question->head.op = VOLUME_STAT;
}

/* (It counts from now on: who takes its name meanwhile waits until it is known whether it is open.) */
static void ask_open(struct kernel_call *kernel, const struct kernel_request *request,
                     struct volume_question *question)
{
	(void)request;
	volume_nodes_open(kernel->node);
	kernel->opening = true;
	question->head.op = VOLUME_STAT;
}

static int64_t join_time(uint64_t seconds, uint32_t ns, bool now)
{
	struct timespec time = { .tv_sec = (time_t)seconds, .tv_nsec = ns };
	int64_t result;

	if (now)
		(void)clock_gettime(CLOCK_REALTIME, &time);
	if (__builtin_mul_overflow((int64_t)time.tv_sec, (int64_t)1000000000, &result) ||
	    __builtin_add_overflow(result, (int64_t)time.tv_nsec, &result))
		return time.tv_sec < 0 ? INT64_MIN : INT64_MAX;
	return result;
}

static void ask_set(struct kernel_call *kernel, const struct kernel_request *request,
                    struct volume_question *question)
{
	static const struct {
		uint32_t theirs;
		uint32_t ours;
	} valid[] = {
		{ FATTR_MODE, VOLUME_VALID_MODE },   { FATTR_UID, VOLUME_VALID_UID },
		{ FATTR_GID, VOLUME_VALID_GID },     { FATTR_SIZE, VOLUME_VALID_SIZE },
		{ FATTR_ATIME, VOLUME_VALID_ATIME }, { FATTR_MTIME, VOLUME_VALID_MTIME },
	};
	struct volume_request *head = &question->head;
	struct fuse_setattr_in in;

	(void)kernel;
	memcpy(&in, request->body, sizeof(in));
	for (size_t i = 0; i < ARRAY_SIZE(valid); i++)
		head->valid |= in.valid & valid[i].theirs ? valid[i].ours : 0;
	head->op = head->valid ? VOLUME_SET : VOLUME_STAT;
	head->mode = in.mode & MODE_BITS;
	head->uid = in.uid;
	head->gid = in.gid;
	head->offset = in.size;
	head->atime_ns = join_time(in.atime, in.atimensec, in.valid & FATTR_ATIME_NOW);
	head->mtime_ns = join_time(in.mtime, in.mtimensec, in.valid & FATTR_MTIME_NOW);
}

/* Something new belongs to who makes it. */
static void set_new(struct kernel_call *kernel, const struct kernel_request *request,
                    struct volume_question *question, uint16_t op, uint32_t mode)
{
	question->head.op = op;
	question->head.mode = mode & MODE_BITS;
	question->head.uid = request->head.uid;
	question->head.gid = request->head.gid;
	kernel->expected = op == VOLUME_MKDIR ? S_IFDIR : op == VOLUME_SYMLINK ? S_IFLNK : S_IFREG;
}

static void ask_mkdir(struct kernel_call *kernel, const struct kernel_request *request,
                      struct volume_question *question)
{
	struct fuse_mkdir_in in;

	memcpy(&in, request->body, sizeof(in));
	set_new(kernel, request, question, VOLUME_MKDIR, in.mode);
}

static void ask_mknod(struct kernel_call *kernel, const struct kernel_request *request,
                      struct volume_question *question)
{
	struct fuse_mknod_in in;

	memcpy(&in, request->body, sizeof(in));
	if (S_ISREG(in.mode))
		set_new(kernel, request, question, VOLUME_CREATE, in.mode);
	/* (Otherwise no operation: EPERM.) */
}

static void ask_create(struct kernel_call *kernel, const struct kernel_request *request,
                       struct volume_question *question)
{
	struct fuse_create_in in;

	memcpy(&in, request->body, sizeof(in));
	kernel->open_flags = in.flags;
	set_new(kernel, request, question, VOLUME_CREATE, in.mode);
}

/* (The first name is that of the link, the second what it leads to.) */
static void ask_symlink(struct kernel_call *kernel, const struct kernel_request *request,
                        struct volume_question *question)
{
	set_new(kernel, request, question, VOLUME_SYMLINK, 0777);
	question->head.other_size = (uint16_t)strlen(kernel->to_name);
	question->other = kernel->to_name;
}

static void ask_unlink(struct kernel_call *kernel, const struct kernel_request *request,
                       struct volume_question *question)
{
	(void)request;
	question->head.op = kernel->opcode == FUSE_RMDIR ? VOLUME_RMDIR : VOLUME_UNLINK;
}

static void ask_readlink(struct kernel_call *kernel, const struct kernel_request *request,
                         struct volume_question *question)
{
	(void)request;
	kernel->size = VOLUME_PATH_MAX;
	question->head.op = VOLUME_READLINK;
}

static void ask_read(struct kernel_call *kernel, const struct kernel_request *request,
                     struct volume_question *question)
{
	struct fuse_read_in in;

	memcpy(&in, request->body, sizeof(in));
	kernel->size = in.size < VOLUME_DATA_MAX ? in.size : VOLUME_DATA_MAX;
	kernel->offset = in.offset;
	question->head.op = kernel->opcode == FUSE_READDIR ? VOLUME_READDIR : VOLUME_READ;
	question->head.offset =
	        kernel->opcode == FUSE_READDIR ? volume_kernel_directory_offset(in.offset) : in.offset;
	question->head.count = kernel->size;
}

static void ask_write(struct kernel_call *kernel, const struct kernel_request *request,
                      struct volume_question *question)
{
	struct fuse_write_in in;

	memcpy(&in, request->body, sizeof(in));
	if (in.size > VOLUME_DATA_MAX || in.size > request->size - sizeof(in))
		return;
	kernel->size = in.size;
	question->head.op = VOLUME_WRITE;
	question->head.offset = in.offset;
	question->head.data_size = in.size;
	question->data = request->body + sizeof(in);
}

static void ask_space(struct kernel_call *kernel, const struct kernel_request *request,
                      struct volume_question *question)
{
	(void)kernel;
	(void)request;
	question->head.op = VOLUME_SPACE;
}

static void ask_sync(struct kernel_call *kernel, const struct kernel_request *request,
                     struct volume_question *question)
{
	(void)kernel;
	(void)request;
	question->head.op = VOLUME_SYNC;
}

static const struct kind {
	ask_fn *ask;
	uint16_t head_size;
	uint8_t names;
} kinds[] = {
	[FUSE_LOOKUP] = { ask_stat, 0, 1 },
	[FUSE_GETATTR] = { ask_stat, sizeof(struct fuse_getattr_in), 0 },
	[FUSE_SETATTR] = { ask_set, sizeof(struct fuse_setattr_in), 0 },
	[FUSE_READLINK] = { ask_readlink, 0, 0 },
	[FUSE_SYMLINK] = { ask_symlink, 0, 2 },
	[FUSE_MKNOD] = { ask_mknod, sizeof(struct fuse_mknod_in), 1 },
	[FUSE_MKDIR] = { ask_mkdir, sizeof(struct fuse_mkdir_in), 1 },
	[FUSE_UNLINK] = { ask_unlink, 0, 1 },
	[FUSE_RMDIR] = { ask_unlink, 0, 1 },
	[FUSE_OPEN] = { ask_open, sizeof(struct fuse_open_in), 0 },
	[FUSE_READ] = { ask_read, sizeof(struct fuse_read_in), 0 },
	[FUSE_WRITE] = { ask_write, sizeof(struct fuse_write_in), 0 },
	[FUSE_STATFS] = { ask_space, 0, 0 },
	[FUSE_FSYNC] = { ask_sync, sizeof(struct fuse_fsync_in), 0 },
	[FUSE_READDIR] = { ask_read, sizeof(struct fuse_read_in), 0 },
	[FUSE_FSYNCDIR] = { ask_sync, sizeof(struct fuse_fsync_in), 0 },
	[FUSE_CREATE] = { ask_create, sizeof(struct fuse_create_in), 1 },
};

/* --- renames, and what becomes one --- */

/*
 * What is under way names files as they were called before: it ends first, and nothing else begins before the
 * rename has ended.
 */
static void begin_rename(struct volume_server *server, const struct kernel_request *request)
{
	bool second = request->head.opcode == FUSE_RENAME2;
	size_t head_size = second ? sizeof(struct fuse_rename2_in) : sizeof(struct fuse_rename_in);
	struct fuse_rename2_in in = { 0 };
	const char *name = request->body + head_size;
	const char *end = request->body + request->size;
	struct volume_node *node = volume_nodes_find(server->nodes, request->head.nodeid);
	struct volume_node *to;
	struct kernel_call *kernel;
	const char *to_name;

	if (request->size < head_size || name >= end || name + strlen(name) + 1 >= end) {
		volume_kernel_error(server->fd, request->head.unique, EINVAL);
		return;
	}
	memcpy(&in, request->body, head_size);
	to_name = name + strlen(name) + 1;
	to = volume_nodes_find(server->nodes, in.newdir);
	if (!second)
		in.flags = 0;
	kernel = node && to && !(in.flags & ~(uint32_t)RENAME_NOREPLACE)
	                 ? call_new(server, request, name, to_name)
	                 : NULL;
	if (!kernel) {
		volume_kernel_error(server->fd, request->head.unique, node && to ? EINVAL : ESTALE);
		return;
	}
	kernel->flags = in.flags & RENAME_NOREPLACE ? VOLUME_NOREPLACE : 0;
	volume_nodes_hold(kernel->node = node);
	volume_nodes_hold(kernel->to = to);
	server->alone = kernel;
}

static bool nothing_else_is_under_way(const struct volume_server *server)
{
	return server->calls.next == &server->alone->link && server->alone->link.next == &server->calls;
}

static void begin_alone(struct volume_server *server)
{
	if (server->alone->op == 0 && nothing_else_is_under_way(server))
		volume_hidden_begin(server->alone);
}

/* --- what needs no answer of the volume --- */

static void answer_init(struct volume_server *server, const struct kernel_request *request)
{
	struct fuse_init_in in = { 0 };
	struct fuse_init_out out = {
		.major = FUSE_KERNEL_VERSION,
		.minor = FUSE_KERNEL_MINOR_VERSION,
		.flags = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_PARALLEL_DIROPS | FUSE_AUTO_INVAL_DATA,
		.max_background = BACKGROUND_MAX,
		.congestion_threshold = BACKGROUND_MAX * 3 / 4,
		.max_write = VOLUME_WRITE_MAX,
		.time_gran = 1,
	};

	memcpy(&in, request->body, request->size < sizeof(in) ? request->size : sizeof(in));
	if (in.major != FUSE_KERNEL_VERSION) {
		log_error("the kernel's FUSE is of version %u.%u", in.major, in.minor);
		volume_kernel_error(server->fd, request->head.unique, EPROTO);
		return;
	}
	out.flags &= in.flags;
	out.max_readahead = in.max_readahead;
	volume_kernel_reply(server->fd, request->head.unique, &out, sizeof(out));
}

/* (What there is to do yet nobody waits for; but it comes before what is asked from now on.) */
static void release(struct volume_server *server, const struct kernel_request *request)
{
	struct volume_node *node = volume_nodes_find(server->nodes, request->head.nodeid);

	if (node)
		volume_hidden_close(server, node);
	volume_kernel_reply(server->fd, request->head.unique, NULL, 0);
}

static void forget_many(struct volume_server *server, const struct kernel_request *request)
{
	struct fuse_batch_forget_in in;
	struct fuse_forget_one one;

	if (request->size < sizeof(in))
		return;
	memcpy(&in, request->body, sizeof(in));
	for (size_t at = sizeof(in); in.count && at + sizeof(one) <= request->size; in.count--) {
		memcpy(&one, request->body + at, sizeof(one));
		volume_nodes_forget(server->nodes, one.nodeid, one.nlookup);
		at += sizeof(one);
	}
}

static void interrupt(struct volume_server *server, const struct kernel_request *request)
{
	struct fuse_interrupt_in in;

	if (request->size < sizeof(in))
		return;
	memcpy(&in, request->body, sizeof(in));
	list_for_each (link, &server->calls) {
		struct kernel_call *kernel = list_entry(link, struct kernel_call, link);

		if (kernel->unique == in.unique) {
			volume_link_interrupt(server->link, &kernel->call);
			return;
		}
	}
}

/* False: the volume is to be asked. */
static bool answer_at_once(struct volume_server *server, const struct kernel_request *request)
{
	struct fuse_forget_in forget;

	switch (request->head.opcode) {
	case FUSE_INIT:
		answer_init(server, request);
		return true;
	case FUSE_FORGET:
		memcpy(&forget, request->body, sizeof(forget));
		volume_nodes_forget(server->nodes, request->head.nodeid, forget.nlookup);
		return true;
	case FUSE_BATCH_FORGET:
		forget_many(server, request);
		return true;
	case FUSE_INTERRUPT:
		interrupt(server, request);
		return true;
	case FUSE_OPENDIR:
		(void)volume_kernel_reply_opened(server->fd, request->head.unique);
		return true;
	case FUSE_RELEASE:
		release(server, request);
		return true;
	case FUSE_RELEASEDIR:
	case FUSE_DESTROY:
		volume_kernel_reply(server->fd, request->head.unique, NULL, 0);
		return true;
	case FUSE_LINK:
		volume_kernel_error(server->fd, request->head.unique, EPERM);
		return true;
	default:
		return false;
	}
}

/* --- reading --- */

static void ask_volume(struct volume_server *server, const struct kernel_request *request,
                       const struct kind *kind)
{
	struct volume_question question = { 0 };
	const char *end = request->body + request->size;
	const char *names[2] = { NULL, NULL };
	const char *at = request->body + kind->head_size;
	/* (Of the space it matters not whose.) */
	uint64_t id = request->head.opcode == FUSE_STATFS ? FUSE_ROOT_ID : request->head.nodeid;
	struct volume_node *node = volume_nodes_find(server->nodes, id);
	struct kernel_call *kernel;
	bool whole = request->size >= kind->head_size;

	for (unsigned i = 0; whole && i < kind->names; i++) {
		whole = at < end;
		names[i] = at;
		at += whole ? strlen(at) + 1 : 0;
	}
	kernel = whole && node ? call_new(server, request, names[0], names[1]) : NULL;
	if (!kernel) {
		volume_kernel_error(server->fd, request->head.unique,
		                    !whole  ? EINVAL
		                    : !node ? ESTALE
		                            : ENOMEM);
		return;
	}
	volume_nodes_hold(kernel->node = node);
	kind->ask(kernel, request, &question);
	if (question.head.op == 0)
		volume_server_refuse(kernel, EPERM);
	else if (volume_hidden_concerns(kernel))
		server->alone = kernel;
	else
		volume_server_ask(kernel, &question);
}

static void serve(struct volume_server *server, const struct kernel_request *request)
{
	uint32_t opcode = request->head.opcode;

	if (answer_at_once(server, request))
		return;
	if (opcode == FUSE_RENAME || opcode == FUSE_RENAME2)
		begin_rename(server, request);
	else if (opcode < ARRAY_SIZE(kinds) && kinds[opcode].ask)
		ask_volume(server, request, &kinds[opcode]);
	else
		/* The kernel does without, or says that it cannot. */
		volume_kernel_error(server->fd, request->head.unique, ENOSYS);
}

/* 1: served one, 0: there is none, negative: the mount is gone. */
static int serve_one(struct volume_server *server)
{
	struct kernel_request request;
	ssize_t got = read(server->fd, server->input, INPUT_SIZE);

	/* ENOENT: one was taken back while it was read. */
	if (got < 0)
		return errno == EAGAIN || errno == EINTR || errno == ENOENT ? 0 : -errno;
	if ((size_t)got < sizeof(request.head))
		return -EPROTO;
	memcpy(&request.head, server->input, sizeof(request.head));
	request.body = server->input + sizeof(request.head);
	request.size = (size_t)got - sizeof(request.head);
	server->input[got] = '\0';
	serve(server, &request);
	return 1;
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
	struct volume_server *server = poll->data;
	int ret = 1;

	(void)events;
	(void)status;
	for (int i = 0; ret > 0 && i < READS_MAX && server->polling; i++) {
		ret = serve_one(server);
		volume_server_go_on(server);
	}
	if (ret < 0) {
		log_info("volume: the mount is gone: %s", strerror(-ret));
		(void)uv_poll_stop(&server->poll);
		uv_stop(server->loop);
	}
}

/* No more is taken from the kernel than the volume can be asked for; nothing while one is alone, or waits for
 * that. */
void volume_server_go_on(struct volume_server *server)
{
	bool wanted;

	if (server->alone)
		begin_alone(server);
	wanted = !server->alone && !volume_link_is_full(server->link);
	if (wanted == server->polling)
		return;
	server->polling = wanted;
	if (wanted)
		(void)uv_poll_start(&server->poll, UV_READABLE, on_readable);
	else
		(void)uv_poll_stop(&server->poll);
}

int volume_server_start(uv_loop_t *loop, int fd, struct volume_link *link, struct error *err)
{
	struct volume_server *server = calloc(1, sizeof(*server));
	int ret = server ? 0 : -ENOMEM;

	if (ret == 0) {
		*server = (struct volume_server){ .loop = loop, .fd = fd, .link = link };
		list_init(&server->calls);
		server->poll.data = server;
		server->nodes = volume_nodes_new();
		server->input = malloc(INPUT_SIZE + 1);
		server->listing = malloc(VOLUME_DATA_MAX);
		ret = server->nodes && server->input && server->listing ? 0 : -ENOMEM;
	}
	if (ret == 0)
		ret = uv_poll_init(loop, &server->poll, fd);
	if (ret == 0) {
		volume_server_go_on(server);
		return 0;
	}
	if (server) {
		volume_nodes_free(server->nodes);
		free(server->input);
		free(server->listing);
		free(server);
	}
	close(fd);
	return error_errno(err, -ret, "serve a volume");
}
