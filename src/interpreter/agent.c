#include "interpreter/agent.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "net/http_client.h"

enum {
	AGENT_DEFAULT_PORT = 49983,
	AGENT_TIMEOUT_MS = 10 * 1000,
	AGENT_ANSWER_MAX = 4 * 1024 * 1024,
};

struct agent {
	struct http_client *client;
	struct http_endpoint endpoint;
	char *token; /* for which `envs` holds; NULL = none was sent */
	json_t *envs;
	uint64_t generation; /* 0 = nothing known */
};

struct agent_fetch {
	struct agent *agent;
	struct http_call *call;
	char *token;
	int status;
	struct buffer answer;
	void (*done)(void *context);
	void *context;
};

static int endpoint_parse(struct http_endpoint *endpoint, const char *url, struct error *err)
{
	unsigned port = AGENT_DEFAULT_PORT;
	char end = 0;
	int count = sscanf(url, "http://%45[0-9.]:%5u%c", endpoint->ip, &port, &end);

	if (count < 1 || (end && end != '/') || port == 0 || port > UINT16_MAX)
		return error_set(err, EINVAL, "agent URL %s: want http://IP:PORT", url);
	endpoint->port = (uint16_t)port;
	return 0;
}

struct agent *agent_new(uv_loop_t *loop, const char *url, struct error *err)
{
	struct agent *agent = calloc(1, sizeof(*agent));

	if (!agent) {
		error_set(err, ENOMEM, "agent %s: out of memory", url);
		return NULL;
	}
	if (endpoint_parse(&agent->endpoint, url, err) < 0) {
		free(agent);
		return NULL;
	}
	/* No kept connections: a snapshot would restore them to an agent that has dropped its own. */
	agent->client = http_client_new(loop, 0, 0);
	return agent;
}

void agent_free(struct agent *agent)
{
	if (!agent)
		return;
	http_client_free(agent->client);
	json_decref(agent->envs);
	free(agent->token);
	free(agent);
}

uint64_t agent_generation(const struct agent *agent, const char *token)
{
	if (!token != !agent->token || (token && strcmp(token, agent->token) != 0))
		return 0;
	return agent->generation;
}

json_t *agent_envs(const struct agent *agent)
{
	return agent->envs;
}

static void fetch_free(struct agent_fetch *fetch)
{
	buffer_fini(&fetch->answer);
	free(fetch->token);
	free(fetch);
}

static void fetch_finish(struct agent_fetch *fetch)
{
	fetch->done(fetch->context);
	fetch_free(fetch);
}

static void fetch_on_response(struct http_call *call, int status, const struct http_header *headers,
                              size_t count, void *context)
{
	struct agent_fetch *fetch = context;

	(void)call;
	(void)headers;
	(void)count;
	fetch->status = status;
}

static void fetch_on_data(struct http_call *call, const char *data, size_t size, void *context)
{
	struct agent_fetch *fetch = context;

	(void)call;
	if (buffer_append(&fetch->answer, data, size) < 0)
		fetch->status = 0;
}

static void fetch_on_end(struct http_call *call, void *context)
{
	struct agent_fetch *fetch = context;
	struct agent *agent = fetch->agent;
	cleanup_json json_t *holder = json_object();
	cleanup_json json_t *envs = NULL;
	struct error err = { 0 };

	(void)call;
	if (fetch->status != 200)
		error_set(&err, EPROTO, "status %d", fetch->status);
	else if (json_parse_object(fetch->answer.data, fetch->answer.size, &envs, &err) == 0 &&
	         json_object_set(holder, "envs", envs) == 0 &&
	         json_read_string_map(holder, "envs", JSON_REQUIRED, &(json_t *){ NULL }, &err) == 0) {
		json_decref(agent->envs);
		agent->envs = TAKE_PTR(envs);
		free(agent->token);
		agent->token = TAKE_PTR(fetch->token);
		agent->generation++;
	}
	if (err.code)
		log_warn("get the sandbox's environment from the agent: %s", err.message);
	fetch_finish(fetch);
}

static void fetch_on_error(struct http_call *call, enum http_call_error error, bool after_response,
                           void *context)
{
	(void)call;
	/* Without an agent, as on a developer's machine, this comes with each execution. */
	log_write(error == HTTP_CALL_UNREACHABLE ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARN,
	          "get the sandbox's environment from the agent: failure %d%s", (int)error,
	          after_response ? " after the response began" : "");
	fetch_finish(context);
}

struct agent_fetch *agent_fetch_envs(struct agent *agent, const char *token, void (*done)(void *context),
                                     void *context)
{
	static const struct http_call_events events = {
		.on_response = fetch_on_response,
		.on_data = fetch_on_data,
		.on_end = fetch_on_end,
		.on_error = fetch_on_error,
	};
	struct agent_fetch *fetch = calloc(1, sizeof(*fetch));

	if (!fetch)
		return NULL;
	fetch->agent = agent;
	fetch->done = done;
	fetch->context = context;
	fetch->token = token ? strdup(token) : NULL;
	buffer_init(&fetch->answer, AGENT_ANSWER_MAX);
	fetch->call = http_call_new(agent->client, &agent->endpoint, "GET", "/envs", &events, fetch);
	if (!fetch->call || (token && !fetch->token)) {
		if (fetch->call)
			http_call_cancel(fetch->call);
		fetch_free(fetch);
		return NULL;
	}
	http_call_header(fetch->call, "Host", agent->endpoint.ip);
	if (token)
		http_call_header(fetch->call, "X-Access-Token", token);
	http_call_timeout(fetch->call, AGENT_TIMEOUT_MS);
	http_call_begin(fetch->call, 0);
	http_call_end(fetch->call);
	return fetch;
}

void agent_fetch_cancel(struct agent_fetch *fetch)
{
	http_call_cancel(fetch->call);
	fetch_free(fetch);
}
