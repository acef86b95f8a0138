/* Unit tests of mounted volumes in the agent: the files that the kernel knows, directories, what /init says.
 */
#include <errno.h>
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

#include "base/base.h"
#include "envd/volume_kernel.h"
#include "envd/volume_mounts.h"
#include "envd/volume_nodes.h"

#define ROOT 1

static int setup(void **state)
{
	*state = volume_nodes_new();
	return *state ? 0 : -1;
}

static int teardown(void **state)
{
	volume_nodes_free(*state);
	return 0;
}

static void assert_path(const struct volume_node *node, const char *name, const char *expected)
{
	char path[VOLUME_PATH_MAX];
	int size = volume_nodes_path(node, name, path);

	assert_int_equal(size, strlen(expected));
	assert_memory_equal(path, expected, (size_t)size);
}

/* --- nodes --- */

static void nodes_have_paths(void **state)
{
	struct volume_nodes *nodes = *state;
	struct volume_node *root = volume_nodes_find(nodes, ROOT);
	struct volume_node *a = volume_nodes_look_up(nodes, root, "a", 10, S_IFDIR);
	struct volume_node *b = volume_nodes_look_up(nodes, a, "b", 11, S_IFDIR);

	assert_path(root, NULL, "");
	assert_path(root, "x", "x");
	assert_path(a, NULL, "a");
	assert_path(b, "c", "a/b/c");
	assert_ptr_equal(volume_nodes_look_up(nodes, a, "b", 11, S_IFDIR), b);
	assert_int_equal(b->lookups, 2);
	assert_null(volume_nodes_find(nodes, 99));
}

static void nodes_live_as_long_as_needed(void **state)
{
	struct volume_nodes *nodes = *state;
	struct volume_node *root = volume_nodes_find(nodes, ROOT);
	struct volume_node *a = volume_nodes_look_up(nodes, root, "a", 10, S_IFDIR);
	struct volume_node *b = volume_nodes_look_up(nodes, a, "b", 11, S_IFREG);
	uint64_t id = b->id;

	volume_nodes_forget(nodes, a->id, 1);
	assert_path(b, NULL, "a/b"); /* what is in it keeps it */
	volume_nodes_hold(b);
	volume_nodes_forget(nodes, id, 100);
	assert_int_equal(volume_nodes_count(nodes), 3);
	volume_nodes_release(nodes, b);
	assert_int_equal(volume_nodes_count(nodes), 1);
	assert_null(volume_nodes_find(nodes, id));
	volume_nodes_forget(nodes, id, 1);
	volume_nodes_forget(nodes, ROOT, 1000);
	assert_non_null(volume_nodes_find(nodes, ROOT));
	assert_true(volume_nodes_look_up(nodes, root, "b", 11, S_IFREG)->id > id);
}

static void renames_take_along_what_is_below(void **state)
{
	struct volume_nodes *nodes = *state;
	struct volume_node *root = volume_nodes_find(nodes, ROOT);
	struct volume_node *a = volume_nodes_look_up(nodes, root, "a", 10, S_IFDIR);
	struct volume_node *b = volume_nodes_look_up(nodes, a, "b", 11, S_IFREG);
	struct volume_node *to = volume_nodes_look_up(nodes, root, "to", 12, S_IFDIR);
	struct volume_node *old = volume_nodes_look_up(nodes, to, "x", 13, S_IFREG);
	char path[VOLUME_PATH_MAX];

	assert_int_equal(volume_nodes_rename(nodes, root, "a", to, "x"), 0);
	assert_path(b, NULL, "to/x/b");
	assert_ptr_equal(volume_nodes_look_up(nodes, to, "x", 10, S_IFDIR), a);
	assert_int_equal(volume_nodes_path(old, NULL, path), -ESTALE);
	assert_int_equal(volume_nodes_rename(nodes, root, "nobody", to, "y"), 0);
	assert_int_equal(volume_nodes_rename(nodes, to, "x", to, "x"), 0);
	assert_path(a, NULL, "to/x");
}

static void removed_nodes_have_no_path(void **state)
{
	struct volume_nodes *nodes = *state;
	struct volume_node *root = volume_nodes_find(nodes, ROOT);
	struct volume_node *a = volume_nodes_look_up(nodes, root, "a", 10, S_IFDIR);
	struct volume_node *b = volume_nodes_look_up(nodes, a, "b", 11, S_IFREG);
	struct volume_node *again;
	char path[VOLUME_PATH_MAX];

	volume_nodes_remove(nodes, root, "a");
	assert_int_equal(volume_nodes_path(b, NULL, path), -ESTALE);
	assert_null(volume_nodes_look_up(nodes, a, "c", 12, S_IFREG));
	again = volume_nodes_look_up(nodes, root, "a", 20, S_IFDIR);
	assert_ptr_not_equal(again, a);
	/* Another file by that name, since. */
	assert_ptr_not_equal(volume_nodes_look_up(nodes, root, "a", 21, S_IFDIR), again);
	assert_int_equal(volume_nodes_path(again, NULL, path), -ESTALE);
	volume_nodes_remove(nodes, root, "nobody");
}

static void paths_have_a_bound(void **state)
{
	struct volume_nodes *nodes = *state;
	struct volume_node *node = volume_nodes_find(nodes, ROOT);
	char path[VOLUME_PATH_MAX];
	char name[256];

	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	for (uint64_t i = 0; i < VOLUME_PATH_MAX / 256; i++)
		node = volume_nodes_look_up(nodes, node, name, 10 + i, S_IFDIR);
	assert_int_equal(volume_nodes_path(node, NULL, path), VOLUME_PATH_MAX - 1);
	assert_int_equal(volume_nodes_path(node, "x", path), -ENAMETOOLONG);
}

static void many_nodes_are_found(void **state)
{
	struct volume_nodes *nodes = *state;
	struct volume_node *root = volume_nodes_find(nodes, ROOT);
	char name[16];

	for (uint64_t i = 0; i < 5000; i++) {
		(void)snprintf(name, sizeof(name), "n%u", (unsigned)i);
		assert_non_null(volume_nodes_look_up(nodes, root, name, 10 + i, S_IFREG));
	}
	assert_int_equal(volume_nodes_count(nodes), 5001);
	for (uint64_t i = 0; i < 5000; i++) {
		(void)snprintf(name, sizeof(name), "n%u", (unsigned)i);
		assert_path(volume_nodes_find(nodes, 2 + i), NULL, name);
		volume_nodes_remove(nodes, root, name);
		volume_nodes_forget(nodes, 2 + i, 1);
	}
	assert_int_equal(volume_nodes_count(nodes), 1);
}

static void open_nodes_live_and_are_counted(void **state)
{
	struct volume_nodes *nodes = *state;
	struct volume_node *root = volume_nodes_find(nodes, ROOT);
	struct volume_node *a = volume_nodes_look_up(nodes, root, "a", 10, S_IFREG);

	assert_ptr_equal(volume_nodes_find_name(nodes, root, "a"), a);
	assert_null(volume_nodes_find_name(nodes, root, "b"));
	volume_nodes_open(a);
	volume_nodes_open(a);
	volume_nodes_forget(nodes, a->id, 1);
	volume_nodes_hold(a);
	assert_false(volume_nodes_close(nodes, a));
	assert_false(volume_nodes_close(nodes, a)); /* it has its name */
	volume_nodes_open(a);
	volume_nodes_open(a);
	assert_int_equal(volume_nodes_rename(nodes, root, "a", root, ".hidden"), 0);
	a->hidden = true;
	assert_null(volume_nodes_find_name(nodes, root, "a"));
	assert_path(a, NULL, ".hidden");
	assert_false(volume_nodes_close(nodes, a));
	assert_true(volume_nodes_close(nodes, a));
	assert_false(volume_nodes_close(nodes, a)); /* more often than it was opened */
	volume_nodes_release(nodes, a);
	assert_int_equal(volume_nodes_count(nodes), 1);
}

/* --- attributes --- */

static uint32_t links_told(struct volume_node *node, uint32_t links)
{
	const struct volume_attributes attributes = { .id = 10, .mode = S_IFREG, .links = links };
	struct {
		struct fuse_out_header head;
		struct fuse_attr_out body;
	} told;
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	volume_kernel_reply_attributes(fds[1], 1, node, &attributes);
	assert_int_equal(read(fds[0], &told, sizeof(told)), sizeof(told));
	close(fds[0]);
	close(fds[1]);
	return told.body.attr.nlink;
}

static void a_hidden_file_has_no_name_to_the_kernel(void **state)
{
	struct volume_nodes *nodes = *state;
	struct volume_node *a = volume_nodes_look_up(nodes, volume_nodes_find(nodes, ROOT), "a", 10, S_IFREG);

	assert_int_equal(links_told(a, 1), 1);
	a->hidden = true;
	assert_int_equal(links_told(a, 1), 0);
	assert_int_equal(links_told(a, 0), 0);
}

/* --- directories --- */

static void directories_are_translated(void **state)
{
	struct volume_nodes *nodes = *state;
	const struct volume_entry last = { .id = 7, .next = INT64_MAX, .mode = S_IFREG, .name_size = 3 };
	char data[sizeof(last) + 3];
	char to[4096];
	struct fuse_dirent entry;

	memcpy(data, &last, sizeof(last));
	memcpy(data + sizeof(last), "abc", 3);
	/* ".", ".." and the one, each in 32 bytes. */
	assert_int_equal(volume_kernel_list(0, volume_nodes_find(nodes, ROOT), data, sizeof(data), to, 4096),
	                 96);
	assert_int_equal(volume_kernel_list(1, volume_nodes_find(nodes, ROOT), data, sizeof(data), to, 4096),
	                 64);
	assert_int_equal(volume_kernel_list(0, volume_nodes_find(nodes, ROOT), data, sizeof(data), to, 95),
	                 64);
	assert_int_equal(volume_kernel_list(2, volume_nodes_find(nodes, ROOT), data, sizeof(data), to, 4096),
	                 32);
	memcpy(&entry, to, sizeof(entry));
	assert_int_equal(entry.ino, 7);
	assert_int_equal(volume_kernel_directory_offset(entry.off), INT64_MAX);
	for (uint64_t offset = 0; offset < 3; offset++)
		assert_int_equal(volume_kernel_directory_offset(offset), 0);
	assert_int_equal(volume_kernel_directory_offset(3), 1);
	data[sizeof(last)] = '/';
	assert_int_equal(volume_kernel_list(2, volume_nodes_find(nodes, ROOT), data, sizeof(data), to, 4096),
	                 -EIO);
}

/* --- /init --- */

static int read_mounts(const char *text)
{
	struct volume_mount_request requests[VOLUME_MOUNTS_MAX];
	cleanup_json json_t *body = json_loads(text, 0, NULL);
	struct error err = { 0 };

	assert_non_null(body);
	return volume_mounts_read(body, requests, &err);
}

static void init_names_volumes(void **state)
{
	static const char *const bad[] = {
		"{\"volumeMounts\":{}}",
		"{\"volumeMounts\":[1]}",
		"{\"volumeMounts\":[{\"path\":\"/a\"}]}",
		"{\"volumeMounts\":[{\"volumeId\":\"v\"}]}",
		"{\"volumeMounts\":[{\"volumeId\":\"v\\nw\",\"path\":\"/a\"}]}",
		"{\"volumeMounts\":[{\"volumeId\":\"v\",\"path\":\"a\"}]}",
		"{\"volumeMounts\":[{\"volumeId\":\"v\",\"path\":\"\"}]}",
		"{\"volumeMounts\":[{\"volumeId\":\"v\",\"path\":\"/\"}]}",
		"{\"volumeMounts\":[{\"volumeId\":\"v\",\"path\":\"/a/\"}]}",
		"{\"volumeMounts\":[{\"volumeId\":\"v\",\"path\":\"/a//b\"}]}",
		"{\"volumeMounts\":[{\"volumeId\":\"v\",\"path\":\"/a/./b\"}]}",
		"{\"volumeMounts\":[{\"volumeId\":\"v\",\"path\":\"/a/..\"}]}",
		"{\"volumeMounts\":[{\"volumeId\":\"v\",\"path\":\"/a\"},{\"volumeId\":\"w\",\"path\":\"/"
		"a\"}]}",
		"{\"volumeMounts\":[{\"volumeId\":\"v\",\"path\":\"/a/b\"},{\"volumeId\":\"w\",\"path\":\"/"
		"a\"}]}",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(read_mounts(bad[i]), -EINVAL);
	assert_int_equal(read_mounts("{}"), 0);
	assert_int_equal(read_mounts("{\"volumeMounts\":null}"), 0);
	assert_int_equal(read_mounts("{\"volumeMounts\":[{\"volumeId\":\"v-1_X\",\"path\":\"/a/.b/..c\"},"
	                             "{\"volumeId\":\"v\",\"path\":\"/a/.bc\"}]}"),
	                 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(nodes_have_paths, setup, teardown),
		cmocka_unit_test_setup_teardown(nodes_live_as_long_as_needed, setup, teardown),
		cmocka_unit_test_setup_teardown(renames_take_along_what_is_below, setup, teardown),
		cmocka_unit_test_setup_teardown(removed_nodes_have_no_path, setup, teardown),
		cmocka_unit_test_setup_teardown(paths_have_a_bound, setup, teardown),
		cmocka_unit_test_setup_teardown(many_nodes_are_found, setup, teardown),
		cmocka_unit_test_setup_teardown(open_nodes_live_and_are_counted, setup, teardown),
		cmocka_unit_test_setup_teardown(a_hidden_file_has_no_name_to_the_kernel, setup, teardown),
		cmocka_unit_test_setup_teardown(directories_are_translated, setup, teardown),
		cmocka_unit_test(init_names_volumes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
