/* Unit tests of the agent's pieces that take hostile input: forms, paths, envelopes, signatures. */
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

#include "envd/multipart.h"
#include "envd/path.h"
#include "envd/signature.h"
#include "envd/watch.h"

struct collected {
	struct buffer text;
	int fail_at_part;
	int parts;
};

static int on_part(const char *name, const char *filename, void *context)
{
	struct collected *collected = context;

	if (++collected->parts == collected->fail_at_part)
		return -EPERM;
	return buffer_printf(&collected->text, "<%s|%s:", name, filename);
}

static int on_data(const char *data, size_t size, void *context)
{
	return buffer_append(&((struct collected *)context)->text, data, size);
}

static int on_part_end(void *context)
{
	return buffer_append(&((struct collected *)context)->text, ">", 1);
}

static const struct multipart_events events = { on_part, on_data, on_part_end };

/* Feed `form` in two pieces, cut at `cut`. */
static int parse(const char *form, size_t size, size_t cut, struct collected *collected, bool *complete)
{
	struct multipart *multipart =
	        multipart_new("multipart/form-data; boundary=\"XX\"", &events, collected, NULL);
	int ret;

	assert_non_null(multipart);
	ret = multipart_feed(multipart, form, cut);
	if (ret == 0)
		ret = multipart_feed(multipart, form + cut, size - cut);
	*complete = multipart_complete(multipart);
	multipart_free(multipart);
	return ret;
}

static void forms_are_the_same_wherever_they_are_cut(void **state)
{
	static const char form[] =
	        "--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\\\"b\"\r\n"
	        "Content-Type: text/plain\r\n\r\nline\r\n--X\r\nmore\r\n--XX\r\n"
	        "content-disposition: form-data; name=file; filename*=UTF-8''%c3%a4\r\n\r\n"
	        "\r\n--XX--\r\nepilogue";

	(void)state;
	for (size_t cut = 0; cut < sizeof(form); cut++) {
		struct collected collected = { .text = BUFFER_INIT };
		bool complete;

		assert_int_equal(parse(form, sizeof(form) - 1, cut, &collected, &complete), 0);
		assert_true(complete);
		assert_string_equal(collected.text.data, "<file|a\"b:line\r\n--X\r\nmore><file|\xc3\xa4:>");
		buffer_fini(&collected.text);
	}
}

static void forms_that_are_none_are_refused(void **state)
{
	static const struct {
		const char *form;
		int ret;
	} cases[] = {
		{ "", 0 },
		{ "--XX", 0 },
		{ "--XXgarbage\r\n\r\n", -EINVAL },
		{ "--XX\r\nContent-Type: a/b\r\n\r\ndata\r\n--XX--", -EINVAL },
		{ "--XX\r\n\r\ndata\r\n--XX--", -EINVAL },
	};
	char *large = calloc(1, 20000);

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct collected collected = { .text = BUFFER_INIT };
		bool complete;

		assert_int_equal(parse(cases[i].form, strlen(cases[i].form), 0, &collected, &complete),
		                 cases[i].ret);
		assert_false(complete);
		buffer_fini(&collected.text);
	}
	/* Headers without an end. */
	memset(large, 'h', 20000);
	memcpy(large, "--XX\r\n", 6);
	for (int i = 0; i < 2; i++) {
		struct collected collected = { .text = BUFFER_INIT };
		bool complete;

		assert_int_equal(parse(large, 20000, 0, &collected, &complete), -EINVAL);
		buffer_fini(&collected.text);
	}
	free(large);
	assert_null(multipart_new("text/plain", &events, NULL, NULL));
	assert_null(multipart_new("multipart/form-data; boundary=", &events, NULL, NULL));
	assert_null(multipart_new("multipart/form-data; boundary="
	                          "12345678901234567890123456789012345678901234567890123456789012345678901",
	                          &events, NULL, NULL));
}

static void quoted_values_hold_no_parameters(void **state)
{
	static const char form[] = "--XX\r\nContent-Disposition: form-data; filename=\"a\\\"; name=b\"; "
	                           "name=c\r\n\r\n\r\n--XX--";
	struct collected collected = { .text = BUFFER_INIT };
	bool complete;

	(void)state;
	assert_int_equal(parse(form, sizeof(form) - 1, 0, &collected, &complete), 0);
	assert_true(complete);
	assert_string_equal(collected.text.data, "<c|a\"; name=b:>");
	buffer_fini(&collected.text);
}

static void the_bound_on_headers_does_not_depend_on_cuts(void **state)
{
	char form[9000];
	int size = snprintf(
	        form, sizeof(form),
	        "--XX\r\nContent-Disposition: form-data; name=a; filename=%08500d\r\n\r\n\r\n--XX--", 1);

	(void)state;
	for (size_t cut = 0; cut <= (size_t)size; cut += 500) {
		struct collected collected = { .text = BUFFER_INIT };
		bool complete;

		assert_int_equal(parse(form, (size_t)size, cut, &collected, &complete), -EINVAL);
		assert_int_equal(collected.parts, 0);
		buffer_fini(&collected.text);
	}
}

static void a_callback_can_end_a_form(void **state)
{
	static const char form[] = "--XX\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--XX\r\n"
	                           "Content-Disposition: form-data; name=b\r\n\r\n2\r\n--XX--";
	struct collected collected = { .text = BUFFER_INIT, .fail_at_part = 2 };
	bool complete;

	(void)state;
	assert_int_equal(parse(form, sizeof(form) - 1, 10, &collected, &complete), -EPERM);
	assert_string_equal(collected.text.data, "<a|:1>");
	buffer_fini(&collected.text);
}

static void paths_are_resolved_as_the_clients_expect(void **state)
{
	static const struct {
		const char *path;
		const char *resolved;
	} cases[] = {
		{ "/a/b", "/a/b" },       { "a", "/home/u/a" },
		{ "~", "/home/u" },       { "~/x", "/home/u/x" },
		{ "", "/home/u" },        { "/", "/" },
		{ "//a//b/", "/a/b" },    { "/a/./b/../c", "/a/c" },
		{ "/../../x", "/x" },     { "../v", "/home/v" },
		{ "/..", "/" },           { "/a/..", "/" },
		{ "...", "/home/u/..." },
	};
	struct envd envd = { .default_workdir = (char *)(uintptr_t) "" };
	struct user user = { .home = "/home/u" };
	char resolved[4096];
	char *large = calloc(1, 5000);

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		assert_int_equal(path_resolve(&envd, &user, cases[i].path, resolved, NULL), 0);
		assert_string_equal(resolved, cases[i].resolved);
	}
	envd.default_workdir = (char *)(uintptr_t) "work";
	assert_int_equal(path_resolve(&envd, &user, "", resolved, NULL), 0);
	assert_string_equal(resolved, "/home/u/work");
	assert_int_equal(path_resolve(&envd, &user, "~root/x", resolved, NULL), -EINVAL);
	memset(large, 'a', 4999);
	assert_int_equal(path_resolve(&envd, &user, large, resolved, NULL), -ENAMETOOLONG);
	free(large);
}

static void signatures_are_those_of_the_sdk(void **state)
{
	char signature[64];

	(void)state;
	assert_int_equal(signature_make("hello.txt", "read", "user", "0tQG31xiMp0IOQfaz9dcwi72L1CPo8e0", NULL,
	                                signature),
	                 0);
	assert_string_equal(signature, "v1_gUtH/s9YCJWgCizjfUxuWfhFE4QSydOWEIIvfLwDr6E");
}

static void envelopes_are_checked(void **state)
{
	const char *payload;
	size_t size;

	(void)state;
	assert_int_equal(connect_parse_envelope("\0\0\0\0\2{}", 7, &payload, &size, NULL), 0);
	assert_int_equal(size, 2);
	assert_memory_equal(payload, "{}", 2);
	assert_int_equal(connect_parse_envelope("\0\0\0\0", 4, &payload, &size, NULL), -EINVAL);
	assert_int_equal(connect_parse_envelope("\0\0\0\0\3{}", 7, &payload, &size, NULL), -EINVAL);
	assert_int_equal(connect_parse_envelope("\0\xff\xff\xff\xff{}", 7, &payload, &size, NULL), -EINVAL);
	assert_int_equal(connect_parse_envelope("\1\0\0\0\2{}", 7, &payload, &size, NULL), -EINVAL);
}

/* --- watching --- */

struct seen {
	struct watch *watch;
	char names[512];
	unsigned count;
	unsigned free_after; /* events, and then the watch is freed from within */
};

static void on_watch_event(void *context, json_t *event)
{
	struct seen *seen = context;
	size_t used = strlen(seen->names);

	(void)snprintf(seen->names + used, sizeof(seen->names) - used, "%s %s\n",
	               json_string_value(json_object_get(event, "type")) + strlen("EVENT_TYPE_"),
	               json_string_value(json_object_get(event, "name")));
	json_decref(event);
	if (++seen->count == seen->free_after)
		watch_free(seen->watch);
}

static void turn(uv_loop_t *loop)
{
	for (int i = 0; i < 20; i++) {
		(void)uv_run(loop, UV_RUN_NOWAIT);
		(void)usleep(1000);
	}
}

/* All that is to be seen, and what comes right behind it. */
static void turn_until(uv_loop_t *loop, const struct seen *seen)
{
	for (int i = 0; i < 3000; i++) {
		if (seen->free_after ? seen->count >= seen->free_after
		                     : strstr(seen->names, "CREATE a/b/c\n") != NULL)
			break;
		turn(loop);
	}
	turn(loop);
}

static void make_files(const char *directory)
{
	char path[96];

	(void)snprintf(path, sizeof(path), "%s/a", directory);
	assert_int_equal(mkdir(path, 0700), 0);
	(void)snprintf(path, sizeof(path), "%s/a/b", directory);
	assert_int_equal(mkdir(path, 0700), 0);
	(void)snprintf(path, sizeof(path), "%s/a/b/c", directory);
	assert_int_equal(file_write_atomic(path, "", 0, 0600, NULL), 0);
}

/* What was made before the watch of its directory stood is told of; a watch may end from within an event. */
static void watches_follow_and_end(void **state)
{
	const struct watch_options options = { .recursive = true };
	struct seen seen = { 0 };
	struct error err;
	uv_loop_t loop;

	(void)state;
	assert_int_equal(uv_loop_init(&loop), 0);
	for (unsigned free_after = 0; free_after < 4; free_after++) {
		char directory[] = "/tmp/atoll-watch-XXXXXX";

		assert_non_null(mkdtemp(directory));
		seen = (struct seen){ .free_after = free_after };
		seen.watch = watch_new(&loop, directory, &options, on_watch_event, &seen, &err);
		assert_non_null(seen.watch);
		make_files(directory);
		turn_until(&loop, &seen);
		if (free_after == 0) {
			assert_non_null(strstr(seen.names, "CREATE a\n"));
			assert_non_null(strstr(seen.names, "CREATE a/b\n"));
			assert_non_null(strstr(seen.names, "CREATE a/b/c\n"));
			watch_free(seen.watch);
		} else {
			assert_int_equal(seen.count, free_after);
		}
		turn(&loop);
		assert_int_equal(file_remove_tree(directory, NULL), 0);
	}
	assert_null(watch_new(&loop, "/no/such/directory", &options, on_watch_event, &seen, &err));
	assert_int_equal(err.code, ENOENT);
	assert_null(watch_new(&loop, "/etc/passwd", &options, on_watch_event, &seen, &err));
	assert_int_equal(err.code, ENOTDIR);
	turn(&loop);
	assert_int_equal(uv_loop_close(&loop), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(forms_are_the_same_wherever_they_are_cut),
		cmocka_unit_test(forms_that_are_none_are_refused),
		cmocka_unit_test(quoted_values_hold_no_parameters),
		cmocka_unit_test(the_bound_on_headers_does_not_depend_on_cuts),
		cmocka_unit_test(a_callback_can_end_a_form),
		cmocka_unit_test(paths_are_resolved_as_the_clients_expect),
		cmocka_unit_test(signatures_are_those_of_the_sdk),
		cmocka_unit_test(envelopes_are_checked),
		cmocka_unit_test(watches_follow_and_end),
	};

	return cmocka_run_group_tests_name("envd", tests, NULL, NULL);
}
