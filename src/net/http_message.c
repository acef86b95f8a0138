#include "net/http_message.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define USUAL_HEAD 500 /* bytes of most heads */

void http_head_init(struct http_head *head, size_t limit)
{
	*head = (struct http_head){ 0 };
	buffer_init(&head->text, limit);
}

void http_head_fini(struct http_head *head)
{
	buffer_fini(&head->text);
	free(head->offsets);
	free(head->headers);
	*head = (struct http_head){ 0 };
}

static int begin_header(struct http_head *head)
{
	if (2 * head->count + 2 > head->capacity) {
		size_t capacity = head->capacity ? head->capacity * 2 : 32;
		size_t *offsets = reallocarray(head->offsets, capacity, sizeof(*offsets));

		if (!offsets)
			return -ENOMEM;
		head->offsets = offsets;
		head->capacity = capacity;
	}
	/* Most heads fit; a limit below it is told of when something is really too long. */
	if (!head->count)
		(void)buffer_reserve(&head->text, USUAL_HEAD);
	if (head->count) {
		int ret = buffer_append(&head->text, "", 1);

		if (ret < 0)
			return ret;
	}
	head->offsets[2 * head->count] = head->text.size;
	head->offsets[2 * head->count + 1] = head->text.size;
	head->count++;
	head->in_value = false;
	return 0;
}

int http_head_field(struct http_head *head, const char *data, size_t size)
{
	if (head->count == 0 || head->in_value) {
		int ret = begin_header(head);

		if (ret < 0)
			return ret;
	}
	return buffer_append(&head->text, data, size);
}

int http_head_value(struct http_head *head, const char *data, size_t size)
{
	if (head->count == 0)
		return -EINVAL;
	if (!head->in_value) {
		int ret = buffer_append(&head->text, "", 1);

		if (ret < 0)
			return ret;
		head->offsets[2 * head->count - 1] = head->text.size;
		head->in_value = true;
	}
	return buffer_append(&head->text, data, size);
}

int http_head_finish(struct http_head *head)
{
	if (head->count && !head->in_value) {
		int ret = buffer_append(&head->text, "", 1);

		if (ret < 0)
			return ret;
		head->offsets[2 * head->count - 1] = head->text.size;
		head->in_value = true;
	}
	head->headers = reallocarray(NULL, head->count + 1, sizeof(*head->headers));
	if (!head->headers)
		return -ENOMEM;
	for (size_t i = 0; i < head->count; i++) {
		head->headers[i].name = head->text.data + head->offsets[2 * i];
		head->headers[i].value = head->text.data + head->offsets[2 * i + 1];
	}
	return 0;
}

const char *http_head_find(const struct http_head *head, const char *name)
{
	for (size_t i = 0; head->headers && i < head->count; i++) {
		if (strcasecmp(head->headers[i].name, name) == 0)
			return head->headers[i].value;
	}
	return NULL;
}

void http_append_header(struct buffer *to, const char *name, const char *value)
{
	if (strpbrk(name, "\r\n:") || strpbrk(value, "\r\n"))
		return;
	/* On the way of every request: no format to be read. */
	if (buffer_reserve(to, strlen(name) + strlen(value) + 4) < 0)
		return;
	(void)buffer_append_string(to, name);
	(void)buffer_append(to, ": ", 2);
	(void)buffer_append_string(to, value);
	(void)buffer_append(to, "\r\n", 2);
}

int http_append_chunk_size(struct buffer *to, size_t size)
{
	static const char hex[] = "0123456789abcdef";
	char text[2 * sizeof(size) + 2];
	size_t at = sizeof(text);

	text[--at] = '\n';
	text[--at] = '\r';
	do
		text[--at] = hex[size % 16];
	while (size /= 16);
	return buffer_append(to, text + at, sizeof(text) - at);
}
