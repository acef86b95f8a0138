#include "cli/request.h"

#include <curl/curl.h>
#include <errno.h>
#include <string.h>

#include "base/base.h"

#define ANSWER_LIMIT (4 * 1024 * 1024)

struct receiver {
	const struct cli_request *request;
	struct buffer *answer;
	struct buffer line;
};

static size_t on_data(char *data, size_t one, size_t size, void *context)
{
	struct receiver *receiver = context;
	char *newline;

	(void)one;
	if (!receiver->request->on_line)
		return receiver->answer && buffer_append(receiver->answer, data, size) < 0 ? 0 : size;
	if (buffer_append(&receiver->line, data, size) < 0)
		return 0;
	while ((newline = memchr(receiver->line.data, '\n', receiver->line.size))) {
		*newline = '\0';
		receiver->request->on_line(receiver->line.data, receiver->request->context);
		buffer_consume(&receiver->line, (size_t)(newline - receiver->line.data) + 1);
	}
	return size;
}

static void set_options(CURL *curl, const struct cli_request *request, struct receiver *receiver,
                        struct curl_slist *headers, char *problem)
{
	(void)curl_easy_setopt(curl, CURLOPT_URL, request->url);
	(void)curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, request->method);
	(void)curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
	(void)curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_data);
	(void)curl_easy_setopt(curl, CURLOPT_WRITEDATA, receiver);
	(void)curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, problem);
	(void)curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
	(void)curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	(void)curl_easy_setopt(curl, CURLOPT_TIMEOUT, request->timeout_seconds);
	if (request->unix_socket)
		(void)curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, request->unix_socket);
	if (request->body)
		(void)curl_easy_setopt(curl, CURLOPT_POSTFIELDS, request->body);
}

int cli_request_run(const struct cli_request *request, long *ret_status, struct buffer *answer,
                    struct error *err)
{
	struct receiver receiver = { .request = request,
		                     .answer = answer,
		                     .line = { .limit = ANSWER_LIMIT } };
	struct curl_slist *headers = NULL;
	char problem[CURL_ERROR_SIZE] = "";
	CURL *curl = curl_easy_init();
	CURLcode code = CURLE_FAILED_INIT;

	for (size_t i = 0; i < ARRAY_SIZE(request->headers) && request->headers[i]; i++)
		headers = curl_slist_append(headers, request->headers[i]);
	if (request->body)
		headers = curl_slist_append(headers, "Content-Type: application/json");
	if (curl) {
		set_options(curl, request, &receiver, headers, problem);
		code = curl_easy_perform(curl);
		(void)curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, ret_status);
	}
	curl_slist_free_all(headers);
	curl_easy_cleanup(curl);
	buffer_fini(&receiver.line);
	if (code != CURLE_OK)
		return error_set(err, EIO, "%s %s: %s", request->method, request->url,
		                 problem[0] ? problem : curl_easy_strerror(code));
	return 0;
}
