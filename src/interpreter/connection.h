/*
 * connection: where a kernel's sockets are, and the connection file that tells the kernel.
 *
 * With transport "ipc" a channel's socket is the unix socket BASE-PORT, so ports are just small numbers.
 */
#pragma once

#include <sys/un.h>

#include "base/error.h"

#define CONNECTION_PATH_SIZE sizeof(((struct sockaddr_un *)NULL)->sun_path)

enum connection_port {
	CONNECTION_SHELL = 1,
	CONNECTION_IOPUB = 2,
	CONNECTION_STDIN = 3,
	CONNECTION_CONTROL = 4,
	CONNECTION_HEARTBEAT = 5,
};

struct connection {
	char base[CONNECTION_PATH_SIZE - 16]; /* room is left for "-PORT" and "-children" */
	char file[CONNECTION_PATH_SIZE];      /* BASE.json */
};

/* Choose a new base below `directory` and write the connection file, mode 0600. 0 or a negative errno. */
int connection_create(struct connection *connection, const char *directory, struct error *err);

/* The ZeroMQ endpoint of a port: "ipc://BASE-PORT". Returns `endpoint`. */
#define CONNECTION_ENDPOINT_SIZE (CONNECTION_PATH_SIZE + 8)
const char *connection_endpoint(const struct connection *connection, enum connection_port port,
                                char endpoint[CONNECTION_ENDPOINT_SIZE]);

/* Remove the connection file and the sockets. */
void connection_remove(const struct connection *connection);
