/*
 * http_connection: what http_server.c (connections: from bytes to exchanges) and http_exchange.c (what a
 * handler does with one) share. Private to net.
 */
#pragma once

#include <http_parser.h>
#include <uv.h>

#include "base/list.h"
#include "net/http_message.h"
#include "net/http_server.h"

#define HTTP_MAX_DISCARD                                                                                     \
	(16 * 1024 * 1024) /* bytes of an unwanted body that are read to keep the connection */

struct connection;

/* What an exchange asks of that which carries it: a connection of HTTP/1.1, or a stream of HTTP/2. */
struct http_carrier {
	void (*go_on)(struct http_exchange *exchange); /* with the body: it is wanted, or wanted again */
	void (*send_continue)(struct http_exchange *exchange);
	void (*begin)(struct http_exchange *exchange, int status, int64_t content_length);
	void (*write)(struct http_exchange *exchange, const void *data, size_t size);
	void (*end)(struct http_exchange *exchange); /* frees it */
	size_t (*pending)(const struct http_exchange *exchange);
	void (*abort)(struct http_exchange *exchange);                               /* frees it */
	int (*join)(struct http_exchange *exchange, const struct http_joint *joint); /* frees it when 0 */
};

extern const struct http_carrier http_connection_carrier;

/* Another protocol than HTTP/1.1, which a connection may begin with. */
struct http_protocol {
	const char *preface; /* what the client says first */
	size_t preface_size;
	int (*begin)(struct connection *connection);
	void (*data)(struct connection *connection, const char *data, size_t size);
	void (*drain)(struct connection *connection);
	void (*idle)(struct connection *connection);   /* nothing happened for as long as is allowed */
	void (*closed)(struct connection *connection); /* the stream is gone: free the session */
};

struct http_server {
	uv_loop_t *loop;
	struct http_server_options options;
	struct list listeners;
	struct list connections;
	struct list holding;                  /* connections with something held back */
	uv_prepare_t *flusher;                /* sends it before the loop waits */
	const struct http_protocol *protocol; /* that is spoken besides; NULL: none */
	unsigned connection_count;
	uint16_t port;
	bool closing;
};

struct connection {
	struct http_server *server;
	struct list link;
	struct stream *stream; /* NULL when closed or taken */
	struct http_exchange *exchange;
	const struct http_protocol *protocol; /* NULL: HTTP/1.1 */
	void *session;                        /* the protocol's own */
	bool greeted;                         /* which one is known */
	uv_timer_t idle;
	http_parser parser;
	struct http_head head;
	struct buffer target;
	struct list holding_link;
	struct buffer held;    /* a reply's head that waits for the body, to leave in one packet with it */
	struct buffer backlog; /* read, not yet parsed */
	const char *rest;      /* while feeding: what the parser has not seen yet */
	size_t rest_size;
	uint64_t discarded;
	int tag;
	int refuse_status; /* answer this and close */
	bool feeding;
	bool head_done;    /* the head was parsed, on_request is due */
	bool message_done; /* the whole request was parsed */
	bool unread;       /* a part of the request is still to come */
	bool timer_closed;
	bool closing; /* nothing more is read or parsed */
};

struct http_exchange {
	struct connection *connection;
	const struct http_carrier *carrier;
	void *carrier_data;
	struct http_head head;
	char *target;
	char *path;
	char method[16];
	int64_t content_length;
	bool has_body;
	bool wants_upgrade;
	bool keep_alive;
	bool expects_continue;
	/* body */
	struct http_body_events body;
	void *body_context;
	struct buffer collected;
	void (*collect_done)(struct http_exchange *, const char *, size_t, void *);
	bool body_wanted;
	bool body_paused;
	bool body_ended; /* on_end was called */
	/* reply */
	struct http_head trailers; /* of the request */
	struct buffer reply_headers;
	int reply_status; /* 0: not begun */
	void (*on_end)(struct http_exchange *, int, void *);
	void *end_context;
	struct buffer reply_trailers;
	bool reply_begun;
	bool reply_chunked;
	bool reply_bodyless;
	void (*on_drain)(struct http_exchange *, void *);
	void *drain_context;
	void (*on_close)(struct http_exchange *, void *);
	void *close_context;
	void *data;
	struct list query_values; /* decoded by http_request_query */
};

struct query_value {
	struct list link;
	char text[];
};

/* Parse what came, call the handler as far as it wants; `size` 0 goes on after a wait. */
void http_connection_feed(struct connection *connection, const char *data, size_t size);

/* Send what is queued and close; nothing more is parsed. */
void http_connection_finish(struct connection *connection);

/* Send what was held back. */
void http_connection_release(struct connection *connection);

/*
 * Send what the connection has to say before the loop waits, not now: a handler is on the stack, whose
 * exchanges must not go meanwhile. False when the server is closing, and nothing can be held back any more.
 */
bool http_connection_hold(struct connection *connection);

/* The same for all: the flusher's callback. */
void http_server_release(uv_prepare_t *flusher);

/* Begin to wait for the next request. */
void http_connection_idle(struct connection *connection);

/* The stream is gone or belongs to somebody else: free what is left. */
void http_connection_detached(struct connection *connection);

/* An exchange with its carrier, method, head (taken, also on failure) and target (likewise, heap) set. NULL:
 * no memory, or the target is malformed. */
struct http_exchange *http_exchange_new(struct connection *connection, const struct http_carrier *carrier,
                                        const char *method, struct http_head *head, char *target);
void http_exchange_free(struct http_exchange *exchange);
void http_exchange_body_ended(struct http_exchange *exchange);

/* The server's rendering of an error, to be freed. */
char *http_render_error(const struct http_server *server, int status, const char *message);
