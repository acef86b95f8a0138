/*
 * edge: traffic into sandboxes. Opens the folder.
 *
 * A request names its sandbox by E2b-Sandbox-Id and E2b-Sandbox-Port, or by a host of the form
 * PORT-ID.domain. The agent's own port is reached directly over vsock, every other through the agent's
 * tunnel.
 */
#pragma once

#include "api/api.h"

/* Serve an exchange that is for a sandbox. False, untouched, when it is not. */
bool edge_serve(struct api *api, struct http_exchange *exchange);

/* Take "PORT-ID[-more].domain" apart. False when it is no such host. `id` holds 64 bytes. */
bool edge_parse_host(const char *host, unsigned *ret_port, char *id);
