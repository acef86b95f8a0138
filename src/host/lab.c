/* Starting, reaching and ending the lab host. The processes that make it up belong to a keeper: see keeper.c.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "host/host.h"
#include "host/keeper.h"

#define DISK_SIZE     (40ull << 30) /* bytes; the image is sparse */
#define START_SECONDS 180
#define STOP_SECONDS  60
#define GONE_SECONDS  5

/* --- files --- */

static int path_in(const struct lab *lab, const char *name, char path[LAB_PATH_MAX], struct error *err)
{
	int size = snprintf(path, LAB_PATH_MAX, "%s/lab/%s", lab->data, name);

	if (size < 0 || size >= LAB_PATH_MAX || strpbrk(path, " \t\n,"))
		return error_set(err, EINVAL,
		                 "the data directory '%s' must be short and without spaces or commas",
		                 lab->data);
	return 0;
}

/* The keeper's pid file, locked as long as it lives. -EWOULDBLOCK when it is. */
static int open_pid_file(const struct lab *lab, bool create)
{
	char path[LAB_PATH_MAX];
	int fd;

	if (path_in(lab, "pid", path, NULL) < 0)
		return -EINVAL;
	fd = open(path, O_RDWR | O_CLOEXEC | (create ? O_CREAT : 0), 0600);
	if (fd < 0)
		return -errno;
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		int ret = -errno;

		close(fd);
		return ret;
	}
	return fd;
}

bool lab_running(const struct lab *lab)
{
	int fd = open_pid_file(lab, false);

	if (fd >= 0)
		close(fd);
	return fd == -EWOULDBLOCK;
}

static pid_t keeper_pid(const struct lab *lab)
{
	cleanup_buffer struct buffer text = { .limit = 64 };
	char path[LAB_PATH_MAX];

	if (path_in(lab, "pid", path, NULL) < 0 || file_read(path, &text, NULL) < 0)
		return 0;
	return (pid_t)atoi(text.data);
}

/* --- running other programs --- */

/* Run a program to its end; its standard output is appended to `out` (may be NULL). 0, -EIO or -errno. */
static int run_program(const char *const argv[], struct buffer *out, struct error *err)
{
	int ends[2];
	char part[4096];
	ssize_t got;
	int status;
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return error_errno(err, errno, "run %s", argv[0]);
	pid = fork();
	if (pid == 0) {
		(void)dup2(ends[1], STDOUT_FILENO);
		execvp(argv[0], (char *const *)(uintptr_t)argv);
		_exit(127);
	}
	close(ends[1]);
	while ((got = read(ends[0], part, sizeof(part))) > 0)
		if (out)
			(void)buffer_append(out, part, (size_t)got);
	close(ends[0]);
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return error_errno(err, errno, "run %s", argv[0]);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		return error_set(err, EIO, "%s failed", argv[0]);
	return 0;
}

static int build_image(const struct lab *lab, struct keeper_plan *plan, struct error *err)
{
	cleanup_buffer struct buffer out = { .limit = 8192 };
	char script[LAB_PATH_MAX];
	const char *const argv[] = { script, NULL };
	char *line;
	int ret;

	(void)snprintf(script, sizeof(script), "%s/build-lab", lab->scripts);
	ret = run_program(argv, &out, err);
	if (ret < 0)
		return ret;
	while (out.size && out.data[out.size - 1] == '\n')
		out.data[--out.size] = '\0';
	line = out.size ? strrchr(out.data, '\n') : NULL;
	(void)snprintf(plan->image, sizeof(plan->image), "%s", line ? line + 1 : out.size ? out.data : "");
	return plan->image[0] == '/' ? 0 : error_set(err, EIO, "%s named no image", script);
}

/* --- preparing --- */

static int make_key(const char *path, struct error *err)
{
	const char *const argv[] = { "dropbearkey", "-t", "ed25519", "-f", path, NULL };

	return access(path, F_OK) == 0 ? 0 : run_program(argv, NULL, err);
}

/* The line of dropbearkey's output that is the public key. */
static int public_key(const char *path, char key[512], struct error *err)
{
	const char *const argv[] = { "dropbearkey", "-y", "-f", path, NULL };
	cleanup_buffer struct buffer out = { .limit = 8192 };
	int ret = run_program(argv, &out, err);
	const char *start = ret == 0 ? strstr(out.data, "ssh-ed25519 ") : NULL;

	if (ret < 0)
		return ret;
	if (!start)
		return error_set(err, EIO, "dropbearkey showed no key of %s", path);
	(void)snprintf(key, 512, "%.*s", (int)strcspn(start, "\n"), start);
	return 0;
}

static int make_keys(const struct lab *lab, struct error *err)
{
	char directory[LAB_PATH_MAX];
	char path[LAB_PATH_MAX + 32];
	char key[512];
	char line[600];
	int size;
	int ret = path_in(lab, "ssh/.ssh", directory, err);

	if (ret == 0)
		ret = file_make_directories(directory, 0700, err);
	if (ret == 0)
		ret = path_in(lab, "ssh/client", directory, err);
	if (ret == 0)
		ret = make_key(directory, err);
	if (ret == 0)
		ret = public_key(directory, key, err);
	if (ret == 0) {
		(void)snprintf(path, sizeof(path), "%s.pub", directory);
		size = snprintf(line, sizeof(line), "%s\n", key);
		ret = file_write_atomic(path, line, (size_t)size, 0600, err);
	}
	if (ret == 0)
		ret = path_in(lab, "ssh/host", directory, err);
	if (ret == 0)
		ret = make_key(directory, err);
	if (ret == 0)
		ret = public_key(directory, key, err);
	if (ret == 0)
		ret = path_in(lab, "ssh/.ssh/known_hosts", directory, err);
	if (ret < 0)
		return ret;
	size = snprintf(line, sizeof(line), "127.0.0.1 %.*s\n", (int)strcspn(key + 12, " ") + 12, key);
	return file_write_atomic(directory, line, (size_t)size, 0600, err);
}

static int make_disk(struct keeper_plan *plan, struct error *err)
{
	cleanup_close int fd = open(plan->disk, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0 || (st.st_size == 0 && ftruncate(fd, (off_t)DISK_SIZE) < 0))
		return error_errno(err, errno, "make the lab's disk %s", plan->disk);
	return 0;
}

/* --- the lab's copy of our programs --- */

static const char *const programs[] = { "atoll", "atoll-api", "atoll-node", "atoll-vmm" };

/* Where the copy of what is in lab->bin now belongs: the content is in the name. */
static int programs_path(const struct lab *lab, char path[LAB_PATH_MAX], struct error *err)
{
	uint32_t crc = 0;
	char name[64];

	for (size_t i = 0; i < ARRAY_SIZE(programs); i++) {
		cleanup_buffer struct buffer content = { .limit = 64 << 20 };
		char program[LAB_PATH_MAX];

		(void)snprintf(program, sizeof(program), "%s/%s", lab->bin, programs[i]);
		/* One that is not built is told of when it is needed. */
		if (file_read(program, &content, NULL) == 0)
			crc = crc32c(crc, content.data, content.size);
	}
	(void)snprintf(name, sizeof(name), "programs-%08x", crc);
	return path_in(lab, name, path, err);
}

static int copy_programs(const struct lab *lab, const char *directory, struct error *err)
{
	int ret = file_make_directories(directory, 0755, err);

	for (size_t i = 0; ret == 0 && i < ARRAY_SIZE(programs); i++) {
		cleanup_buffer struct buffer content = { .limit = 64 << 20 };
		char path[LAB_PATH_MAX * 2];

		(void)snprintf(path, sizeof(path), "%s/%s", lab->bin, programs[i]);
		if (file_read(path, &content, NULL) < 0)
			continue;
		(void)snprintf(path, sizeof(path), "%s/%s", directory, programs[i]);
		ret = file_write_atomic(path, content.data, content.size, 0755, err);
	}
	return ret;
}

bool lab_outdated(const struct lab *lab)
{
	char path[LAB_PATH_MAX];

	return programs_path(lab, path, NULL) == 0 && access(path, F_OK) < 0;
}

/* Only the copy of this start stays. */
static int prepare_programs(const struct lab *lab, struct keeper_plan *plan, struct error *err)
{
	struct dirent *entry;
	DIR *directory = opendir(plan->state);
	int ret = programs_path(lab, plan->programs, err);

	while (directory && (entry = readdir(directory))) {
		char old[LAB_PATH_MAX * 2];

		(void)snprintf(old, sizeof(old), "%s/%s", plan->state, entry->d_name);
		if (strncmp(entry->d_name, "programs-", 9) == 0)
			(void)file_remove_tree(old, NULL);
	}
	if (directory)
		(void)closedir(directory);
	return ret < 0 ? ret : copy_programs(lab, plan->programs, err);
}

/* A port of the machine that is free now. */
static uint16_t free_port(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(address);
	cleanup_close int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) < 0 ||
	    getsockname(fd, (struct sockaddr *)&address, &size) < 0)
		return 0;
	return ntohs(address.sin_port);
}

static int write_port(const struct lab *lab, uint16_t port, struct error *err)
{
	char path[LAB_PATH_MAX];
	char text[16];
	int size = snprintf(text, sizeof(text), "%u\n", port);
	int ret = path_in(lab, "port", path, err);

	return ret < 0 ? ret : file_write_atomic(path, text, (size_t)size, 0600, err);
}

/* A line for each: the second stage reads them, also when the keeper starts the lab host again. */
static int write_settings(const struct lab *lab, struct error *err)
{
	cleanup_buffer struct buffer text = { .limit = 4096 };
	char path[LAB_PATH_MAX];
	int ret = path_in(lab, "settings", path, err);

	for (const char *const *word = lab->settings; ret == 0 && word && *word; word++)
		if (buffer_append(&text, *word, strlen(*word)) < 0 || buffer_append(&text, "\n", 1) < 0)
			ret = error_set(err, E2BIG, "too many settings for a lab host");
	return ret < 0 ? ret : file_write_atomic(path, text.data, text.size, 0600, err);
}

static int prepare(const struct lab *lab, struct keeper_plan *plan, struct error *err)
{
	int ret = path_in(lab, "", plan->state, err);

	plan->lab = lab;
	plan->state[strlen(plan->state) - 1] = '\0';
	if (ret == 0)
		ret = file_make_directories(plan->state, 0700, err);
	if (ret == 0)
		ret = path_in(lab, "data.img", plan->disk, err);
	if (ret == 0)
		ret = path_in(lab, "console.log", plan->console, err);
	if (ret == 0)
		ret = make_disk(plan, err);
	if (ret == 0)
		ret = prepare_programs(lab, plan, err);
	if (ret == 0)
		ret = make_keys(lab, err);
	if (ret == 0)
		ret = build_image(lab, plan, err);
	plan->exec_port = free_port();
	if (ret == 0 && plan->exec_port == 0)
		ret = error_set(err, EADDRNOTAVAIL, "no free port on 127.0.0.1");
	if (ret == 0)
		ret = write_port(lab, plan->exec_port, err);
	if (ret == 0)
		ret = write_settings(lab, err);
	(void)unlink(plan->console);
	return ret;
}

/* --- start and stop --- */

static bool console_says(const struct keeper_plan *plan, const char *text)
{
	cleanup_buffer struct buffer console = { .limit = 1 << 20 };

	return file_read(plan->console, &console, NULL) == 0 && console.data && strstr(console.data, text);
}

static int wait_ready(const struct lab *lab, const struct keeper_plan *plan, struct error *err)
{
	for (int i = 0; i < START_SECONDS * 10; i++) {
		(void)usleep(100 * 1000);
		if (console_says(plan, "lab: ready"))
			return 0;
		if (!lab_running(lab))
			return error_set(err, EIO, "the lab host ended at once: see %s and %s/keeper.log",
			                 plan->console, plan->state);
	}
	return error_set(err, ETIMEDOUT, "the lab host was not ready after %d s: see %s", START_SECONDS,
	                 plan->console);
}

static bool wait_gone(const struct lab *lab, int seconds)
{
	for (int i = 0; i < seconds * 10 && lab_running(lab); i++)
		(void)usleep(100 * 1000);
	return !lab_running(lab);
}

/* Whether something listens where commands go in: QEMU does from its first moment. */
static bool is_reachable(const struct lab *lab)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	cleanup_buffer struct buffer port = { .limit = 16 };
	cleanup_close int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char path[LAB_PATH_MAX];

	if (path_in(lab, "port", path, NULL) < 0 || file_read(path, &port, NULL) < 0 || !port.data)
		return false;
	address.sin_port = htons((uint16_t)strtoul(port.data, NULL, 10));
	return fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0;
}

int lab_start(const struct lab *lab, struct error *err)
{
	struct keeper_plan plan = { 0 };
	int ret;
	int lock;
	pid_t pid;

	/* Its keeper may be about to end because QEMU was killed. */
	if (lab_running(lab) && (is_reachable(lab) || !wait_gone(lab, GONE_SECONDS)))
		return 0;
	ret = prepare(lab, &plan, err);
	if (ret < 0)
		return error_wrap(err, "start the lab host");
	lock = open_pid_file(lab, true);
	if (lock < 0)
		return error_errno(err, -lock, "start the lab host");
	pid = fork();
	if (pid == 0)
		keeper_main(&plan, lock);
	close(lock);
	if (pid < 0)
		return error_errno(err, errno, "start the lab host");
	(void)waitpid(pid, NULL, 0);
	return wait_ready(lab, &plan, err);
}

int lab_stop(const struct lab *lab, struct error *err)
{
	const char *const argv[] = { "kill", "-USR1", "1", NULL };
	pid_t keeper = keeper_pid(lab);
	pid_t pid;

	if (!lab_running(lab))
		return 0;
	pid = fork();
	if (pid == 0) {
		(void)lab_exec(lab, argv, err);
		_exit(127);
	}
	if (pid > 0)
		(void)waitpid(pid, NULL, 0);
	if (wait_gone(lab, STOP_SECONDS))
		return 0;
	log_warn("the lab host does not switch off: it is killed");
	if (keeper > 0)
		(void)kill(keeper, SIGTERM);
	return wait_gone(lab, 10) ? 0
	                          : error_set(err, EBUSY, "the lab host (keeper %d) does not end", keeper);
}

/* --- going in --- */

/* One word of a shell's command line. */
static int quote(struct buffer *to, const char *word)
{
	int ret = buffer_append(to, "'", 1);

	for (; ret == 0 && *word; word++)
		ret = *word == '\'' ? buffer_append(to, "'\\''", 4) : buffer_append(to, word, 1);
	return ret < 0 ? ret : buffer_append(to, "' ", 2);
}

int lab_exec(const struct lab *lab, const char *const argv[], struct error *err)
{
	cleanup_buffer struct buffer command = BUFFER_INIT;
	cleanup_buffer struct buffer port = { .limit = 16 };
	char path[LAB_PATH_MAX];
	char home[LAB_PATH_MAX];
	char key[LAB_PATH_MAX];
	int ret = path_in(lab, "port", path, err);

	if (ret == 0 && !lab_running(lab))
		ret = error_set(err, ESRCH, "the lab host does not run; start it with: make up");
	if (ret == 0)
		ret = file_read(path, &port, err);
	if (ret == 0)
		ret = path_in(lab, "ssh", home, err);
	if (ret == 0)
		ret = path_in(lab, "ssh/client", key, err);
	for (const char *const *word = argv; ret == 0 && word && *word; word++)
		ret = quote(&command, *word);
	if (ret < 0)
		return ret;
	port.data[strcspn(port.data, "\n")] = '\0';
	(void)setenv("HOME", home, 1);
	if (argv)
		execlp("dbclient", "dbclient", "-T", "-p", port.data, "-i", key, "-l", "root", "127.0.0.1",
		       command.data, (char *)NULL);
	else
		execlp("dbclient", "dbclient", "-t", "-p", port.data, "-i", key, "-l", "root", "127.0.0.1",
		       (char *)NULL);
	return error_errno(err, errno, "run dbclient");
}
