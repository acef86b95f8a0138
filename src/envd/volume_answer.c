/* What the kernel is told when the volume has answered. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/base.h"
#include "envd/volume_server_internal.h"

static void refuse(struct kernel_call *kernel, int code)
{
	volume_kernel_error(kernel->server->fd, kernel->unique, code);
}

/* A name in a directory: the kernel learns which file it is. */
static void answer_entry(struct kernel_call *kernel, const struct volume_attributes *attributes)
{
	struct volume_server *server = kernel->server;
	uint32_t type = attributes->mode & S_IFMT;
	bool opens = kernel->opcode == FUSE_CREATE;
	struct volume_node *node;

	if (kernel->expected && type != kernel->expected) {
		/* (Of FUSE_CREATE: the kernel looks again, and sees what it is.) */
		refuse(kernel, opens ? ESTALE : EEXIST);
		return;
	}
	node = volume_nodes_look_up(server->nodes, kernel->node, kernel->name, attributes->id, type);
	if (!node)
		refuse(kernel, kernel->node->parent ? ENOMEM : ESTALE);
	else if (volume_kernel_reply_entry(server->fd, kernel->unique, node, attributes, opens) < 0)
		volume_nodes_forget(server->nodes, node->id, 1);
	else if (opens)
		volume_nodes_open(node);
}

/* A file that the kernel knows. By its path there may be another one now. */
static void answer_file(struct kernel_call *kernel, const struct volume_attributes *attributes)
{
	struct volume_node *node = kernel->node;
	int fd = kernel->server->fd;

	if (node->file == 0) {
		node->file = attributes->id;
		node->type = attributes->mode & S_IFMT;
	}
	if (node->file != attributes->id || node->type != (attributes->mode & S_IFMT)) {
		refuse(kernel, ESTALE);
	} else if (kernel->opcode == FUSE_OPEN) {
		/* What others wrote until now is seen from now on: close to open. */
		if (node->size != attributes->size || node->mtime_ns != attributes->mtime_ns)
			volume_kernel_forget_attributes(fd, node);
		kernel->opening = volume_kernel_reply_opened(fd, kernel->unique) < 0;
	} else {
		volume_kernel_reply_attributes(fd, kernel->unique, node, attributes);
	}
}

static void answer_space(struct kernel_call *kernel, const char *data, size_t size)
{
	struct fuse_statfs_out out = { .st = { .bsize = 4096, .frsize = 4096, .namelen = 255 } };
	struct volume_space space;

	if (size != sizeof(space)) {
		refuse(kernel, EIO);
		return;
	}
	memcpy(&space, data, sizeof(space));
	out.st.blocks = space.size / out.st.bsize;
	out.st.bfree = out.st.bavail = space.free / out.st.bsize;
	volume_kernel_reply(kernel->server->fd, kernel->unique, &out, sizeof(out));
}

static void answer_data(struct kernel_call *kernel, const char *data, size_t size)
{
	struct volume_server *server = kernel->server;
	int used;

	if (kernel->op == VOLUME_READDIR) {
		used = volume_kernel_list(kernel->offset, kernel->node, data, size, server->listing,
		                          kernel->size);
		if (used < 0)
			refuse(kernel, -used);
		else
			volume_kernel_reply(server->fd, kernel->unique, server->listing, (size_t)used);
	} else if (size > kernel->size || (kernel->op == VOLUME_READLINK && size == 0)) {
		refuse(kernel, EIO);
	} else {
		volume_kernel_reply(server->fd, kernel->unique, data, size);
	}
}

void volume_answer_done(struct kernel_call *kernel)
{
	struct volume_nodes *nodes = kernel->server->nodes;

	if (kernel->aside)
		kernel->aside->hidden = true;
	if (kernel->to)
		(void)volume_nodes_rename(nodes, kernel->node, kernel->name, kernel->to, kernel->to_name);
	else if (kernel->op == VOLUME_UNLINK || kernel->op == VOLUME_RMDIR)
		volume_nodes_remove(nodes, kernel->node, kernel->name);
	volume_kernel_reply(kernel->server->fd, kernel->unique, NULL, 0);
}

static void answer_well(struct kernel_call *kernel, const struct volume_reply *reply, const char *data)
{
	const struct fuse_write_out written = { .size = kernel->size };

	switch (kernel->op) {
	case VOLUME_STAT:
	case VOLUME_SET:
	case VOLUME_SYMLINK:
	case VOLUME_MKDIR:
	case VOLUME_CREATE:
		if (!volume_kernel_attributes_fit(&reply->attributes))
			refuse(kernel, EIO);
		else if (kernel->name)
			answer_entry(kernel, &reply->attributes);
		else
			answer_file(kernel, &reply->attributes);
		break;
	case VOLUME_READ:
	case VOLUME_READLINK:
	case VOLUME_READDIR:
		answer_data(kernel, data, reply->data_size);
		break;
	case VOLUME_WRITE:
		volume_kernel_reply(kernel->server->fd, kernel->unique, &written, sizeof(written));
		break;
	case VOLUME_SPACE:
		answer_space(kernel, data, reply->data_size);
		break;
	default:
		volume_answer_done(kernel);
	}
}

/*
 * Whether an error says that what was asked for a second time has been done the first time. (Not where a file
 * was put aside for it: volume_hidden.c finds out.)
 */
static bool was_done(const struct kernel_call *kernel, uint32_t error)
{
	return kernel->call.again && error == ENOENT && !(kernel->aside && kernel->step == KERNEL_ITSELF) &&
	       (kernel->op == VOLUME_UNLINK || kernel->op == VOLUME_RMDIR || kernel->op == VOLUME_RENAME);
}

/*
 * Whether what is there is to be taken for what was to be made: it may be of the first time, and a file that
 * is opened "or else created" may be anyone's.
 */
static bool takes_existing(const struct kernel_call *kernel, uint32_t error)
{
	if (error != EEXIST)
		return false;
	if (kernel->op == VOLUME_CREATE && kernel->opcode == FUSE_CREATE && !(kernel->open_flags & O_EXCL))
		return true;
	return kernel->call.again &&
	       (kernel->op == VOLUME_CREATE || kernel->op == VOLUME_MKDIR || kernel->op == VOLUME_SYMLINK);
}

/* (A hidden file may have been removed by another guest that has it, a copy of this one: no name is missing.)
 */
static int error_of_file(const struct kernel_call *kernel, uint32_t error)
{
	if (error == ENOENT && !kernel->name && kernel->node->hidden)
		return ESTALE;
	return error > INT16_MAX ? EIO : (int)error;
}

static void take_existing(struct kernel_call *kernel)
{
	struct volume_question question = { .head = { .op = VOLUME_STAT } };

	if (kernel->opcode == FUSE_CREATE && (kernel->open_flags & (O_TRUNC | O_EXCL)) == O_TRUNC)
		question.head = (struct volume_request){ .op = VOLUME_SET, .valid = VOLUME_VALID_SIZE };
	volume_server_ask(kernel, &question);
}

void volume_answer(struct volume_call *call, const struct volume_reply *reply, const char *data)
{
	struct kernel_call *kernel = list_entry(call, struct kernel_call, call);
	uint32_t error = was_done(kernel, reply->error) ? 0 : reply->error;

	if (takes_existing(kernel, error)) {
		take_existing(kernel);
	} else if (kernel->step != KERNEL_ITSELF || (error && kernel->aside)) {
		volume_hidden_answer(kernel, error, &reply->attributes);
	} else {
		if (error == 0)
			answer_well(kernel, reply, data);
		else
			refuse(kernel, error_of_file(kernel, error));
		volume_server_end_call(kernel);
	}
}
