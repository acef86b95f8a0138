/*
 * tls: TLS for accepted streams, with OpenSSL. TLS 1.2 and later; "h2" and "http/1.1" are offered by ALPN.
 *
 * A tls_context holds a certificate; streams that are secured keep the one that was there when they began.
 */
#pragma once

#include "base/error.h"
#include "net/stream.h"

struct tls_context;

/* `certificate` and `key` are PEM files: the chain, and the key of its first. Kept by their paths. NULL with
 * `err`. */
struct tls_context *tls_context_new(const char *certificate, const char *key, struct error *err);

/* Read the files again, for the streams to come. 0, or a negative errno: it goes on with what it had. */
int tls_context_reload(struct tls_context *context, struct error *err);

void tls_context_free(struct tls_context *context);

/* Secure an accepted stream, before anything was read or written; a http_prepare_fn, whose `context` is a
 * struct tls_context that lives as long as the server. 0, or a negative errno. */
int tls_secure(struct stream *stream, void *context);
