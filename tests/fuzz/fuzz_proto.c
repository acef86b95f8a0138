/*
 * Fuzz the protobuf codec with the messages of the agent. The first byte chooses the message. What is decoded
 * must come out the same when it is encoded and decoded again.
 */
#include <stdlib.h>

#include "base/base.h"
#include "envd/schema.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct proto_message *const messages[] = {
	&schema_start_request,     &schema_send_input_request,  &schema_stream_input_request,
	&schema_watch_dir_request, &schema_send_signal_request, &schema_list_response,
	&schema_event_response,    &schema_list_dir_response,   &schema_watcher_events_response,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct proto_message *message = messages[size ? data[0] % ARRAY_SIZE(messages) : 0];
	cleanup_buffer struct buffer bytes = BUFFER_INIT;
	cleanup_json json_t *first = NULL;
	cleanup_json json_t *second = NULL;
	struct error err = { 0 };

	if (size == 0)
		return 0;
	first = proto_decode(message, (const char *)data + 1, size - 1, &err);
	if (!first) {
		if (err.code == 0)
			abort();
		return 0;
	}
	if (proto_encode(message, first, &bytes, &err) < 0)
		abort();
	second = proto_decode(message, bytes.data ? bytes.data : "", bytes.size, &err);
	if (!second || !json_equal(first, second))
		abort();
	return 0;
}
