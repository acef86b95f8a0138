#include "envd/schema.h"

#define FIELDS(...) ((const struct proto_field[]){ __VA_ARGS__, { 0 } })
#define TEXT(number, name)                                                                                   \
	{                                                                                                    \
		(number), (name), PROTO_STRING, false, NULL, NULL                                            \
	}
#define TEXTS(number, name)                                                                                  \
	{                                                                                                    \
		(number), (name), PROTO_STRING, true, NULL, NULL                                             \
	}
#define FIELD(number, name, type)                                                                            \
	{                                                                                                    \
		(number), (name), (type), false, NULL, NULL                                                  \
	}
#define MESSAGE(number, name, message)                                                                       \
	{                                                                                                    \
		(number), (name), PROTO_MESSAGE, false, (message), NULL                                      \
	}
#define MESSAGES(number, name, message)                                                                      \
	{                                                                                                    \
		(number), (name), PROTO_MESSAGE, true, (message), NULL                                       \
	}
#define ENUM(number, name, names)                                                                            \
	{                                                                                                    \
		(number), (name), PROTO_ENUM, false, NULL, (names)                                           \
	}

const struct proto_message schema_empty = { (const struct proto_field[]){ { 0 } } };

/* --- process.proto --- */

static const struct proto_name signals[] = {
	{ 0, "SIGNAL_UNSPECIFIED" }, { 9, "SIGNAL_SIGKILL" }, { 15, "SIGNAL_SIGTERM" }, { 0 }
};
static const struct proto_message size = { FIELDS(FIELD(1, "cols", PROTO_UINT32),
	                                          FIELD(2, "rows", PROTO_UINT32)) };
static const struct proto_message pty = { FIELDS(MESSAGE(1, "size", &size)) };
static const struct proto_message config = { FIELDS(TEXT(1, "cmd"), TEXTS(2, "args"),
	                                            FIELD(3, "envs", PROTO_STRING_MAP), TEXT(4, "cwd")) };
static const struct proto_message selector = { FIELDS(FIELD(1, "pid", PROTO_UINT32), TEXT(2, "tag")) };
static const struct proto_message input = { FIELDS(FIELD(1, "stdin", PROTO_BYTES),
	                                           FIELD(2, "pty", PROTO_BYTES)) };
static const struct proto_message input_data = { FIELDS(MESSAGE(2, "input", &input)) };

const struct proto_message schema_selector_request = { FIELDS(MESSAGE(1, "process", &selector)) };
const struct proto_message schema_start_request = { FIELDS(MESSAGE(1, "process", &config),
	                                                   MESSAGE(2, "pty", &pty), TEXT(3, "tag"),
	                                                   FIELD(4, "stdin", PROTO_BOOL)) };
const struct proto_message schema_update_request = { FIELDS(MESSAGE(1, "process", &selector),
	                                                    MESSAGE(2, "pty", &pty)) };
const struct proto_message schema_send_input_request = { FIELDS(MESSAGE(1, "process", &selector),
	                                                        MESSAGE(2, "input", &input)) };
const struct proto_message schema_stream_input_request = { FIELDS(
	MESSAGE(1, "start", &schema_selector_request), MESSAGE(2, "data", &input_data),
	MESSAGE(3, "keepalive", &schema_empty)) };
const struct proto_message schema_send_signal_request = { FIELDS(MESSAGE(1, "process", &selector),
	                                                         ENUM(2, "signal", signals)) };

static const struct proto_message process_info = { FIELDS(MESSAGE(1, "config", &config),
	                                                  FIELD(2, "pid", PROTO_UINT32), TEXT(3, "tag")) };
static const struct proto_message start_event = { FIELDS(FIELD(1, "pid", PROTO_UINT32)) };
static const struct proto_message data_event = { FIELDS(
	FIELD(1, "stdout", PROTO_BYTES), FIELD(2, "stderr", PROTO_BYTES), FIELD(3, "pty", PROTO_BYTES)) };
static const struct proto_message end_event = { FIELDS(FIELD(1, "exitCode", PROTO_SINT32),
	                                               FIELD(2, "exited", PROTO_BOOL), TEXT(3, "status"),
	                                               TEXT(4, "error")) };
static const struct proto_message event = { FIELDS(
	MESSAGE(1, "start", &start_event), MESSAGE(2, "data", &data_event), MESSAGE(3, "end", &end_event),
	MESSAGE(4, "keepalive", &schema_empty)) };

const struct proto_message schema_list_response = { FIELDS(MESSAGES(1, "processes", &process_info)) };
const struct proto_message schema_event_response = { FIELDS(MESSAGE(1, "event", &event)) };

/* --- filesystem.proto --- */

static const struct proto_name file_types[] = { { 0, "FILE_TYPE_UNSPECIFIED" },
	                                        { 1, "FILE_TYPE_FILE" },
	                                        { 2, "FILE_TYPE_DIRECTORY" },
	                                        { 3, "FILE_TYPE_SYMLINK" },
	                                        { 0 } };
static const struct proto_name event_types[] = { { 0, "EVENT_TYPE_UNSPECIFIED" },
	                                         { 1, "EVENT_TYPE_CREATE" },
	                                         { 2, "EVENT_TYPE_WRITE" },
	                                         { 3, "EVENT_TYPE_REMOVE" },
	                                         { 4, "EVENT_TYPE_RENAME" },
	                                         { 5, "EVENT_TYPE_CHMOD" },
	                                         { 0 } };

const struct proto_message schema_path_request = { FIELDS(TEXT(1, "path")) };
const struct proto_message schema_move_request = { FIELDS(TEXT(1, "source"), TEXT(2, "destination")) };
const struct proto_message schema_list_dir_request = { FIELDS(TEXT(1, "path"),
	                                                      FIELD(2, "depth", PROTO_UINT32)) };
const struct proto_message schema_watch_dir_request = { FIELDS(
	TEXT(1, "path"), FIELD(2, "recursive", PROTO_BOOL), FIELD(3, "includeEntry", PROTO_BOOL),
	FIELD(4, "allowNetworkMounts", PROTO_BOOL)) };
const struct proto_message schema_watcher_id = { FIELDS(TEXT(1, "watcherId")) };

static const struct proto_message entry = { FIELDS(
	TEXT(1, "name"), ENUM(2, "type", file_types), TEXT(3, "path"), FIELD(4, "size", PROTO_INT64),
	FIELD(5, "mode", PROTO_UINT32), TEXT(6, "permissions"), TEXT(7, "owner"), TEXT(8, "group"),
	FIELD(9, "modifiedTime", PROTO_TIMESTAMP), TEXT(10, "symlinkTarget"),
	FIELD(11, "metadata", PROTO_STRING_MAP)) };
static const struct proto_message filesystem_event = { FIELDS(TEXT(1, "name"), ENUM(2, "type", event_types),
	                                                      MESSAGE(3, "entry", &entry)) };

const struct proto_message schema_entry_response = { FIELDS(MESSAGE(1, "entry", &entry)) };
const struct proto_message schema_list_dir_response = { FIELDS(MESSAGES(1, "entries", &entry)) };
const struct proto_message schema_watch_dir_response = { FIELDS(MESSAGE(1, "start", &schema_empty),
	                                                        MESSAGE(2, "filesystem", &filesystem_event),
	                                                        MESSAGE(3, "keepalive", &schema_empty)) };
const struct proto_message schema_watcher_events_response = { FIELDS(
	MESSAGES(1, "events", &filesystem_event)) };
