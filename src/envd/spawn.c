#include "envd/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define OOM_SCORE "100" /* a sandbox's programs go before its agent */

/* What the child sets up: its ends, and where it reports a failure before the program runs. */
struct child_ends {
	int in;
	int out;
	int err;
	char terminal[64]; /* path of the terminal's other side; "" = pipes */
	int report;
};

/* --- the child --- */

static _Noreturn void report_and_exit(int report)
{
	int code = errno;

	(void)!write(report, &code, sizeof(code));
	_exit(127);
}

static void become_user(const struct user *user, int report)
{
	if (geteuid() != 0)
		return;
	if (setgroups((size_t)user->group_count, user->groups) < 0 || setgid(user->gid) < 0 ||
	    setuid(user->uid) < 0)
		report_and_exit(report);
}

static void open_ends(struct child_ends *ends)
{
	(void)setsid();
	if (ends->terminal[0]) {
		int fd = open(ends->terminal, O_RDWR);

		if (fd < 0 || ioctl(fd, TIOCSCTTY, 0) < 0)
			report_and_exit(ends->report);
		ends->in = ends->out = ends->err = fd;
	}
	if (dup2(ends->in, STDIN_FILENO) < 0 || dup2(ends->out, STDOUT_FILENO) < 0 ||
	    dup2(ends->err, STDERR_FILENO) < 0)
		report_and_exit(ends->report);
	/* Everything else is closed by exec; this one may not be. */
	if (ends->terminal[0] && ends->in > STDERR_FILENO)
		close(ends->in);
}

static void set_oom_score(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd >= 0) {
		(void)!write(fd, OOM_SCORE, strlen(OOM_SCORE));
		close(fd);
	}
}

static _Noreturn void run_child(const struct process_options *options, struct child_ends *ends, char **argv)
{
	sigset_t none;

	for (int number = 1; number < NSIG; number++)
		(void)signal(number, SIG_DFL);
	(void)sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	open_ends(ends);
	set_oom_score();
	become_user(options->user, ends->report);
	if (chdir(options->directory) < 0)
		report_and_exit(ends->report);
	execvpe(options->command, argv, (char *const *)(uintptr_t)options->environment);
	report_and_exit(ends->report);
}

/* --- the parent --- */

static char **make_argv(const struct process_options *options)
{
	size_t count = 0;
	char **argv;

	while (options->arguments[count])
		count++;
	argv = calloc(count + 2, sizeof(*argv));
	if (!argv)
		return NULL;
	argv[0] = (char *)(uintptr_t)options->command;
	for (size_t i = 0; i < count; i++)
		argv[i + 1] = (char *)(uintptr_t)options->arguments[i];
	return argv;
}

static int open_terminal(const struct process_options *options, struct spawn_result *result,
                         struct child_ends *ends)
{
	struct winsize size = { .ws_col = (unsigned short)options->columns,
		                .ws_row = (unsigned short)options->rows };

	result->terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (result->terminal < 0 || grantpt(result->terminal) < 0 || unlockpt(result->terminal) < 0 ||
	    ptsname_r(result->terminal, ends->terminal, sizeof(ends->terminal)) != 0)
		return -errno;
	(void)ioctl(result->terminal, TIOCSWINSZ, &size);
	if (geteuid() == 0)
		(void)!chown(ends->terminal, options->user->uid, (gid_t)-1);
	return 0;
}

static int open_pipe(int *ret_ours, int *ret_theirs, bool we_read)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	*ret_ours = ends[we_read ? 0 : 1];
	*ret_theirs = ends[we_read ? 1 : 0];
	return fcntl(*ret_ours, F_SETFL, O_NONBLOCK) < 0 ? -errno : 0;
}

static int open_all(const struct process_options *options, struct spawn_result *result,
                    struct child_ends *ends)
{
	int ret;

	if (options->terminal)
		return open_terminal(options, result, ends);
	if (options->input)
		ret = open_pipe(&result->in, &ends->in, false);
	else
		ret = (ends->in = open("/dev/null", O_RDONLY | O_CLOEXEC)) < 0 ? -errno : 0;
	if (ret == 0)
		ret = open_pipe(&result->out, &ends->out, true);
	return ret < 0 ? ret : open_pipe(&result->err, &ends->err, true);
}

static void close_all(const int *fds, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

/* Wait for the child's exec, or for the reason why there is none. */
static int wait_exec(int report, pid_t pid)
{
	int code = 0;
	ssize_t got;

	do
		got = read(report, &code, sizeof(code));
	while (got < 0 && errno == EINTR);
	if (got != (ssize_t)sizeof(code))
		return 0;
	(void)waitpid(pid, NULL, 0);
	return code > 0 ? -code : -EIO;
}

static int check_directory(const char *directory, struct error *err)
{
	struct stat st;

	if (stat(directory, &st) < 0)
		return error_set(err, EINVAL, "cwd '%s' does not exist", directory);
	return S_ISDIR(st.st_mode) ? 0 : error_set(err, EINVAL, "cwd '%s' is not a directory", directory);
}

int spawn_program(const struct process_options *options, struct spawn_result *result, struct error *err)
{
	struct child_ends ends = { .in = -1, .out = -1, .err = -1 };
	cleanup_free char **argv = make_argv(options);
	int report[2] = { -1, -1 };
	int ret = check_directory(options->directory, err);

	*result = (struct spawn_result){ .pid = -1, .in = -1, .out = -1, .err = -1, .terminal = -1 };
	if (ret < 0)
		return ret;
	ret = argv ? open_all(options, result, &ends) : -ENOMEM;
	if (ret == 0 && pipe2(report, O_CLOEXEC) < 0)
		ret = -errno;
	if (ret == 0) {
		ends.report = report[1];
		result->pid = fork();
		if (result->pid == 0)
			run_child(options, &ends, argv);
		ret = result->pid < 0 ? -errno : 0;
	}
	close_all((int[]){ ends.in, ends.out, ends.err, report[1] }, 4);
	if (ret == 0)
		ret = wait_exec(report[0], result->pid);
	close_all(report, 1);
	if (ret < 0) {
		close_all((int[]){ result->in, result->out, result->err, result->terminal }, 4);
		return error_errno(err, -ret, "error starting process '%s'", options->command);
	}
	return 0;
}
