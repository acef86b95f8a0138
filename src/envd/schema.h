/* schema: the messages of E2B's process.proto and filesystem.proto, for the codec of connect/proto.h. */
#pragma once

#include "connect/proto.h"

/* Requests. */
extern const struct proto_message schema_empty;
extern const struct proto_message schema_selector_request; /* Connect, CloseStdin */
extern const struct proto_message schema_start_request;
extern const struct proto_message schema_update_request;
extern const struct proto_message schema_send_input_request;
extern const struct proto_message schema_stream_input_request;
extern const struct proto_message schema_send_signal_request;
extern const struct proto_message schema_path_request; /* Stat, MakeDir, Remove */
extern const struct proto_message schema_move_request;
extern const struct proto_message schema_list_dir_request;
extern const struct proto_message schema_watch_dir_request; /* and CreateWatcher */
extern const struct proto_message schema_watcher_id;        /* and what CreateWatcher answers */

/* Responses. */
extern const struct proto_message schema_list_response;
extern const struct proto_message schema_event_response; /* Start, Connect */
extern const struct proto_message schema_entry_response; /* Stat, MakeDir, Move */
extern const struct proto_message schema_list_dir_response;
extern const struct proto_message schema_watch_dir_response;
extern const struct proto_message schema_watcher_events_response;
