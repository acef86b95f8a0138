#include "net/tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "net/stream_layer.h"

#define RECORD_SIZE (16 * 1024) /* the most that one record of TLS carries */

struct tls_context {
	SSL_CTX *ssl;
	char *certificate;
	char *key;
};

struct session {
	SSL *ssl;
	BIO *in;  /* from the socket; owned by `ssl`, as is `out` */
	BIO *out; /* to the socket */
};

/* The first that OpenSSL has to say, and forget the rest. */
static int fail(struct error *err, int code, const char *what)
{
	unsigned long number = ERR_get_error();
	const char *reason = number ? ERR_reason_error_string(number) : NULL;

	ERR_clear_error();
	return error_set(err, code, "%s: %s", what, reason ? reason : "failed");
}

/* --- contexts --- */

static int choose_protocol(SSL *ssl, const unsigned char **chosen, unsigned char *chosen_size,
                           const unsigned char *offered, unsigned offered_size, void *context)
{
	static const unsigned char ours[] = "\x02h2\x08http/1.1";

	(void)ssl;
	(void)context;
	/* The first of ours that is among the client's. */
	if (SSL_select_next_proto((unsigned char **)(uintptr_t)chosen, chosen_size, ours, sizeof(ours) - 1,
	                          offered, offered_size) != OPENSSL_NPN_NEGOTIATED)
		return SSL_TLSEXT_ERR_NOACK;
	return SSL_TLSEXT_ERR_OK;
}

static SSL_CTX *load(const char *certificate, const char *key, struct error *err)
{
	SSL_CTX *ssl = SSL_CTX_new(TLS_server_method());

	ERR_clear_error();
	if (!ssl) {
		fail(err, ENOMEM, "TLS");
		return NULL;
	}
	(void)SSL_CTX_set_min_proto_version(ssl, TLS1_2_VERSION);
	(void)SSL_CTX_set_options(ssl, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
	                                       SSL_OP_CIPHER_SERVER_PREFERENCE |
	                                       SSL_OP_IGNORE_UNEXPECTED_EOF);
	(void)SSL_CTX_set_mode(ssl, SSL_MODE_RELEASE_BUFFERS);
	SSL_CTX_set_alpn_select_cb(ssl, choose_protocol, NULL);
	/* HTTP/2 forbids all others of TLS 1.2 (RFC 9113, 9.2.2); TLS 1.3 has its own list. */
	if (SSL_CTX_set_cipher_list(ssl, "ECDHE+AESGCM:ECDHE+CHACHA20") != 1)
		fail(err, EINVAL, "the ciphers");
	else if (SSL_CTX_use_certificate_chain_file(ssl, certificate) != 1)
		fail(err, EINVAL, certificate);
	else if (SSL_CTX_use_PrivateKey_file(ssl, key, SSL_FILETYPE_PEM) != 1)
		fail(err, EINVAL, key);
	else if (SSL_CTX_check_private_key(ssl) != 1)
		fail(err, EINVAL, "the certificate and its key do not belong together");
	else
		return ssl;
	SSL_CTX_free(ssl);
	return NULL;
}

struct tls_context *tls_context_new(const char *certificate, const char *key, struct error *err)
{
	struct tls_context *context = calloc(1, sizeof(*context));

	if (!context) {
		error_errno(err, ENOMEM, "TLS");
		return NULL;
	}
	context->certificate = strdup(certificate);
	context->key = strdup(key);
	if (!context->certificate || !context->key)
		error_errno(err, ENOMEM, "TLS");
	else
		context->ssl = load(certificate, key, err);
	if (!context->ssl) {
		tls_context_free(context);
		return NULL;
	}
	return context;
}

int tls_context_reload(struct tls_context *context, struct error *err)
{
	SSL_CTX *ssl = load(context->certificate, context->key, err);

	if (!ssl)
		return -EINVAL;
	SSL_CTX_free(context->ssl);
	context->ssl = ssl;
	return 0;
}

void tls_context_free(struct tls_context *context)
{
	if (!context)
		return;
	SSL_CTX_free(context->ssl);
	free(context->certificate);
	free(context->key);
	free(context);
}

/* --- the layer --- */

/* What OpenSSL wishes to be sent. */
static int flush(struct stream *stream, struct session *session)
{
	char *data;
	long size = BIO_get_mem_data(session->out, &data);
	int ret = size > 0 ? stream_layer_send(stream, data, (size_t)size) : 0;

	(void)BIO_reset(session->out);
	return ret;
}

static int tls_write(struct stream *stream, void *state, const char *data, size_t size)
{
	struct session *session = state;

	while (size) {
		int part = size < RECORD_SIZE ? (int)size : RECORD_SIZE;

		ERR_clear_error();
		/* Into memory, and never half: it only fails before the handshake is over, or for good. */
		if (SSL_write(session->ssl, data, part) != part)
			return -EPROTO;
		data += part;
		size -= (size_t)part;
	}
	return flush(stream, session);
}

/* All that has come, decrypted. 1 at the peer's end. */
static int deliver(struct stream *stream, struct session *session)
{
	char data[RECORD_SIZE];

	for (;;) {
		int got;

		ERR_clear_error();
		got = SSL_read(session->ssl, data, sizeof(data));
		if (got <= 0) {
			int why = SSL_get_error(session->ssl, got);

			if (why == SSL_ERROR_ZERO_RETURN)
				return 1;
			return why == SSL_ERROR_WANT_READ ? 0 : -EPROTO;
		}
		if (!stream_layer_deliver(stream, data, (size_t)got))
			return 0;
	}
}

static int tls_read(struct stream *stream, void *state, const char *data, size_t size)
{
	struct session *session = state;
	int ret;
	int sent;

	if (BIO_write(session->in, data, (int)size) != (int)size)
		return -ENOMEM;
	ret = deliver(stream, session);
	/* Also what tells the peer why it is refused. */
	sent = flush(stream, session);
	if (ret == 1)
		stream_layer_deliver_end(stream);
	return ret < 0 ? ret : sent == -EPIPE ? 0 : sent;
}

static void tls_end(struct stream *stream, void *state)
{
	struct session *session = state;

	ERR_clear_error();
	if (SSL_is_init_finished(session->ssl))
		(void)SSL_shutdown(session->ssl);
	(void)flush(stream, session);
}

static void tls_free(void *state)
{
	struct session *session = state;

	SSL_free(session->ssl);
	free(session);
}

int tls_secure(struct stream *stream, void *context)
{
	static const struct stream_layer layer = { tls_write, tls_read, tls_end, tls_free };
	struct tls_context *tls = context;
	struct session *session = calloc(1, sizeof(*session));

	if (!session)
		return -ENOMEM;
	session->ssl = SSL_new(tls->ssl);
	session->in = BIO_new(BIO_s_mem());
	session->out = BIO_new(BIO_s_mem());
	if (!session->ssl || !session->in || !session->out) {
		SSL_free(session->ssl);
		(void)BIO_free(session->in);
		(void)BIO_free(session->out);
		free(session);
		return -ENOMEM;
	}
	(void)BIO_set_mem_eof_return(session->in, -1);
	(void)BIO_set_mem_eof_return(session->out, -1);
	SSL_set_bio(session->ssl, session->in, session->out);
	SSL_set_accept_state(session->ssl);
	stream_set_layer(stream, &layer, session);
	return 0;
}
