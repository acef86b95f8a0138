/* atoll: the command-line tool. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "cli/cli.h"

static const struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *help;
} commands[] = {
	{ "up", cli_up, "start the service and prove it with a first sandbox" },
	{ "down", cli_down, "stop the service and everything that belongs to it" },
	{ "env", cli_env, "print the environment that clients need, for eval" },
	{ "doctor", cli_doctor, "say what this machine can do and what is missing" },
	{ "lab", cli_lab_command, "start, stop, or run a command or a shell in the lab host" },
	{ "template", cli_template, "build a template from a root file system" },
	{ "supervise", cli_supervise, "run the service's daemons (used by `atoll up`)" },
};

static void help(FILE *to)
{
	fputs("usage: atoll COMMAND [ARGUMENT...]\n\n", to);
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].help);
}

int main(int argc, char **argv)
{
	if (argc < 2 || strcmp(argv[1], "help") == 0 || strcmp(argv[1], "--help") == 0) {
		help(argc < 2 ? stderr : stdout);
		return argc < 2 ? 2 : EXIT_SUCCESS;
	}
	if (strcmp(argv[1], "--version") == 0) {
		puts("atoll " ATOLL_VERSION);
		return EXIT_SUCCESS;
	}
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (strcmp(argv[1], commands[i].name) == 0)
			return commands[i].run(argc - 1, argv + 1);
	fprintf(stderr, "atoll: there is no command '%s'\n", argv[1]);
	help(stderr);
	return 2;
}
