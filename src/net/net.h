/*
 * net: byte streams, HTTP/1.1 server and client, on libuv. Knows base only.
 *
 * One loop per thread, no locks between loops. Everything is asynchronous and bounded: a writer asks how much
 * is pending and waits, a reader pauses.
 */
#pragma once

#include "net/http_client.h"
#include "net/http_server.h"
#include "net/stream.h"
