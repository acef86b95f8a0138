/* Unit test of node/stack and node/boot: which files make up a machine, pause after pause. */
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

#include "node/boot.h"
#include "node/stack.h"

static const struct stack_template template = { .memory_layers = 2, .disk_layers = 1 };

static bool same(const struct stack *a, const struct stack *b)
{
	return a->pauses == b->pauses && a->full == b->full && a->frozen == b->frozen &&
	       a->fresh == b->fresh && a->void_top == b->void_top;
}

static const char *text(const json_t *json, const char *key)
{
	return json_string_value(json_object_get(json, key));
}

/* The list, its entries joined by a space. */
static const char *joined(const json_t *list)
{
	static char all[1024];
	size_t index;
	json_t *item;

	all[0] = '\0';
	json_array_foreach (list, index, item)
		(void)snprintf(all + strlen(all), sizeof(all) - strlen(all), "%s%s", index ? " " : "",
		               json_string_value(item));
	return all;
}

/* --- requests --- */

static void test_memory_begins_anew(void **state)
{
	const struct stack before = { .pauses = 3, .frozen = 1 };
	struct stack stack = stack_paused_disk(&template, &before);
	cleanup_json json_t *first = NULL;
	cleanup_json json_t *load = NULL;
	cleanup_json json_t *second = NULL;

	(void)state;
	assert_true(
	        same(&stack, &(struct stack){ .pauses = 3, .frozen = 2, .fresh = true, .void_top = true }));
	/* It was booted, and its top has what the guest wrote. */
	stack.void_top = false;
	first = stack_pause_request(&template, &stack);
	assert_string_equal(text(first, "snapshot_type"), "Full");
	assert_string_equal(text(first, "mem_file_path"), "/disk/memory.3");
	assert_string_equal(text(first, "snapshot_path"), "/disk/state.4");
	stack = stack_paused(&template, &stack);
	assert_true(same(&stack, &(struct stack){ .pauses = 4, .full = 4, .frozen = 2 }));
	load = stack_load_request(&template, &stack, false, true);
	assert_string_equal(text(json_object_get(load, "mem_backend"), "backend_path"), "/disk/memory.3");
	assert_int_equal(json_array_size(json_object_get(load, "mem_layers")), 0);
	second = stack_pause_request(&template, &stack);
	assert_string_equal(text(second, "snapshot_type"), "Diff");
}

static void test_layers_are_limited(void **state)
{
	struct stack stack = { 0 };
	unsigned void_tops = 0;

	(void)state;
	for (unsigned i = 0; i < 40; i++) {
		stack = stack_paused_disk(&template, &stack);
		assert_true(stack.fresh);
		void_tops += stack.void_top;
		stack.void_top = false;
	}
	assert_int_equal(1 + template.disk_layers + stack.frozen, STACK_REBOOT_LAYERS_MAX);
	assert_int_equal(void_tops, stack.frozen);
}

static void test_drive(void **state)
{
	const struct stack stack = { .frozen = 2, .fresh = true, .void_top = true };
	cleanup_json json_t *drive = stack_drive_request(&template, &stack);

	(void)state;
	assert_string_equal(text(drive, "path_on_host"), "/template/rootfs.ext4");
	assert_string_equal(joined(json_object_get(drive, "layers")),
	                    "/template/disk.layer /template/disk.layer.1 /disk/disk.0 /disk/disk.1");
	assert_string_equal(text(drive, "overlay_path"), "/disk/disk.2");
	assert_true(json_is_true(json_object_get(drive, "is_root_device")));
	assert_string_equal(text(drive, "cache_type"), "Writeback");
}

static void test_boot(void **state)
{
	static const char *const targets[] = { "/machine-config", "/boot-source", "/drives/rootfs", "/vsock",
		                               "/entropy",        "/serial",      "/actions" };
	cleanup_json json_t *drive = json_pack("{s:s}", "drive_id", "rootfs");
	struct boot boot = { .vcpu_count = 2,
		             .memory_mib = 512,
		             .inside = "/template",
		             .initrd = true,
		             .emulated = true,
		             .args = "more=1",
		             .drive = drive };
	const char *method;
	const char *target;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(targets); i++) {
		cleanup_json json_t *body = boot_request(&boot, i, &method, &target);

		assert_non_null(body);
		assert_string_equal(method, "PUT");
		assert_string_equal(target, targets[i]);
		if (i == 1) {
			assert_string_equal(text(body, "kernel_image_path"), "/template/vmlinux");
			assert_string_equal(text(body, "initrd_path"), "/template/initrd");
			assert_non_null(strstr(text(body, "boot_args"), " norandmaps "));
			assert_non_null(strstr(text(body, "boot_args"), " more=1"));
		}
	}
	assert_null(boot_request(&boot, ARRAY_SIZE(targets), &method, &target));
	boot.initrd = false;
	boot.emulated = false;
	{
		cleanup_json json_t *body = boot_request(&boot, 1, &method, &target);

		assert_null(json_object_get(body, "initrd_path"));
		assert_null(strstr(text(body, "boot_args"), "norandmaps"));
	}
}

/* --- files --- */

static char directory[32];

static void put(const char *name)
{
	char path[128];

	(void)snprintf(path, sizeof(path), "%s/%s", directory, name);
	assert_int_equal(file_write_atomic(path, name, strlen(name), 0600, NULL), 0);
}

static bool there(const char *name)
{
	char path[128];

	(void)snprintf(path, sizeof(path), "%s/%s", directory, name);
	return access(path, F_OK) == 0;
}

static int make_directory(void **state)
{
	(void)state;
	(void)snprintf(directory, sizeof(directory), "/tmp/atoll-stack-XXXXXX");
	return mkdtemp(directory) ? 0 : -1;
}

static int remove_directory(void **state)
{
	(void)state;
	return file_remove_tree(directory, NULL);
}

static void test_files(void **state)
{
	const struct stack stack = { .pauses = 2, .frozen = 1, .fresh = true, .void_top = true };
	struct stack running = stack;

	(void)state;
	put("memory.0");
	put("memory.1");
	put("memory.2"); /* half made */
	put("state.1");
	put("state.2");
	put("disk.0");
	put("disk.1");
	/* No memory file has to be there. */
	assert_int_equal(stack_seal(directory, &stack, getuid(), NULL), 0);
	stack_clean(directory, &stack);
	assert_false(there("memory.0") || there("memory.1") || there("memory.2"));
	assert_false(there("state.1") || there("state.2"));
	assert_true(there("disk.0") && there("disk.1"));
	/* What runs has a top that counts. */
	running.void_top = false;
	assert_int_equal(stack_drop_top(directory, &running, NULL), 0);
	assert_true(there("disk.1"));
	assert_int_equal(stack_drop_top(directory, &stack, NULL), 0);
	assert_true(there("disk.0") && !there("disk.1"));
	assert_int_equal(stack_drop_top(directory, &stack, NULL), 0);
}

static void test_kernel_goes_along(void **state)
{
	static const char *const files[] = { "memory",  "rootfs.ext4", "disk.layer",
		                             "state.1", "memory.0",    "disk.0" };
	const struct stack_template plain = { 0 };
	const struct stack stack = { .pauses = 1, .full = 1, .frozen = 1 };
	struct stack_template made = { 0 };
	struct error err = { 0 };
	char target[64];
	bool kernel = *state;

	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		put(files[i]);
	if (kernel)
		put(BOOT_KERNEL);
	(void)snprintf(target, sizeof(target), "%s/to", directory);
	assert_int_equal(mkdir(target, 0755), 0);
	assert_int_equal(stack_link(directory, &plain, directory, &stack, target, &made, &err), 0);
	assert_int_equal(err.code, 0);
	assert_int_equal(there("to/" BOOT_KERNEL), kernel);
	assert_false(there("to/" BOOT_INITRD));
	assert_true(there("to/memory") && there("to/state") && there("to/disk.layer.1"));
	assert_int_equal(made.disk_layers, 1);
}

static void test_kernel(void **state)
{
	static bool yes = true;
	void *with = &yes;
	void *without = NULL;

	(void)state;
	test_kernel_goes_along(&without);
	(void)remove_directory(NULL);
	(void)make_directory(NULL);
	test_kernel_goes_along(&with);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_memory_begins_anew),
		cmocka_unit_test(test_layers_are_limited),
		cmocka_unit_test(test_drive),
		cmocka_unit_test(test_boot),
		cmocka_unit_test_setup_teardown(test_files, make_directory, remove_directory),
		cmocka_unit_test_setup_teardown(test_kernel, make_directory, remove_directory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
