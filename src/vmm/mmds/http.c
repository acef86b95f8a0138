/*
 * A guest's request in memory to an answer in memory. The parser knows as much of HTTP/1.x as a client of a
 * metadata service says, and refuses the rest: a request that it does not understand to the last byte ends
 * the connection with its answer. Status codes are Firecracker's.
 */
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/base.h"
#include "vmm/mmds/mmds_internal.h"

#define TOKEN_PATH "/latest/api/token"

/* Borrowed bytes. */
struct span {
	const char *data; /* NULL: absent */
	size_t size;
};

struct request {
	struct span method;
	struct span target; /* as sent */
	struct span path;   /* of the target; NULL: it has none */
	unsigned minor;     /* of the version: HTTP/1.minor */
	struct span token;
	struct span ttl_name; /* the header's name as sent, for the answer */
	struct span ttl;
	struct span length;
	bool forwarded;
	bool transfer_encoding;
	bool accept_json;
	bool accept_known;
	bool close;
	bool keep_alive;
};

struct answer {
	unsigned status;
	bool json;
	bool allow;
	struct span ttl_name;
	uint32_t ttl;
	struct buffer body;
};

/* --- reading --- */

static bool span_is(struct span span, const char *text)
{
	return span.size == strlen(text) && strncasecmp(span.data, text, span.size) == 0;
}

static struct span span_trim(struct span span)
{
	while (span.size && (*span.data == ' ' || *span.data == '\t')) {
		span.data++;
		span.size--;
	}
	while (span.size && (span.data[span.size - 1] == ' ' || span.data[span.size - 1] == '\t'))
		span.size--;
	return span;
}

/* What is before the next `separator` in `*rest`, which then begins behind it. */
static struct span span_cut(struct span *rest, char separator)
{
	const char *end = memchr(rest->data, separator, rest->size);
	struct span piece = { rest->data, end ? (size_t)(end - rest->data) : rest->size };
	size_t taken = piece.size + (end ? 1 : 0);

	rest->data += taken;
	rest->size -= taken;
	return piece;
}

/* A decimal number of at most nine digits. */
static bool span_number(struct span span, uint32_t *ret)
{
	uint32_t value = 0;

	if (span.size == 0 || span.size > 9)
		return false;
	for (size_t i = 0; i < span.size; i++) {
		if (span.data[i] < '0' || span.data[i] > '9')
			return false;
		value = value * 10 + (uint32_t)(span.data[i] - '0');
	}
	*ret = value;
	return true;
}

/* A token as RFC 9110 5.6.2 has it. */
static bool is_token(struct span span)
{
	for (size_t i = 0; i < span.size; i++)
		if (!isalnum((unsigned char)span.data[i]) && !strchr("!#$%&'*+-.^_`|~", span.data[i]))
			return false;
	return span.size > 0 && !memchr(span.data, '\0', span.size);
}

/* The first of the media types that is one of ours decides. */
static void read_accept(struct request *request, struct span value)
{
	while (value.size && !request->accept_known) {
		struct span item = span_cut(&value, ',');
		struct span type = span_trim(span_cut(&item, ';'));

		request->accept_json = span_is(type, "application/json");
		request->accept_known = request->accept_json || span_is(type, "text/plain");
	}
}

static void read_connection(struct request *request, struct span value)
{
	while (value.size) {
		struct span item = span_trim(span_cut(&value, ','));

		request->close |= span_is(item, "close");
		request->keep_alive |= span_is(item, "keep-alive");
	}
}

/* False for two lengths that differ. */
static bool read_header(struct request *request, struct span name, struct span value)
{
	if (span_is(name, "accept")) {
		read_accept(request, value);
	} else if (span_is(name, "connection")) {
		read_connection(request, value);
	} else if (span_is(name, "transfer-encoding")) {
		request->transfer_encoding = true;
	} else if (span_is(name, "x-forwarded-for")) {
		request->forwarded = true;
	} else if (span_is(name, "content-length")) {
		if (request->length.data && (request->length.size != value.size ||
		                             memcmp(request->length.data, value.data, value.size) != 0))
			return false;
		request->length = value;
	} else if (span_is(name, "x-metadata-token") || span_is(name, "x-aws-ec2-metadata-token")) {
		if (!request->token.data)
			request->token = value;
	} else if (span_is(name, "x-metadata-token-ttl-seconds") ||
	           span_is(name, "x-aws-ec2-metadata-token-ttl-seconds")) {
		if (!request->ttl.data) {
			request->ttl_name = name;
			request->ttl = value;
		}
	}
	return true;
}

/* The next line of the head without its end. False for characters that no line may hold. */
static bool read_line(struct span *rest, struct span *line)
{
	*line = span_cut(rest, '\n');
	if (line->size && line->data[line->size - 1] == '\r')
		line->size--;
	for (size_t i = 0; i < line->size; i++)
		if (((unsigned char)line->data[i] < 0x20 && line->data[i] != '\t') || line->data[i] == 0x7f)
			return false;
	return true;
}

/* The path of an origin-form or absolute-form target. */
static struct span target_path(struct span target)
{
	static const char scheme[] = "http://";
	const char *slash;

	if (target.size >= sizeof(scheme) - 1 && strncasecmp(target.data, scheme, sizeof(scheme) - 1) == 0) {
		target.data += sizeof(scheme) - 1;
		target.size -= sizeof(scheme) - 1;
		slash = memchr(target.data, '/', target.size);
		return slash ? (struct span){ slash, target.size - (size_t)(slash - target.data) }
		             : (struct span){ 0 };
	}
	return target.size && *target.data == '/' ? target : (struct span){ 0 };
}

/* 0, or the status that refuses the head. */
static unsigned read_request(struct request *request, struct span head)
{
	struct span line;
	struct span name;

	if (!read_line(&head, &line))
		return 400;
	request->method = span_cut(&line, ' ');
	request->target = span_cut(&line, ' ');
	request->path = target_path(request->target);
	if (!is_token(request->method) || !request->target.size || line.size != 8 ||
	    memcmp(line.data, "HTTP/", 5) != 0)
		return 400;
	if (memcmp(line.data, "HTTP/1.0", 8) != 0 && memcmp(line.data, "HTTP/1.1", 8) != 0)
		return 501;
	request->minor = line.data[7] == '1';
	while (head.size) {
		if (!read_line(&head, &line))
			return 400;
		if (line.size == 0)
			break;
		if (!memchr(line.data, ':', line.size))
			return 400;
		name = span_cut(&line, ':');
		if (!is_token(name) || !read_header(request, name, span_trim(line)))
			return 400;
	}
	return 0;
}

/* The size of a request's head with the empty line at its end; 0 when that has not come. */
static size_t head_size(const char *data, size_t size)
{
	const char *end = data + size;

	for (const char *at = data; (at = memchr(at, '\n', (size_t)(end - at)));) {
		at++;
		if (at < end && *at == '\n')
			return (size_t)(at - data) + 1;
		if (end - at >= 2 && at[0] == '\r' && at[1] == '\n')
			return (size_t)(at - data) + 2;
	}
	return 0;
}

/* --- answering --- */

static int say(struct answer *answer, unsigned status, const char *format, ...)
        __attribute__((format(printf, 3, 4)));

static int say(struct answer *answer, unsigned status, const char *format, ...)
{
	char text[512];
	va_list args;

	va_start(args, format);
	(void)vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	answer->status = status;
	answer->json = false;
	buffer_clear(&answer->body);
	return buffer_append_string(&answer->body, text);
}

static int say_not_found(struct answer *answer, struct span path)
{
	return say(answer, 404, "There is nothing at %.*s.", path.size < 256 ? (int)path.size : 256,
	           path.data);
}

/* Lock held. */
static int answer_get(struct mmds *mmds, const struct request *request, struct answer *answer)
{
	int result;

	if (mmds->config.version == MMDS_V2) {
		if (!request->token.data)
			return say(answer, 401,
			           "A session token is needed, in the header X-metadata-token or "
			           "X-aws-ec2-metadata-token.");
		if (!mmds_token_valid(&mmds->tokens, mmds->clock(), request->token.data, request->token.size))
			return say(answer, 401, "The session token is unknown, or has ended.");
	}
	answer->status = 200;
	answer->json = request->accept_json && !mmds->config.imds_compat;
	result = mmds_look_up(mmds, request->path.data, request->path.size, answer->json, &answer->body);
	if (result == -ENOENT)
		return say_not_found(answer, request->path);
	if (result == -ENOTSUP)
		return say(answer, 501,
		           "This value is neither an object nor a string: ask for application/json.");
	return result;
}

/* Whether `path`, with slashes in a row as one, is that of tokens. */
static bool is_token_path(struct span path)
{
	static const char wanted[] = TOKEN_PATH;
	size_t matched = 0;

	for (size_t i = 0; i < path.size; i++) {
		if (i > 0 && path.data[i] == '/' && path.data[i - 1] == '/')
			continue;
		if (matched == sizeof(wanted) - 1 || path.data[i] != wanted[matched])
			return false;
		matched++;
	}
	return matched == sizeof(wanted) - 1;
}

/* Lock held. */
static int answer_put(struct mmds *mmds, const struct request *request, struct answer *answer)
{
	if (request->forwarded)
		return say(answer, 400,
		           "Tokens are not given by way of a proxy: X-Forwarded-For is refused.");
	if (!is_token_path(request->path))
		return say_not_found(answer, request->path);
	if (!request->ttl.data)
		return say(answer, 400,
		           "The token's lifetime is missing, in the header X-metadata-token-ttl-seconds or "
		           "X-aws-ec2-metadata-token-ttl-seconds.");
	if (!span_number(request->ttl, &answer->ttl) || answer->ttl < MMDS_TOKEN_TTL_MINIMUM ||
	    answer->ttl > MMDS_TOKEN_TTL_MAXIMUM)
		return say(answer, 400, "The token's lifetime must be a number of seconds from %d to %d.",
		           MMDS_TOKEN_TTL_MINIMUM, MMDS_TOKEN_TTL_MAXIMUM);
	answer->status = 200;
	answer->ttl_name = request->ttl_name;
	return mmds_token_new(&mmds->tokens, mmds->clock(), answer->ttl, &answer->body);
}

static int answer_request(struct mmds *mmds, const struct request *request, struct answer *answer)
{
	bool get = request->method.size == 3 && memcmp(request->method.data, "GET", 3) == 0;
	bool put = request->method.size == 3 && memcmp(request->method.data, "PUT", 3) == 0;
	int result;

	if (!request->path.data)
		return say(answer, 400, "The request's target has no path.");
	if (!get && !put) {
		answer->allow = true;
		return say(answer, 405, "Only GET and PUT are understood.");
	}
	(void)pthread_mutex_lock(&mmds->lock);
	result = get ? answer_get(mmds, request, answer) : answer_put(mmds, request, answer);
	(void)pthread_mutex_unlock(&mmds->lock);
	return result;
}

static const char *reason(unsigned status)
{
	switch (status) {
	case 200:
		return "OK";
	case 400:
		return "Bad Request";
	case 401:
		return "Unauthorized";
	case 404:
		return "Not Found";
	case 405:
		return "Method Not Allowed";
	case 413:
		return "Payload Too Large";
	default:
		return "Not Implemented";
	}
}

static int write_answer(const struct request *request, const struct answer *answer, bool close,
                        struct buffer *to)
{
	int result;

	result = buffer_printf(to,
	                       "HTTP/1.%u %u %s\r\nServer: Atoll\r\nConnection: %s\r\nContent-Type: %s\r\n"
	                       "Content-Length: %zu\r\n",
	                       request->minor, answer->status, reason(answer->status),
	                       close ? "close" : "keep-alive",
	                       answer->json ? "application/json" : "text/plain", answer->body.size);
	if (result == 0 && answer->allow)
		result = buffer_append_string(to, "Allow: GET, PUT\r\n");
	if (result == 0 && answer->ttl_name.data)
		result = buffer_printf(to, "%.*s: %u\r\n", (int)answer->ttl_name.size, answer->ttl_name.data,
		                       answer->ttl);
	if (result == 0)
		result = buffer_append_string(to, "\r\n");
	/* The answer to HEAD ends with its head (RFC 9110 9.3.2). */
	if (result == 0 && !(request->method.data && span_is(request->method, "HEAD")))
		result = buffer_append(to, answer->body.data, answer->body.size);
	return result;
}

/* The request's size, 0 when more must come; a status that refuses it in `*status`. */
static size_t take_request(struct request *request, const char *data, size_t size, unsigned *status)
{
	size_t blank = 0; /* empty lines before a request are allowed (RFC 9112 2.2) */
	size_t head;
	uint32_t body = 0;

	while (blank < size && (data[blank] == '\r' || data[blank] == '\n'))
		blank++;
	head = head_size(data + blank, size - blank);
	if (head == 0)
		return 0;
	*status = read_request(request, (struct span){ data + blank, head });
	head += blank;
	if (*status)
		return size;
	if (request->transfer_encoding)
		*status = 501;
	else if (request->length.data && !span_number(request->length, &body))
		*status = 400;
	else if (body > MMDS_REQUEST_MAX - head)
		*status = 413;
	if (*status)
		return size;
	return body <= size - head ? head + body : 0;
}

ssize_t mmds_http_answer(struct mmds *mmds, const char *data, size_t size, struct buffer *to, bool *close)
{
	struct request request = { .minor = 1 };
	struct answer answer = { 0 };
	unsigned status = 0;
	size_t taken =
	        take_request(&request, data, size < MMDS_REQUEST_MAX ? size : MMDS_REQUEST_MAX, &status);
	int result;

	if (taken == 0)
		return size < MMDS_REQUEST_MAX ? 0 : -EMSGSIZE;
	if (status == 413)
		result = say(&answer, status, "The request is too long: the limit is %d bytes.",
		             MMDS_REQUEST_MAX);
	else if (status)
		result = say(&answer, status, "The request is not HTTP/1.x as it is understood here.");
	else
		result = answer_request(mmds, &request, &answer);
	*close = status || request.close || (request.minor == 0 && !request.keep_alive);
	if (result == 0)
		result = write_answer(&request, &answer, *close, to);
	buffer_fini(&answer.body);
	return result < 0 ? result : (ssize_t)taken;
}
