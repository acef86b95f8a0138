/*
 * Files that lose their name while they are open: they are removed, or another one is renamed to their name.
 * The volume knows files by their names alone. So such a file gets another name in its directory, a hidden
 * one, under which those that have it open go on with it; when the last of them closes it, it is removed.
 *
 * A rename to the name of an open file is then two, and if the second fails that file gets its name back.
 * Nothing else is asked for meanwhile (volume_server.c: `alone`), so that only others who have the volume can
 * see the name missing.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/base.h"
#include "envd/volume_server_internal.h"

/* A hidden file that nobody has open any more is being removed. */
struct removal {
	struct volume_call call;
	struct volume_server *server;
	char name[VOLUME_HIDDEN_SIZE];
};

/* --- steps --- */

/* The name that something else is to have, or nothing: where it is, and itself. */
static struct volume_node *directory_of(const struct kernel_call *kernel)
{
	return kernel->to ? kernel->to : kernel->node;
}

static const char *name_of(const struct kernel_call *kernel)
{
	return kernel->to ? kernel->to_name : kernel->name;
}

/* What the kernel wants. */
static void ask_itself(struct kernel_call *kernel)
{
	struct volume_question question = { .head = { .op = kernel->to ? VOLUME_RENAME : VOLUME_UNLINK,
		                                      .flags = (uint16_t)kernel->flags } };

	kernel->step = KERNEL_ITSELF;
	volume_server_ask(kernel, &question);
}

/* Others may have put something else there since it was opened. */
static void look(struct kernel_call *kernel, struct volume_node *file)
{
	struct volume_question question = { .head = { .op = VOLUME_STAT } };

	kernel->step = KERNEL_LOOK;
	volume_nodes_hold(kernel->aside = file);
	volume_server_ask_of(kernel, &question, directory_of(kernel), name_of(kernel), NULL, NULL);
}

static void hide(struct kernel_call *kernel)
{
	struct volume_question question = { .head = { .op = VOLUME_RENAME } };
	struct volume_node *directory = directory_of(kernel);

	memcpy(kernel->hidden_name, VOLUME_HIDDEN_PREFIX, sizeof(VOLUME_HIDDEN_PREFIX));
	random_hex(kernel->hidden_name + strlen(VOLUME_HIDDEN_PREFIX), VOLUME_HIDDEN_DIGITS / 2);
	kernel->step = KERNEL_HIDE;
	volume_server_ask_of(kernel, &question, directory, name_of(kernel), directory, kernel->hidden_name);
}

/* (Whatever has come to the name since stays there.) */
static void put_back(struct kernel_call *kernel)
{
	struct volume_question question = { .head = { .op = VOLUME_RENAME, .flags = VOLUME_NOREPLACE } };
	struct volume_node *directory = directory_of(kernel);

	kernel->step = KERNEL_PUT_BACK;
	volume_server_ask_of(kernel, &question, directory, kernel->hidden_name, directory, name_of(kernel));
}

/* Whether the names can be told to the volume, the hidden one, which is longer, too. */
static bool names_fit(const struct kernel_call *kernel)
{
	char path[VOLUME_PATH_MAX];
	char longest[VOLUME_HIDDEN_SIZE];

	memset(longest, 'x', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = '\0';
	return volume_nodes_path(kernel->node, kernel->name, path) >= 0 &&
	       volume_nodes_path(directory_of(kernel), name_of(kernel), path) >= 0 &&
	       volume_nodes_path(directory_of(kernel), longest, path) >= 0;
}

/* Whether its name is being removed now: nobody had it open when that began. */
static bool is_leaving(const struct volume_server *server, const struct volume_node *file)
{
	list_for_each (link, &server->calls) {
		const struct kernel_call *kernel = list_entry(link, struct kernel_call, link);

		if (kernel->opcode == FUSE_UNLINK && kernel->node == file->parent &&
		    strcmp(kernel->name, file->name) == 0)
			return true;
	}
	return false;
}

bool volume_hidden_concerns(const struct kernel_call *kernel)
{
	const struct volume_node *file;

	if (kernel->opcode == FUSE_OPEN)
		return kernel->node->parent && is_leaving(kernel->server, kernel->node);
	if (kernel->opcode != FUSE_UNLINK)
		return false;
	file = volume_nodes_find_name(kernel->server->nodes, kernel->node, kernel->name);
	return file && file->opens;
}

/* (A hidden name is nobody's to take: a file that had come to it would be removed in the end.) */
static void begin_names(struct kernel_call *kernel)
{
	struct volume_nodes *nodes = kernel->server->nodes;
	struct volume_node *from = volume_nodes_find_name(nodes, kernel->node, kernel->name);
	struct volume_node *file = volume_nodes_find_name(nodes, directory_of(kernel), name_of(kernel));
	bool takes = !kernel->to || (file != from && !(kernel->flags & VOLUME_NOREPLACE));

	if ((from && from->hidden) || (file && file->hidden))
		volume_server_refuse(kernel, EBUSY);
	else if (takes && file && file->opens && names_fit(kernel))
		look(kernel, file);
	else
		ask_itself(kernel);
}

void volume_hidden_begin(struct kernel_call *kernel)
{
	struct volume_question question = { .head = { .op = VOLUME_STAT } };

	if (kernel->opcode == FUSE_OPEN)
		volume_server_ask(kernel, &question);
	else
		begin_names(kernel);
}

/* --- answers --- */

/* Whether it may have been done all the same: the link's, when an answer did not come in time. */
static bool is_unsure(uint32_t error)
{
	return error == EIO || error == EINTR;
}

/* What the kernel wants comes first. */
static void go_without_hiding(struct kernel_call *kernel)
{
	volume_nodes_release(kernel->server->nodes, kernel->aside);
	kernel->aside = NULL;
	ask_itself(kernel);
}

static void look_answered(struct kernel_call *kernel, uint32_t error, const struct volume_attributes *found)
{
	const struct volume_node *file = kernel->aside;

	if (is_unsure(error))
		volume_server_refuse(kernel, (int)error);
	else if (error || found->id != file->file || (found->mode & S_IFMT) != file->type)
		go_without_hiding(kernel);
	else
		hide(kernel);
}

static void hide_answered(struct kernel_call *kernel, uint32_t error)
{
	struct volume_nodes *nodes = kernel->server->nodes;
	struct volume_node *directory = directory_of(kernel);

	if (is_unsure(error)) {
		volume_server_refuse(kernel, (int)error);
	} else if (error) {
		go_without_hiding(kernel);
	} else {
		(void)volume_nodes_rename(nodes, directory, name_of(kernel), directory, kernel->hidden_name);
		if (kernel->to) {
			ask_itself(kernel);
		} else {
			volume_answer_done(kernel);
			volume_server_end_call(kernel);
		}
	}
}

static void itself_failed(struct kernel_call *kernel, uint32_t error)
{
	kernel->error = error > INT16_MAX ? EIO : error;
	kernel->unsure = kernel->call.again || is_unsure(error);
	put_back(kernel);
}

static void put_back_answered(struct kernel_call *kernel, uint32_t error)
{
	struct volume_node *directory = directory_of(kernel);

	if (error == EEXIST && kernel->unsure) {
		/* What is there is what was to be there. */
		volume_answer_done(kernel);
		volume_server_end_call(kernel);
		return;
	}
	/* (Nobody wanted the file removed: where it cannot get its name back it stays as it is called now.)
	 */
	if (error)
		log_warn("volume: a file is called %s from now on: %s", kernel->hidden_name,
		         strerror((int)error));
	else
		(void)volume_nodes_rename(kernel->server->nodes, directory, kernel->hidden_name, directory,
		                          name_of(kernel));
	volume_server_refuse(kernel, (int)kernel->error);
}

void volume_hidden_answer(struct kernel_call *kernel, uint32_t error, const struct volume_attributes *found)
{
	switch (kernel->step) {
	case KERNEL_LOOK:
		look_answered(kernel, error, found);
		break;
	case KERNEL_HIDE:
		hide_answered(kernel, error);
		break;
	case KERNEL_ITSELF:
		itself_failed(kernel, error);
		break;
	case KERNEL_PUT_BACK:
		put_back_answered(kernel, error);
		break;
	}
}

/* --- the end of one --- */

static void removed(struct volume_call *call, const struct volume_reply *reply, const char *data)
{
	struct removal *removal = list_entry(call, struct removal, call);
	struct volume_server *server = removal->server;

	(void)data;
	/* (A copy of this guest may have been first.) */
	if (reply->error && reply->error != ENOENT)
		log_warn("volume: %s is left: %s", removal->name, strerror((int)reply->error));
	free(removal);
	volume_server_go_on(server);
}

static int ask_removal(struct volume_server *server, const struct volume_node *node)
{
	struct volume_question question = { .head = { .op = VOLUME_UNLINK } };
	char path[VOLUME_PATH_MAX];
	int size = volume_nodes_path(node, NULL, path);
	struct removal *removal = size < 0 ? NULL : calloc(1, sizeof(*removal));

	if (!removal)
		return size < 0 ? size : -ENOMEM;
	*removal = (struct removal){ .call.done = removed, .server = server };
	text_copy(removal->name, sizeof(removal->name), node->name, strlen(node->name));
	question.head.path_size = (uint16_t)size;
	question.path = path;
	if (volume_link_ask(server->link, &removal->call, &question) == 0)
		return 0;
	free(removal);
	return -ENOMEM;
}

void volume_hidden_close(struct volume_server *server, struct volume_node *node)
{
	volume_nodes_hold(node);
	if (volume_nodes_close(server->nodes, node) && node->parent) {
		int ret = ask_removal(server, node);

		if (ret < 0)
			log_warn("volume: %s is left: %s", node->name, strerror(-ret));
		/* (Nobody comes by its name any more.) */
		volume_nodes_remove(server->nodes, node->parent, node->name);
	}
	volume_nodes_release(server->nodes, node);
}
