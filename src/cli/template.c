/*
 * atoll template build NAME: build a template of guest/templates. The root file system and the kernel are
 * made on this machine, then the node is asked (from inside the lab host, where there is one) to boot them
 * and take the snapshot.
 */
#include "cli/template.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "cli/request.h"

#define TEMPLATE_FORM "2" /* of what the node keeps beside the snapshot; 2: with the kernel */

/* Run a script and keep the last line of its output. Its progress goes to our standard error. */
static int run_script(const char *command, char ret_line[512], struct error *err)
{
	FILE *pipe = popen(command, "r");
	char line[512];
	int status;

	ret_line[0] = '\0';
	if (!pipe)
		return error_errno(err, errno, "run %s", command);
	while (fgets(line, sizeof(line), pipe)) {
		line[strcspn(line, "\n")] = '\0';
		(void)snprintf(ret_line, 512, "%s", line);
	}
	status = pclose(pipe);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0 || !ret_line[0])
		return error_set(err, EIO, "%s failed", command);
	return 0;
}

/* The node's request for a template, from its definition and what was built. */
static int describe(const struct cli_places *places, const char *name, json_t **ret_request,
                    struct error *err)
{
	cleanup_buffer struct buffer text = { .limit = 65536 };
	cleanup_json json_t *request = NULL;
	char command[700];
	char kernel[512];
	char rootfs[512];
	char version[512];
	int ret;

	(void)snprintf(command, sizeof(command), "%s/guest/templates/%s/template.json", places->source, name);
	ret = file_read(command, &text, err);
	if (ret == 0)
		ret = json_parse_object(text.data, text.size, &request, err);
	if (ret < 0)
		return error_wrap(err, "template %s", name);
	(void)snprintf(command, sizeof(command), "'%s/guest/kernel'", places->source);
	ret = run_script(command, kernel, err);
	if (ret < 0)
		return ret;
	(void)snprintf(command, sizeof(command), "'%s/guest/build-rootfs' '%s' '%s'", places->source, name,
	               places->bin);
	ret = run_script(command, rootfs, err);
	if (ret < 0)
		return ret;
	(void)snprintf(command, sizeof(command), "'%s/atoll-vmm' --snapshot-version", places->bin);
	ret = run_script(command, version, err);
	if (ret < 0)
		return ret;
	/* What it is made from, and the form of its snapshot: the same again needs no new one. */
	(void)json_object_set_new(request, "source",
	                          json_sprintf("%s+%s+%s+" TEMPLATE_FORM, strrchr(kernel, '/') + 1,
	                                       strrchr(rootfs, '/') + 1, version));
	(void)json_object_set_new(request, "rootfs", json_string(rootfs));
	(void)json_object_set_new(request, "kernel", json_sprintf("%s/vmlinux", kernel));
	(void)snprintf(command, sizeof(command), "%s/initrd", kernel);
	if (access(command, R_OK) == 0)
		(void)json_object_set_new(request, "initrd", json_string(command));
	*ret_request = TAKE_PTR(request);
	return 0;
}

struct build_progress {
	bool done;
	struct error *err;
};

static void on_line(const char *line, void *context)
{
	struct build_progress *progress = context;
	cleanup_json json_t *message = json_loads(line, 0, NULL);
	const char *text = json_string_value(json_object_get(message, "message"));
	const char *failed = json_string_value(json_object_get(message, "error"));

	if (text)
		fprintf(stderr, "template: %s\n", text);
	if (failed || json_object_get(message, "code"))
		error_set(progress->err, EIO, "%s", failed ? failed : text ? text : line);
	if (json_is_true(json_object_get(message, "done")))
		progress->done = true;
}

/* Whether the node has this very template. */
static bool node_has(const char *socket, const json_t *wanted)
{
	struct cli_request request = { .method = "GET",
		                       .url = "http://node/v1/templates",
		                       .unix_socket = socket,
		                       .timeout_seconds = 10 };
	cleanup_buffer struct buffer answer = { .limit = 1 << 20 };
	cleanup_json json_t *list = NULL;
	struct error err;
	long status = 0;
	size_t index;
	json_t *template;

	if (cli_request_run(&request, &status, &answer, &err) < 0 || status != 200)
		return false;
	list = json_loadb(answer.data, answer.size, 0, NULL);
	json_array_foreach (list, index, template)
		if (json_equal(json_object_get(template, "name"), json_object_get(wanted, "name")) &&
		    json_equal(json_object_get(template, "source"), json_object_get(wanted, "source")))
			return true;
	return false;
}

/* Ask the node on this very machine (inside the lab host when there is one). */
static int post(const char *socket, const char *body, struct error *err)
{
	struct build_progress progress = { .err = err };
	struct cli_request request = { .method = "POST",
		                       .url = "http://node/v1/templates",
		                       .unix_socket = socket,
		                       .body = body,
		                       .on_line = on_line,
		                       .context = &progress };
	cleanup_json json_t *wanted = json_loads(body, 0, NULL);
	long status = 0;
	int ret;

	if (node_has(socket, wanted)) {
		fprintf(stderr, "template: %s is up to date\n",
		        json_string_value(json_object_get(wanted, "name")));
		return 0;
	}
	err->code = 0;
	ret = cli_request_run(&request, &status, NULL, err);
	if (ret < 0 || err->code)
		return -EIO;
	return progress.done ? 0 : error_set(err, EIO, "the node broke off (status %ld)", status);
}

int template_build(const struct cli_places *places, const char *name, struct error *err)
{
	struct lab lab = cli_lab(places);
	cleanup_json json_t *request = NULL;
	cleanup_free char *body = NULL;
	char socket[300];
	char self[300];
	int status;
	pid_t pid;
	int ret = describe(places, name, &request, err);

	if (ret < 0)
		return ret;
	body = json_dumps(request, JSON_COMPACT);
	(void)snprintf(socket, sizeof(socket), "%s/node.sock", places->run);
	if (!lab_running(&lab))
		return post(socket, body, err);
	(void)snprintf(self, sizeof(self), "%s/atoll", places->bin);
	pid = fork();
	if (pid == 0) {
		const char *const argv[] = { self, "template", "post", body, NULL };

		(void)lab_exec(&lab, argv, err);
		(void)cli_fail(err);
		_exit(EXIT_FAILURE);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return error_errno(err, errno, "build template %s", name);
	return status == 0 ? 0 : error_set(err, EIO, "template %s was not built", name);
}

int cli_template(int argc, char **argv)
{
	struct cli_places places = { 0 };
	struct error err = { 0 };
	char socket[300];
	int ret;

	if (argc != 3 || (strcmp(argv[1], "build") != 0 && strcmp(argv[1], "post") != 0)) {
		fputs("usage: atoll template build NAME (a directory of guest/templates)\n", stderr);
		return 2;
	}
	ret = cli_find_places(&places, &err);
	(void)snprintf(socket, sizeof(socket), "%s/node.sock", places.run);
	if (ret == 0)
		ret = strcmp(argv[1], "post") == 0 ? post(socket, argv[2], &err)
		                                   : template_build(&places, argv[2], &err);
	return ret < 0 ? cli_fail(&err) : EXIT_SUCCESS;
}
