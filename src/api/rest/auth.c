/* Who asks: an API key, an access token or the admin token, each known by its hash only. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "api/control.h"
#include "api/rest/rest.h"

#define NOTE_MS   60000 /* the time of the last use is written no more often than this */
#define PAGE_MAX  100
#define PAGES_END 1000000 /* rows: further than any list of ours goes */

/* --- the three --- */

static void note_use(struct rest_call *call, const struct key *key)
{
	int64_t now_ms = time_wall_ms();
	struct error err = { 0 };

	(void)snprintf(call->key_id, sizeof(call->key_id), "%s", key->id);
	if (key->last_used_at_ms + NOTE_MS < now_ms &&
	    store_note_use(call->api->store, key->kind, key->id, now_ms, &err) < 0)
		log_warn("%s", err.message);
}

static bool refuse(struct rest_call *call, int ret, const char *what)
{
	if (ret == -ENOENT)
		rest_fail(call, 401, "Invalid %s", what);
	else
		rest_fail(call, 500, "the %s cannot be checked", what);
	return false;
}

static bool by_key(struct rest_call *call, const char *text)
{
	struct key key = { 0 };
	int ret = store_find_key(call->api->store, KEY_API, text, &key);

	if (ret < 0)
		return refuse(call, ret, "API key");
	(void)snprintf(call->team_id, sizeof(call->team_id), "%s", key.team_id);
	note_use(call, &key);
	return true;
}

static bool by_token(struct rest_call *call, const char *text)
{
	struct key key = { 0 };
	int ret = store_find_key(call->api->store, KEY_TOKEN, text, &key);

	if (ret < 0)
		return refuse(call, ret, "access token");
	(void)snprintf(call->user_id, sizeof(call->user_id), "%s", key.user_id);
	note_use(call, &key);
	return true;
}

static bool by_admin(struct rest_call *call, const char *text)
{
	char hash[STORE_HASH_SIZE];

	store_hash(text, hash);
	if (!secret_equal(hash, call->api->control->admin_hash))
		return refuse(call, -ENOENT, "admin token");
	call->admin = true;
	return true;
}

/* --- for which team --- */

static void take_first(void *context, const struct team *team)
{
	struct rest_call *call = context;

	if (!call->team_id[0])
		(void)snprintf(call->team_id, sizeof(call->team_id), "%s", team->id);
}

/* Of a user: the one that is named, or the user's first. Others are as if they were not. */
static bool choose_user_team(struct rest_call *call, const char *named)
{
	struct error err = { 0 };
	int ret;

	if (named)
		ret = store_is_member(call->api->store, call->user_id, named, &err);
	else
		ret = store_user_teams(call->api->store, call->user_id, take_first, call, &err);
	if (ret == 0 && named)
		(void)snprintf(call->team_id, sizeof(call->team_id), "%s", named);
	if (ret == 0 && call->team_id[0])
		return true;
	if (ret == 0 || ret == -ENOENT)
		rest_fail(call, 403, "You are not allowed to access this team");
	else
		rest_fail(call, 500, "%s", err.message);
	return false;
}

static bool choose_admin_team(struct rest_call *call, const char *named)
{
	struct team team = { 0 };
	struct error err = { 0 };
	int ret;

	if (!named) {
		rest_fail(call, 401, "name the team in the X-Team-ID header");
		return false;
	}
	ret = store_find_team(call->api->store, named, &team, &err);
	if (ret < 0) {
		rest_fail(call, ret == -ENOENT ? 404 : 500, "%s", err.message);
		return false;
	}
	(void)snprintf(call->team_id, sizeof(call->team_id), "%s", team.id);
	return true;
}

static bool choose_team(struct rest_call *call)
{
	const char *named = http_request_header(call->exchange, "X-Team-ID");
	const char *queried = http_request_query(call->exchange, "teamID");

	if (!named && queried && *queried)
		named = queried;
	if (!call->team_id[0])
		return call->admin ? choose_admin_team(call, named) : choose_user_team(call, named);
	/* A key has its team; asking with it for another one is refused. */
	if (queried && *queried && strcmp(queried, call->team_id) != 0) {
		rest_fail(call, 403, "You are not allowed to access this team");
		return false;
	}
	return true;
}

/* --- how often --- */

static bool admit(struct rest_call *call)
{
	struct control_allowance allowance;
	bool admitted = call->admin || control_admit(call->api, call->key_id, &allowance);
	char text[16];

	if (call->admin || !allowance.limit)
		return true;
	(void)snprintf(text, sizeof(text), "%u", allowance.limit);
	http_reply_header(call->exchange, "RateLimit-Limit", text);
	(void)snprintf(text, sizeof(text), "%u", allowance.remaining);
	http_reply_header(call->exchange, "RateLimit-Remaining", text);
	(void)snprintf(text, sizeof(text), "%u", allowance.reset_s);
	http_reply_header(call->exchange, "RateLimit-Reset", text);
	if (admitted)
		return true;
	(void)snprintf(text, sizeof(text), "%u", allowance.retry_s);
	http_reply_header(call->exchange, "Retry-After", text);
	rest_fail(call, 429, "Rate limit exceeded");
	return false;
}

bool rest_authenticate(struct rest_call *call, enum rest_who who)
{
	const char *key = http_request_header(call->exchange, "X-API-Key");
	const char *token = http_request_header(call->exchange, "Authorization");
	const char *admin = http_request_header(call->exchange, "X-Admin-Token");
	bool keys = who == WHO_TEAM || who == WHO_USER_OR_KEY;
	bool users = who != WHO_ADMIN;
	bool admins = who == WHO_TEAM || who == WHO_TEAM_USER || who == WHO_ADMIN;
	bool known;

	if (token && strncasecmp(token, "Bearer ", 7) != 0)
		token = NULL;
	if (key && keys) {
		known = by_key(call, key);
	} else if (token && users) {
		known = by_token(call, token + 7);
	} else if (admin && admins) {
		known = by_admin(call, admin);
	} else {
		rest_fail(call, 401,
		          keys    ? "Missing API key: send it in the X-API-KEY header"
		          : users ? "Missing access token: send it as Authorization: Bearer"
		                  : "Missing admin token: send it in the X-Admin-Token header");
		return false;
	}
	if (!known || !admit(call))
		return false;
	return who == WHO_ADMIN || who == WHO_USER || who == WHO_USER_OR_KEY || choose_team(call);
}

/* --- what handlers share --- */

int rest_start_status(const struct error *err)
{
	return err->code == EDQUOT ? 429 : err->code == EBUSY ? 503 : 500;
}

void rest_fail_start(struct rest_call *call, const struct error *err)
{
	rest_fail(call, rest_start_status(err), "%s", err->message);
}

bool rest_may_start(struct rest_call *call, unsigned count, const struct control_size *size)
{
	struct error err = { 0 };
	int ret = control_may_start(call->api, call->team_id, count, size, &err);

	if (ret < 0)
		rest_fail_start(call, &err);
	return ret == 0;
}

bool rest_names_other_team(const struct rest_call *call, const char *reference)
{
	const char *slash = strchr(reference, '/');
	size_t size = slash ? (size_t)(slash - reference) : 0;

	return slash && (strlen(call->team_id) != size || strncmp(reference, call->team_id, size) != 0);
}

/* Of the query: a number from `minimum` to `maximum`. */
static int read_number(const char *text, long minimum, long maximum, long *ret)
{
	char *end = NULL;

	if (!text)
		return 0;
	*ret = strtol(text, &end, 10);
	return end == text || *end || *ret < minimum || *ret > maximum ? -EINVAL : 0;
}

bool rest_read_page(struct rest_call *call, struct rest_page *ret)
{
	*ret = (struct rest_page){ .limit = PAGE_MAX };
	if (read_number(http_request_query(call->exchange, "limit"), 1, PAGE_MAX, &ret->limit) == 0 &&
	    read_number(http_request_query(call->exchange, "nextToken"), 1, PAGES_END, &ret->first) == 0)
		return true;
	rest_fail(call, 400, "limit must be between 1 and %d, and nextToken one that was given", PAGE_MAX);
	return false;
}

void rest_more(struct rest_call *call, const struct rest_page *page)
{
	char token[32];

	(void)snprintf(token, sizeof(token), "%ld", page->first + page->limit);
	http_reply_header(call->exchange, "X-Next-Token", token);
}

const char *rest_read_name(struct rest_call *call, const char *key)
{
	const char *name = NULL;
	struct error err = { 0 };

	if (json_read_string(call->body, key, JSON_REQUIRED, &name, &err) == 0) {
		size_t size = strlen(name);

		for (size_t i = 0; i < strlen(name); i++)
			if ((unsigned char)name[i] < ' ' || name[i] == 127)
				size = 0;
		if (size > 0 && size < 128)
			return name;
		(void)error_set(&err, EINVAL,
		                "'%s' must have 1 to 127 bytes, none of them a control character", key);
	}
	rest_fail(call, 400, "Error when parsing request: %s", err.message);
	return NULL;
}
