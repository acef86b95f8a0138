/*
 * telemetry: what the service tells its operators: a log line for each request of the API, and figures in
 * Prometheus' text on the unix socket <run>/metrics.sock (GET /metrics), which only the service's user and
 * group can open. Traffic into sandboxes is not logged.
 */
#pragma once

#include "api/api.h"

struct telemetry;

/* Listen. Call it before privileges are dropped. NULL with `err`. */
struct telemetry *telemetry_new(struct api *api, struct error *err);

/* Who may open the socket. */
int telemetry_own(const struct telemetry *telemetry, uid_t uid, gid_t gid, struct error *err);

/*
 * A request of the API begins: it gets an id, which is the client's X-Request-Id when that is 1 to 64
 * letters, digits, '.', '_' and '-', and is told by a header of the answer. It is counted and logged when it
 * ends.
 */
void telemetry_begin(struct telemetry *telemetry, struct http_exchange *exchange);

/* What is known of it by and by: which endpoint, with '*' in it, and whose request. Kept by reference;
 * copied. */
void telemetry_route(struct http_exchange *exchange, const char *route);
void telemetry_team(struct http_exchange *exchange, const char *team_id);

/* The id; NULL: it has none. */
const char *telemetry_id(const struct http_exchange *exchange);
