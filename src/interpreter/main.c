/* atoll-interpreter: options, wiring, and the end on a signal. */

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>
#include <zmq.h>

#include "base/base.h"
#include "interpreter/interpreter.h"

static const char USAGE[] =
        "usage: atoll-interpreter [--listen PORT] [--listen-ip IP] [--agent URL] [--python PATH] [--cwd "
        "DIR]\n"
        "                         [--run DIR]\n"
        "\n"
        "Runs code for the SDK's code interpreter in Jupyter kernels (ipykernel).\n"
        "  --listen PORT    serve HTTP here (49999)\n"
        "  --listen-ip IP   on this address (127.0.0.1)\n"
        "  --agent URL      where the guest agent answers GET /envs (http://127.0.0.1:49983)\n"
        "  --python PATH    interpreter that has ipykernel (/usr/bin/python3)\n"
        "  --cwd DIR        working directory of contexts that name none (/home/user, else /)\n"
        "  --run DIR        where to make the private directory for sockets (/run, else /tmp)\n";

struct options {
	struct service_options service;
	const char *agent;
	const char *python;
	const char *run;
};

struct program {
	uv_loop_t *loop;
	struct context_host host;
	struct service *service;
	uv_signal_t on_term;
	uv_signal_t on_int;
	char directory[64];
};

static int port_parse(const char *text, uint16_t *ret)
{
	char *end;
	unsigned long port = strtoul(text, &end, 10);

	if (*text < '0' || *text > '9' || *end || port > UINT16_MAX)
		return -EINVAL;
	*ret = (uint16_t)port;
	return 0;
}

/* 0 to go on, 1 when --help was answered, 2 on a mistake. */
static int options_parse(struct options *options, int argc, char **argv)
{
	static const struct option known[] = {
		{ "listen", required_argument, NULL, 'l' }, { "listen-ip", required_argument, NULL, 'i' },
		{ "agent", required_argument, NULL, 'a' },  { "python", required_argument, NULL, 'p' },
		{ "cwd", required_argument, NULL, 'c' },    { "run", required_argument, NULL, 'r' },
		{ "help", no_argument, NULL, 'h' },         { NULL, 0, NULL, 0 },
	};
	int option;

	while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
		if (option == 'h') {
			fputs(USAGE, stdout);
			return 1;
		}
		if (option == 'l' && port_parse(optarg, &options->service.port) < 0) {
			fprintf(stderr, "atoll-interpreter: --listen %s: not a port\n", optarg);
			return 2;
		}
		if (option == 'i')
			options->service.ip = optarg;
		else if (option == 'a')
			options->agent = optarg;
		else if (option == 'p')
			options->python = optarg;
		else if (option == 'c')
			options->service.default_cwd = optarg;
		else if (option == 'r')
			options->run = optarg;
		else if (option == '?')
			break;
	}
	if (option == '?' || optind < argc) {
		fputs(USAGE, stderr);
		return 2;
	}
	return 0;
}

/* The directory of the channels: only its owner may enter, for that is all that protects them. */
static int program_make_directory(struct program *program, const char *parent, struct error *err)
{
	char *directory = program->directory;
	int length;

	if (!parent)
		parent = access("/run", W_OK) == 0 ? "/run" : "/tmp";
	length = snprintf(directory, sizeof(program->directory), "%s/atoll-interpreter-XXXXXX", parent);
	if (length < 0 || (size_t)length >= sizeof(program->directory)) {
		directory[0] = '\0';
		return error_set(err, ENAMETOOLONG, "make directory in %s", parent);
	}
	if (!mkdtemp(directory)) {
		directory[0] = '\0';
		return error_errno(err, errno, "make directory in %s", parent);
	}
	return 0;
}

static void program_stop(struct program *program)
{
	uv_close((uv_handle_t *)&program->on_term, NULL);
	uv_close((uv_handle_t *)&program->on_int, NULL);
	signal(SIGTERM, SIG_IGN); /* a second one must not keep us from cleaning up */
	signal(SIGINT, SIG_IGN);
	service_free(program->service);
	launcher_free(program->host.kernels.launcher);
	agent_free(program->host.agent);
	program->service = NULL;
}

static void program_on_signal(uv_signal_t *handle, int number)
{
	struct program *program = handle->data;

	log_info("signal %d: ending", number);
	program_stop(program);
}

static int program_start(struct program *program, const struct options *options, struct error *err)
{
	struct kernel_host *kernels = &program->host.kernels;
	int rc = program_make_directory(program, options->run, err);

	if (rc < 0)
		return rc;
	kernels->loop = program->loop;
	kernels->directory = program->directory;
	kernels->zmq = zmq_ctx_new();
	if (!kernels->zmq)
		return error_set(err, zmq_errno(), "start ZeroMQ: %s", zmq_strerror(zmq_errno()));
	program->host.agent = agent_new(program->loop, options->agent, err);
	if (!program->host.agent)
		return -err->code;
	kernels->launcher = launcher_new(program->loop, options->python, program->directory, err);
	if (!kernels->launcher)
		return -err->code;
	program->service = service_new(program->loop, &program->host, &options->service, err);
	return program->service ? 0 : -err->code;
}

static int program_run(struct program *program, const struct options *options)
{
	struct error err;
	int status = 0;

	uv_signal_init(program->loop, &program->on_term);
	uv_signal_init(program->loop, &program->on_int);
	program->on_term.data = program;
	program->on_int.data = program;
	uv_signal_start(&program->on_term, program_on_signal, SIGTERM);
	uv_signal_start(&program->on_int, program_on_signal, SIGINT);
	if (program_start(program, options, &err) == 0) {
		log_info("listening on %s:%u", options->service.ip, options->service.port);
	} else {
		log_error("%s", err.message);
		status = 1;
		program_stop(program);
	}
	uv_run(program->loop, UV_RUN_DEFAULT);
	if (program->host.kernels.zmq)
		zmq_ctx_term(program->host.kernels.zmq);
	if (program->directory[0])
		file_remove_tree(program->directory, NULL);
	uv_loop_close(program->loop);
	return status;
}

int main(int argc, char **argv)
{
	struct options options = {
		.service = { .ip = "127.0.0.1", .port = 49999 },
		.agent = "http://127.0.0.1:49983",
		.python = "/usr/bin/python3",
	};
	struct program program = { .loop = uv_default_loop() };
	int rc = options_parse(&options, argc, argv);

	if (rc != 0)
		return rc == 1 ? 0 : rc;
	log_init("atoll-interpreter", LOG_LEVEL_INFO);
	signal(SIGPIPE, SIG_IGN);
	if (!options.service.default_cwd)
		options.service.default_cwd = access("/home/user", X_OK) == 0 ? "/home/user" : "/";
	return program_run(&program, &options);
}
