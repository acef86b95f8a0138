/* http2_session: what http2.c (connections: frames), http2_stream.c (streams: exchanges) and
 * http2_tunnel.c (streams: upgrades) share. Private.
 */
#pragma once

#include <nghttp2/nghttp2.h>

#include "net/http_connection.h"

#define HTTP2_STREAMS_MAX   100
#define HTTP2_STREAM_WINDOW (128 * 1024) /* bytes of a request's body that may wait here */
#define HTTP2_WINDOW        (1024 * 1024)

/* Things that may be done so often in a row, and so often a second. */
struct http2_allowance {
	double left;
	double most;
	double per_second;
	uint64_t seen_ms;
};

struct http2_session {
	struct connection *connection; /* NULL: gone */
	nghttp2_session *nghttp2;
	struct list streams;
	unsigned open;  /* exchanges and answers under way */
	unsigned depth; /* of calls that will flush when they are done */
	struct http2_allowance resets;
	struct http2_allowance nuisances;
	bool leaving; /* said goodbye */
};

struct http2_stream {
	struct http2_session *session;
	struct list link;
	struct http_exchange *exchange; /* NULL: none yet, or answered */
	struct http_head head;          /* of the request, as it comes */
	struct http_head trailers;
	struct buffer cookies;
	char *method;
	char *target;
	size_t head_size;
	struct buffer inbox;  /* body that nobody has taken yet */
	struct buffer outbox; /* answer that is not sent yet */
	size_t out_sent;      /* of it */
	struct buffer out_trailers;
	int32_t id;
	int refuse;                  /* answer this instead of asking anybody */
	bool headed;                 /* the request's head is there */
	bool has_host;               /* by :authority */
	bool in_ended;               /* the request is */
	bool out_ended;              /* the answer is, but for what is in the outbox */
	bool out_stalled;            /* nghttp2 waits to be told of more */
	bool out_closed;             /* its end has been sent */
	bool drained;                /* the outbox became empty: the exchange is to be told */
	bool websocket;              /* asked for by an extended CONNECT (RFC 8441) */
	char accept[32];             /* what its other end must answer */
	struct http2_tunnel *tunnel; /* NULL: none; from then on there is no exchange */
};

/* Send what may be sent; tell the exchanges that may go on. The session, and every stream, may be gone after
 * it.
 */
void http2_flush(struct http2_session *session);

/* http2_stream.c */
struct http2_stream *http2_stream_new(struct http2_session *session, int32_t id);
/* Also tells the exchange that its client is gone. `torn`: it did not end by both ends' will. */
void http2_stream_free(struct http2_stream *stream, bool torn);
/* One field of the head. 0, or negative: no memory. */
int http2_stream_field(struct http2_stream *stream, const char *name, size_t name_size, const char *value,
                       size_t value_size);
/* One of what comes behind the body. */
int http2_stream_trailer(struct http2_stream *stream, const char *name, size_t name_size, const char *value,
                         size_t value_size);
/* The head is complete: begin the exchange. */
void http2_stream_begin(struct http2_stream *stream);
/* A piece of the body. 0, or negative: no memory. */
int http2_stream_data(struct http2_stream *stream, const char *data, size_t size);
/* The request is complete. */
void http2_stream_end(struct http2_stream *stream);

/* Send the head of an answer. `headers`, lines of HTTP/1.1, is cut up (NULL: none); `length` -1: none is
 * told. */
void http2_stream_answer(struct http2_stream *stream, int status, char *headers, int64_t length, bool body);
/* There is more in the outbox, or its end: send it before the loop waits. */
void http2_stream_wake(struct http2_stream *stream);
/* Whether more waits to be sent than should. */
bool http2_stream_is_full(const struct http2_stream *stream);

/* http2_tunnel.c: the stream joined with a peer that speaks HTTP/1.1 */

/* Turn the request for a WebSocket into one of HTTP/1.1, with a key of our own. 0, or -ENOMEM, -EMSGSIZE. */
int http2_tunnel_ask(struct http2_stream *stream);
/* As http_exchange_join(). */
int http2_tunnel_join(struct http_exchange *exchange, const struct http_joint *joint);
/* From the client: a piece, the end. */
void http2_tunnel_data(struct http2_stream *stream, const char *data, size_t size);
void http2_tunnel_end(struct http2_stream *stream);
/* All has been sent to the client. */
void http2_tunnel_drained(struct http2_stream *stream);
/* Whether the peer still takes what the client sends. */
bool http2_tunnel_is_open(const struct http2_stream *stream);
/* The stream is over. `torn`: not by both ends' will. */
void http2_tunnel_free(struct http2_stream *stream, bool torn);
