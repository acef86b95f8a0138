/*
 * atoll-vmm: one microVM per process.
 *
 *     atoll-vmm --api-sock PATH [--id ID] [--shell VCPUS] [--config-file FILE]
 *     atoll-vmm --no-api --config-file FILE [--id ID]
 *
 * ends with 0 when the guest resets or SIGTERM comes, after its disks are flushed.
 */
#include <errno.h>
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "base/base.h"
#include "vmm/api/api.h"
#include "vmm/config.h"

#define DEFAULT_SOCKET "/run/firecracker.socket"

/* Firecracker's exit codes for a bad configuration and bad arguments. */
#define EXIT_BAD_CONFIG    152
#define EXIT_BAD_ARGUMENTS 153

struct monitor {
	uv_loop_t loop;
	uv_signal_t terminate;
	uv_signal_t interrupt;
	struct api_options options;
	const char *config_file;
	bool no_api;
	int status;
};

static void usage(FILE *to)
{
	fputs("usage: atoll-vmm [--api-sock PATH | --no-api] [--config-file FILE] [--id ID] [--shell VCPUS]\n"
	      "                 [--no-seccomp] [--trace-restore] [--version]\n",
	      to);
}

static int parse_shell(const char *text, unsigned *ret)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (*end || end == text || value < 1 || value > LAYOUT_VCPUS_MAX)
		return -EINVAL;
	*ret = (unsigned)value;
	return 0;
}

static int check_options(struct monitor *monitor)
{
	if (monitor->no_api && !monitor->config_file) {
		fputs("atoll-vmm: --no-api needs --config-file\n", stderr);
		return 1 + EXIT_BAD_ARGUMENTS;
	}
	if (monitor->no_api)
		monitor->options.socket_path = NULL;
	return 0;
}

/* 0 to go on, otherwise 1 + the exit status. */
static int parse_options(int argc, char **argv, struct monitor *monitor)
{
	static const struct option table[] = {
		{ "id", required_argument, NULL, 'i' },       { "config-file", required_argument, NULL, 'c' },
		{ "api-sock", required_argument, NULL, 'a' }, { "shell", required_argument, NULL, 's' },
		{ "no-api", no_argument, NULL, 'n' },         { "no-seccomp", no_argument, NULL, 'S' },
		{ "trace-restore", no_argument, NULL, 't' },  { "version", no_argument, NULL, 'v' },
		{ "help", no_argument, NULL, 'h' },           { 0 }
	};
	int option;

	while ((option = getopt_long(argc, argv, "", table, NULL)) != -1) {
		switch (option) {
		case 'i':
			monitor->options.id = optarg;
			break;
		case 'c':
			monitor->config_file = optarg;
			break;
		case 'a':
			monitor->options.socket_path = optarg;
			break;
		case 's':
			if (parse_shell(optarg, &monitor->options.shell_vcpus) < 0) {
				fprintf(stderr, "atoll-vmm: --shell wants 1 to %d vCPUs, not '%s'\n",
				        LAYOUT_VCPUS_MAX, optarg);
				return 1 + EXIT_BAD_ARGUMENTS;
			}
			break;
		case 'n':
			monitor->no_api = true;
			break;
		case 'S':
			monitor->options.seccomp = false;
			break;
		case 't':
			monitor->options.trace = true;
			break;
		case 'v':
			puts("atoll-vmm " ATOLL_VERSION);
			return 1;
		case 'h':
			usage(stdout);
			return 1;
		default:
			usage(stderr);
			return 1 + EXIT_BAD_ARGUMENTS;
		}
	}
	return check_options(monitor);
}

static void on_ended(void *context, int status)
{
	struct monitor *monitor = context;

	monitor->status = status;
	uv_stop(&monitor->loop);
}

static void on_signal(uv_signal_t *handle, int number)
{
	(void)number;
	on_ended(handle->data, EXIT_SUCCESS);
}

static void watch_signals(struct monitor *monitor)
{
	monitor->terminate.data = monitor;
	monitor->interrupt.data = monitor;
	(void)uv_signal_init(&monitor->loop, &monitor->terminate);
	(void)uv_signal_init(&monitor->loop, &monitor->interrupt);
	(void)uv_signal_start(&monitor->terminate, on_signal, SIGTERM);
	(void)uv_signal_start(&monitor->interrupt, on_signal, SIGINT);
	(void)signal(SIGPIPE, SIG_IGN);
}

static int run(struct monitor *monitor)
{
	json_t *config = NULL;
	struct error err = { 0 };
	struct api *api;

	if (monitor->config_file && config_read_file(monitor->config_file, &config, &err) < 0) {
		log_error("%s", err.message);
		return EXIT_BAD_CONFIG;
	}
	if (uv_loop_init(&monitor->loop) < 0)
		return EXIT_FAILURE;
	watch_signals(monitor);
	api = api_new(&monitor->loop, &monitor->options, &err);
	if (!api || (config && api_boot(api, config, &err) < 0)) {
		log_error("%s", err.message);
		api_free(api);
		return EXIT_FAILURE;
	}
	(void)uv_run(&monitor->loop, UV_RUN_DEFAULT);
	api_free(api);
	log_info("the machine has ended");
	return monitor->status;
}

int main(int argc, char **argv)
{
	struct monitor monitor = {
		.options = { .id = "anonymous-instance", .socket_path = DEFAULT_SOCKET, .seccomp = true }
	};
	int stop = parse_options(argc, argv, &monitor);

	if (stop)
		return stop - 1;
	/* One arena: a monitor's few allocations should not cost a heap per thread. */
	(void)mallopt(M_ARENA_MAX, 1);
	monitor.options.ended = on_ended;
	monitor.options.context = &monitor;
	log_init(monitor.options.id, LOG_LEVEL_INFO);
	return run(&monitor);
}
