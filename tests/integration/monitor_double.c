/*
 * A stand-in for atoll-vmm and the agent of its guest, for tests/integration/node-pauses: there is no
 * machine, but files appear as if there were one, and files that should be there are asked for. It keeps a
 * list of requests in /disk/requests. Static, because a monitor runs in a jail.
 *
 * What a test puts into /disk makes something fail: "die" ends it at the boot, "mute" has the agent never
 * answer, "unsynced" fails /prepare-snapshot; "hold" has a pause with memory wait until it is gone, and
 * "answered" is there when one was. Booted with "link=PATH ", it is hostile: a snapshot's state is a link to
 * there.
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define REQUEST_MAX 65536

struct request {
	char text[REQUEST_MAX];
	size_t size;
	char *body;
	char method[16];
	char target[256];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static char link_to[256];

static bool there(const char *path)
{
	return access(path, F_OK) == 0;
}

static void append(const char *path, const char *line)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	(void)fchmod(fd, 0666);
	(void)!write(fd, line, strlen(line));
	(void)!write(fd, "\n", 1);
	close(fd);
}

/* The string of a member, "" when there is none. No escapes: paths have none. */
static const char *member(const char *body, const char *name, char value[256])
{
	char key[64];
	const char *at;

	(void)snprintf(key, sizeof(key), "\"%s\":\"", name);
	at = strstr(body, key);
	value[0] = '\0';
	if (at)
		(void)snprintf(value, 256, "%.*s", (int)strcspn(at + strlen(key), "\""), at + strlen(key));
	return value;
}

/* --- the machine --- */

/* All files that a request names are there, but for those that it makes. NULL, or the one that is not. */
static const char *missing(const struct request *request, char name[256])
{
	static const char *const made[] = { "overlay_path", "uds_path", "serial_out_path" };
	bool saves = strcmp(request->target, "/snapshot/create") == 0;

	for (const char *at = request->body; !saves && (at = strstr(at, "\"/")); at++) {
		bool ours = false;
		char own[256];

		(void)snprintf(name, 256, "%.*s", (int)strcspn(at + 1, "\""), at + 1);
		for (size_t i = 0; i < sizeof(made) / sizeof(made[0]); i++)
			ours |= strcmp(member(request->body, made[i], own), name) == 0;
		if (!ours && !there(name))
			return name;
	}
	return NULL;
}

static void listen_at(const char *path, void *(*serve)(void *socket));
static void *serve_agent(void *socket);

static int act(const struct request *request)
{
	char path[256];

	if (strcmp(request->method, "PATCH") != 0 || strcmp(request->target, "/vm") != 0)
		append("/disk/requests", request->target);
	if (missing(request, path)) {
		append("/disk/requests", path);
		return 400;
	}
	if (*member(request->body, "overlay_path", path)) {
		append(path, "written by a guest");
		(void)chmod(path, 0600);
	}
	if (strcmp(request->target, "/snapshot/create") == 0) {
		append("/disk/requests", member(request->body, "snapshot_type", path));
		if (link_to[0])
			(void)!symlink(link_to, member(request->body, "snapshot_path", path));
		else
			append(member(request->body, "snapshot_path", path), "state");
		append(member(request->body, "mem_file_path", path), "memory");
		while (there("/disk/hold"))
			(void)usleep(5000);
	}
	if (strcmp(request->target, "/boot-source") == 0 && strstr(request->body, "link="))
		(void)sscanf(strstr(request->body, "link="), "link=%255[^ ]", link_to);
	if (strcmp(request->target, "/actions") == 0 && there("/disk/die"))
		_exit(3);
	if (strcmp(request->target, "/vsock") == 0 || strcmp(request->target, "/snapshot/load") == 0)
		listen_at(member(request->body, "uds_path", path), serve_agent);
	return 204;
}

/* --- HTTP --- */

static bool read_request(int fd, struct request *request)
{
	const char *length;
	size_t want = 0;

	request->size = 0;
	request->body = NULL;
	for (;;) {
		ssize_t got;

		request->text[request->size] = '\0';
		if (!request->body && (request->body = strstr(request->text, "\r\n\r\n"))) {
			request->body += 4;
			length = strcasestr(request->text, "\r\ncontent-length:");
			want = length && length < request->body ? strtoul(length + 17, NULL, 10) : 0;
		}
		if (request->body && request->size - (size_t)(request->body - request->text) >= want)
			return sscanf(request->text, "%15s %255s", request->method, request->target) == 2;
		got = read(fd, request->text + request->size, REQUEST_MAX - 1 - request->size);
		if (got <= 0)
			return false;
		request->size += (size_t)got;
	}
}

static void reply(int fd, int status)
{
	char text[128];
	int size = snprintf(text, sizeof(text), "HTTP/1.1 %d Done\r\n%s\r\n", status,
	                    status == 204 ? "" : "Content-Length: 0\r\n");

	(void)!write(fd, text, (size_t)size);
}

static void *serve_api(void *socket)
{
	int fd = (int)(intptr_t)socket;
	struct request *request = malloc(sizeof(*request));

	while (request && read_request(fd, request)) {
		pthread_mutex_lock(&lock);
		reply(fd, act(request));
		if (strcmp(request->target, "/snapshot/create") == 0)
			append("/disk/answered", request->target);
		pthread_mutex_unlock(&lock);
	}
	free(request);
	close(fd);
	return NULL;
}

static int answer_agent(const struct request *request)
{
	if (strcmp(request->target, "/health") != 0) {
		append("/disk/requests", request->target);
		append("/disk/requests", request->body);
	}
	return strcmp(request->target, "/prepare-snapshot") == 0 && there("/disk/unsynced") ? 500 : 204;
}

static void *serve_agent(void *socket)
{
	int fd = (int)(intptr_t)socket;
	struct request *request = malloc(sizeof(*request));
	char byte = ' ';

	/* "CONNECT 1024" */
	while (byte != '\n' && read(fd, &byte, 1) == 1)
		;
	if (!there("/disk/mute"))
		(void)!write(fd, "OK 1\n", 5);
	while (request && read_request(fd, request))
		reply(fd, answer_agent(request));
	free(request);
	close(fd);
	return NULL;
}

/* --- listening --- */

struct listener {
	int fd;
	void *(*serve)(void *socket);
};

static void *accept_all(void *context)
{
	struct listener *listener = context;
	pthread_t thread;
	int fd;

	while ((fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC)) >= 0)
		if (pthread_create(&thread, NULL, listener->serve, (void *)(intptr_t)fd) == 0)
			(void)pthread_detach(thread);
	_exit(4);
}

static void listen_at(const char *path, void *(*serve)(void *socket))
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct listener *listener = malloc(sizeof(*listener));
	pthread_t thread;

	*listener = (struct listener){ socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), serve };
	(void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	(void)umask(0);
	if (bind(listener->fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(listener->fd, 64) < 0 || pthread_create(&thread, NULL, accept_all, listener) != 0) {
		perror(path);
		_exit(5);
	}
}

int main(int argc, char **argv)
{
	if (argc < 3 || strcmp(argv[1], "--api-sock") != 0)
		return 2;
	/* A node that dies takes its connections with it. */
	(void)signal(SIGPIPE, SIG_IGN);
	listen_at(argv[2], serve_api);
	for (;;)
		pause();
}
