/* Connections of HTTP/2: from bytes to frames, and what clients may not do. */
#include "net/http2.h"

#include <errno.h>
#include <stdlib.h>

#include "net/http2_session.h"

#define RESETS_MAX         200 /* rapid ones: CVE-2023-44487 */
#define RESETS_A_SECOND    50
#define NUISANCES_MAX      500 /* pings, settings, priorities, empty data */
#define NUISANCES_A_SECOND 50
#define SEND_ENOUGH        STREAM_HIGH_WATER

static bool allow(struct http2_session *session, struct http2_allowance *allowance)
{
	uint64_t now = uv_now(session->connection->server->loop);

	allowance->left += (double)(now - allowance->seen_ms) / 1000 * allowance->per_second;
	if (allowance->left > allowance->most)
		allowance->left = allowance->most;
	allowance->seen_ms = now;
	allowance->left -= 1;
	return allowance->left >= 0;
}

static void send_away(struct http2_session *session, uint32_t why)
{
	session->leaving = true;
	(void)nghttp2_session_terminate_session(session->nghttp2, why);
}

/* --- nghttp2's callbacks --- */

static int on_begin_headers(nghttp2_session *nghttp2, const nghttp2_frame *frame, void *user)
{
	struct http2_session *session = user;
	struct http2_stream *stream;

	if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
		return 0;
	stream = http2_stream_new(session, frame->hd.stream_id);
	if (!stream)
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	(void)nghttp2_session_set_stream_user_data(nghttp2, frame->hd.stream_id, stream);
	return 0;
}

static int on_header(nghttp2_session *nghttp2, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_size, const uint8_t *value, size_t value_size, uint8_t flags, void *user)
{
	struct http2_stream *stream = nghttp2_session_get_stream_user_data(nghttp2, frame->hd.stream_id);

	int ret;

	(void)flags;
	(void)user;
	if (!stream)
		return 0;
	ret = stream->headed ? http2_stream_trailer(stream, (const char *)name, name_size,
	                                            (const char *)value, value_size)
	                     : http2_stream_field(stream, (const char *)name, name_size, (const char *)value,
	                                          value_size);
	return ret < 0 ? NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE : 0;
}

static bool is_nuisance(const nghttp2_frame *frame)
{
	switch (frame->hd.type) {
	case NGHTTP2_PING:
	case NGHTTP2_SETTINGS:
	case NGHTTP2_PRIORITY:
	case NGHTTP2_PRIORITY_UPDATE:
		return true;
	case NGHTTP2_DATA:
		return frame->hd.length == 0 && !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM);
	default:
		return false;
	}
}

static int on_frame(nghttp2_session *nghttp2, const nghttp2_frame *frame, void *user)
{
	struct http2_session *session = user;
	struct http2_stream *stream = nghttp2_session_get_stream_user_data(nghttp2, frame->hd.stream_id);

	if ((is_nuisance(frame) && !allow(session, &session->nuisances)) ||
	    (frame->hd.type == NGHTTP2_RST_STREAM && !allow(session, &session->resets))) {
		send_away(session, NGHTTP2_ENHANCE_YOUR_CALM);
		return 0;
	}
	if (!stream || session->leaving)
		return 0;
	if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
		stream->in_ended = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
		http2_stream_begin(stream);
	} else if ((frame->hd.type == NGHTTP2_DATA || frame->hd.type == NGHTTP2_HEADERS) &&
	           (frame->hd.flags & NGHTTP2_FLAG_END_STREAM)) {
		http2_stream_end(stream);
	}
	return 0;
}

static int on_data_chunk(nghttp2_session *nghttp2, uint8_t flags, int32_t id, const uint8_t *data,
                         size_t size, void *user)
{
	struct http2_stream *stream = nghttp2_session_get_stream_user_data(nghttp2, id);

	(void)flags;
	(void)user;
	/* A stream that waits holds its own window back, not that of all. */
	(void)nghttp2_session_consume_connection(nghttp2, size);
	if (!stream)
		return 0;
	return http2_stream_data(stream, (const char *)data, size) < 0 ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

static int on_stream_close(nghttp2_session *nghttp2, int32_t id, uint32_t why, void *user)
{
	struct http2_stream *stream = nghttp2_session_get_stream_user_data(nghttp2, id);

	(void)user;
	if (stream) {
		(void)nghttp2_session_set_stream_user_data(nghttp2, id, NULL);
		http2_stream_free(stream, why != NGHTTP2_NO_ERROR);
	}
	return 0;
}

/* An answer's head that cannot be sent, as it is too large: the client must not wait for it. */
static int on_not_sent(nghttp2_session *nghttp2, const nghttp2_frame *frame, int why, void *user)
{
	(void)why;
	(void)user;
	if (frame->hd.type == NGHTTP2_HEADERS)
		(void)nghttp2_submit_rst_stream(nghttp2, NGHTTP2_FLAG_NONE, frame->hd.stream_id,
		                                NGHTTP2_INTERNAL_ERROR);
	return 0;
}

/* The answer has been sent before the request was complete: the rest of it is not wanted (RFC 9113, 8.1). Of
 * a tunnel each side ends by itself. */
static int on_sent(nghttp2_session *nghttp2, const nghttp2_frame *frame, void *user)
{
	struct http2_stream *stream = nghttp2_session_get_stream_user_data(nghttp2, frame->hd.stream_id);

	(void)user;
	if (!stream || (frame->hd.type != NGHTTP2_DATA && frame->hd.type != NGHTTP2_HEADERS) ||
	    !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
		return 0;
	stream->out_closed = true;
	if (!stream->in_ended && !http2_tunnel_is_open(stream))
		(void)nghttp2_submit_rst_stream(nghttp2, NGHTTP2_FLAG_NONE, frame->hd.stream_id,
		                                NGHTTP2_NO_ERROR);
	return 0;
}

/* --- sending --- */

/* Whether there was one to tell. */
static bool tell_drained(struct http2_session *session)
{
	bool told = false;

	list_for_each_safe (node, &session->streams) {
		struct http2_stream *stream = list_entry(node, struct http2_stream, link);
		struct http_exchange *exchange = stream->exchange;

		if (!stream->drained)
			continue;
		stream->drained = false;
		if (stream->tunnel)
			http2_tunnel_drained(stream);
		if (!exchange || !exchange->on_drain)
			continue;
		told = true;
		exchange->on_drain(exchange, exchange->drain_context);
	}
	return told;
}

static void send_frames(struct http2_session *session)
{
	struct stream *stream = session->connection->stream;

	while (stream_pending(stream) < SEND_ENOUGH) {
		const uint8_t *data;
		ssize_t size = nghttp2_session_mem_send(session->nghttp2, &data);

		if (size < 0)
			stream_close(stream);
		if (size <= 0)
			return;
		if (stream_write(stream, data, (size_t)size) < 0)
			return;
	}
}

void http2_flush(struct http2_session *session)
{
	if (session->depth || !session->connection || !session->connection->stream)
		return;
	/* Whoever is told that he may write on does so: that is sent too. */
	session->depth++;
	do
		send_frames(session);
	while (tell_drained(session));
	session->depth--;
	if (!nghttp2_session_want_read(session->nghttp2) && !nghttp2_session_want_write(session->nghttp2)) {
		session->connection->closing = true;
		stream_close_after_writes(session->connection->stream);
	}
}

/* --- the protocol's part in a connection --- */

static void session_free(struct http2_session *session)
{
	if (session->nghttp2)
		nghttp2_session_del(session->nghttp2);
	free(session);
}

static int make_session(struct http2_session *session)
{
	nghttp2_session_callbacks *callbacks = NULL;
	nghttp2_option *option = NULL;
	int ret = -ENOMEM;

	if (nghttp2_session_callbacks_new(&callbacks) == 0 && nghttp2_option_new(&option) == 0) {
		nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
		nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
		nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
		nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data_chunk);
		nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
		nghttp2_session_callbacks_set_on_frame_not_send_callback(callbacks, on_not_sent);
		nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_sent);
		nghttp2_option_set_no_auto_window_update(option, 1);
		nghttp2_option_set_no_closed_streams(option, 1);
		ret = nghttp2_session_server_new2(&session->nghttp2, callbacks, session, option);
	}
	nghttp2_session_callbacks_del(callbacks);
	nghttp2_option_del(option);
	return ret;
}

static int begin(struct connection *connection)
{
	const nghttp2_settings_entry settings[] = {
		{ NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, HTTP2_STREAMS_MAX },
		{ NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, HTTP2_STREAM_WINDOW },
		{ NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL, 1 },
		{ NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE,
		  (uint32_t)connection->server->options.max_head_size },
	};
	struct http2_session *session = calloc(1, sizeof(*session));
	uint64_t now = uv_now(connection->server->loop);

	if (!session)
		return -ENOMEM;
	session->connection = connection;
	list_init(&session->streams);
	session->resets = (struct http2_allowance){ RESETS_MAX, RESETS_MAX, RESETS_A_SECOND, now };
	session->nuisances =
	        (struct http2_allowance){ NUISANCES_MAX, NUISANCES_MAX, NUISANCES_A_SECOND, now };
	if (make_session(session) != 0 ||
	    nghttp2_submit_settings(session->nghttp2, NGHTTP2_FLAG_NONE, settings,
	                            sizeof(settings) / sizeof(settings[0])) != 0 ||
	    nghttp2_session_set_local_window_size(session->nghttp2, NGHTTP2_FLAG_NONE, 0, HTTP2_WINDOW) !=
	            0) {
		session_free(session);
		return -ENOMEM;
	}
	connection->session = session;
	return 0;
}

static void take_data(struct connection *connection, const char *data, size_t size)
{
	struct http2_session *session = connection->session;
	ssize_t used;

	session->depth++;
	used = nghttp2_session_mem_recv(session->nghttp2, (const uint8_t *)data, size);
	session->depth--;
	if (!connection->stream)
		return;
	if (used < 0 && used != NGHTTP2_ERR_FLOODED && used != NGHTTP2_ERR_BAD_CLIENT_MAGIC)
		send_away(session, NGHTTP2_INTERNAL_ERROR);
	else if (used < 0)
		stream_close(connection->stream);
	http2_flush(session);
}

static void on_drain(struct connection *connection)
{
	http2_flush(connection->session);
}

static void on_idle(struct connection *connection)
{
	struct http2_session *session = connection->session;

	if (session->open)
		return;
	send_away(session, NGHTTP2_NO_ERROR);
	http2_flush(session);
}

static void on_closed(struct connection *connection)
{
	struct http2_session *session = connection->session;

	/* Answers that come from here on go nowhere. */
	session->depth++;
	list_for_each_safe (node, &session->streams)
		http2_stream_free(list_entry(node, struct http2_stream, link), true);
	session->connection = NULL;
	connection->session = NULL;
	session_free(session);
}

void http2_enable(struct http_server *server)
{
	static const struct http_protocol protocol = {
		.preface = NGHTTP2_CLIENT_MAGIC,
		.preface_size = NGHTTP2_CLIENT_MAGIC_LEN,
		.begin = begin,
		.data = take_data,
		.drain = on_drain,
		.idle = on_idle,
		.closed = on_closed,
	};

	server->protocol = &protocol;
}
