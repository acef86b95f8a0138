/* Teams: what a user sees of them, what was counted of them, and how the admin makes them. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "api/control.h"
#include "api/rest/rest.h"
#include "api/store/settings.h"

#define LOGIN_KEY   "CLI login/configure" /* what E2B calls the key that a login makes */
#define POINTS_MAX  500
#define DEFAULT_MS  (INT64_C(7) * 86400000)
#define LIMIT_MAX   1000000000
#define RANGE_MAX_S (INT64_C(1) << 40)

/* --- GET /teams --- */

struct listing {
	struct rest_call *call;
	json_t *teams;
	struct error err;
	int failed;
};

/* A key is kept as a hash, so that none can be shown again: a user gets a new one, as from E2B. */
static void take_team(void *context, const struct team *team)
{
	struct listing *listing = context;
	struct rest_call *call = listing->call;
	char text[STORE_KEY_SIZE] = "";
	struct key key;

	if (call->user_id[0] && listing->failed == 0)
		listing->failed = store_create_key(call->api->store, KEY_API, team->id, call->user_id,
		                                   LOGIN_KEY, text, &key, &listing->err);
	(void)json_array_append_new(listing->teams, json_pack("{s:s,s:s,s:s,s:b}", "teamID", team->id, "name",
	                                                      team->name, "apiKey", text, "isDefault",
	                                                      json_array_size(listing->teams) == 0));
	explicit_bzero(text, sizeof(text));
}

/* The list is read before keys are made: what is read must not change meanwhile. */
static void remember_team(void *context, const struct team *team)
{
	(void)json_array_append_new(context, json_string(team->id));
}

static int list_teams(struct listing *listing)
{
	struct rest_call *call = listing->call;
	cleanup_json json_t *ids = json_array();
	struct team team;
	size_t index;
	json_t *id;
	int ret = 0;

	if (call->user_id[0])
		ret = store_user_teams(call->api->store, call->user_id, remember_team, ids, &listing->err);
	else
		(void)json_array_append_new(ids, json_string(call->team_id));
	json_array_foreach (ids, index, id) {
		if (ret == 0)
			ret = store_find_team(call->api->store, json_string_value(id), &team, &listing->err);
		if (ret == 0)
			take_team(listing, &team);
	}
	return ret < 0 ? ret : listing->failed;
}

void teams_list(struct rest_call *call)
{
	struct listing listing = { .call = call, .teams = json_array() };

	int ret = list_teams(&listing);

	if (ret == 0) {
		rest_reply(call, 200, listing.teams);
		return;
	}
	json_decref(listing.teams);
	rest_fail(call, ret == -EDQUOT ? 403 : 500, "%s", listing.err.message);
}

/* --- metrics --- */

struct range {
	int64_t from_ms;
	int64_t to_ms;
	int64_t step_ms; /* what one point stands for */
	int64_t now_ms;
	bool by_rate; /* what the maximum is wanted of */
	json_t *points;
	struct sample best;
	double best_value;
	struct sample point; /* being gathered */
};

static int read_time(const char *text, int64_t *ret_ms)
{
	char *end = NULL;
	long long seconds;

	if (!text)
		return 0;
	errno = 0;
	seconds = strtoll(text, &end, 10);
	if (errno || end == text || *end || seconds < 0 || seconds > RANGE_MAX_S)
		return -EINVAL;
	*ret_ms = seconds * 1000;
	return 0;
}

static bool read_range(struct rest_call *call, struct range *range)
{
	*range = (struct range){ .now_ms = time_wall_ms() };
	if (strcmp(call->id, call->team_id) != 0) {
		rest_fail(call, 403, "You (%s) are not authorized to access this team's (%s) metrics",
		          call->team_id, call->id);
		return false;
	}
	range->from_ms = range->now_ms - DEFAULT_MS;
	range->to_ms = range->now_ms;
	if (read_time(http_request_query(call->exchange, "start"), &range->from_ms) < 0 ||
	    read_time(http_request_query(call->exchange, "end"), &range->to_ms) < 0) {
		rest_fail(call, 400, "start and end must be seconds since 1970");
		return false;
	}
	if (range->from_ms > range->to_ms) {
		rest_fail(call, 400, "start must not be after end");
		return false;
	}
	range->step_ms = (range->to_ms - range->from_ms) / POINTS_MAX + 1;
	return true;
}

static double rate_of(const struct sample *sample)
{
	return sample->seconds > 0 ? (double)sample->started / sample->seconds : 0;
}

static void flush_point(struct range *range)
{
	const struct sample *point = &range->point;
	char time[TIME_RFC3339_SIZE];

	if (point->at_ms)
		(void)json_array_append_new(
		        range->points,
		        json_pack("{s:s,s:I,s:I,s:f}", "timestamp", time_format_rfc3339(point->at_ms, time),
		                  "timestampUnix", (json_int_t)(point->at_ms / 1000), "concurrentSandboxes",
		                  (json_int_t)point->concurrent, "sandboxStartRate", rate_of(point)));
	range->point = (struct sample){ 0 };
}

/* Samples of one step become one point: most at a time, and all starts. */
static void take_sample(void *context, const struct sample *sample)
{
	struct range *range = context;
	double value = range->by_rate ? rate_of(sample) : (double)sample->concurrent;

	if (value > range->best_value || !range->best.at_ms) {
		range->best_value = value;
		range->best = *sample;
	}
	if (range->point.at_ms && (sample->at_ms - range->from_ms) / range->step_ms !=
	                                  (range->point.at_ms - range->from_ms) / range->step_ms)
		flush_point(range);
	range->point.at_ms = sample->at_ms;
	if (sample->concurrent > range->point.concurrent)
		range->point.concurrent = sample->concurrent;
	range->point.started += sample->started;
	range->point.seconds += sample->seconds;
}

/* What was sampled, and what is now. */
static int gather(struct rest_call *call, struct range *range, struct error *err)
{
	struct control_usage usage;
	struct sample now = { .at_ms = range->now_ms };
	int ret = store_list_samples(call->api->store, call->team_id, range->from_ms, range->to_ms,
	                             take_sample, range, err);

	if (ret == 0 && range->to_ms >= range->now_ms - 1000 && range->from_ms <= range->now_ms) {
		control_usage(call->api, call->team_id, &usage);
		now.concurrent = usage.sandboxes - usage.starting;
		control_starts(call->api, call->team_id, &now);
		take_sample(range, &now);
	}
	if (range->points)
		flush_point(range);
	return ret;
}

void teams_metrics(struct rest_call *call)
{
	struct error err = { 0 };
	struct range range;

	if (!read_range(call, &range))
		return;
	range.points = json_array();
	if (gather(call, &range, &err) == 0) {
		rest_reply(call, 200, range.points);
		return;
	}
	json_decref(range.points);
	rest_fail(call, 500, "%s", err.message);
}

void teams_metrics_max(struct rest_call *call)
{
	const char *metric = http_request_query(call->exchange, "metric");
	char time[TIME_RFC3339_SIZE];
	struct error err = { 0 };
	struct range range;

	if (!read_range(call, &range))
		return;
	range.by_rate = metric && strcmp(metric, "sandbox_start_rate") == 0;
	if (!metric || (!range.by_rate && strcmp(metric, "concurrent_sandboxes") != 0)) {
		rest_fail(call, 400, "metric must be concurrent_sandboxes or sandbox_start_rate");
		return;
	}
	if (gather(call, &range, &err) < 0) {
		rest_fail(call, 500, "%s", err.message);
		return;
	}
	if (!range.best.at_ms)
		range.best.at_ms = range.to_ms;
	rest_reply(call, 200,
	           json_pack("{s:s,s:I,s:f}", "timestamp", time_format_rfc3339(range.best.at_ms, time),
	                     "timestampUnix", (json_int_t)(range.best.at_ms / 1000), "value",
	                     range.best_value));
}

/* --- by the admin --- */

static json_t *team_json(const struct team *team)
{
	char created[TIME_RFC3339_SIZE];

	return json_pack("{s:s,s:s,s:s,s:{s:I,s:I,s:I,s:I}}", "teamID", team->id, "name", team->name,
	                 "createdAt", time_format_rfc3339(team->created_at_ms, created), "limits",
	                 "concurrentSandboxes", (json_int_t)team->limits.sandboxes, "cpuCount",
	                 (json_int_t)team->limits.vcpus, "memoryMB", (json_int_t)team->limits.memory_mib,
	                 "diskSizeMB", (json_int_t)team->limits.disk_mib);
}

static void append_team(void *context, const struct team *team)
{
	(void)json_array_append_new(context, team_json(team));
}

void teams_admin_list(struct rest_call *call)
{
	struct error err = { 0 };
	json_t *list = json_array();

	if (store_list_teams(call->api->store, append_team, list, &err) == 0) {
		rest_reply(call, 200, list);
		return;
	}
	json_decref(list);
	rest_fail(call, 500, "%s", err.message);
}

/* Those that are named; false: the call has been answered. */
static bool read_limits(struct rest_call *call, struct limits *limits)
{
	const struct {
		const char *key;
		int64_t *value;
	} all[] = {
		{ "concurrentSandboxes", &limits->sandboxes },
		{ "cpuCount", &limits->vcpus },
		{ "memoryMB", &limits->memory_mib },
		{ "diskSizeMB", &limits->disk_mib },
	};
	json_t *object = NULL;
	struct error err = { 0 };
	int ret = json_read_object(call->body, "limits", JSON_OPTIONAL, &object, &err);

	for (size_t i = 0; ret == 0 && object && i < ARRAY_SIZE(all); i++)
		ret = json_read_integer(object, all[i].key, JSON_OPTIONAL, 0, LIMIT_MAX, all[i].value, &err);
	if (ret < 0)
		rest_fail(call, 400, "Error when parsing request: %s", err.message);
	return ret == 0;
}

/* With what its user needs to begin: a key and a token, shown this once. */
void teams_admin_create(struct rest_call *call)
{
	struct store *store = call->api->store;
	const char *name = rest_read_name(call, "name");
	char user_id[40] = "";
	char key_text[STORE_KEY_SIZE];
	char token_text[STORE_KEY_SIZE];
	struct error err = { 0 };
	struct team team = { 0 };
	struct key key;
	struct key token;
	json_t *json;

	if (!name || !read_limits(call, &team.limits))
		return;
	(void)snprintf(team.name, sizeof(team.name), "%s", name);
	if (store_create_team(store, &team, &err) < 0 || store_team_user(store, team.id, user_id, &err) < 0 ||
	    store_create_key(store, KEY_API, team.id, user_id, "first", key_text, &key, &err) < 0 ||
	    store_create_key(store, KEY_TOKEN, user_id, user_id, "first", token_text, &token, &err) < 0) {
		rest_fail(call, 500, "%s", err.message);
		return;
	}
	json = team_json(&team);
	(void)json_object_set_new(json, "apiKey", keys_created(&key, key_text));
	(void)json_object_set_new(json, "accessToken", keys_created(&token, token_text));
	explicit_bzero(key_text, sizeof(key_text));
	explicit_bzero(token_text, sizeof(token_text));
	rest_reply(call, 201, json);
}

void teams_admin_update(struct rest_call *call)
{
	struct error err = { 0 };
	struct team team = { 0 };
	int ret = store_find_team(call->api->store, call->id, &team, &err);

	if (ret == 0 && json_object_get(call->body, "name")) {
		const char *name = rest_read_name(call, "name");

		if (!name)
			return;
		(void)snprintf(team.name, sizeof(team.name), "%s", name);
	}
	if (ret == 0 && !read_limits(call, &team.limits))
		return;
	if (ret == 0)
		ret = store_update_team(call->api->store, &team, &err);
	if (ret < 0)
		rest_fail(call, ret == -ENOENT ? 404 : 500, "%s", err.message);
	else
		rest_reply(call, 200, team_json(&team));
}
