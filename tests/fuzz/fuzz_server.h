/* What the harnesses of the HTTP server share: a connection to it. */
#pragma once

#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "net/http_server.h"

/* A server on a socket that the kernel names, and a connection to it. */
static inline int connect_to(struct http_server *server)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	socklen_t size = sizeof(address);
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (listener < 0 || client < 0 ||
	    bind(listener, (struct sockaddr *)&address, sizeof(sa_family_t)) < 0 ||
	    getsockname(listener, (struct sockaddr *)&address, &size) < 0 ||
	    http_server_listen_fd(server, listener, 0, NULL) < 0 ||
	    connect(client, (struct sockaddr *)&address, size) < 0)
		abort();
	return client;
}
