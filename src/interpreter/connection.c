#include "interpreter/connection.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"

int connection_create(struct connection *connection, const char *directory, struct error *err)
{
	cleanup_json json_t *content = NULL;
	cleanup_free char *text = NULL;
	char id[13];
	int length;

	random_hex(id, 6);
	length = snprintf(connection->base, sizeof(connection->base), "%s/%s", directory, id);
	if (length < 0 || (size_t)length >= sizeof(connection->base))
		return error_set(err, ENAMETOOLONG, "runtime directory %s: too long for unix sockets",
		                 directory);
	snprintf(connection->file, sizeof(connection->file), "%s.json", connection->base);
	content = json_pack("{s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:s, s:s, s:s}", "transport", "ipc", "ip",
	                    connection->base, "shell_port", CONNECTION_SHELL, "iopub_port", CONNECTION_IOPUB,
	                    "stdin_port", CONNECTION_STDIN, "control_port", CONNECTION_CONTROL, "hb_port",
	                    CONNECTION_HEARTBEAT, "key", "", "signature_scheme", "hmac-sha256", "kernel_name",
	                    "python3");
	text = content ? json_dumps(content, JSON_INDENT(2)) : NULL;
	if (!text)
		return error_set(err, ENOMEM, "write %s: out of memory", connection->file);
	return file_write_atomic(connection->file, text, strlen(text), 0600, err);
}

const char *connection_endpoint(const struct connection *connection, enum connection_port port,
                                char endpoint[CONNECTION_ENDPOINT_SIZE])
{
	snprintf(endpoint, CONNECTION_ENDPOINT_SIZE, "ipc://%s-%d", connection->base, (int)port);
	return endpoint;
}

void connection_remove(const struct connection *connection)
{
	char path[CONNECTION_PATH_SIZE];

	unlink(connection->file);
	for (int port = CONNECTION_SHELL; port <= CONNECTION_HEARTBEAT; port++) {
		snprintf(path, sizeof(path), "%s-%d", connection->base, port);
		unlink(path);
	}
	snprintf(path, sizeof(path), "%s-children", connection->base);
	unlink(path);
}
