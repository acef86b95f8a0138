/*
 * http_client: HTTP/1.1 requests to an upstream on a libuv loop, with kept-alive connections.
 *
 * An endpoint says how to reach the upstream: a unix socket, TCP, or a port inside a sandbox by way of its
 * monitor's vsock socket (Firecracker's hybrid vsock: "CONNECT <port>\n" answered by "OK <n>\n", and over the
 * agent's tunnel port a second "CONNECT <tcp port>\n" answered by "OK\n").
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "base/error.h"
#include "net/http_server.h" /* struct http_header */
#include "net/stream.h"

struct http_endpoint {
	char unix_path[108];  /* a unix socket; "" = TCP */
	char ip[46];          /* numeric address */
	uint16_t port;        /* TCP port */
	uint32_t vsock_port;  /* not 0: unix_path is a monitor's vsock socket, and this the guest's vsock port
	                       */
	uint16_t tunnel_port; /* not 0: and behind it the tunnel, which is asked for this TCP port of the
	                         guest */
};

/* What went wrong before a response came. */
enum http_call_error {
	HTTP_CALL_UNREACHABLE = 1, /* the socket is missing or refuses: no such monitor */
	HTTP_CALL_REFUSED,         /* the guest is there, its port is closed */
	HTTP_CALL_BROKEN,          /* the connection broke or spoke no HTTP */
	HTTP_CALL_TIMEOUT,
};

struct http_client;
struct http_call;

/* `max_idle` connections are kept per endpoint, each for `idle_timeout_ms`. */
struct http_client *http_client_new(uv_loop_t *loop, unsigned max_idle, unsigned idle_timeout_ms);
void http_client_free(struct http_client *client);

/* Drop the kept connections to every endpoint on this unix path (its sandbox is gone). */
void http_client_forget(struct http_client *client, const char *unix_path);

/*
 * Connect to an endpoint without HTTP, handshakes done. on_connect: status 0 with the stream, or enum
 * http_call_error and NULL. Bytes that the peer sent right behind the handshake come as the stream's first
 * data.
 */
void http_endpoint_connect(uv_loop_t *loop, const struct http_endpoint *endpoint,
                           void (*on_connect)(struct stream *stream, int status, void *context),
                           void *context);

/* `context` is what http_call_new was given. After on_end or on_error the call is over and its pointer
 * invalid. */
struct http_call_events {
	void (*on_response)(struct http_call *call, int status, const struct http_header *headers,
	                    size_t count, void *context);
	void (*on_data)(struct http_call *call, const char *data, size_t size, void *context);
	void (*on_end)(struct http_call *call, void *context);
	/* `after_response` tells whether on_response had been called. */
	void (*on_error)(struct http_call *call, enum http_call_error error, bool after_response,
	                 void *context);
	/* The queued part of the request body has been sent. May be NULL. */
	void (*on_drain)(struct http_call *call, void *context);
	/*
	 * A 101 answer. The call is over; the caller owns the stream. `head` is the whole response head to
	 * pass on, `rest` what followed it. May be NULL: then 101 is an error.
	 */
	void (*on_upgrade)(struct http_call *call, struct stream *stream, const char *head, size_t head_size,
	                   const char *rest, size_t rest_size, void *context);
};

/*
 * Begin a request. Headers are added before http_call_begin; "Host" must be among them, Content-Length and
 * Transfer-Encoding must not: `content_length` says which (-1 chunked, 0 no body). A request without a body
 * that meets a kept connection which the upstream just closed is tried again on a new one.
 */
struct http_call *http_call_new(struct http_client *client, const struct http_endpoint *endpoint,
                                const char *method, const char *target, const struct http_call_events *events,
                                void *context);
void http_call_header(struct http_call *call, const char *name, const char *value);
void http_call_begin(struct http_call *call, int64_t content_length);
void http_call_write(struct http_call *call, const void *data, size_t size);
/* A trailer of a chunked body, before http_call_end. */
void http_call_trailer(struct http_call *call, const char *name, const char *value);
void http_call_end(struct http_call *call);
/* What the response had behind its body; to be asked for in on_end. */
const struct http_header *http_call_trailers(const struct http_call *call, size_t *ret_count);
size_t http_call_pending(const struct http_call *call);
void http_call_pause(struct http_call *call); /* stop reading the response */
void http_call_resume(struct http_call *call);
/* Fail with HTTP_CALL_TIMEOUT when no response head came within this time. 0 = never (the default). */
void http_call_timeout(struct http_call *call, unsigned milliseconds);
/* Where nobody listens, try again for this long: a server may be starting. Nothing has been sent by then. 0 =
 * do not (the default). Before http_call_begin. */
void http_call_patience(struct http_call *call, unsigned milliseconds);
/* Give up; no callback follows. */
void http_call_cancel(struct http_call *call);

/*
 * The short form for small JSON exchanges: sends `body` (may be NULL) as application/json and calls `done`
 * once, with the status and the whole answer (up to 16 MiB), or with status 0 and what went wrong.
 */
typedef void http_simple_fn(int status, const char *data, size_t size, const struct error *err,
                            void *context);
void http_call_simple(struct http_client *client, const struct http_endpoint *endpoint, const char *method,
                      const char *target, const char *body, unsigned timeout_ms, http_simple_fn *done,
                      void *context);

/* The same with an X-Request-Id (NULL: none), and patience where nobody listens. */
void http_call_simple_as(struct http_client *client, const struct http_endpoint *endpoint, const char *method,
                         const char *target, const char *body, unsigned timeout_ms, unsigned patience_ms,
                         const char *request_id, http_simple_fn *done, void *context);
