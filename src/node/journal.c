#include "node/journal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int write_json(const struct sandbox *sandbox, const char *state, const char *path, struct error *err)
{
	cleanup_json json_t *json = sandbox_json(sandbox);
	cleanup_free char *text = NULL;

	(void)json_object_set_new(json, "state", json_string(state));
	if (sandbox->monitor) {
		(void)json_object_set_new(json, "start_time",
		                          json_integer((json_int_t)sandbox->monitor->start_time));
		(void)json_object_set_new(json, "uid", json_integer(sandbox->monitor->uid));
	}
	(void)json_object_set_new(json, "stack",
	                          json_pack("{s:i,s:i,s:i,s:b,s:b}", "pauses", (int)sandbox->stack.pauses,
	                                    "full", (int)sandbox->stack.full, "frozen",
	                                    (int)sandbox->stack.frozen, "fresh", sandbox->stack.fresh,
	                                    "void_top", sandbox->stack.void_top));
	(void)json_object_set(json, "env_vars", sandbox->env_vars);
	if (sandbox->access_token)
		(void)json_object_set_new(json, "access_token", json_string(sandbox->access_token));
	text = json_dumps(json, JSON_COMPACT);
	if (!text)
		return error_errno(err, ENOMEM, "write the journal of %s", sandbox->id);
	return file_write_atomic(path, text, strlen(text), 0600, err);
}

int journal_write(const struct sandbox *sandbox, enum sandbox_state state, const char *directory,
                  struct error *err)
{
	char path[NODE_PATH_MAX + 32];

	(void)snprintf(path, sizeof(path), "%s/journal.json", directory);
	return write_json(sandbox, sandbox_state_in_journal(state), path, err);
}

/* --- pauses --- */

static void pause_path(const struct sandbox *sandbox, const char *id, char path[NODE_PATH_MAX])
{
	(void)snprintf(path, NODE_PATH_MAX, "%.160s/paused/%.64s", sandbox->node->data, id);
}

int journal_write_pause(const struct sandbox *sandbox, struct error *err)
{
	char path[NODE_PATH_MAX];

	pause_path(sandbox, sandbox->id, path);
	return write_json(sandbox, "paused", path, err);
}

void journal_drop_pause(const struct sandbox *sandbox)
{
	char path[NODE_PATH_MAX];
	struct error err = { 0 };

	pause_path(sandbox, sandbox->id, path);
	if (unlink(path) == 0 && file_sync_parent(path, &err) < 0)
		log_error("%s", err.message);
}

static void copy(const json_t *json, const char *key, char *to, size_t size)
{
	const char *text = json_string_value(json_object_get(json, key));

	(void)snprintf(to, size, "%s", text ? text : "");
}

static json_int_t number(const json_t *json, const char *key)
{
	return json_integer_value(json_object_get(json, key));
}

static json_t *object(const json_t *json, const char *key)
{
	json_t *value = json_object_get(json, key);

	return json_is_object(value) ? json_incref(value) : json_object();
}

static int fill(struct sandbox *sandbox, const json_t *json, struct error *err)
{
	const char *token = json_string_value(json_object_get(json, "access_token"));
	const json_t *stack = json_object_get(json, "stack");

	copy(json, "sandbox_id", sandbox->id, sizeof(sandbox->id));
	copy(json, "build_id", sandbox->build_id, sizeof(sandbox->build_id));
	copy(json, "template", sandbox->template_name, sizeof(sandbox->template_name));
	copy(json, "template_id", sandbox->template_id, sizeof(sandbox->template_id));
	copy(json, "team_id", sandbox->team_id, sizeof(sandbox->team_id));
	copy(json, "alias", sandbox->alias, sizeof(sandbox->alias));
	sandbox->metadata = object(json, "metadata");
	sandbox->env_vars = object(json, "env_vars");
	sandbox->volume_mounts = json_deep_copy(json_object_get(json, "volume_mounts"));
	sandbox->access_token = token ? strdup(token) : NULL;
	sandbox->started_at_ms = number(json, "started_at_ms");
	sandbox->end_at_ms = number(json, "end_at_ms");
	sandbox->vcpu_count = (unsigned)number(json, "vcpu_count");
	sandbox->memory_mib = (unsigned)number(json, "memory_mib");
	sandbox->disk_mib = (unsigned)number(json, "disk_mib");
	sandbox->auto_pause = json_is_true(json_object_get(json, "auto_pause"));
	/* Those of older versions have no such thing. */
	sandbox->auto_pause_memory = !json_is_false(json_object_get(json, "auto_pause_memory"));
	sandbox->internet = !json_is_false(json_object_get(json, "internet"));
	sandbox->stack = (struct stack){ .pauses = (unsigned)number(stack, "pauses"),
		                         .full = (unsigned)number(stack, "full"),
		                         .frozen = (unsigned)number(stack, "frozen"),
		                         .fresh = json_is_true(json_object_get(stack, "fresh")),
		                         .void_top = json_is_true(json_object_get(stack, "void_top")) };
	return sandbox->id[0] ? 0 : error_set(err, EINVAL, "the journal names no sandbox");
}

static int read_json(struct sandbox *sandbox, const char *path, json_t **ret, struct error *err)
{
	cleanup_buffer struct buffer text = { .limit = 4 << 20 };
	int result = file_read(path, &text, err);

	if (result == 0)
		result = json_parse_object(text.data, text.size, ret, err);
	if (result == 0)
		result = fill(sandbox, *ret, err);
	return result < 0 ? error_wrap(err, "%s", path) : 0;
}

/* A journal that says "resuming" counts from when its pause does not. */
static enum sandbox_state state_of(const json_t *json)
{
	const char *name = json_string_value(json_object_get(json, "state"));

	if (name && strcmp(name, "running") == 0)
		return SANDBOX_RUNNING;
	return name && strcmp(name, "resuming") == 0 ? SANDBOX_WAKING : SANDBOX_STARTING;
}

int journal_read(struct sandbox *sandbox, const char *directory, pid_t *ret_pid, uint64_t *ret_start_time,
                 uid_t *ret_uid, struct error *err)
{
	cleanup_json json_t *json = NULL;
	char path[NODE_PATH_MAX + 32];
	int ret;

	(void)snprintf(path, sizeof(path), "%s/journal.json", directory);
	ret = read_json(sandbox, path, &json, err);
	if (ret < 0)
		return ret;
	sandbox->state = state_of(json);
	*ret_pid = (pid_t)number(json, "pid");
	*ret_start_time = (uint64_t)number(json, "start_time");
	*ret_uid = (uid_t)number(json, "uid");
	return 0;
}

int journal_read_pause(struct sandbox *sandbox, const char *id, struct error *err)
{
	cleanup_json json_t *json = NULL;
	char path[NODE_PATH_MAX];

	pause_path(sandbox, id, path);
	sandbox->state = SANDBOX_PAUSED;
	return read_json(sandbox, path, &json, err);
}
