/* atoll lab start | stop | exec -- COMMAND... | shell: the lab host by hand. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "cli/cli.h"
#include "cli/settings.h"

static int usage(void)
{
	fputs("usage: atoll lab start | stop | shell | exec [--] COMMAND [ARGUMENT...]\n", stderr);
	return 2;
}

/* On a machine that needs no lab host, what is asked to run in it runs here: one test suite serves both. */
static int run_here(char **argv, struct error *err)
{
	if (argv)
		execvp(argv[0], argv);
	else
		execl("/bin/sh", "sh", (char *)NULL);
	error_errno(err, errno, "run %s", argv ? argv[0] : "/bin/sh");
	(void)cli_fail(err);
	return errno == ENOENT ? 127 : 126;
}

int cli_lab_command(int argc, char **argv)
{
	struct cli_places places = { 0 };
	struct host_probe probe;
	struct error err = { 0 };
	const char *settings[SETTINGS_WORDS];
	struct lab lab;
	const char *verb = argc > 1 ? argv[1] : "";
	bool exec = strcmp(verb, "exec") == 0;
	char **command = NULL;

	if (cli_find_places(&places, &err) < 0)
		return cli_fail(&err);
	lab = cli_lab(&places);
	if (strcmp(verb, "start") == 0) {
		lab.settings = settings;
		return settings_read(settings, &err) < 0 || lab_start(&lab, &err) < 0 ? cli_fail(&err)
		                                                                      : EXIT_SUCCESS;
	}
	if (strcmp(verb, "stop") == 0)
		return lab_stop(&lab, &err) < 0 ? cli_fail(&err) : EXIT_SUCCESS;
	if (!exec && strcmp(verb, "shell") != 0)
		return usage();
	if (exec)
		command = argv + (argc > 2 && strcmp(argv[2], "--") == 0 ? 3 : 2);
	if (exec && !command[0])
		return usage();
	if (!lab_running(&lab)) {
		cli_choose_mode(&places, &probe);
		if (!places.lab)
			return run_here(command, &err);
	}
	(void)lab_exec(&lab, (const char *const *)command, &err);
	(void)cli_fail(&err);
	return 255;
}
