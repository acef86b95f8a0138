/*
 * operation: one request of a guest, done on the files of a volume that it has mounted. Private to the
 * folder.
 *
 * Made and freed on the loop, run on a thread. Requests are hostile: a path leads nowhere but down, over no
 * symbolic link; what is made is a file, a directory or a link, the service's own on the disk. Owners and
 * modes are kept as the content API keeps them (tree.h), but for those of links, which have no place for
 * them: they are everybody's, of user 0.
 *
 * An entry's way from the root is shorter than TREE_PATH_MAX also after renames, so that whoever walks a
 * volume needs no more depth than its paths have.
 */
#pragma once

#include "api/volumes/tree.h"
#include "volume/volume.h"

struct operation {
	struct volume_request head;
	const char *path; /* as `other` ended by a zero */
	const char *other;
	const char *data;
	uint64_t room;     /* for the run: bytes of the volume that are free, */
	uint64_t size_max; /* and that it may have in all */
	uint64_t cost;     /* of the run: what it used of them, and gave back; also when it failed */
	uint64_t freed;
	uint32_t error; /* what is answered */
	struct volume_attributes attributes;
	char *answer;
	size_t answer_size;
	char text[];
};

/* A copy of a request that volume_request_read() found whole. NULL: no memory. */
struct operation *operation_new(const struct volume_request *head, const struct volume_parts *parts);
void operation_free(struct operation *operation);

/* Whether it must come in turn with the volume's changes. */
bool operation_changes(const struct operation *operation);

/* Whether a file gets a hidden name by it (volume.h). */
bool operation_hides(const struct operation *operation);

/* Bytes of memory that it takes at most, its answer's with them. */
size_t operation_weight(const struct operation *operation);

/* Do it below `root`, which is a volume's. Blocks. */
void operation_run(struct operation *operation, int root);

/* The head of the answer; its data is `answer`. */
struct volume_reply operation_reply(const struct operation *operation);
