#include "envd/multipart.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/base.h"

#define BOUNDARY_MAX 70   /* RFC 2046 */
#define HEADERS_MAX  8192 /* bytes of one part's headers */
#define FIELD_MAX    4096

enum multipart_state {
	STATE_PREAMBLE, /* up to the first boundary */
	STATE_BOUNDARY, /* behind a boundary: "--" ends, a line end begins a part */
	STATE_HEADERS,
	STATE_BODY,
	STATE_DONE,
};

struct multipart {
	const struct multipart_events *events;
	void *context;
	char delimiter[BOUNDARY_MAX + 5]; /* CR LF "--" boundary */
	size_t delimiter_size;
	enum multipart_state state;
	struct buffer pending; /* input that was not used yet */
};

/* The next ';' that separates parameters, or NULL: one in quotes belongs to a value. */
static const char *next_parameter(const char *at)
{
	bool quoted = false;

	for (; *at && (quoted || *at != ';'); at++) {
		if (*at == '"')
			quoted = !quoted;
		else if (quoted && *at == '\\' && (at[1] == '"' || at[1] == '\\'))
			at++;
	}
	return *at ? at : NULL;
}

/* The value of `key=value` or `key="value"` in a header, unescaped. False when it is not there. */
static bool find_parameter(const char *header, const char *key, char *value, size_t size)
{
	size_t length = strlen(key);

	for (const char *at = header; (at = next_parameter(at));) {
		size_t used = 0;
		bool quoted;

		at += 1 + strspn(at + 1, " \t");
		if (strncasecmp(at, key, length) != 0 || at[length] != '=')
			continue;
		at += length + 1;
		quoted = *at == '"';
		at += quoted;
		while (*at && used + 1 < size && (quoted ? *at != '"' : !strchr("; \t\r\n", *at))) {
			if (quoted && *at == '\\' && (at[1] == '"' || at[1] == '\\'))
				at++;
			value[used++] = *at++;
		}
		value[used] = '\0';
		return true;
	}
	return false;
}

struct multipart *multipart_new(const char *content_type, const struct multipart_events *events,
                                void *context, struct error *err)
{
	char boundary[BOUNDARY_MAX + 2] = "";
	struct multipart *multipart;

	if (strncasecmp(content_type, "multipart/form-data", 19) != 0 ||
	    !find_parameter(content_type, "boundary", boundary, sizeof(boundary)) || !boundary[0] ||
	    strlen(boundary) > BOUNDARY_MAX) {
		error_set(err, EINVAL, "'%s' is no multipart/form-data with a boundary", content_type);
		return NULL;
	}
	multipart = calloc(1, sizeof(*multipart));
	if (!multipart) {
		error_errno(err, ENOMEM, "read a form");
		return NULL;
	}
	multipart->events = events;
	multipart->context = context;
	multipart->delimiter_size =
	        (size_t)snprintf(multipart->delimiter, sizeof(multipart->delimiter), "\r\n--%s", boundary);
	/* The first boundary may stand at the very start: it is searched for as if after a line end. */
	(void)buffer_append(&multipart->pending, "\r\n", 2);
	return multipart;
}

void multipart_free(struct multipart *multipart)
{
	if (!multipart)
		return;
	buffer_fini(&multipart->pending);
	free(multipart);
}

bool multipart_complete(const struct multipart *multipart)
{
	return multipart->state == STATE_DONE;
}

/* RFC 5987: filename*=UTF-8''percent-encoded. */
static void extended_name(const char *headers, char filename[FIELD_MAX])
{
	cleanup_buffer struct buffer decoded = { .limit = FIELD_MAX - 1 };
	char value[FIELD_MAX];
	const char *text;

	if (!find_parameter(headers, "filename*", value, sizeof(value)) ||
	    strncasecmp(value, "utf-8'", 6) != 0)
		return;
	text = strchr(value + 6, '\'');
	if (text && percent_decode(&decoded, text + 1, strlen(text + 1), 0) == 0 && decoded.data)
		(void)snprintf(filename, FIELD_MAX, "%s", decoded.data);
}

static int begin_part(struct multipart *multipart, char *headers)
{
	char name[FIELD_MAX] = "";
	char filename[FIELD_MAX] = "";
	char *line = strcasestr(headers, "content-disposition:");
	char *end = line ? strstr(line, "\r\n") : NULL;

	if (!line)
		return -EINVAL;
	if (end)
		*end = '\0';
	(void)find_parameter(line, "name", name, sizeof(name));
	(void)find_parameter(line, "filename", filename, sizeof(filename));
	extended_name(line, filename);
	return multipart->events->on_part(name, filename, multipart->context);
}

/* Each step uses a part of what is pending. 1 = go on, 0 = more input is needed, negative = failed. */
static int step_search(struct multipart *multipart, bool body)
{
	struct buffer *pending = &multipart->pending;
	char *found = pending->size ? memmem(pending->data, pending->size, multipart->delimiter,
	                                     multipart->delimiter_size)
	                            : NULL;
	size_t keep = multipart->delimiter_size - 1;
	size_t size = found                  ? (size_t)(found - pending->data)
	              : pending->size > keep ? pending->size - keep
	                                     : 0;
	int ret = body && size ? multipart->events->on_data(pending->data, size, multipart->context) : 0;

	if (ret == 0 && body && found)
		ret = multipart->events->on_part_end(multipart->context);
	if (ret < 0)
		return ret;
	buffer_consume(pending, size + (found ? multipart->delimiter_size : 0));
	if (found)
		multipart->state = STATE_BOUNDARY;
	return found != NULL;
}

static int step_boundary(struct multipart *multipart)
{
	struct buffer *pending = &multipart->pending;

	if (pending->size < 2)
		return 0;
	if (memcmp(pending->data, "--", 2) == 0) {
		multipart->state = STATE_DONE;
		return 1;
	}
	if (memcmp(pending->data, "\r\n", 2) != 0)
		return -EINVAL;
	/* The line end stays: headers that are none at all then end in it as others do. */
	multipart->state = STATE_HEADERS;
	return 1;
}

static int step_headers(struct multipart *multipart)
{
	struct buffer *pending = &multipart->pending;
	char *end = pending->size >= 4 ? memmem(pending->data, pending->size, "\r\n\r\n", 4) : NULL;
	int ret;

	/* The same bound wherever the input is cut. */
	if ((end ? (size_t)(end - pending->data) + 4 : pending->size) > HEADERS_MAX)
		return -EINVAL;
	if (!end)
		return 0;
	*end = '\0';
	ret = begin_part(multipart, pending->data);
	if (ret < 0)
		return ret;
	buffer_consume(pending, (size_t)(end - pending->data) + 4);
	multipart->state = STATE_BODY;
	return 1;
}

static int step(struct multipart *multipart)
{
	switch (multipart->state) {
	case STATE_PREAMBLE:
		return step_search(multipart, false);
	case STATE_BOUNDARY:
		return step_boundary(multipart);
	case STATE_HEADERS:
		return step_headers(multipart);
	case STATE_BODY:
		return step_search(multipart, true);
	case STATE_DONE:
		buffer_clear(&multipart->pending);
		return 0;
	}
	return -EINVAL;
}

int multipart_feed(struct multipart *multipart, const char *data, size_t size)
{
	int ret = buffer_append(&multipart->pending, data, size);

	if (ret < 0)
		return ret;
	do
		ret = step(multipart);
	while (ret > 0);
	return ret;
}
