/* live: volumes in use, what they hold, and the work that is done on them. Private to the folder. */
#pragma once

#include "api/volumes/tree.h"
#include "api/volumes/volumes.h"

struct volumes {
	struct api *api;
	uint64_t size_max;
	struct list live;
	unsigned uploads; /* a number for the name of the next */
	char directory[256];
};

struct volume {
	struct list link;
	struct volumes *volumes;
	char id[40];
	int root;          /* of its files */
	int uploads;       /* the directory */
	uint64_t used;     /* bytes, of what is in its place; valid when `measured` */
	uint64_t reserved; /* of uploads that are not */
	unsigned users;
	bool measured;
	bool changing; /* a change is being made */
	bool gone;     /* it has been deleted */
	bool hidden;   /* it may have files of hidden names: it is kept in mind */
	struct list changes;
};

/* One piece of work on a thread, and then on the loop. */
struct job {
	struct list link;
	uv_work_t work;
	struct volume *volume;
	/* On the thread: volume->root and ->uploads may be used, nothing else of it. `err` when it failed. */
	void (*run)(struct job *job);
	/* On the loop; frees what the job is part of. */
	void (*done)(struct job *job);
	uint64_t room; /* for run: bytes that are free */
	uint64_t cost; /* of run: what it used, and gave back */
	uint64_t freed;
	struct error err;
};

/* Open a volume, or share it. NULL with `err`. */
struct volume *volume_get(struct volumes *volumes, const char *id, struct error *err);
void volume_put(struct volume *volume);

/* Bytes that are free, 0 when it is full. */
uint64_t volume_room(const struct volume *volume);

/* Do a job: one that only reads; one that changes the volume, after those that were asked for before. */
void volume_read(struct volume *volume, struct job *job);
void volume_change(struct volume *volume, struct job *job);

/* --- between content.c and transfer.c --- */

/* What a request of the content API names. */
struct content_request {
	char path[TREE_PATH_MAX];
	struct tree_owner owner;
	bool force;
	unsigned depth;
};

/* Answer with an error, in this API's form: its code is text. */
void content_fail(struct http_exchange *exchange, int status, const char *format, ...)
        __attribute__((format(printf, 3, 4)));

/* The same for what a job says. */
void content_fail_job(struct http_exchange *exchange, const struct job *job);

/* Each takes a use of the volume. */
void transfer_download(struct volume *volume, struct http_exchange *exchange,
                       const struct content_request *request);
void transfer_upload(struct volume *volume, struct http_exchange *exchange,
                     const struct content_request *request);
