/*
 * An upstream that costs as little as one can, for tests/bench/edge: one thread, epoll, answers made in
 * advance. edge_upstream HANDSHAKE PATH listens on the unix socket PATH. With HANDSHAKE 1 each connection
 * begins as one to a port behind a monitor's vsock socket and the agent's tunnel: "CONNECT <port>\n", "OK
 * <n>\n", "CONNECT <port>\n", "OK\n". "GET /m" is answered with 1 MiB, all else with 1 KiB.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define HEAD_MAX 16384
#define LARGE    (1024 * 1024)
#define SMALL    1024

struct client {
	int fd;
	int lines; /* of the handshake, still to come */
	size_t had;
	const char *answer; /* what is being sent */
	size_t left;
	char head[HEAD_MAX];
};

static char *answers[2];
static size_t sizes[2];

static void make_answer(int which, size_t size)
{
	char head[128];
	int length =
	        snprintf(head, sizeof(head),
	                 "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n\r\n", size);

	sizes[which] = (size_t)length + size;
	answers[which] = malloc(sizes[which]);
	if (!answers[which])
		exit(1);
	memcpy(answers[which], head, (size_t)length);
	memset(answers[which] + length, 'x', size);
}

static void watch(int epoll, struct client *client, int operation, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = client };

	if (epoll_ctl(epoll, operation, client->fd, &event) < 0)
		exit(1);
}

/* 0: all was sent; 1: later; -1: gone. */
static int push(struct client *client)
{
	while (client->left) {
		ssize_t sent = send(client->fd, client->answer, client->left, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (sent < 0)
			return errno == EAGAIN ? 1 : -1;
		client->answer += sent;
		client->left -= (size_t)sent;
	}
	return 0;
}

static void drop(struct client *client, size_t size)
{
	client->had -= size;
	memmove(client->head, client->head + size, client->had);
}

/* What has come, as far as it can be answered now. As push(). */
static int serve(struct client *client)
{
	int ret = push(client);

	while (ret == 0) {
		char *end;

		client->head[client->had] = '\0';
		if (client->lines) {
			end = strchr(client->head, '\n');
			if (!end)
				return 0;
			client->lines--;
			client->answer = client->lines ? "OK 1\n" : "OK\n";
			client->left = strlen(client->answer);
			drop(client, (size_t)(end + 1 - client->head));
		} else {
			int large = strncmp(client->head, "GET /m", 6) == 0;

			end = strstr(client->head, "\r\n\r\n");
			if (!end)
				return 0;
			client->answer = answers[large];
			client->left = sizes[large];
			drop(client, (size_t)(end + 4 - client->head));
		}
		ret = push(client);
	}
	return ret;
}

static int take(struct client *client)
{
	ssize_t got = recv(client->fd, client->head + client->had, HEAD_MAX - 1 - client->had, MSG_DONTWAIT);

	if (got <= 0)
		return got < 0 && errno == EAGAIN ? 0 : -1;
	client->had += (size_t)got;
	return serve(client);
}

static void add(int epoll, int listener, int lines)
{
	struct client *client = calloc(1, sizeof(*client));

	if (!client)
		exit(1);
	client->fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	client->lines = lines;
	if (client->fd < 0) {
		free(client);
		return;
	}
	watch(epoll, client, EPOLL_CTL_ADD, EPOLLIN);
}

int main(int argc, char **argv)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event event = { .events = EPOLLIN };
	int lines = argc == 3 && argv[1][0] == '1' ? 2 : 0;

	if (argc != 3 || strlen(argv[2]) >= sizeof(address.sun_path))
		return 2;
	(void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", argv[2]);
	(void)signal(SIGPIPE, SIG_IGN);
	make_answer(0, SMALL);
	make_answer(1, LARGE);
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(listener, 512) < 0 ||
	    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) < 0)
		return 1;
	for (;;) {
		struct epoll_event events[64];
		int count = epoll_wait(epoll, events, 64, -1);

		for (int i = 0; i < count; i++) {
			struct client *client = events[i].data.ptr;
			int ret;

			if (!client) {
				add(epoll, listener, lines);
				continue;
			}
			ret = events[i].events & EPOLLOUT ? serve(client) : take(client);
			if (ret >= 0) {
				watch(epoll, client, EPOLL_CTL_MOD, ret ? EPOLLOUT : EPOLLIN);
				continue;
			}
			close(client->fd);
			free(client);
		}
	}
}
