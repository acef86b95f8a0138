/* Unit tests of mounted volumes: the messages, and what a guest's requests do to the files. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "api/volumes/operation.h"
#include "base/base.h"

#define ROOM   (UINT64_C(1) << 30)
#define HIDDEN VOLUME_HIDDEN_PREFIX "0123456789abcdef"

/* --- messages --- */

/* A whole request in `bytes`. */
static size_t write_request(char *bytes, struct volume_request head, const char *path, const char *other,
                            const char *data)
{
	char *at = bytes + sizeof(head);

	head.path_size = (uint16_t)strlen(path);
	head.other_size = (uint16_t)strlen(other);
	head.data_size = (uint32_t)strlen(data);
	head.size = (uint32_t)sizeof(head) + head.path_size + head.other_size + head.data_size;
	memcpy(bytes, &head, sizeof(head));
	memcpy(at, path, head.path_size);
	memcpy(at + head.path_size, other, head.other_size);
	memcpy(at + head.path_size + head.other_size, data, head.data_size);
	return head.size;
}

static void requests_are_whole_or_not_yet(void **state)
{
	struct volume_request head = { .op = VOLUME_WRITE, .tag = 7, .offset = 5 };
	struct volume_parts parts;
	char bytes[200];
	size_t size = write_request(bytes, head, "a/b", "other", "data");

	(void)state;
	for (size_t i = 0; i < size; i++) {
		/* On the heap: what is read beyond the end is seen. */
		cleanup_free char *part = malloc(i ? i : 1);

		memcpy(part, bytes, i);
		assert_int_equal(volume_request_read(part, i, &head, &parts, NULL), 0);
	}
	assert_int_equal(volume_request_read(bytes, sizeof(bytes), &head, &parts, NULL), size);
	assert_int_equal(head.tag, 7);
	assert_memory_equal(parts.path, "a/b", 3);
	assert_memory_equal(parts.other, "other", 5);
	assert_memory_equal(parts.data, "data", 4);
}

static void requests_that_lie_are_none(void **state)
{
	const struct volume_request good = { .op = VOLUME_STAT };
	struct volume_request heads[8];
	struct volume_request head;
	struct volume_parts parts;
	struct error err;
	char bytes[200];
	size_t size = write_request(bytes, good, "a", "", "");

	(void)state;
	memcpy(&head, bytes, sizeof(head));
	for (size_t i = 0; i < ARRAY_SIZE(heads); i++)
		heads[i] = head;
	heads[0].size--;
	heads[1].size++;
	heads[2].size = 0;
	heads[3].path_size = VOLUME_PATH_MAX + 1;
	heads[4].other_size = UINT16_MAX;
	heads[5].data_size = UINT32_MAX;
	heads[6].op = 0;
	heads[7].op = VOLUME_OP_MAX + 1;
	for (size_t i = 0; i < ARRAY_SIZE(heads); i++) {
		err.code = 0;
		assert_int_equal(volume_request_read(&heads[i], sizeof(head), &head, &parts, &err), -EPROTO);
		assert_int_equal(err.code, EPROTO);
	}
	bytes[size - 1] = '\0';
	assert_int_equal(volume_request_read(bytes, size, &head, &parts, NULL), -EPROTO);
}

static void replies_and_entries_are_checked(void **state)
{
	static const char *const names[] = { "", ".", "..", "a/b" };
	struct volume_reply reply = { .size = sizeof(reply) + 2, .data_size = 2 };
	struct volume_entry entry = { .name_size = 3 };
	char bytes[200] = { 0 };
	const char *data;

	(void)state;
	memcpy(bytes, &reply, sizeof(reply));
	assert_int_equal(volume_reply_read(bytes, sizeof(reply) + 1, &reply, &data, NULL), 0);
	assert_int_equal(volume_reply_read(bytes, sizeof(bytes), &reply, &data, NULL), sizeof(reply) + 2);
	bytes[0]++;
	assert_int_equal(volume_reply_read(bytes, sizeof(bytes), &reply, &data, NULL), -EPROTO);
	memcpy(bytes, &entry, sizeof(entry));
	memcpy(bytes + sizeof(entry), "abc", 3);
	assert_int_equal(volume_entry_read(bytes, 0, &entry, &data, NULL), 0);
	assert_int_equal(volume_entry_read(bytes, sizeof(entry) + 2, &entry, &data, NULL), -EPROTO);
	assert_int_equal(volume_entry_read(bytes, sizeof(entry) + 3, &entry, &data, NULL), sizeof(entry) + 3);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		entry.name_size = (uint32_t)strlen(names[i]);
		memcpy(bytes, &entry, sizeof(entry));
		memcpy(bytes + sizeof(entry), names[i], strlen(names[i]));
		assert_int_equal(volume_entry_read(bytes, sizeof(bytes), &entry, &data, NULL), -EPROTO);
	}
}

/* --- files --- */

struct place {
	char path[64]; /* `files` is the volume's, `secret` is beside it */
	int root;
	uint64_t used;
};

static int setup(void **state)
{
	struct place *place = calloc(1, sizeof(*place));
	char path[128];
	FILE *file;

	(void)snprintf(place->path, sizeof(place->path), "/tmp/atoll-volume-XXXXXX");
	if (!mkdtemp(place->path))
		return -1;
	(void)snprintf(path, sizeof(path), "%s/secret", place->path);
	file = fopen(path, "we");
	if (!file || fputs("secret", file) < 0 || fclose(file) != 0)
		return -1;
	(void)snprintf(path, sizeof(path), "%s/files", place->path);
	if (mkdir(path, 0700) < 0)
		return -1;
	place->root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	*state = place;
	return 0;
}

static int teardown(void **state)
{
	struct place *place = *state;

	close(place->root);
	(void)file_remove_tree(place->path, NULL);
	free(place);
	return 0;
}

/* Do it; to be freed. */
static struct operation *ask_with(struct place *place, struct volume_request head, const char *path,
                                  const char *other, const char *data, uint64_t room)
{
	char *bytes = malloc(VOLUME_REQUEST_MAX);
	size_t size = write_request(bytes, head, path, other, data);
	struct volume_parts parts;
	struct operation *operation;

	assert_int_equal(volume_request_read(bytes, size, &head, &parts, NULL), size);
	operation = operation_new(&head, &parts);
	free(bytes);
	operation->room = room;
	operation_run(operation, place->root);
	place->used += operation->cost;
	place->used -= operation->freed;
	assert_true(operation->answer_size + sizeof(*operation) <= operation_weight(operation));
	return operation;
}

static int ask(struct place *place, enum volume_op op, const char *path, const char *other)
{
	const struct volume_request head = { .op = (uint16_t)op, .mode = 0644, .count = 4096 };
	struct operation *operation = ask_with(place, head, path, other, "", ROOM);
	int code = (int)operation->error;

	operation_free(operation);
	return code;
}

static int write_at(struct place *place, const char *path, uint64_t offset, const char *data, uint64_t room)
{
	const struct volume_request head = { .op = VOLUME_WRITE, .offset = offset };
	struct operation *operation = ask_with(place, head, path, "", data, room);
	int code = (int)operation->error;

	operation_free(operation);
	return code;
}

static void assert_measured(const struct place *place)
{
	uint64_t measured;

	assert_int_equal(tree_measure(place->root, &measured, NULL), 0);
	assert_int_equal(measured, place->used);
}

static void all_is_counted(void **state)
{
	struct volume_request set = { .op = VOLUME_SET, .valid = VOLUME_VALID_SIZE, .offset = 100000 };
	struct place *place = *state;

	assert_int_equal(ask(place, VOLUME_MKDIR, "d", ""), 0);
	assert_int_equal(ask(place, VOLUME_CREATE, "d/f", ""), 0);
	assert_int_equal(ask(place, VOLUME_CREATE, "g", ""), 0);
	assert_int_equal(ask(place, VOLUME_SYMLINK, "l", "../secret"), 0);
	assert_measured(place);
	assert_int_equal(write_at(place, "d/f", 10000, "x", ROOM), 0);
	assert_int_equal(write_at(place, "d/f", 0, "x", 0), 0);
	assert_int_equal(write_at(place, "d/f", 4096 * 3, "x", 4095), ENOSPC);
	assert_int_equal(write_at(place, "d/f", 4096 * 3, "x", 4096), 0);
	assert_measured(place);
	operation_free(ask_with(place, set, "g", "", "", ROOM));
	assert_measured(place);
	set.offset = 5;
	operation_free(ask_with(place, set, "g", "", "", 0));
	assert_measured(place);
	assert_int_equal(ask(place, VOLUME_RENAME, "g", "d/f"), 0);
	assert_int_equal(ask(place, VOLUME_RENAME, "d/f", "d/f"), 0);
	assert_measured(place);
	assert_int_equal(ask(place, VOLUME_UNLINK, "d/f", ""), 0);
	assert_int_equal(ask(place, VOLUME_RMDIR, "d", ""), 0);
	assert_int_equal(ask(place, VOLUME_UNLINK, "l", ""), 0);
	assert_measured(place);
	assert_int_equal(place->used, 0);
}

static void nothing_leads_out(void **state)
{
	static const char *const paths[] = {
		"../secret", "/secret", "up/secret", "up/new",      "d/../../secret",
		"d/./x",     "d//x",    ".",         "..",          "d/",
		"/",         "link",    "link/x",    "d/up/secret", "absolute/tmp"
	};
	struct place *place = *state;
	char path[128];

	assert_int_equal(ask(place, VOLUME_MKDIR, "d", ""), 0);
	assert_int_equal(ask(place, VOLUME_CREATE, "own", ""), 0);
	assert_int_equal(ask(place, VOLUME_SYMLINK, "up", ".."), 0);
	assert_int_equal(ask(place, VOLUME_SYMLINK, "d/up", "../.."), 0);
	assert_int_equal(ask(place, VOLUME_SYMLINK, "link", "../secret"), 0);
	assert_int_equal(ask(place, VOLUME_SYMLINK, "absolute", "/"), 0);
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
		assert_int_not_equal(ask(place, VOLUME_READ, paths[i], ""), 0);
		assert_int_not_equal(ask(place, VOLUME_CREATE, paths[i], ""), 0);
		assert_int_not_equal(ask(place, VOLUME_MKDIR, paths[i], ""), 0);
		assert_int_not_equal(write_at(place, paths[i], 0, "x", ROOM), 0);
		assert_int_not_equal(ask(place, VOLUME_READDIR, paths[i], ""), 0);
		if (strcmp(paths[i], "link") == 0)
			continue; /* a link may be removed and renamed */
		assert_int_not_equal(ask(place, VOLUME_UNLINK, paths[i], ""), 0);
		assert_int_not_equal(ask(place, VOLUME_STAT, paths[i], ""), 0);
		assert_int_not_equal(ask(place, VOLUME_RENAME, paths[i], "x"), 0);
		assert_int_not_equal(ask(place, VOLUME_RENAME, "own", paths[i]), 0);
	}
	(void)snprintf(path, sizeof(path), "%s/secret", place->path);
	{
		cleanup_buffer struct buffer text = BUFFER_INIT;

		assert_int_equal(file_read(path, &text, NULL), 0);
		assert_string_equal(text.data, "secret");
	}
	assert_int_equal(ask(place, VOLUME_RMDIR, "", ""), EBUSY);
	assert_int_equal(ask(place, VOLUME_RENAME, "", "x"), EBUSY);
	assert_int_equal(ask(place, VOLUME_CREATE, "", ""), EEXIST);
	assert_int_equal(ask(place, VOLUME_WRITE, "", ""), EISDIR);
}

static void ways_stay_short(void **state)
{
	struct place *place = *state;
	char path[VOLUME_PATH_MAX + 1] = "";
	char name[NAME_MAX + 2];

	memset(name, 'n', NAME_MAX);
	name[NAME_MAX] = '\0';
	assert_int_equal(ask(place, VOLUME_CREATE, name, ""), 0);
	name[NAME_MAX] = 'n';
	name[NAME_MAX + 1] = '\0';
	assert_int_equal(ask(place, VOLUME_CREATE, name, ""), ENAMETOOLONG);
	for (size_t used = 0; used + 1 < TREE_PATH_MAX; used += used ? 2 : 1) {
		memcpy(path + used, used ? "/d" : "d", used ? 3 : 2);
		assert_int_equal(ask(place, VOLUME_MKDIR, path, ""), 0);
	}
	assert_int_equal(strlen(path), TREE_PATH_MAX - 1);
	(void)strcat(path, "d");
	assert_int_equal(ask(place, VOLUME_MKDIR, path, ""), ENAMETOOLONG);
	/* What is below it would have too long a way. */
	assert_int_equal(ask(place, VOLUME_MKDIR, "e", ""), 0);
	assert_int_equal(ask(place, VOLUME_RENAME, "d", "e/d"), ENAMETOOLONG);
	assert_int_equal(ask(place, VOLUME_RENAME, "d", "dd"), ENAMETOOLONG);
	assert_int_equal(ask(place, VOLUME_RENAME, "d/d", "dd"), 0);
	assert_int_equal(ask(place, VOLUME_RENAME, "dd", "d/d"), 0);
	assert_measured(place);
}

static void devices_are_not_touched(void **state)
{
	struct place *place = *state;

	assert_int_equal(mkfifoat(place->root, "pipe", 0600), 0);
	assert_int_equal(ask(place, VOLUME_READ, "pipe", ""), EINVAL);
	assert_int_equal(write_at(place, "pipe", 0, "x", ROOM), ENXIO);
	assert_int_equal(ask(place, VOLUME_UNLINK, "pipe", ""), 0);
}

static void hidden_names_are_known(void **state)
{
	static const char *const others[] = { "",
		                              ".atoll-hidden-",
		                              ".atoll-hidden-0123456789abcde",
		                              ".atoll-hidden-0123456789abcdef0",
		                              ".atoll-hidden-0123456789abcdeF",
		                              "atoll-hidden-0123456789abcdef" };

	(void)state;
	assert_true(volume_is_hidden(HIDDEN));
	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		assert_false(volume_is_hidden(others[i]));
}

static void hidden_files_are_removed(void **state)
{
	struct place *place = *state;
	uint64_t freed;

	assert_false(tree_may_have_hidden(place->root));
	assert_int_equal(ask(place, VOLUME_MKDIR, "d", ""), 0);
	assert_int_equal(ask(place, VOLUME_MKDIR, "d/e", ""), 0);
	assert_int_equal(ask(place, VOLUME_CREATE, "stays", ""), 0);
	assert_int_equal(ask(place, VOLUME_CREATE, "goes", ""), 0);
	assert_int_equal(ask(place, VOLUME_CREATE, "too", ""), 0);
	assert_int_equal(write_at(place, "goes", 0, "x", ROOM), 0);
	assert_int_equal(ask(place, VOLUME_RENAME, "stays", "kept"), 0);
	assert_false(tree_may_have_hidden(place->root));
	assert_int_equal(ask(place, VOLUME_RENAME, "goes", "d/e/" HIDDEN), 0);
	assert_true(tree_may_have_hidden(place->root));
	assert_int_equal(ask(place, VOLUME_RENAME, "too", HIDDEN), 0);
	/* A directory that has such a name was made by somebody, and is walked. */
	assert_int_equal(ask(place, VOLUME_RENAME, "d/e", "d/" HIDDEN), 0);
	assert_int_equal(tree_remove_hidden(place->root, &freed, NULL), 0);
	assert_int_equal(freed, tree_cost(1) + TREE_ENTRY_BYTES);
	place->used -= freed;
	assert_measured(place);
	assert_int_equal(ask(place, VOLUME_STAT, "kept", ""), 0);
	assert_int_equal(ask(place, VOLUME_STAT, "d/" HIDDEN, ""), 0);
	assert_int_equal(ask(place, VOLUME_STAT, "d/" HIDDEN "/" HIDDEN, ""), ENOENT);
	assert_int_equal(ask(place, VOLUME_STAT, HIDDEN, ""), ENOENT);
	assert_false(tree_may_have_hidden(place->root));
	assert_int_equal(tree_remove_hidden(place->root, &freed, NULL), 0);
	assert_int_equal(freed, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(requests_are_whole_or_not_yet),
		cmocka_unit_test(requests_that_lie_are_none),
		cmocka_unit_test(replies_and_entries_are_checked),
		cmocka_unit_test_setup_teardown(all_is_counted, setup, teardown),
		cmocka_unit_test_setup_teardown(nothing_leads_out, setup, teardown),
		cmocka_unit_test_setup_teardown(ways_stay_short, setup, teardown),
		cmocka_unit_test_setup_teardown(devices_are_not_touched, setup, teardown),
		cmocka_unit_test(hidden_names_are_known),
		cmocka_unit_test_setup_teardown(hidden_files_are_removed, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
