/*
 * What the guests of machine_suite.py run as init: commands by vsock, and what a shell lacks for the tests.
 *
 *     guest_shell serve              port 52: a line is a shell command that has the connection as its
 *                                    streams; behind its output: a NUL, "exit STATUS", the end
 *     guest_shell echo PORT          give back what comes, until the peer has nothing more to say
 *     guest_shell connect PORT       join the streams with the host's port; 3: refused
 *     guest_shell many PORT COUNT    connections to the host at once: tells how many there were
 *     guest_shell clock              seconds since 1970
 *     guest_shell load SECONDS       keep every CPU busy; a line per CPU that really ran
 *     guest_shell io FILE read|write SIZE DRAIN COUNT
 *                                    direct I/O: DRAIN requests, "start", COUNT requests, "end"
 *     guest_shell fill FILE SIZE     requests of SIZE at the file, until it ends or fails
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define COMMAND_PORT 52
#define COMMAND_MAX  8192
#define CHUNK        65536
#define REFUSED      3

static int fail(const char *what)
{
	fprintf(stderr, "guest_shell: %s: %s\n", what, strerror(errno));
	return 1;
}

static bool write_all(int fd, const char *data, size_t size)
{
	while (size) {
		ssize_t done = write(fd, data, size);

		if (done <= 0)
			return false;
		data += done;
		size -= (size_t)done;
	}
	return true;
}

static int listen_at(unsigned port)
{
	struct sockaddr_vm address = { .svm_family = AF_VSOCK, .svm_port = port, .svm_cid = VMADDR_CID_ANY };
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 512) < 0)
		return -1;
	return fd;
}

/* The kernel's own patience is two seconds, which a busy emulator can take. */
static int connect_host(unsigned port)
{
	struct sockaddr_vm address = { .svm_family = AF_VSOCK, .svm_port = port, .svm_cid = VMADDR_CID_HOST };
	struct timeval patience = { .tv_sec = 60 };
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd >= 0 &&
	    setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &patience, sizeof(patience)) == 0 &&
	    connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return fd;
	if (fd >= 0) {
		int code = errno;

		close(fd);
		errno = code;
	}
	return -1;
}

/* Each connection in a process of its own. */
static int serve(unsigned port, int (*handle)(int fd))
{
	int listener = listen_at(port);

	if (listener < 0)
		return fail("listen");
	(void)signal(SIGCHLD, SIG_IGN);
	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0)
			continue;
		if (fork() == 0) {
			(void)signal(SIGCHLD, SIG_DFL);
			_exit(handle(fd));
		}
		close(fd);
	}
}

/* --- commands --- */

static bool read_line(int fd, char *line, size_t size)
{
	for (size_t at = 0; at + 1 < size; at++) {
		if (read(fd, line + at, 1) != 1)
			return false;
		if (line[at] == '\n') {
			line[at] = '\0';
			return true;
		}
	}
	return false;
}

static int run_command(int fd)
{
	char line[COMMAND_MAX];
	char end[32] = "";
	int status;
	int size;
	pid_t pid;

	if (!read_line(fd, line, sizeof(line)))
		return 1;
	pid = fork();
	if (pid == 0) {
		for (int i = 0; i < 3; i++)
			(void)dup2(fd, i);
		execl("/bin/sh", "sh", "-c", line, (char *)NULL);
		_exit(127);
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		continue;
	size = snprintf(end + 1, sizeof(end) - 1, "exit %d\n",
	                WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
	(void)write_all(fd, end, (size_t)size + 1);
	return 0;
}

/* --- streams --- */

static int echo(int fd)
{
	char buffer[CHUNK];
	ssize_t size;

	while ((size = read(fd, buffer, sizeof(buffer))) > 0)
		if (!write_all(fd, buffer, (size_t)size))
			return 1;
	(void)shutdown(fd, SHUT_WR);
	return 0;
}

/* One process for each direction, so that neither waits for the other. */
static int join(unsigned port)
{
	char buffer[CHUNK];
	int fd = connect_host(port);
	ssize_t size;

	if (fd < 0)
		return errno == ECONNRESET || errno == ECONNREFUSED ? REFUSED : fail("connect");
	if (fork() == 0) {
		while ((size = read(STDIN_FILENO, buffer, sizeof(buffer))) > 0)
			if (!write_all(fd, buffer, (size_t)size))
				break;
		(void)shutdown(fd, SHUT_WR);
		_exit(0);
	}
	while ((size = read(fd, buffer, sizeof(buffer))) > 0)
		if (!write_all(STDOUT_FILENO, buffer, (size_t)size))
			return 1;
	while (wait(NULL) > 0)
		continue;
	return 0;
}

static int many(unsigned port, unsigned long count)
{
	unsigned long made = 0;

	for (unsigned long i = 0; i < count; i++)
		made += connect_host(port) >= 0;
	printf("%lu\n", made);
	return 0;
}

/* --- processors --- */

static double now(clockid_t clock)
{
	struct timespec time = { 0 };

	(void)clock_gettime(clock, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static int work(int cpu, double seconds)
{
	cpu_set_t set;
	double begin = now(CLOCK_MONOTONIC);
	double sum = 0;

	CPU_ZERO(&set);
	CPU_SET((size_t)cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) < 0)
		return fail("sched_setaffinity");
	do {
		for (int i = 1; i < 10000; i++)
			sum += 1.0 / i;
	} while (now(CLOCK_MONOTONIC) - begin < seconds);
	printf("cpu %d %g\n", sched_getcpu(), sum);
	return 0;
}

static int load(double seconds)
{
	for (int cpu = 0; cpu < sysconf(_SC_NPROCESSORS_ONLN); cpu++) {
		if (fork() == 0) {
			int status = work(cpu, seconds);

			(void)fflush(stdout);
			_exit(status);
		}
	}
	while (wait(NULL) > 0)
		continue;
	return 0;
}

/* --- files --- */

static bool request(int fd, bool writes, void *buffer, size_t size)
{
	ssize_t done = writes ? write(fd, buffer, size) : read(fd, buffer, size);

	if (done == (ssize_t)size)
		return true;
	/* Again from the beginning. */
	if (done < 0 && errno != ENOSPC)
		return false;
	return lseek(fd, 0, SEEK_SET) == 0 &&
	       (writes ? write(fd, buffer, size) : read(fd, buffer, size)) == (ssize_t)size;
}

static int io(const char *path, bool writes, size_t size, unsigned long drain, unsigned long count)
{
	int direct = strncmp(path, "/dev/hw", 7) == 0 ? 0 : O_DIRECT;
	int fd = open(path, (writes ? O_WRONLY : O_RDONLY) | direct);
	void *buffer = NULL;

	if (fd < 0 || posix_memalign(&buffer, 4096, size))
		return fail(path);
	memset(buffer, 0x5a, size);
	for (unsigned long i = 0; i < drain + count; i++) {
		if (i == drain && !write_all(STDOUT_FILENO, "start\n", 6))
			return 1;
		if (!request(fd, writes, buffer, size))
			return fail(path);
	}
	return write_all(STDOUT_FILENO, "end\n", 4) ? 0 : 1;
}

static int fill(const char *path, size_t size)
{
	int fd = open(path, O_WRONLY | O_CREAT, 0600);
	char *buffer = malloc(size);

	if (fd < 0 || !buffer)
		return fail(path);
	memset(buffer, 'x', size);
	while (write(fd, buffer, size) > 0)
		continue;
	return fail(path);
}

int main(int argc, char **argv)
{
	const char *verb = argc > 1 ? argv[1] : "";
	unsigned port = argc > 2 ? (unsigned)atoi(argv[2]) : 0;

	(void)signal(SIGPIPE, SIG_IGN);
	if (strcmp(verb, "serve") == 0)
		return serve(COMMAND_PORT, run_command);
	if (strcmp(verb, "echo") == 0 && argc == 3)
		return serve(port, echo);
	if (strcmp(verb, "connect") == 0 && argc == 3)
		return join(port);
	if (strcmp(verb, "many") == 0 && argc == 4)
		return many(port, strtoul(argv[3], NULL, 10));
	if (strcmp(verb, "load") == 0 && argc == 3)
		return load(atof(argv[2]));
	if (strcmp(verb, "io") == 0 && argc == 7)
		return io(argv[2], strcmp(argv[3], "write") == 0, strtoul(argv[4], NULL, 10),
		          strtoul(argv[5], NULL, 10), strtoul(argv[6], NULL, 10));
	if (strcmp(verb, "fill") == 0 && argc == 4)
		return fill(argv[2], strtoul(argv[3], NULL, 10));
	if (strcmp(verb, "clock") != 0)
		return 2;
	printf("%.6f\n", now(CLOCK_REALTIME));
	return 0;
}
