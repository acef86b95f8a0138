/*
 * http_server: HTTP/1.1 on a libuv loop (parsing by http-parser).
 *
 * A request is an `exchange`. It begins with on_request, called when its head has been read. The handler then
 * either answers, or first takes the body (collected up to a limit, or streamed with back-pressure). An
 * exchange is over, and the pointer invalid, after http_reply_end() or one of the one-call replies, after
 * http_exchange_abort(), after http_exchange_take_stream(), or when its on_close callback has been called
 * because the client went away.
 *
 * Keep-alive, pipelining (in order, one at a time), chunked bodies both ways, Expect: 100-continue and HEAD
 * are handled here. A malformed request is answered with 400 and the connection closed.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "base/error.h"
#include "net/stream.h"

struct http_server;
struct http_exchange;

struct http_header {
	const char *name; /* as sent; compare without case */
	const char *value;
};

struct http_server_options {
	void (*on_request)(struct http_exchange *exchange, void *context);
	void *context;
	size_t max_head_size;     /* bytes of request line and headers; 0 = 64 KiB; beyond: 431 */
	unsigned max_connections; /* 0 = 4096; beyond: 503 */
	unsigned idle_timeout_ms; /* keep-alive without a request; 0 = 75 s */
	/*
	 * Render an error that this library answers by itself (400, 413, 431, 503) as a body. NULL:
	 * {"code":N,"message":"..."} A returned string is freed with free().
	 */
	char *(*render_error)(int status, const char *message);
};

struct http_server *http_server_new(uv_loop_t *loop, const struct http_server_options *options);

/* Listen. Several may be called. 0, or a negative errno with `err`. Port 0 picks one: see http_server_port.
 */
int http_server_listen_tcp(struct http_server *server, const char *ip, uint16_t port, struct error *err);
int http_server_listen_unix(struct http_server *server, const char *path, unsigned mode, struct error *err);
/* The same, with `prepare` called for each stream that is accepted, before it is read; a negative result
 * drops it. For TLS: see tls.h. */
typedef int http_prepare_fn(struct stream *stream, void *context);
int http_server_listen_prepared(struct http_server *server, const char *ip, uint16_t port,
                                http_prepare_fn *prepare, void *context, struct error *err);
/* A bound (not yet listening) stream socket, for example AF_VSOCK. Takes `fd`. `tag` is told by
 * http_exchange_tag. */
int http_server_listen_fd(struct http_server *server, int fd, int tag, struct error *err);
/* Of the last listener with TCP. */
uint16_t http_server_port(const struct http_server *server);

/* Connections that are open and not taken. */
unsigned http_server_connections(const struct http_server *server);

/* Stop listening, abort what is open, and free the server when the loop has closed its handles. */
void http_server_free(struct http_server *server);

/* --- the request --- */
const char *http_request_method(const struct http_exchange *exchange);
const char *http_request_target(
        const struct http_exchange *exchange);                       /* as sent: path and query, undecoded */
const char *http_request_path(const struct http_exchange *exchange); /* percent-decoded, without query */
/* The decoded value of a query parameter ("" when it has none), or NULL. The first one wins. */
const char *http_request_query(struct http_exchange *exchange, const char *name);
/* The value of a header, or NULL. */
const char *http_request_header(const struct http_exchange *exchange, const char *name);
const struct http_header *http_request_headers(const struct http_exchange *exchange, size_t *ret_count);
/* Connection: upgrade with an Upgrade header, and no body. Taking the body declines it. */
bool http_request_wants_upgrade(const struct http_exchange *exchange);
bool http_request_has_body(const struct http_exchange *exchange); /* Content-Length above 0, or chunked */
int64_t http_request_content_length(const struct http_exchange *exchange); /* -1 when not given */

/* The listener's tag (0 but for http_server_listen_fd), and the handler's own pointer kept with the exchange.
 */
int http_exchange_tag(const struct http_exchange *exchange);
void http_exchange_set_data(struct http_exchange *exchange, void *data);
void *http_exchange_data(const struct http_exchange *exchange);
uv_loop_t *http_exchange_loop(const struct http_exchange *exchange);

/*
 * Collect the whole body, then call `done` with it (NUL-terminated beyond `size`, valid during the call). A
 * body over `limit` is answered with 413 here and `done` is not called.
 */
void http_request_collect(struct http_exchange *exchange, size_t limit,
                          void (*done)(struct http_exchange *exchange, const char *data, size_t size,
                                       void *context),
                          void *context);

/* Stream the body. `on_end` comes after the last byte. Pause and resume reading for back-pressure. */
struct http_body_events {
	void (*on_data)(struct http_exchange *exchange, const char *data, size_t size, void *context);
	void (*on_end)(struct http_exchange *exchange, void *context);
};
void http_request_stream(struct http_exchange *exchange, const struct http_body_events *events,
                         void *context);
/* What came behind the body; to be asked for in on_end. */
const struct http_header *http_request_trailers(const struct http_exchange *exchange, size_t *ret_count);
void http_request_pause(struct http_exchange *exchange);
void http_request_resume(struct http_exchange *exchange);

/* --- the reply --- */
/* Add a header to the reply that follows. Name and value are copied; a value with CR or LF is dropped. */
void http_reply_header(struct http_exchange *exchange, const char *name, const char *value);

/* One-call replies. Unread body is discarded (or the connection closed when it is large). */
void http_reply(struct http_exchange *exchange, int status, const char *content_type, const void *data,
                size_t size);
void http_reply_json(struct http_exchange *exchange, int status, json_t *value); /* takes the reference */
void http_reply_empty(struct http_exchange *exchange, int status);
/* {"code":status,"message":"..."}: the error shape of the control plane and of the agent's HTTP endpoints. */
void http_reply_error(struct http_exchange *exchange, int status, const char *format, ...)
        __attribute__((format(printf, 3, 4)));

/* A streamed reply. `content_length` in bytes, or -1 for chunked. Every write is flushed. */
void http_reply_begin(struct http_exchange *exchange, int status, int64_t content_length);
void http_reply_write(struct http_exchange *exchange, const void *data, size_t size);
/* A trailer, before http_reply_end. It is dropped where the body has a length. */
void http_reply_trailer(struct http_exchange *exchange, const char *name, const char *value);
void http_reply_end(struct http_exchange *exchange);
/* Bytes of the reply that wait to be sent, and a call when none do any more. */
size_t http_reply_pending(const struct http_exchange *exchange);
void http_reply_on_drain(struct http_exchange *exchange,
                         void (*on_drain)(struct http_exchange *exchange, void *context), void *context);

/* Called once if the client goes away before the reply has ended; the exchange is invalid after it returns.
 */
void http_exchange_on_close(struct http_exchange *exchange,
                            void (*on_close)(struct http_exchange *exchange, void *context), void *context);

/*
 * Called once when the exchange is over, however it ends: `status` is that of the reply, 0 when none was
 * begun. The exchange can still be looked at.
 */
void http_exchange_on_end(struct http_exchange *exchange,
                          void (*on_end)(struct http_exchange *exchange, int status, void *context),
                          void *context);

/* Break the connection at once, without a proper end: the client sees a torn stream. on_close is not called.
 */
void http_exchange_abort(struct http_exchange *exchange);

/*
 * Take the connection away from HTTP (after an upgrade). The caller owns the stream and writes all that
 * follows, the reply head included. `ret_rest` gets what the client already sent beyond the head: a copy to
 * be freed. A stream of HTTP/2 cannot be taken.
 */
struct stream *http_exchange_take_stream(struct http_exchange *exchange, char **ret_rest,
                                         size_t *ret_rest_size);

/*
 * Grant an upgrade that another peer has accepted, and join both: its head of 101 and what followed go to the
 * client, then bytes both ways as with stream_splice(), until both have ended; then `done` is called once.
 * Serves what http_request_wants_upgrade() tells of, whatever carries it: of a stream of HTTP/2 that is a
 * WebSocket (RFC 8441), for which the server has made a key of its own, and whose answer is compared with it.
 * 0: the exchange is over and `stream` taken. Else both are as before: -EPROTO for an answer that does not
 * fit, -ENOMEM.
 */
struct http_joint {
	struct stream *stream;
	const char *head; /* the whole, with its empty line */
	size_t head_size;
	const char *rest;
	size_t rest_size;
	stream_spliced_fn *done;
	void *context;
};
int http_exchange_join(struct http_exchange *exchange, const struct http_joint *joint);

/* The standard reason phrase of a status ("Not Found"), or "Status". */
const char *http_reason(int status);
