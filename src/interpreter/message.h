/*
 * message: Jupyter messages (messaging protocol 5.3) as the frames of a ZeroMQ multipart message.
 *
 *     [routing frames...] "<IDS|MSG>" signature header parent_header metadata content [buffers...]
 *
 * The signature is empty and not looked at: see interpreter.h.
 */
#pragma once

#include <jansson.h>
#include <stddef.h>

#include "base/error.h"

#define JUPYTER_ID_SIZE    33 /* 128 random bits as hex, and a NUL */
#define JUPYTER_WIRE_PARTS 6  /* delimiter, signature, header, parent_header, metadata, content */

struct jupyter_frame {
	const void *data;
	size_t size;
};

/* A received message. The strings are owned by the JSON values. */
struct jupyter_message {
	json_t *header;
	json_t *parent_header;
	json_t *content;
	const char *type;      /* header.msg_type */
	const char *parent_id; /* parent_header.msg_id, "" when the message answers nothing */
};

/* A message to send, as text: frames point into `parts`. */
struct jupyter_wire {
	struct jupyter_frame frames[JUPYTER_WIRE_PARTS];
	char *parts[JUPYTER_WIRE_PARTS];
};

#define cleanup_jupyter_message __attribute__((cleanup(jupyter_message_fini)))
#define cleanup_jupyter_wire    __attribute__((cleanup(jupyter_wire_fini)))

/*
 * Decode. Bytes that are not UTF-8 (a kernel sends them for lone surrogates) become U+FFFD. On success the
 * caller releases `message` with jupyter_message_fini; on failure (-EBADMSG, -ENOMEM) it is empty.
 */
int jupyter_message_decode(struct jupyter_message *message, const struct jupyter_frame *frames, size_t count,
                           struct error *err);
void jupyter_message_fini(struct jupyter_message *message);

/*
 * Encode a request of `type` with a new id, which is written to `id`. `content` and `metadata` (may be NULL)
 * are borrowed. The caller releases `wire` with jupyter_wire_fini. 0 or -ENOMEM.
 */
int jupyter_request_encode(struct jupyter_wire *wire, const char *session, const char *type,
                           const json_t *content, const json_t *metadata, char id[JUPYTER_ID_SIZE]);
void jupyter_wire_fini(struct jupyter_wire *wire);
