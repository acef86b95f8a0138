/*
 * http2: HTTP/2 for an http_server, by nghttp2. A connection that begins with the preface of HTTP/2 speaks
 * it, in the clear and over TLS (where ALPN agrees on it before). Each of its streams is an exchange like any
 * other. A WebSocket that is asked for by an extended CONNECT (RFC 8441) is one that wants an upgrade; it is
 * granted by http_exchange_join(). There are no other upgrades.
 *
 * Every stream has its own flow control both ways, as a connection of HTTP/1.1 has. What costs the server
 * more than the client is counted, and a client that does too much of it is sent away: resets, pings,
 * settings, priorities, empty frames.
 */
#pragma once

#include "net/http_server.h"

/* For all connections to come. */
void http2_enable(struct http_server *server);
