/* Fuzz the requests of guests on a mounted volume: what they do stays below the volume's directory, is
 * counted as it is measured, and every way in it stays short. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/volumes/operation.h"
#include "base/base.h"
#include "fuzz.h"

#define ROOM     (64 * 1024) /* bytes that the volume may have */
#define REQUESTS 24

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char place[64]; /* `files` is the volume's; `guarded` beside it is to stay as it is */
static size_t prefix;  /* of the paths below `files` */
static struct stat guarded;

/* What tells whether something was made, removed or changed beside the volume. */
static void look(struct stat *st)
{
	char path[128];
	struct stat above;

	(void)snprintf(path, sizeof(path), "%s/guarded", place);
	if (stat(path, st) < 0 || stat(place, &above) < 0 || above.st_nlink != 3)
		abort();
}

static void remove_place(void)
{
	(void)file_remove_tree(place, NULL);
}

static void begin(void)
{
	char path[128];
	int fd;

	(void)snprintf(place, sizeof(place), "/tmp/fuzz-volume-XXXXXX");
	if (!mkdtemp(place))
		abort();
	(void)atexit(remove_place);
	(void)snprintf(path, sizeof(path), "%s/files", place);
	prefix = strlen(path) + 1;
	if (mkdir(path, 0700) < 0)
		abort();
	(void)snprintf(path, sizeof(path), "%s/guarded", place);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, "guarded", 7) != 7)
		abort();
	close(fd);
	look(&guarded);
}

static int check_entry(const char *path, const struct stat *st, int type, struct FTW *place_in_walk)
{
	(void)type;
	(void)place_in_walk;
	if (strlen(path) >= prefix + TREE_PATH_MAX || (st->st_mode & 07077 && !S_ISLNK(st->st_mode)) ||
	    (!S_ISDIR(st->st_mode) && !S_ISREG(st->st_mode) && !S_ISLNK(st->st_mode)))
		abort();
	return 0;
}

/* A way of short names, so that requests meet; now and then of any bytes. */
static size_t take_path(struct input *input, char *path)
{
	static const char *const names[] = { "a", "b", "c", "..", "/", ".", "", "a/b" };
	uint32_t kind = take(input, 1);
	size_t used = 0;

	if (kind >= 0xf0) {
		for (uint32_t left = take(input, 1); left && used < 200; left--) {
			path[used] = (char)take(input, 1);
			used += path[used] != '\0';
		}
		return used;
	}
	for (uint32_t parts = kind >> 5; parts < 8; parts++) {
		const char *name = names[take(input, 1) % ARRAY_SIZE(names)];
		int size = snprintf(path + used, 256 - used, "%s%s", used ? "/" : "", name);

		used += (size_t)size;
	}
	return used;
}

static void run_one(struct input *input, int root, uint64_t *used)
{
	static char bytes[VOLUME_REQUEST_MAX];
	char *at = bytes + sizeof(struct volume_request);
	struct volume_request head = { .op = (uint16_t)(take(input, 1) % VOLUME_OP_MAX + 1) };
	struct volume_parts parts;
	struct operation *operation;
	struct volume_reply reply;

	head.flags = (uint16_t)take(input, 1);
	head.valid = take(input, 1) & 127;
	head.mode = take(input, 2);
	head.uid = take(input, 4);
	head.count = take(input, 3);
	head.offset = take(input, 1) > 200 ? (uint64_t)take(input, 4) << 32 | take(input, 4) : take(input, 2);
	head.mtime_ns = (int64_t)((uint64_t)take(input, 4) << 32);
	head.path_size = (uint16_t)take_path(input, at);
	head.other_size = (uint16_t)take_path(input, at + head.path_size);
	head.data_size = take(input, 1) % 64;
	head.size = (uint32_t)sizeof(head) + head.path_size + head.other_size + head.data_size;
	memset(at + head.path_size + head.other_size, 'x', head.data_size);
	memcpy(bytes, &head, sizeof(head));
	if (volume_request_read(bytes, head.size, &head, &parts, NULL) != (int)head.size)
		abort();
	operation = operation_new(&head, &parts);
	operation->room = *used < ROOM ? ROOM - *used : 0;
	/* A sync of all the machine's disks is no test. */
	if (head.op != VOLUME_SYNC)
		operation_run(operation, root);
	*used += operation->cost - operation->freed;
	reply = operation_reply(operation);
	if (reply.size != sizeof(reply) + reply.data_size || reply.data_size > VOLUME_DATA_MAX ||
	    *used > ROOM || operation->answer_size + sizeof(*operation) > operation_weight(operation))
		abort();
	operation_free(operation);
}

/* As it comes from the wire. */
static void run_raw(const uint8_t *data, size_t size)
{
	struct volume_request head;
	struct volume_parts parts;
	int taken;

	while ((taken = volume_request_read(data, size, &head, &parts, NULL)) > 0) {
		if ((size_t)taken > size)
			abort();
		data += taken;
		size -= (size_t)taken;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = { data, size };
	char files[128];
	uint64_t measured;
	uint64_t used = 0;
	struct stat now;
	int root;

	if (!place[0])
		begin();
	run_raw(data, size);
	(void)snprintf(files, sizeof(files), "%s/files", place);
	root = open(files, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		abort();
	for (unsigned i = 0; i < REQUESTS && input.size; i++)
		run_one(&input, root, &used);
	if (tree_measure(root, &measured, NULL) < 0 || measured != used)
		abort();
	close(root);
	if (nftw(files, check_entry, 16, FTW_PHYS) != 0)
		abort();
	look(&now);
	if (now.st_size != guarded.st_size || now.st_mode != guarded.st_mode ||
	    now.st_ino != guarded.st_ino || now.st_nlink != guarded.st_nlink ||
	    now.st_mtim.tv_nsec != guarded.st_mtim.tv_nsec || now.st_ctim.tv_nsec != guarded.st_ctim.tv_nsec)
		abort();
	if (used && (file_remove_tree(files, NULL) < 0 || mkdir(files, 0700) < 0))
		abort();
	return 0;
}
