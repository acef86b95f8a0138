/*
 * atoll-jail: start a monitor in a jail. Command line and effect are those of Firecracker's jailer:
 *
 *     atoll-jail --id ID --exec-file FILE --uid N --gid N [options] [-- arguments of the program]
 *
 * makes BASE/NAME/ID/root and execs FILE there as /NAME --id ID ARGUMENTS... (NAME is FILE's). Of
 * Firecracker's arguments only --id is added: the others (--start-time-us ...) are for its metrics.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "jail/options.h"

static void usage(FILE *to)
{
	fputs("usage: atoll-jail --id ID --exec-file FILE --uid N --gid N [--chroot-base-dir DIR]\n"
	      "                  [--parent-cgroup PATH] [--cgroup FILE=VALUE]... [--cgroup-version 2]\n"
	      "                  [--resource-limit fsize=BYTES|no-file=N]... [--netns PATH] [--new-pid-ns]\n"
	      "                  [--daemonize] [--version] [-- ARGUMENTS OF THE PROGRAM]\n",
	      to);
}

static int fail(const struct error *err)
{
	fprintf(stderr, "atoll-jail: %s\n", err->message);
	return EXIT_FAILURE;
}

/* Become the program. Returns only on failure. */
static int become_program(const struct jail_options *options, struct error *err)
{
	char *const empty[] = { NULL };
	char path[PATH_MAX + 1];
	size_t count = 0;
	size_t used = 0;
	const char **arguments;

	while (options->arguments[count])
		count++;
	arguments = calloc(count + 4, sizeof(*arguments));
	if (!arguments)
		return error_errno(err, ENOMEM, "start the program");
	(void)snprintf(path, sizeof(path), "/%s", options->program_name);
	arguments[used++] = path;
	arguments[used++] = "--id";
	arguments[used++] = options->id;
	for (size_t i = 0; i < count; i++)
		arguments[used++] = options->arguments[i];
	if (jail_drop(&options->jail, err) == 0) {
		(void)execve(path, (char *const *)(uintptr_t)arguments, empty);
		error_errno(err, errno, "start %s in the jail", path);
	}
	free(arguments);
	return -err->code;
}

static void become_daemon(int null)
{
	(void)setsid();
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		(void)dup2(null, fd);
}

/* The process of the program, forked by us: says over `report` why it could not start. */
static _Noreturn void run_child(const struct jail_options *options, int null, int report)
{
	struct error err = { 0 };

	if (options->daemonize)
		become_daemon(null);
	else if (options->new_pid_ns)
		(void)setsid(); /* or our end would hang it up, when we lead a session */
	(void)become_program(options, &err);
	(void)fd_write_all(report, &err, sizeof(err));
	_exit(EXIT_FAILURE);
}

static int write_pid(const struct jail_options *options, pid_t pid, char *path, size_t size,
                     struct error *err)
{
	char text[16];
	int length = snprintf(text, sizeof(text), "%d", (int)pid);
	cleanup_close int fd = -1;

	(void)snprintf(path, size, "/%s.pid", options->program_name);
	/* An earlier machine's; it may be anything, and is not followed. */
	(void)unlink(path);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd < 0 || fd_write_all(fd, text, (size_t)length) < 0)
		return error_errno(err, errno, "write %s in the jail", path);
	return 0;
}

/* Start the program as another process, and see it started. */
static int start_child(const struct jail_options *options, int null, struct error *err)
{
	char path[PATH_MAX + 8];
	struct error failure = { 0 };
	int report[2];
	pid_t pid;
	int ret;

	if (pipe2(report, O_CLOEXEC) < 0)
		return error_errno(err, errno, "make a pipe");
	if (options->new_pid_ns && unshare(CLONE_NEWPID) < 0)
		return error_errno(err, errno, "make a pid namespace");
	pid = fork();
	if (pid == 0)
		run_child(options, null, report[1]);
	close(report[1]);
	if (pid < 0)
		return error_errno(err, errno, "start a process");
	ret = write_pid(options, pid, path, sizeof(path), err);
	/* Its end of the pipe closes when it has become the program. */
	if (ret == 0 && fd_read_all(report[0], &failure, sizeof(failure)) == 0) {
		*err = failure;
		ret = -failure.code;
	}
	close(report[0]);
	if (ret < 0) {
		(void)kill(pid, SIGKILL);
		(void)waitpid(pid, NULL, 0);
		(void)unlink(path);
	}
	return ret;
}

static int run(const struct jail_options *options)
{
	struct error err = { 0 };
	struct jail_made made;
	cleanup_close int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int ret;

	if (null < 0) {
		error_errno(&err, errno, "open /dev/null");
		return fail(&err);
	}
	if (jail_build(&options->jail, &made, &err) < 0)
		return fail(&err);
	if (options->new_pid_ns || options->daemonize)
		ret = start_child(options, null, &err);
	else
		ret = become_program(options, &err);
	if (ret < 0)
		jail_undo(&made);
	return ret < 0 ? fail(&err) : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
	static struct jail_options options;
	struct error err = { 0 };
	int result = jail_options_parse(argc, argv, &options, &err);

	if (result < 0) {
		(void)fail(&err);
		return EXIT_FAILURE;
	}
	if (result == JAIL_OPTIONS_HELP) {
		usage(stdout);
		return EXIT_SUCCESS;
	}
	if (result == JAIL_OPTIONS_VERSION) {
		puts("atoll-jail " ATOLL_VERSION);
		return EXIT_SUCCESS;
	}
	if (geteuid() != 0) {
		error_set(&err, EPERM, "only root can make a jail");
		return fail(&err);
	}
	for (int number = 1; number < NSIG; number++)
		(void)signal(number, SIG_DFL);
	return run(&options);
}
