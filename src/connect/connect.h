/*
 * connect: the server side of the Connect protocol (connectrpc.com/docs/protocol) on top of net/http_server:
 * unary calls, server streams and client streams. Handlers see JSON; a method that says what its messages are
 * speaks the protobuf codec, too.
 *
 * A call begins in its method's handler and ends with connect_reply, connect_fail or connect_end, or when the
 * client goes away; its pointer is invalid then. Streams report errors in their last envelope, never by HTTP
 * status.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "connect/proto.h"
#include "net/http_server.h"

enum connect_code {
	CONNECT_CANCELED,
	CONNECT_UNKNOWN,
	CONNECT_INVALID_ARGUMENT,
	CONNECT_DEADLINE_EXCEEDED,
	CONNECT_NOT_FOUND,
	CONNECT_ALREADY_EXISTS,
	CONNECT_PERMISSION_DENIED,
	CONNECT_RESOURCE_EXHAUSTED,
	CONNECT_FAILED_PRECONDITION,
	CONNECT_UNIMPLEMENTED,
	CONNECT_INTERNAL,
	CONNECT_UNAVAILABLE,
	CONNECT_UNAUTHENTICATED,
};

struct connect_call;

enum connect_kind {
	CONNECT_UNARY,
	CONNECT_SERVER_STREAM,
	CONNECT_CLIENT_STREAM,
};

struct connect_method {
	const char *path; /* "/process.Process/Start" */
	enum connect_kind kind;
	/*
	 * `request` is an object, borrowed during the call of the handler. A client stream's is called for
	 * each message, and with NULL when the client has sent all: then, or before, it ends the call.
	 */
	void (*handle)(struct connect_call *call, const json_t *request, void *context);
	const struct proto_message *request; /* for the protobuf codec; NULL: JSON only */
	const struct proto_message *response;
};

/*
 * Serve an exchange whose path is in `methods` (ended by a NULL path), which must outlive it. False, with the
 * exchange untouched, when it is not. `context` goes to the handler.
 */
bool connect_serve(struct http_exchange *exchange, const struct connect_method *methods, void *context);

/* A request header, or NULL: while the handler runs. */
const char *connect_header(const struct connect_call *call, const char *name);

/* --- ending a call --- */
void connect_reply(struct connect_call *call, json_t *message); /* unary; takes the reference */
void connect_fail(struct connect_call *call, enum connect_code code, const char *format, ...)
        __attribute__((format(printf, 3, 4)));

/* --- client streams --- */
/* Take no more messages for now; go on. */
void connect_pause(struct connect_call *call);
void connect_resume(struct connect_call *call);
/* The one answer to the stream, and its end; takes the reference. */
void connect_finish(struct connect_call *call, json_t *message);

/* --- streams --- */
void connect_send(struct connect_call *call, json_t *message); /* takes the reference */
void connect_end(struct connect_call *call);

/* Bytes that wait for the client, and a call when there are none any more. */
size_t connect_pending(const struct connect_call *call);
void connect_on_drain(struct connect_call *call, void (*on_drain)(struct connect_call *call, void *data));

/* Break the connection without an end of stream: what the client sees when a sandbox dies. */
void connect_abort(struct connect_call *call);

/*
 * The handler's own pointer, and what to call when the client goes away before the end (or sends what ends
 * the call), or when its deadline (Connect-Timeout-Ms) passes: then the handler ends the call. A handler that
 * sets nothing for the deadline hears of it as if the client had gone away.
 */
void connect_set_data(struct connect_call *call, void *data);
void *connect_data(const struct connect_call *call);
void connect_on_close(struct connect_call *call, void (*on_close)(struct connect_call *call, void *data));
void connect_on_deadline(struct connect_call *call,
                         void (*on_deadline)(struct connect_call *call, void *data));

/* Milliseconds that the client gives the call (Connect-Timeout-Ms), 0 = no limit: while the handler runs. */
uint64_t connect_timeout(const struct connect_call *call);

/* Send `message` (takes the reference) whenever the stream was silent for as long as the client asked. */
void connect_keep_alive(struct connect_call *call, json_t *message);

/* --- pieces, for tests --- */

/* Take the first envelope apart (flags, big-endian length, payload). 0, or -EINVAL with `err`. */
int connect_parse_envelope(const char *data, size_t size, const char **ret_payload, size_t *ret_size,
                           struct error *err);
const char *connect_code_name(enum connect_code code);
int connect_code_status(enum connect_code code);
