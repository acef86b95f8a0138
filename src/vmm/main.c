/*
 * atoll-vmm: one microVM per process.
 *
 *     atoll-vmm --id ID --no-api --config-file FILE
 *
 * ends with 0 when the guest resets or SIGTERM comes, after its disks are flushed.
 */
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "vmm/config_file.h"
#include "vmm/machine.h"

/* Firecracker's exit codes for a bad configuration and bad arguments. */
#define EXIT_BAD_CONFIG    152
#define EXIT_BAD_ARGUMENTS 153

struct options {
	const char *id;
	const char *config_file;
	bool no_api;
};

static struct machine *signalled_machine; /* a signal handler has no other way to find it */

static void on_terminate(int number)
{
	(void)number;
	machine_stop(signalled_machine);
}

static void usage(FILE *to)
{
	fputs("usage: atoll-vmm --no-api --config-file FILE [--id ID] [--version]\n", to);
}

/* 0 to go on, otherwise 1 + the exit status. */
static int parse_options(int argc, char **argv, struct options *options)
{
	static const struct option table[] = {
		{ "id", required_argument, NULL, 'i' }, { "config-file", required_argument, NULL, 'c' },
		{ "no-api", no_argument, NULL, 'n' },   { "version", no_argument, NULL, 'v' },
		{ "help", no_argument, NULL, 'h' },     { 0 }
	};
	int option;

	while ((option = getopt_long(argc, argv, "", table, NULL)) != -1) {
		switch (option) {
		case 'i':
			options->id = optarg;
			break;
		case 'c':
			options->config_file = optarg;
			break;
		case 'n':
			options->no_api = true;
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
	if (!options->config_file || !options->no_api) {
		fputs("atoll-vmm: the machine API is not built yet: --no-api and --config-file are "
		      "required\n",
		      stderr);
		usage(stderr);
		return 1 + EXIT_BAD_ARGUMENTS;
	}
	return 0;
}

static int run(const struct machine_config *config, struct error *err)
{
	struct sigaction action = { .sa_handler = on_terminate };
	int ret;

	signalled_machine = machine_new(config, err);
	if (!signalled_machine)
		return -err->code;
	(void)sigaction(SIGTERM, &action, NULL);
	(void)sigaction(SIGINT, &action, NULL);
	ret = machine_run(signalled_machine, err);
	action.sa_handler = SIG_IGN;
	(void)sigaction(SIGTERM, &action, NULL);
	(void)sigaction(SIGINT, &action, NULL);
	machine_free(signalled_machine);
	return ret;
}

int main(int argc, char **argv)
{
	struct options options = { .id = "anonymous-instance" };
	struct machine_config config = { 0 };
	cleanup_json json_t *json = NULL;
	struct error err = { 0 };
	int stop = parse_options(argc, argv, &options);

	if (stop)
		return stop - 1;
	/* One arena: a monitor's few allocations should not cost a heap per thread. */
	(void)mallopt(M_ARENA_MAX, 1);
	log_init(options.id, LOG_LEVEL_INFO);
	if (config_file_read(options.config_file, &config, &json, &err) < 0) {
		log_error("%s", err.message);
		return EXIT_BAD_CONFIG;
	}
	if (run(&config, &err) < 0) {
		log_error("%s", err.message);
		return EXIT_FAILURE;
	}
	log_info("the machine has ended");
	return EXIT_SUCCESS;
}
