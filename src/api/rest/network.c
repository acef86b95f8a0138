/* What a sandbox may reach, as clients say it and are shown it. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/reach.h"
#include "api/registry.h"
#include "api/rest/rest.h"

#define ENTRIES_MAX  1000 /* of a list */
#define NAME_LENGTH  253  /* of a domain: RFC 1035 */
#define RULE_DOMAINS 10
#define RULE_DOMAIN  128 /* characters */
#define HEADER_NAME  64
#define HEADER_VALUE 2048
#define RULES_MAX    1
#define RULE_HEADERS 20
#define ALL_TRAFFIC  "0.0.0.0/0"

/* --- what is well formed --- */

/* An address, or one with a length of its prefix. */
static bool is_address(const char *text)
{
	unsigned char bytes[16];
	char address[INET6_ADDRSTRLEN];
	const char *slash = strchr(text, '/');
	size_t size = slash ? (size_t)(slash - text) : strlen(text);
	bool four;

	if (size >= sizeof(address))
		return false;
	(void)snprintf(address, sizeof(address), "%.*s", (int)size, text);
	four = inet_pton(AF_INET, address, bytes) == 1;
	if (!four && inet_pton(AF_INET6, address, bytes) != 1)
		return false;
	if (!slash)
		return true;
	slash++;
	return *slash && strlen(slash) <= 3 && strspn(slash, "0123456789") == strlen(slash) &&
	       strtol(slash, NULL, 10) <= (four ? 32 : 128);
}

/* "example.com", "*.example.com", "*". */
static bool is_domain(const char *text)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";

	if (strcmp(text, "*") == 0)
		return true;
	if (strncmp(text, "*.", 2) == 0)
		text += 2;
	if (!*text || strlen(text) > NAME_LENGTH)
		return false;
	while (*text) {
		size_t size = strspn(text, letters);

		if (size == 0 || size > 63 || (text[size] && text[size] != '.'))
			return false;
		text += size + (text[size] == '.');
	}
	return true;
}

/* A list of texts. `check` says whether one may be in it. */
static int check_list(const json_t *object, const char *key, bool (*check)(const char *text),
                      const char *what, json_t **ret, struct error *err)
{
	size_t index;
	json_t *entry;

	*ret = NULL;
	if (json_read_array(object, key, JSON_OPTIONAL, ret, err) < 0)
		return -EINVAL;
	if (json_array_size(*ret) > ENTRIES_MAX)
		return error_set(err, EINVAL, "%s may have at most %d entries", key, ENTRIES_MAX);
	json_array_foreach (*ret, index, entry) {
		const char *text = json_string_value(entry);

		if (!text || !check(text))
			return error_set(err, EINVAL, "invalid %s %.100s", what, text ? text : "(no text)");
	}
	return 0;
}

static bool is_either(const char *text)
{
	return is_address(text) || is_domain(text);
}

static int check_egress(const json_t *setting, struct error *err)
{
	json_t *allow;
	json_t *deny;
	json_t *entry;
	size_t index;
	bool domains = false;
	bool blocks = false;

	if (check_list(setting, "denyOut", is_address, "denied CIDR", &deny, err) < 0 ||
	    check_list(setting, "allowOut", is_either, "allowed address", &allow, err) < 0)
		return -EINVAL;
	json_array_foreach (deny, index, entry)
		blocks |= strcmp(json_string_value(entry), ALL_TRAFFIC) == 0;
	json_array_foreach (allow, index, entry)
		domains |= !is_address(json_string_value(entry));
	if (domains && !blocks)
		return error_set(err, EINVAL,
		                 "allowOut names domains: denyOut must then contain '" ALL_TRAFFIC
		                 "', so that all else is blocked");
	return 0;
}

static int check_rule(const json_t *rule, const char *domain, struct error *err)
{
	json_t *transform = NULL;
	json_t *headers = NULL;
	const char *name;
	json_t *value;

	if (!json_is_object(rule) || json_read_object(rule, "transform", JSON_OPTIONAL, &transform, err) < 0)
		return error_set(err, EINVAL, "a rule of %s is malformed", domain);
	if (transform && json_read_string_map(transform, "headers", JSON_OPTIONAL, &headers, err) < 0)
		return -EINVAL;
	if (json_object_size(headers) > RULE_HEADERS)
		return error_set(err, EINVAL, "rules: a rule of %s may set at most %d headers", domain,
		                 RULE_HEADERS);
	json_object_foreach (headers, name, value)
		if (!*name || strlen(name) > HEADER_NAME || json_string_length(value) > HEADER_VALUE ||
		    strpbrk(name, "\r\n: ") || strpbrk(json_string_value(value), "\r\n"))
			return error_set(err, EINVAL, "the headers of a rule of %s are malformed", domain);
	return 0;
}

static int check_rules(const json_t *setting, struct error *err)
{
	json_t *rules = NULL;
	json_t *list;
	json_t *rule;
	const char *domain;
	size_t index;

	if (json_read_object(setting, "rules", JSON_OPTIONAL, &rules, err) < 0)
		return -EINVAL;
	if (json_object_size(rules) > RULE_DOMAINS)
		return error_set(err, EINVAL, "rules may be for at most %d domains", RULE_DOMAINS);
	json_object_foreach (rules, domain, list) {
		if (!is_domain(domain) || strlen(domain) > RULE_DOMAIN)
			return error_set(err, EINVAL,
			                 "rules: '%.100s' is no domain of at most 128 characters", domain);
		if (!json_is_array(list) || json_array_size(list) > RULES_MAX)
			return error_set(err, EINVAL, "rules: %s must have a list of at most %d rule", domain,
			                 RULES_MAX);
		json_array_foreach (list, index, rule)
			if (check_rule(rule, domain, err) < 0)
				return -EINVAL;
	}
	return 0;
}

static int check_setting(const json_t *setting, struct error *err)
{
	const json_t *proxy = json_object_get(setting, "egressProxy");
	int ret = check_egress(setting, err);

	if (ret == 0)
		ret = check_rules(setting, err);
	if (ret == 0 && proxy && !json_is_null(proxy))
		ret = error_set(err, ENOTSUP, "Egress proxy (egressProxy) is not enabled for this team.");
	return ret;
}

/* --- what is kept --- */

int network_check(const json_t *body, struct error *err)
{
	json_t *network = NULL;
	bool internet = false;

	if (json_read_object(body, "network", JSON_OPTIONAL, &network, err) < 0 ||
	    json_read_bool(body, "allow_internet_access", JSON_OPTIONAL, &internet, err) < 0)
		return -EINVAL;
	return network ? check_setting(network, err) : 0;
}

int network_keep(struct api *api, const char *id, const json_t *body, struct error *err)
{
	static const char *const names[] = { "allowPublicTraffic", "allowOut",   "denyOut", "rules",
		                             "maskRequestHost",    "egressProxy" };
	json_t *internet = json_object_get(body, "allow_internet_access");
	const json_t *from = json_object_get(body, "network");
	cleanup_json json_t *network = json_is_object(from) ? json_object() : NULL;

	if (!network && !json_is_boolean(internet))
		return 0;
	for (size_t i = 0; network && i < ARRAY_SIZE(names); i++)
		(void)json_object_set(network, names[i], json_object_get(from, names[i]));
	return reach_keep(api, id, network, internet, err);
}

void network_show(struct api *api, const char *id, json_t *json)
{
	cleanup_json json_t *whole = reach_load(api, id);
	json_t *network = json_object_get(whole, "network");
	json_t *internet = json_object_get(whole, "internet");

	if (json_is_object(network)) {
		if (!json_object_get(network, "allowPublicTraffic"))
			(void)json_object_set_new(network, "allowPublicTraffic", json_true());
		(void)json_object_set(json, "network", network);
	}
	(void)json_object_set_new(json, "allowInternetAccess",
	                          json_is_boolean(internet) ? json_incref(internet) : json_null());
}

/* --- PUT --- */

static void on_switched(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct rest_call *call = context;
	json_t *before = call->own;
	struct record *record = registry_find(call->api->registry, call->id);
	struct error failure = { 0 };

	call->own = NULL;
	if (status == 204) {
		rest_reply_empty(call, 204);
	} else {
		/* What is shown is what holds. Whether the node has done it in spite of that, it will tell:
		 * reach_follow(). */
		if (record && reach_keep(call->api, call->id, json_object_get(before, "network"),
		                         json_object_get(before, "internet"), &failure) < 0)
			log_error("%s", failure.message);
		rest_fail_node(call, status, data, size, err);
	}
	json_decref(before);
}

/* Takes `before`: what was kept, for the case that the node fails. */
static void switch_node(struct rest_call *call, struct record *record, json_t *before)
{
	call->own = before;
	reach_switch(call->api, record, on_switched, call);
}

static void again(void *context)
{
	network_update(context);
}

/* What is kept now may be taken back if the change before fails. */
static void wait_for_change(struct rest_call *call, const struct record *record)
{
	struct error err = { 0 };

	if (reach_wait(call->api, record, again, call, &err) < 0)
		rest_fail(call, 500, "%s", err.message);
}

void network_update(struct rest_call *call)
{
	static const char *const names[] = { "allowOut", "denyOut", "rules" };
	cleanup_json json_t *before = NULL;
	cleanup_json json_t *network = NULL;
	struct record *record = rest_find_any(call);
	struct error err = { 0 };
	bool internet = false;
	int ret;

	if (!record)
		return;
	if (record_is_paused(record)) {
		rest_fail(call, 409, "Sandbox \"%s\" is paused", call->id);
		return;
	}
	if (record->switching) {
		wait_for_change(call, record);
		return;
	}
	ret = json_read_bool(call->body, "allow_internet_access", JSON_OPTIONAL, &internet, &err);
	if (ret == 0)
		ret = check_setting(call->body, &err);
	if (ret < 0) {
		rest_fail(call, err.code == ENOTSUP ? 403 : 400, "%s", err.message);
		return;
	}
	before = reach_load(call->api, call->id);
	network = json_deep_copy(json_object_get(before, "network"));
	if (!json_is_object(network)) {
		json_decref(network);
		network = json_object();
	}
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		json_t *value = json_object_get(call->body, names[i]);

		(void)json_object_del(network, names[i]);
		if (value && !json_is_null(value))
			(void)json_object_set(network, names[i], value);
	}
	ret = reach_keep(call->api, call->id, network, json_object_get(call->body, "allow_internet_access"),
	                 &err);
	if (ret < 0)
		rest_fail(call, ret == -EINVAL ? 400 : 500, "%s", err.message);
	else
		switch_node(call, record, json_incref(before));
}
