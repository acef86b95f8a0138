/* Jupyter messages (also hostile ones), lines of output, connection files. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base.h"
#include "interpreter/connection.h"
#include "interpreter/message.h"
#include "interpreter/output.h"

static struct jupyter_frame frame(const char *text)
{
	return (struct jupyter_frame){ text, strlen(text) };
}

static int decode(struct jupyter_message *message, const char *header, const char *parent,
                  const char *content)
{
	struct jupyter_frame frames[] = {
		frame("topic"), frame("<IDS|MSG>"), frame(""),      frame(header),
		frame(parent),  frame("{}"),        frame(content),
	};

	return jupyter_message_decode(message, frames, ARRAY_SIZE(frames), NULL);
}

static void message_round_trip(void **state)
{
	cleanup_jupyter_wire struct jupyter_wire wire = { 0 };
	cleanup_jupyter_message struct jupyter_message message = { 0 };
	cleanup_json json_t *content = json_pack("{s:s}", "code", "print('\xc3\xa9')");
	char id[JUPYTER_ID_SIZE];

	(void)state;
	assert_int_equal(jupyter_request_encode(&wire, "s1", "execute_request", content, NULL, id), 0);
	assert_int_equal(strlen(id), JUPYTER_ID_SIZE - 1);
	assert_string_equal(wire.frames[0].data, "<IDS|MSG>");
	assert_int_equal(wire.frames[1].size, 0);
	assert_int_equal(jupyter_message_decode(&message, wire.frames, JUPYTER_WIRE_PARTS, NULL), 0);
	assert_string_equal(message.type, "execute_request");
	assert_string_equal(message.parent_id, "");
	assert_true(json_equal(message.content, content));
	assert_string_equal(json_string_value(json_object_get(message.header, "msg_id")), id);
	assert_string_equal(json_string_value(json_object_get(message.header, "version")), "5.3");
}

static void message_parent(void **state)
{
	cleanup_jupyter_message struct jupyter_message message = { 0 };

	(void)state;
	assert_int_equal(decode(&message, "{\"msg_type\":\"status\"}", "{\"msg_id\":\"m1\"}", "{}"), 0);
	assert_string_equal(message.parent_id, "m1");
}

static void message_hostile(void **state)
{
	struct jupyter_message message;
	struct jupyter_frame few[] = { frame("<IDS|MSG>"), frame(""), frame("{}"), frame("{}"), frame("{}") };
	struct jupyter_frame none[] = { frame("a"), frame("<IDS|MSG") };

	(void)state;
	assert_int_equal(jupyter_message_decode(&message, NULL, 0, NULL), -EBADMSG);
	assert_int_equal(jupyter_message_decode(&message, none, ARRAY_SIZE(none), NULL), -EBADMSG);
	assert_int_equal(jupyter_message_decode(&message, few, ARRAY_SIZE(few), NULL), -EBADMSG);
	assert_int_equal(decode(&message, "{}", "{}", "{}"), -EBADMSG);
	assert_int_equal(decode(&message, "{\"msg_type\":1}", "{}", "{}"), -EBADMSG);
	assert_int_equal(decode(&message, "{\"msg_type\":\"a\"}", "[]", "{}"), -EBADMSG);
	assert_int_equal(decode(&message, "{\"msg_type\":\"a\"}", "{}", "{\"a\":"), -EBADMSG);
	assert_int_equal(decode(&message, "", "{}", "{}"), -EBADMSG);
	assert_null(message.header);
	assert_null(message.content);
}

static void message_nested_too_deep(void **state)
{
	cleanup_buffer struct buffer deep = BUFFER_INIT;
	struct jupyter_message message;

	(void)state;
	buffer_append_string(&deep, "{\"a\":");
	for (int i = 0; i < 100000; i++)
		buffer_append_string(&deep, "[");
	assert_int_equal(decode(&message, "{\"msg_type\":\"a\"}", "{}", deep.data), -EBADMSG);
}

static void message_repairs_utf8(void **state)
{
	cleanup_jupyter_message struct jupyter_message message = { 0 };

	(void)state;
	assert_int_equal(decode(&message, "{\"msg_type\":\"stream\"}", "{}",
	                        "{\"text\":\"a\xff\xed\xa0\x80\xc3\xa9\xf0\x9f\x98\x80\xe2\x82\"}"),
	                 0);
	assert_string_equal(json_string_value(json_object_get(message.content, "text")),
	                    "a\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xc3\xa9\xf0\x9f\x98\x80"
	                    "\xef\xbf\xbd\xef\xbf\xbd");
}

/* Publish one message; check kind and lines. */
static void check_output(const char *type, const char *content, enum output_kind want_kind, const char *want)
{
	cleanup_jupyter_message struct jupyter_message message = { 0 };
	cleanup_buffer struct buffer lines = BUFFER_INIT;
	enum output_kind kind = OUTPUT_NONE;
	char header[128];

	snprintf(header, sizeof(header), "{\"msg_type\":\"%s\"}", type);
	assert_int_equal(decode(&message, header, "{\"msg_id\":\"m\"}", content), 0);
	assert_int_equal(output_append_message(&lines, &message, 1700000000123000000, &kind), 0);
	assert_int_equal(kind, want_kind);
	assert_string_equal(lines.data ? lines.data : "", want);
}

static void output_lines(void **state)
{
	(void)state;
	check_output("execute_input", "{\"execution_count\":3,\"code\":\"x\"}", OUTPUT_LINES,
	             "{\"type\":\"number_of_executions\",\"execution_count\":3}\n");
	check_output("stream", "{\"name\":\"stdout\",\"text\":\"a\\n\\u0000\"}", OUTPUT_LINES,
	             "{\"type\":\"stdout\",\"text\":\"a\\n\\u0000\",\"timestamp\":1700000000123000000}\n");
	check_output("stream", "{\"name\":\"stderr\",\"text\":\"b\"}", OUTPUT_LINES,
	             "{\"type\":\"stderr\",\"text\":\"b\",\"timestamp\":1700000000123000000}\n");
	check_output("error", "{\"ename\":\"E\",\"evalue\":\"v\",\"traceback\":[\"l1\",\"l2\"]}",
	             OUTPUT_LINES,
	             "{\"type\":\"error\",\"name\":\"E\",\"value\":\"v\",\"traceback\":\"l1\\nl2\"}\n");
	check_output("error", "{}", OUTPUT_LINES,
	             "{\"type\":\"error\",\"name\":\"\",\"value\":\"\",\"traceback\":\"\"}\n");
	check_output("status", "{\"execution_state\":\"idle\"}", OUTPUT_IDLE, "");
	check_output("status", "{\"execution_state\":\"busy\"}", OUTPUT_NONE, "");
	check_output("comm_open", "{}", OUTPUT_NONE, "");
}

static void output_results(void **state)
{
	(void)state;
	check_output("execute_result", "{\"data\":{\"text/plain\":\"2\"}}", OUTPUT_LINES,
	             "{\"type\":\"result\",\"text\":\"2\",\"is_main_result\":true}\n");
	check_output("display_data", "{\"data\":{\"image/png\":\"iVBO\",\"text/html\":\"<b>\"}}",
	             OUTPUT_LINES,
	             "{\"type\":\"result\",\"png\":\"iVBO\",\"html\":\"<b>\",\"is_main_result\":false}\n");
	check_output("execute_result", "{\"data\":{\"application/json\":{\"a\":[1,null]},\"x/y\":\"z\"}}",
	             OUTPUT_LINES,
	             "{\"type\":\"result\",\"json\":{\"a\":[1,null]},\"extra\":{\"x/y\":\"z\"},"
	             "\"is_main_result\":true}\n");
	check_output("execute_result", "{}", OUTPUT_LINES, "{\"type\":\"result\",\"is_main_result\":true}\n");
}

static void check_text(const char *plain, const char *want)
{
	cleanup_json json_t *bundle = json_pack("{s:s}", "text/plain", plain);
	cleanup_json json_t *item = output_result(bundle, true);

	assert_string_equal(json_string_value(json_object_get(item, "text")), want);
}

static void output_quotes(void **state)
{
	(void)state;
	check_text("'a'", "a");
	check_text("\"it's\"", "it's");
	check_text("''a''", "'a'");
	check_text("'a\"", "'a\"");
	check_text("'", "'");
	check_text("''", "");
	check_text("", "");
}

static void output_own_lines(void **state)
{
	cleanup_buffer struct buffer lines = BUFFER_INIT;

	(void)state;
	assert_int_equal(output_append_error(&lines, "ContextRestarting", "a \"b\""), 0);
	assert_int_equal(output_append_keepalive(&lines), 0);
	assert_int_equal(output_append_end(&lines), 0);
	assert_string_equal(
	        lines.data,
	        "{\"type\":\"error\",\"name\":\"ContextRestarting\",\"value\":\"a \\\"b\\\"\","
	        "\"traceback\":\"\"}\n{\"type\":\"keepalive\"}\n{\"type\":\"end_of_execution\"}\n");
}

static void connection_file(void **state)
{
	char directory[] = "/tmp/test-interpreter-XXXXXX", endpoint[CONNECTION_ENDPOINT_SIZE];
	cleanup_buffer struct buffer text = BUFFER_INIT;
	cleanup_json json_t *file = NULL;
	struct connection connection;
	struct stat status;

	(void)state;
	assert_non_null(mkdtemp(directory));
	assert_int_equal(connection_create(&connection, directory, NULL), 0);
	assert_int_equal(stat(connection.file, &status), 0);
	assert_int_equal(status.st_mode & 0777, 0600);
	assert_int_equal(file_read(connection.file, &text, NULL), 0);
	assert_int_equal(json_parse_object(text.data, text.size, &file, NULL), 0);
	assert_string_equal(json_string_value(json_object_get(file, "transport")), "ipc");
	assert_string_equal(json_string_value(json_object_get(file, "ip")), connection.base);
	assert_string_equal(json_string_value(json_object_get(file, "key")), "");
	assert_string_equal(connection_endpoint(&connection, CONNECTION_IOPUB, endpoint) + 6 +
	                            strlen(connection.base),
	                    "-2");
	connection_remove(&connection);
	assert_int_equal(rmdir(directory), 0);
}

static void connection_path_too_long(void **state)
{
	struct connection connection;
	char directory[200];

	(void)state;
	memset(directory, 'a', sizeof(directory) - 1);
	directory[sizeof(directory) - 1] = '\0';
	assert_int_equal(connection_create(&connection, directory, NULL), -ENAMETOOLONG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(message_round_trip),       cmocka_unit_test(message_parent),
		cmocka_unit_test(message_hostile),          cmocka_unit_test(message_nested_too_deep),
		cmocka_unit_test(message_repairs_utf8),     cmocka_unit_test(output_lines),
		cmocka_unit_test(output_results),           cmocka_unit_test(output_quotes),
		cmocka_unit_test(output_own_lines),         cmocka_unit_test(connection_file),
		cmocka_unit_test(connection_path_too_long),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
