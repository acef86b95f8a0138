/* Unit tests of the metadata service's document, tokens and HTTP answers. Its network is in test_mmds_net.c.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/base.h"
#include "vmm/mmds/mmds_internal.h"

#define DOCUMENT                                                                                             \
	"{\"latest\":{\"meta-data\":{\"zone\":\"a\",\"ami-id\":\"ami-1\",\"net\":{\"x\":\"y\"}},"            \
	"\"list\":[\"p\",{\"q\":2}]},\"age\":43,\"pi\":0.1,\"a/b\":\"slash\",\"m~n\":\"tilde\",\"ok\":true}"

static int64_t now;

static int64_t fake_clock(void)
{
	return now;
}

static struct mmds *make(enum mmds_version version, bool imds_compat)
{
	struct mmds *mmds = mmds_new(0, fake_clock, NULL);
	struct mmds_config config = MMDS_CONFIG_INIT;

	assert_non_null(mmds);
	config.version = version;
	config.imds_compat = imds_compat;
	assert_int_equal(mmds_configure(mmds, &config, NULL), 0);
	assert_int_equal(mmds_put(mmds, DOCUMENT, strlen(DOCUMENT), NULL), 0);
	return mmds;
}

static void assert_document(struct mmds *mmds, const char *expected)
{
	cleanup_buffer struct buffer text = BUFFER_INIT;

	assert_int_equal(mmds_get(mmds, &text, NULL), 0);
	assert_string_equal(text.data, expected);
}

static int put(struct mmds *mmds, const char *text)
{
	return mmds_put(mmds, text, strlen(text), NULL);
}

static int patch(struct mmds *mmds, const char *text)
{
	return mmds_patch(mmds, text, strlen(text), NULL);
}

/* --- the document --- */

static void test_put_and_get(void **state)
{
	struct mmds *mmds = mmds_new(0, fake_clock, NULL);
	struct error err;

	(void)state;
	assert_document(mmds, "{}");
	assert_int_equal(mmds_patch(mmds, "{}", 2, &err), -ENOENT);
	assert_int_equal(put(mmds, "{\"b\": 1, \"a\": [null, 0.1, \"\\u0000\"]}"), 0);
	assert_document(mmds, "{\"a\":[null,0.1,\"\\u0000\"],\"b\":1}");
	assert_int_equal(put(mmds, "{\"b\": "), -EINVAL);
	assert_int_equal(put(mmds, ""), -EINVAL);
	assert_document(mmds, "{\"a\":[null,0.1,\"\\u0000\"],\"b\":1}");
	assert_int_equal(put(mmds, "{\"c\":0.30000000000000004}"), 0);
	assert_document(mmds, "{\"c\":0.30000000000000004}");
	assert_int_equal(put(mmds, "\"just text\""), 0);
	assert_document(mmds, "\"just text\"");
	mmds_free(mmds);
}

static void test_limit(void **state)
{
	struct mmds *mmds = mmds_new(20, fake_clock, NULL);
	struct error err;

	(void)state;
	assert_int_equal(put(mmds, "{  \"a\" :  \"123456789012\" }"), 0); /* 20 when compact */
	assert_int_equal(mmds_put(mmds, "{\"a\":\"1234567890123\"}", 21, &err), -EMSGSIZE);
	assert_non_null(strstr(err.message, "20"));
	assert_int_equal(patch(mmds, "{\"b\":1}"), -EMSGSIZE);
	assert_document(mmds, "{\"a\":\"123456789012\"}");
	assert_int_equal(patch(mmds, "{\"a\":null,\"b\":1}"), 0);
	assert_document(mmds, "{\"b\":1}");
	mmds_free(mmds);
}

/* The examples of RFC 7396, appendix A. */
/* `levels` objects in each other. */
static void nest(char *text, unsigned levels)
{
	*text = '\0';
	for (unsigned i = 0; i < levels; i++)
		(void)strcat(text, "{\"a\":");
	(void)strcat(text, "1");
	for (unsigned i = 0; i < levels; i++)
		(void)strcat(text, "}");
}

static void *get_in_thread(void *context)
{
	cleanup_buffer struct buffer text = BUFFER_INIT;

	return (void *)(intptr_t)mmds_get(context, &text, NULL);
}

/* What is stored can be written by a thread with as small a stack as the device thread's. */
static void test_depth(void **state)
{
	struct mmds *mmds = mmds_new(0, fake_clock, NULL);
	char text[16384];
	pthread_attr_t attributes;
	pthread_t thread;
	void *result;

	(void)state;
	nest(text, 129);
	assert_int_equal(put(mmds, text), -EINVAL);
	nest(text, 2000);
	assert_int_equal(put(mmds, text), -EINVAL);
	assert_document(mmds, "{}");
	nest(text, 128);
	assert_int_equal(put(mmds, text), 0);
	(void)pthread_attr_init(&attributes);
	assert_int_equal(pthread_attr_setstacksize(&attributes, 128 * 1024), 0);
	assert_int_equal(pthread_create(&thread, &attributes, get_in_thread, mmds), 0);
	assert_int_equal(pthread_join(thread, &result), 0);
	assert_null(result);
	(void)pthread_attr_destroy(&attributes);
	/* A patch goes no deeper either. */
	nest(text, 129);
	assert_int_equal(patch(mmds, text), -EINVAL);
	nest(text, 128);
	assert_document(mmds, text);
	mmds_free(mmds);
}

static void test_merge_patch(void **state)
{
	static const char *const examples[][3] = {
		{ "{\"a\":\"b\"}", "{\"a\":\"c\"}", "{\"a\":\"c\"}" },
		{ "{\"a\":\"b\"}", "{\"b\":\"c\"}", "{\"a\":\"b\",\"b\":\"c\"}" },
		{ "{\"a\":\"b\"}", "{\"a\":null}", "{}" },
		{ "{\"a\":\"b\",\"b\":\"c\"}", "{\"a\":null}", "{\"b\":\"c\"}" },
		{ "{\"a\":[\"b\"]}", "{\"a\":\"c\"}", "{\"a\":\"c\"}" },
		{ "{\"a\":\"c\"}", "{\"a\":[\"b\"]}", "{\"a\":[\"b\"]}" },
		{ "{\"a\":{\"b\":\"c\"}}", "{\"a\":{\"b\":\"d\",\"c\":null}}", "{\"a\":{\"b\":\"d\"}}" },
		{ "{\"a\":[{\"b\":\"c\"}]}", "{\"a\":[1]}", "{\"a\":[1]}" },
		{ "[\"a\",\"b\"]", "[\"c\",\"d\"]", "[\"c\",\"d\"]" },
		{ "{\"a\":\"b\"}", "[\"c\"]", "[\"c\"]" },
		{ "{\"a\":\"foo\"}", "\"bar\"", "\"bar\"" },
		{ "{\"e\":null}", "{\"a\":1}", "{\"a\":1,\"e\":null}" },
		{ "[1,2]", "{\"a\":\"b\",\"c\":null}", "{\"a\":\"b\"}" },
		{ "{}", "{\"a\":{\"bb\":{\"ccc\":null}}}", "{\"a\":{\"bb\":{}}}" },
		{ "{\"a\":\"foo\"}", "null", "{}" },
	};
	struct mmds *mmds = mmds_new(0, fake_clock, NULL);

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(examples); i++) {
		assert_int_equal(put(mmds, examples[i][0]), 0);
		assert_int_equal(patch(mmds, examples[i][1]), 0);
		assert_document(mmds, examples[i][2]);
	}
	mmds_free(mmds);
}

static void test_configuration(void **state)
{
	static const char *const wrong[] = {
		"{\"version\":\"V3\"}",
		"{\"version\":2}",
		"{\"ipv4_address\":\"10.0.0.1\"}",
		"{\"ipv4_address\":\"169.254.0.1\"}",
		"{\"ipv4_address\":\"169.254.255.1\"}",
		"{\"ipv4_address\":\"169.254.1\"}",
		"{\"imds_compat\":\"yes\"}",
	};
	struct mmds_config config = MMDS_CONFIG_INIT;
	json_t *object = json_loads(
	        "{\"version\":\"V2\",\"ipv4_address\":\"169.254.170.2\",\"imds_compat\":true}", 0, NULL);
	struct mmds *mmds = mmds_new(0, NULL, NULL);
	struct mmds_config read;

	(void)state;
	assert_int_equal(mmds_config_read(&config, object, NULL), 0);
	assert_int_equal(mmds_configure(mmds, &config, NULL), 0);
	mmds_get_config(mmds, &read);
	assert_int_equal(read.version, MMDS_V2);
	assert_true(read.imds_compat);
	assert_memory_equal(read.address, ((uint8_t[]){ 169, 254, 170, 2 }), 4);
	json_decref(object);
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		object = json_loads(wrong[i], 0, NULL);
		assert_int_equal(mmds_config_read(&config, object, NULL), -EINVAL);
		assert_memory_equal(&config, &read, sizeof(read));
		json_decref(object);
	}
	config.address[0] = 10;
	assert_int_equal(mmds_configure(mmds, &config, NULL), -EINVAL);
	mmds_free(mmds);
}

/* --- HTTP --- */

/* Ask with a whole request; `status` and the body (in `to`, freed by the caller). */
static void ask(struct mmds *mmds, const char *request, unsigned status, struct buffer *to)
{
	bool close;
	unsigned got = 0;
	char *body;

	buffer_clear(to);
	assert_int_equal(mmds_http_answer(mmds, request, strlen(request), to, &close), strlen(request));
	assert_int_equal(sscanf(to->data, "HTTP/1.%*c %u ", &got), 1);
	assert_int_equal(got, status);
	body = strstr(to->data, "\r\n\r\n");
	assert_non_null(body);
	assert_non_null(
	        strstr(to->data, close ? "\r\nConnection: close\r\n" : "\r\nConnection: keep-alive\r\n"));
}

static void assert_body(struct mmds *mmds, const char *request, unsigned status, const char *type,
                        const char *expected)
{
	cleanup_buffer struct buffer answer = BUFFER_INIT;
	char header[64];

	ask(mmds, request, status, &answer);
	(void)snprintf(header, sizeof(header), "\r\nContent-Type: %s\r\n", type);
	assert_non_null(strstr(answer.data, header));
	(void)snprintf(header, sizeof(header), "\r\nContent-Length: %zu\r\n", strlen(expected));
	assert_non_null(strstr(answer.data, header));
	assert_string_equal(strstr(answer.data, "\r\n\r\n") + 4, expected);
}

static void assert_status(struct mmds *mmds, const char *request, unsigned status)
{
	cleanup_buffer struct buffer answer = BUFFER_INIT;

	ask(mmds, request, status, &answer);
}

#define GET(path)  "GET " path " HTTP/1.1\r\nHost: m\r\n\r\n"
#define JSON(path) "GET " path " HTTP/1.1\r\naccept: Application/JSON\r\n\r\n"

static void test_forms(void **state)
{
	struct mmds *mmds = make(MMDS_V1, false);

	(void)state;
	assert_body(mmds, GET("/"), 200, "text/plain", "a/b\nage\nlatest/\nm~n\nok\npi");
	assert_body(mmds, GET("/latest/meta-data"), 200, "text/plain", "ami-id\nnet/\nzone");
	assert_body(mmds, GET("//latest///meta-data/"), 200, "text/plain", "ami-id\nnet/\nzone");
	assert_body(mmds, GET("http://169.254.169.254/latest/meta-data/ami-id"), 200, "text/plain", "ami-1");
	assert_body(mmds, JSON("/latest/meta-data"), 200, "application/json",
	            "{\"ami-id\":\"ami-1\",\"net\":{\"x\":\"y\"},\"zone\":\"a\"}");
	assert_body(mmds, JSON("/latest/meta-data/ami-id"), 200, "application/json", "\"ami-1\"");
	assert_body(mmds, JSON("/age"), 200, "application/json", "43");
	assert_body(mmds, JSON("/pi"), 200, "application/json", "0.1");
	assert_body(mmds, JSON("/latest/list/1/q"), 200, "application/json", "2");
	assert_body(mmds, GET("/a~1b"), 200, "text/plain", "slash");
	assert_body(mmds, GET("/m~0n"), 200, "text/plain", "tilde");
	assert_body(mmds, GET("/latest/list/0"), 200, "text/plain", "p");
	assert_status(mmds, GET("/latest/list/01"), 404);
	assert_status(mmds, GET("/latest/list/2"), 404);
	assert_status(mmds, GET("/latest/list/18446744073709551616"), 404);
	assert_status(mmds, GET("/latest/none"), 404);
	assert_status(mmds, GET("/latest/meta-data/zone/deeper"), 404);
	assert_status(mmds, GET("/age"), 501);
	assert_status(mmds, GET("/latest/list"), 501);
	assert_status(mmds, GET("/ok"), 501);
	mmds_free(mmds);
	mmds = make(MMDS_V1, true);
	assert_body(mmds, JSON("/latest/meta-data"), 200, "text/plain", "ami-id\nnet/\nzone");
	mmds_free(mmds);
	mmds = mmds_new(0, fake_clock, NULL);
	assert_status(mmds, GET("/"), 404);
	mmds_free(mmds);
}

static void test_refused(void **state)
{
	static const struct {
		unsigned status;
		const char *request;
	} refused[] = {
		{ 400, "GET\r\n\r\n" },
		{ 400, "GET /\r\n\r\n" },
		{ 400, "GET  / HTTP/1.1\r\n\r\n" },
		{ 400, "GET / HTTP/1.1 \r\n\r\n" },
		{ 400, "GET / FTTP/1.1\r\n\r\n" },
		{ 400, "G(T / HTTP/1.1\r\n\r\n" },
		{ 400, "GET /\x01 HTTP/1.1\r\n\r\n" },
		{ 400, "GET / HTTP/1.1\r\nno colon\r\n\r\n" },
		{ 400, "GET / HTTP/1.1\r\nbad name: x\r\n\r\n" },
		{ 400, "GET / HTTP/1.1\r\n: x\r\n\r\n" },
		{ 400, "GET / HTTP/1.1\r\na: b\r\n c\r\n\r\n" },
		{ 400, "GET / HTTP/1.1\r\na: b\rc: d\r\n\r\n" },
		{ 400, "GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n" },
		{ 400, "GET / HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 1\r\n\r\n" },
		{ 400, "GET age HTTP/1.1\r\n\r\n" },
		{ 400, "GET http://host HTTP/1.1\r\n\r\n" },
		{ 413, "PUT / HTTP/1.1\r\nContent-Length: 5000\r\n\r\n" },
		{ 501, "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" },
		{ 501, "GET / HTTP/2.0\r\n\r\n" },
		{ 405, "PATCH / HTTP/1.1\r\n\r\n" },
		{ 405, "DELETE / HTTP/1.1\r\n\r\n" },
		{ 404, "PUT /latest/api/tokens HTTP/1.1\r\n\r\n" },
		{ 404, "PUT /latest/api/token/ HTTP/1.1\r\n\r\n" },
	};
	struct mmds *mmds = make(MMDS_V1, false);
	cleanup_buffer struct buffer answer = BUFFER_INIT;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(refused); i++)
		assert_status(mmds, refused[i].request, refused[i].status);
	ask(mmds, "POST / HTTP/1.1\r\n\r\n", 405, &answer);
	assert_non_null(strstr(answer.data, "\r\nAllow: GET, PUT\r\n"));
	ask(mmds, "HEAD / HTTP/1.1\r\n\r\n", 405, &answer);
	assert_string_equal(strstr(answer.data, "\r\n\r\n"), "\r\n\r\n");
	mmds_free(mmds);
}

/* In pieces, behind one another, with a body, too long; and when the connection ends. */
static void test_framing(void **state)
{
	static const char two[] =
	        "GET /age HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc\r\n\r\nGET / HTTP/1.0\n\n";
	struct mmds *mmds = make(MMDS_V1, false);
	cleanup_buffer struct buffer answer = BUFFER_INIT;
	char huge[MMDS_REQUEST_MAX];
	size_t first = (size_t)(strstr(two, "abc") - two) + 3;
	bool close = true;

	(void)state;
	for (size_t size = 0; size < first; size++)
		assert_int_equal(mmds_http_answer(mmds, two, size, &answer, &close), 0);
	assert_int_equal(mmds_http_answer(mmds, two, sizeof(two) - 1, &answer, &close), first);
	assert_false(close);
	assert_int_equal(mmds_http_answer(mmds, two + first, sizeof(two) - 1 - first, &answer, &close),
	                 sizeof(two) - 1 - first);
	assert_true(close); /* HTTP/1.0 */
	assert_non_null(strstr(answer.data, "HTTP/1.0 200 OK\r\n"));
	memset(huge, 'a', sizeof(huge));
	assert_int_equal(mmds_http_answer(mmds, huge, sizeof(huge) - 1, &answer, &close), 0);
	assert_int_equal(mmds_http_answer(mmds, huge, sizeof(huge), &answer, &close), -EMSGSIZE);
	buffer_clear(&answer);
	ask(mmds, "GET / HTTP/1.1\r\nConnection: foo, Close\r\n\r\n", 200, &answer);
	assert_non_null(strstr(answer.data, "Connection: close"));
	ask(mmds, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200, &answer);
	assert_non_null(strstr(answer.data, "Connection: keep-alive"));
	mmds_free(mmds);
}

/* --- tokens --- */

#define PUT_TOKEN "PUT /latest/api/token HTTP/1.1\r\n"

static void get_token(struct mmds *mmds, const char *request, char token[MMDS_TOKEN_TEXT + 1])
{
	cleanup_buffer struct buffer answer = BUFFER_INIT;

	ask(mmds, request, 200, &answer);
	(void)snprintf(token, MMDS_TOKEN_TEXT + 1, "%s", strstr(answer.data, "\r\n\r\n") + 4);
	assert_int_equal(strlen(token), MMDS_TOKEN_TEXT);
}

static void assert_token(struct mmds *mmds, const char *name, const char *token, unsigned status)
{
	char request[256];

	(void)snprintf(request, sizeof(request), "GET /latest HTTP/1.1\r\n%s: %s\r\n\r\n", name, token);
	assert_status(mmds, request, status);
}

static void test_tokens(void **state)
{
	struct mmds *mmds = make(MMDS_V2, false);
	struct mmds *other = make(MMDS_V2, false);
	char token[MMDS_TOKEN_TEXT + 1];
	char longer[MMDS_TOKEN_TEXT + 1];

	(void)state;
	assert_status(mmds, GET("/latest"), 401);
	assert_token(mmds, "X-metadata-token", "", 401);
	assert_token(mmds, "X-metadata-token", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", 401);
	get_token(mmds, PUT_TOKEN "X-metadata-token-ttl-seconds: 1\r\n\r\n", token);
	get_token(mmds, PUT_TOKEN "X-aws-ec2-metadata-token-ttl-seconds: 21600\r\n\r\n", longer);
	assert_string_not_equal(token, longer);
	assert_token(mmds, "X-metadata-token", token, 200);
	assert_token(mmds, "x-aws-ec2-metadata-token", longer, 200);
	assert_token(other, "X-metadata-token", token, 401);
	now += 999999;
	assert_token(mmds, "X-metadata-token", token, 200);
	now += 1;
	assert_token(mmds, "X-metadata-token", token, 401);
	assert_token(mmds, "X-metadata-token", longer, 200);
	longer[3] ^= 1;
	assert_token(mmds, "X-metadata-token", longer, 401);
	mmds_free(other);
	mmds_free(mmds);
	mmds = make(MMDS_V1, false);
	get_token(mmds, PUT_TOKEN "X-metadata-token-ttl-seconds: 5\r\n\r\n", token);
	assert_token(mmds, "X-metadata-token", "wrong", 200);
	mmds_free(mmds);
}

static void test_token_requests(void **state)
{
	struct mmds *mmds = make(MMDS_V2, false);
	cleanup_buffer struct buffer answer = BUFFER_INIT;

	(void)state;
	ask(mmds, "PUT //latest/api//token HTTP/1.1\r\nX-Metadata-Token-TTL-Seconds: 60\r\n\r\n", 200,
	    &answer);
	assert_non_null(strstr(answer.data, "\r\nX-Metadata-Token-TTL-Seconds: 60\r\n"));
	assert_status(mmds, PUT_TOKEN "\r\n", 400);
	assert_status(mmds, PUT_TOKEN "X-metadata-token-ttl-seconds: 0\r\n\r\n", 400);
	assert_status(mmds, PUT_TOKEN "X-metadata-token-ttl-seconds: 21601\r\n\r\n", 400);
	assert_status(mmds, PUT_TOKEN "X-metadata-token-ttl-seconds: 4294967297\r\n\r\n", 400);
	assert_status(mmds, PUT_TOKEN "X-metadata-token-ttl-seconds: 1s\r\n\r\n", 400);
	assert_status(mmds, PUT_TOKEN "X-metadata-token-ttl-seconds:\r\n\r\n", 400);
	assert_status(mmds, PUT_TOKEN "X-metadata-token-ttl-seconds: 9\r\nX-Forwarded-For: a\r\n\r\n", 400);
	mmds_free(mmds);
}

/* A guest that only asks for tokens: what is remembered is bounded, and the last are good. */
static void test_many_tokens(void **state)
{
	struct mmds_tokens tokens = { 0 };
	cleanup_buffer struct buffer first = BUFFER_INIT;
	cleanup_buffer struct buffer last = BUFFER_INIT;

	(void)state;
	assert_int_equal(mmds_token_new(&tokens, 0, 50, &first), 0);
	for (unsigned i = 0; i < MMDS_TOKENS_MAX; i++) {
		buffer_clear(&last);
		assert_int_equal(mmds_token_new(&tokens, 0, 60, &last), 0);
	}
	assert_int_equal(tokens.count, MMDS_TOKENS_MAX);
	assert_false(mmds_token_valid(&tokens, 0, first.data, first.size));
	assert_true(mmds_token_valid(&tokens, 0, last.data, last.size));
	buffer_clear(&last);
	assert_int_equal(mmds_token_new(&tokens, 60000000, 60, &last), 0);
	assert_int_equal(tokens.count, 1);
	mmds_tokens_fini(&tokens);
}

static void *patch_often(void *context)
{
	for (unsigned i = 0; i < 500; i++) {
		cleanup_buffer struct buffer text = BUFFER_INIT;

		if (patch(context, i % 2 ? "{\"latest\":null}" : DOCUMENT) < 0 ||
		    mmds_get(context, &text, NULL) < 0)
			return context;
	}
	return NULL;
}

/* The API writes while a guest reads: it sees the one document or the other. */
static void test_threads(void **state)
{
	struct mmds *mmds = make(MMDS_V1, false);
	pthread_t thread;
	void *failed;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, patch_often, mmds), 0);
	for (unsigned i = 0; i < 500; i++) {
		cleanup_buffer struct buffer answer = BUFFER_INIT;
		bool close;
		const char *text = JSON("/latest/meta-data");

		assert_true(mmds_http_answer(mmds, text, strlen(text), &answer, &close) > 0);
		assert_true(strstr(answer.data, " 404 ") || strstr(answer.data, "\"zone\":\"a\"}"));
	}
	assert_int_equal(pthread_join(thread, &failed), 0);
	assert_null(failed);
	mmds_free(mmds);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_put_and_get),    cmocka_unit_test(test_limit),
		cmocka_unit_test(test_merge_patch),    cmocka_unit_test(test_configuration),
		cmocka_unit_test(test_forms),          cmocka_unit_test(test_refused),
		cmocka_unit_test(test_framing),        cmocka_unit_test(test_tokens),
		cmocka_unit_test(test_token_requests), cmocka_unit_test(test_many_tokens),
		cmocka_unit_test(test_threads),        cmocka_unit_test(test_depth),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
