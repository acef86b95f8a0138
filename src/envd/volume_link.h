/*
 * volume_link: what a volume is asked for, and its answers. Whoever has the volume's files connects to us;
 * the newest connection counts. What had no answer when a connection ended is sent again on the next, as
 * VOLUME_AGAIN; what finds none for too long fails with EIO.
 *
 * The bytes come from and go to a struct stream; requests are kept by the caller (struct volume_call).
 */
#pragma once

#include "base/list.h"
#include "net/stream.h"
#include "volume/volume.h"

struct volume_link;

/* A request under way. The caller has it within something of its own, and sets `done`. */
struct volume_call {
	/* The answer: it is no longer under way. `data` is reply->data_size bytes, valid during the call. An
	 * error may be the link's: EIO, EINTR. */
	void (*done)(struct volume_call *call, const struct volume_reply *reply, const char *data);
	/* The link's: */
	struct list link;
	char *message;
	size_t size;
	uint32_t tag;
	unsigned waited;  /* ticks without a connection */
	unsigned stalled; /* ticks since it was told to give up */
	bool sent;        /* on some connection */
	bool again;       /* on more than one */
	bool interrupted;
};

/* A request's head needs `op` and what that takes; sizes and tag are set here. */
struct volume_question {
	struct volume_request head;
	const char *path; /* head.path_size bytes, and so on */
	const char *other;
	const char *data;
};

/*
 * Connections come by `fd`, a socket to listen on, which is taken; a connection says for which volume it is,
 * and only that `id` (kept by reference) is served. `patience` is how many seconds a request waits for one.
 */
struct volume_link *volume_link_new(uv_loop_t *loop, int fd, const char *id, unsigned patience,
                                    struct error *err);

/* Ask. 0, or -ENOMEM: it is not under way. */
int volume_link_ask(struct volume_link *link, struct volume_call *call,
                    const struct volume_question *question);

/* Who asked wants it no more. It ends with EINTR unless its answer is near. */
void volume_link_interrupt(struct volume_link *link, struct volume_call *call);

/* Whether so much is under way that no more should be asked now. */
bool volume_link_is_full(const struct volume_link *link);
