/* Unit tests of the protobuf codec: what comes from clients, and what goes back. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base.h"
#include "connect/proto.h"

static const struct proto_name colours[] = { { 0, "NONE" }, { 5, "BLUE" }, { 0 } };
static const struct proto_message inner;
static const struct proto_field inner_fields[] = { { 1, "id", PROTO_UINT32, false, NULL, NULL },
	                                           { 2, "deeper", PROTO_MESSAGE, false, &inner, NULL },
	                                           { 0 } };
static const struct proto_message inner = { inner_fields };
static const struct proto_field fields[] = {
	{ 1, "flag", PROTO_BOOL, false, NULL, NULL },
	{ 2, "count", PROTO_UINT32, false, NULL, NULL },
	{ 3, "size", PROTO_INT64, false, NULL, NULL },
	{ 4, "code", PROTO_SINT32, false, NULL, NULL },
	{ 5, "colour", PROTO_ENUM, false, NULL, colours },
	{ 6, "text", PROTO_STRING, false, NULL, NULL },
	{ 7, "data", PROTO_BYTES, false, NULL, NULL },
	{ 8, "inner", PROTO_MESSAGE, false, &inner, NULL },
	{ 9, "list", PROTO_MESSAGE, true, &inner, NULL },
	{ 10, "map", PROTO_STRING_MAP, false, NULL, NULL },
	{ 11, "time", PROTO_TIMESTAMP, false, NULL, NULL },
	{ 12, "words", PROTO_STRING, true, NULL, NULL },
	{ 0 },
};
static const struct proto_message message = { fields };

#define DECODE(bytes) proto_decode(&message, (bytes), sizeof(bytes) - 1, &err)

static void assert_json(json_t *value, const char *wanted)
{
	json_t *other = json_loads(wanted, 0, NULL);

	assert_non_null(value);
	assert_non_null(other);
	assert_true(json_equal(value, other));
	json_decref(value);
	json_decref(other);
}

static void test_decodes(void **state)
{
	struct error err;

	(void)state;
	assert_json(DECODE(""), "{}");
	assert_json(DECODE("\x08\x01\x10\xff\xff\xff\xff\x0f"), "{\"flag\":true,\"count\":4294967295}");
	assert_json(DECODE("\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), "{\"size\":\"-1\"}");
	assert_json(DECODE("\x20\x05"), "{\"code\":-3}");
	assert_json(DECODE("\x20\xff\xff\xff\xff\x0f"), "{\"code\":-2147483648}");
	assert_json(DECODE("\x28\x05"), "{\"colour\":\"BLUE\"}");
	assert_json(DECODE("\x28\x07"), "{\"colour\":7}");
	assert_json(DECODE("\x32\x02\xc3\xa9\x3a\x02\x00\xff"), "{\"text\":\"\xc3\xa9\",\"data\":\"AP8=\"}");
	/* A message in two parts is both; of a number the last counts. */
	assert_json(DECODE("\x42\x02\x08\x01\x42\x02\x08\x02\x42\x04\x12\x02\x08\x03"),
	            "{\"inner\":{\"id\":2,\"deeper\":{\"id\":3}}}");
	assert_json(DECODE("\x4a\x00\x4a\x02\x08\x07"), "{\"list\":[{},{\"id\":7}]}");
	assert_json(DECODE("\x52\x06\x0a\x01\x6b\x12\x01\x76\x52\x00"), "{\"map\":{\"k\":\"v\",\"\":\"\"}}");
	assert_json(DECODE("\x5a\x08\x08\x01\x10\x80\x89\x7a\x18\x00"),
	            "{\"time\":\"1970-01-01T00:00:01.002Z\"}");
	assert_json(DECODE("\x62\x01\x61\x62\x00"), "{\"words\":[\"a\",\"\"]}");
	/* Unknown fields of every wire type. */
	assert_json(DECODE("\xa0\x06\x01\xa1\x06"
	                   "12345678"
	                   "\xa2\x06\x01x\xa5\x06"
	                   "1234"),
	            "{}");
}

static void assert_refused(const char *bytes, size_t size)
{
	struct error err = { 0 };

	assert_null(proto_decode(&message, bytes, size, &err));
	assert_int_equal(err.code, EINVAL);
}

#define REFUSED(bytes) assert_refused((bytes), sizeof(bytes) - 1)

static void test_refuses(void **state)
{
	char deep[256];
	size_t at = sizeof(deep);

	(void)state;
	REFUSED("\x08");                                         /* no number */
	REFUSED("\x08\x80");                                     /* half a number */
	REFUSED("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"); /* 65 bits */
	REFUSED("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01");
	REFUSED("\x32\x02\x61");                                         /* longer than the message */
	REFUSED("\x32\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01");         /* 2^64 - 1 bytes */
	REFUSED("\x00\x01");                                             /* field 0 */
	REFUSED("\x0b\x0c");                                             /* a group */
	REFUSED("\x0f");                                                 /* wire type 7 */
	REFUSED("\x0a\x00");                                             /* a bool of bytes */
	REFUSED("\x30\x01");                                             /* a string that is a number */
	REFUSED("\x32\x01\xff");                                         /* no UTF-8 */
	REFUSED("\x32\x01\x00");                                         /* NUL */
	REFUSED("\x52\x02\x08\x01");                                     /* a map's key that is a number */
	REFUSED("\x5a\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"); /* before 1970 */
	/* Nested too deeply: built from the inside. */
	for (int i = 0; i < 40; i++) {
		size_t inside = sizeof(deep) - at;

		deep[--at] = (char)inside;
		deep[--at] = i == 39 ? 0x42 : 0x12;
	}
	assert_refused(deep + at, sizeof(deep) - at);
}

static void test_encodes(void **state)
{
	static const char text[] =
	        "{\"flag\":true,\"count\":300,\"size\":\"-2\",\"code\":-7,\"colour\":\"BLUE\","
	        "\"text\":\"\xc3\xa9\",\"data\":\"AP8=\",\"inner\":{\"id\":1,\"deeper\":{}},"
	        "\"list\":[{},{\"id\":7}],\"map\":{\"k\":\"v\"},"
	        "\"time\":\"2026-11-21T12:00:00.125Z\",\"words\":[\"a\",\"\"]}";
	cleanup_buffer struct buffer bytes = BUFFER_INIT;
	cleanup_json json_t *object = json_loads(text, 0, NULL);
	struct error err = { 0 };

	(void)state;
	assert_int_equal(proto_encode(&message, object, &bytes, &err), 0);
	assert_memory_equal(bytes.data, "\x08\x01\x10\xac\x02\x18\xfe", 7);
	assert_json(proto_decode(&message, bytes.data, bytes.size, &err), text);
}

static void test_encoding_refuses(void **state)
{
	static const char *const wrong[] = {
		"{\"flag\":1}",       "{\"count\":\"x\"}", "{\"colour\":\"RED\"}", "{\"text\":1}",
		"{\"data\":\"***\"}", "{\"inner\":[]}",    "{\"list\":{}}",        "{\"map\":{\"a\":1}}",
		"{\"map\":[]}",       "{\"time\":1}",      "{\"words\":[1]}",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		cleanup_buffer struct buffer bytes = BUFFER_INIT;
		cleanup_json json_t *object = json_loads(wrong[i], 0, NULL);
		struct error err = { 0 };

		assert_non_null(object);
		assert_int_equal(proto_encode(&message, object, &bytes, &err), -EINVAL);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_decodes),
		cmocka_unit_test(test_refuses),
		cmocka_unit_test(test_encodes),
		cmocka_unit_test(test_encoding_refuses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
