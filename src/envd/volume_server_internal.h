/* What volume_server.c (requests of the kernel: what the volume is asked), volume_answer.c (what the kernel
 * is told then) and volume_hidden.c (names that are taken from open files) share. Private to them. */
#pragma once

#include "envd/volume_kernel.h"
#include "envd/volume_server.h"

struct volume_server {
	uv_loop_t *loop;
	uv_poll_t poll;
	int fd;
	struct volume_link *link;
	struct volume_nodes *nodes;
	struct list calls;
	struct kernel_call *alone; /* waits until nothing else is under way, or is under way itself */
	char *input;               /* a request of the kernel */
	char *listing;             /* an answer to one that reads a directory */
	bool polling;
};

/* What of a request the volume is asked for: but for volume_hidden.c, always the first. */
enum kernel_step {
	KERNEL_ITSELF,   /* what the kernel wants */
	KERNEL_LOOK,     /* whether the open file that has the name still has it */
	KERNEL_HIDE,     /* another name for it */
	KERNEL_PUT_BACK, /* its own name again: the kernel cannot have what it wants */
};

/* A request of the kernel that waits for the volume. */
struct kernel_call {
	struct volume_call call;
	struct list link;
	struct volume_server *server;
	struct volume_node *node; /* held; of a name in a directory: the directory */
	struct volume_node *to;   /* held: where a rename leads; else NULL */
	uint64_t unique;
	uint64_t offset; /* of a directory */
	uint32_t opcode;
	uint32_t size;       /* bytes wanted, or written */
	uint32_t open_flags; /* of FUSE_CREATE */
	uint32_t flags;      /* of a rename, the volume's */
	uint32_t expected;   /* type that is to be there in the end; 0: any */
	uint16_t op;         /* that the volume is asked now; 0: none yet */
	bool opening;        /* `node` is counted as open, and is not yet */
	bool unsure;         /* of a rename that failed: it may have been done */
	enum kernel_step step;
	uint32_t error;            /* why it failed, while a name is put back */
	struct volume_node *aside; /* held: the file that has, or gets, a hidden name; else NULL */
	char hidden_name[VOLUME_HIDDEN_SIZE];
	const char *name;    /* in `names`; NULL: none */
	const char *to_name; /* likewise */
	char names[];
};

/* Ask the volume, of kernel->name in kernel->node, or of that itself. When it cannot be asked the kernel is
 * told, and the call is over. */
void volume_server_ask(struct kernel_call *kernel, struct volume_question *question);

/* Likewise, of `name` in `node`, and if `to` is not NULL of `to_name` in that. */
void volume_server_ask_of(struct kernel_call *kernel, struct volume_question *question,
                          const struct volume_node *node, const char *name, const struct volume_node *to,
                          const char *to_name);

/* The kernel is told of an error, and the call is over. */
void volume_server_refuse(struct kernel_call *kernel, int code);

/* It is over: free it, and go on. */
void volume_server_end_call(struct kernel_call *kernel);

/* Take what the kernel asks for next, if its time has come. */
void volume_server_go_on(struct volume_server *server);

/* call->done of all. */
void volume_answer(struct volume_call *call, const struct volume_reply *reply, const char *data);

/* The kernel has what it wanted of names: they are so now, and it is told. */
void volume_answer_done(struct kernel_call *kernel);

/* Whether it takes a name from an open file, or opens one whose name is being taken, and must be alone. */
bool volume_hidden_concerns(const struct kernel_call *kernel);

/* What is alone begins: a rename, or one that this concerns. */
void volume_hidden_begin(struct kernel_call *kernel);

/* The volume's answer (`error` 0: it was done) to a step of its own, or to the kernel's wish, which failed
 * though an open file was put aside for it. */
void volume_hidden_answer(struct kernel_call *kernel, uint32_t error, const struct volume_attributes *found);

/* A file is open once less. The last time a hidden one is removed. */
void volume_hidden_close(struct volume_server *server, struct volume_node *node);
