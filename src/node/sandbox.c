#include "node/sandbox.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "node/agent.h"
#include "node/history.h"
#include "node/journal.h"
#include "node/model.h"
#include "node/pool.h"
#include "node/sandbox_internal.h"

#define WARM_MS        150 /* after a create, so that the next spare one is not in its way */
#define WARM_DOUBLINGS 9   /* of it after failures: to 77 s */
#define START_WAIT_MS  20  /* between looks whether a fresh monitor's socket is there */

struct killer {
	struct list link;
	node_done_fn *done;
	void *context;
};

/* --- the end --- */

static void on_deadline_closed(uv_handle_t *handle)
{
	struct sandbox *sandbox = handle->data;

	history_close(sandbox->history);
	json_decref(sandbox->metadata);
	json_decref(sandbox->env_vars);
	json_decref(sandbox->volume_mounts);
	free(sandbox->access_token);
	free(sandbox);
}

/* Free it when it is gone and nothing points to it any more. */
static void free_if_done(struct sandbox *sandbox)
{
	if (sandbox->state == SANDBOX_GONE && sandbox->pending == 0)
		uv_close((uv_handle_t *)&sandbox->deadline, on_deadline_closed);
}

bool sandbox_answer_counts(struct sandbox *sandbox)
{
	bool counts = !sandbox_is_over(sandbox);

	sandbox->pending--;
	free_if_done(sandbox);
	return counts;
}

bool sandbox_start_answer_counts(struct sandbox *sandbox, unsigned start)
{
	/* It may be freed by the second. */
	bool current = sandbox->starts == start;

	return sandbox_answer_counts(sandbox) && current;
}

void sandbox_disk_directory(const struct sandbox *sandbox, char path[NODE_PATH_MAX])
{
	(void)snprintf(path, NODE_PATH_MAX, "%.180s/sandboxes/%s", sandbox->node->data, sandbox->id);
}

void sandbox_vsock_path(const struct sandbox *sandbox, char path[NODE_PATH_MAX])
{
	monitor_vsock_path(sandbox->directory, path);
}

void sandbox_report(struct sandbox *sandbox, const struct error *err)
{
	node_done_fn *done = sandbox->on_created;

	sandbox->on_created = NULL;
	if (done)
		done(sandbox->create_context, err);
}

/* The machine is gone: nothing of it stays. */
static void bury(struct sandbox *sandbox)
{
	struct error err = { .code = 500, .message = "the sandbox ended while it was being created" };
	char path[NODE_PATH_MAX];

	list_remove(&sandbox->link);
	sandbox_vsock_path(sandbox, path);
	http_client_forget(sandbox->node->client, path);
	sandbox_disk_directory(sandbox, path);
	/* First what says that it is paused: what is left after a crash here is nobody's. */
	journal_drop_pause(sandbox);
	(void)file_remove_tree(sandbox->directory, NULL);
	(void)file_remove_tree(path, NULL);
	model_drop_unused(sandbox->node, sandbox->build_id);
	sandbox_report(sandbox, &err);
	if (sandbox->on_rest)
		sandbox->on_rest(sandbox->rest_context, &err);
	sandbox->on_rest = NULL;
	list_for_each_safe (node, &sandbox->killers) {
		struct killer *killer = list_entry(node, struct killer, link);

		killer->done(killer->context, NULL);
		list_remove(node);
		free(killer);
	}
	monitor_release(sandbox->monitor);
	(void)uv_timer_stop(&sandbox->deadline);
	sandbox_move(sandbox, SANDBOX_GONE);
	free_if_done(sandbox);
}

/* A template from which nothing can be restored is tried ever more rarely: each try costs others. */
static void note_spare(const struct sandbox *sandbox, bool warm)
{
	struct template *template = template_find(sandbox->node, sandbox->build_id);
	unsigned doublings;

	if (!template)
		return;
	template->warm_failures = warm ? 0 : template->warm_failures + 1;
	doublings = template->warm_failures < WARM_DOUBLINGS ? template->warm_failures : WARM_DOUBLINGS;
	template->warm_after_us = warm ? 0 : time_monotonic_us() + ((int64_t)WARM_MS * 1000 << doublings);
}

static void on_monitor_end(struct monitor *monitor, void *context)
{
	struct sandbox *sandbox = context;

	if (sandbox->on_created && sandbox->state != SANDBOX_RESTING)
		monitor_log_tail(monitor);
	if (sandbox_is_paused(sandbox)) {
		sandbox_rest(sandbox);
		return;
	}
	log_info("sandbox %s has ended", sandbox->id);
	if (sandbox_is_spare(sandbox)) {
		if (sandbox->state != SANDBOX_SPARE)
			note_spare(sandbox, false);
		sandboxes_warm_up(sandbox->node);
	}
	bury(sandbox);
}

/* It is to end: from now on nobody finds it, and its machine's answers count no more. */
static void end(struct sandbox *sandbox)
{
	if (!sandbox_is_over(sandbox))
		sandbox_move(sandbox, sandbox_is_spare(sandbox) ? SANDBOX_DISCARDED : SANDBOX_ENDING);
	(void)uv_timer_stop(&sandbox->deadline);
	if (sandbox->monitor)
		monitor_kill(sandbox->monitor);
	else
		bury(sandbox);
}

void sandbox_kill(struct sandbox *sandbox, node_done_fn *done, void *context)
{
	struct killer *killer = calloc(1, sizeof(*killer));

	if (killer) {
		*killer = (struct killer){ .done = done, .context = context };
		list_append(&sandbox->killers, &killer->link);
	}
	if (!killer)
		done(context, NULL);
	end(sandbox);
}

static void ignore_done(void *context, const struct error *err)
{
	(void)context;
	(void)err;
}

static void on_auto_paused(void *context, const struct error *err)
{
	struct sandbox *sandbox = context;

	/* What can neither be kept nor may go on ends. 404: it has ended. 409: a pause was asked for
	 * meanwhile. */
	if (err && err->code != 404 && err->code != 409)
		sandbox_kill(sandbox, ignore_done, NULL);
}

/* That takes an agent that answers and a kernel to boot: without them all of it is kept rather than nothing.
 */
static void on_auto_paused_disk(void *context, const struct error *err)
{
	struct sandbox *sandbox = context;

	if (err && err->code != 404 && err->code != 409)
		sandbox_pause(sandbox, true, on_auto_paused, sandbox);
}

static void on_deadline(uv_timer_t *timer)
{
	struct sandbox *sandbox = timer->data;

	/* The wall clock may have been set since the timer was. */
	if (time_wall_ms() < sandbox->end_at_ms) {
		(void)uv_timer_start(timer, on_deadline, (uint64_t)(sandbox->end_at_ms - time_wall_ms()), 0);
		return;
	}
	log_info("sandbox %s: its time is over", sandbox->id);
	if (sandbox->auto_pause)
		sandbox_pause(sandbox, sandbox->auto_pause_memory,
		              sandbox->auto_pause_memory ? on_auto_paused : on_auto_paused_disk, sandbox);
	else
		sandbox_kill(sandbox, ignore_done, NULL);
}

void sandbox_start_deadline(struct sandbox *sandbox)
{
	int64_t left = sandbox->end_at_ms - time_wall_ms();

	(void)uv_timer_start(&sandbox->deadline, on_deadline, left > 0 ? (uint64_t)left : 0, 0);
}

int sandbox_set_end(struct sandbox *sandbox, int64_t end_at_ms, struct error *err)
{
	int64_t before = sandbox->end_at_ms;
	int ret;

	if (sandbox_is_paused(sandbox))
		return error_set(err, EINVAL, "the sandbox is paused");
	sandbox->end_at_ms = end_at_ms;
	ret = journal_write(sandbox, sandbox->state, sandbox->directory, err);
	if (ret < 0)
		sandbox->end_at_ms = before;
	else
		sandbox_start_deadline(sandbox);
	return ret;
}

/* --- create --- */

void sandbox_fail_start(struct sandbox *sandbox, const struct error *err)
{
	log_error("start %s: %s", sandbox->id, err->message);
	sandbox_report(sandbox, err);
	/* Until its pause has been given up, that is what it goes back to. */
	if (sandbox->state != SANDBOX_RESUMING) {
		end(sandbox);
	} else if (sandbox->monitor) {
		sandbox_move(sandbox, SANDBOX_RELAPSING);
		monitor_kill(sandbox->monitor);
	} else {
		sandbox_move(sandbox, SANDBOX_PAUSED);
	}
}

static void on_warm(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct sandbox *sandbox = context;

	(void)data;
	(void)size;
	(void)err;
	if (!sandbox_answer_counts(sandbox))
		return;
	if (status == 204) {
		sandbox_move(sandbox, SANDBOX_SPARE);
		note_spare(sandbox, true);
	} else {
		end(sandbox);
	}
	sandboxes_warm_up(sandbox->node);
}

static void put_aside(struct sandbox *sandbox)
{
	sandbox->pending++;
	monitor_set_state(sandbox->monitor, MONITOR_PAUSED, on_warm, sandbox);
}

static void on_recorded(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct sandbox *sandbox = context;
	struct template *template = template_find(sandbox->node, sandbox->build_id);
	char path[NODE_PATH_MAX];

	(void)data;
	(void)size;
	(void)err;
	if (!sandbox_answer_counts(sandbox))
		return;
	sandbox_disk_directory(sandbox, path);
	(void)strncat(path, WORKING_SET, sizeof(path) - strlen(path) - 1);
	if (template && status == 204)
		template_take_working_set(template, path, sandbox->monitor->uid);
	(void)unlink(path);
	put_aside(sandbox);
}

/* The first that has rehearsed tells which pages that takes: later ones have them mapped ahead. */
static void record_working_set(struct sandbox *sandbox)
{
	sandbox->pending++;
	monitor_call(sandbox->monitor, "PUT", "/snapshot/working-set",
	             json_pack("{s:s}", "working_set_path", DISK_INSIDE WORKING_SET), on_recorded, sandbox);
}

static void on_rehearsed(void *context, int exit_code, const struct error *err)
{
	struct sandbox *sandbox = context;
	const struct template *template = template_find(sandbox->node, sandbox->build_id);

	(void)exit_code;
	if (!sandbox_answer_counts(sandbox))
		return;
	if (err)
		sandbox_fail_start(sandbox, err);
	else if (template && !template->has_working_set)
		record_working_set(sandbox);
	else
		put_aside(sandbox);
}

/* The agent has a name: have it start what the template says, as a client would. */
static void rehearse(struct sandbox *sandbox)
{
	struct template *template = template_find(sandbox->node, sandbox->build_id);
	char vsock[NODE_PATH_MAX];

	if (!template || !template->warm_cmd[0]) {
		put_aside(sandbox);
		return;
	}
	sandbox_vsock_path(sandbox, vsock);
	sandbox->pending++;
	agent_command(sandbox->node, vsock, template->default_user[0] ? template->default_user : "root",
	              template->warm_cmd, true, on_rehearsed, sandbox);
}

static void on_agent_ready(void *context, const struct error *err)
{
	struct sandbox *sandbox = context;
	struct error failure = { .code = 500 };

	if (!sandbox_answer_counts(sandbox))
		return;
	if (err) {
		(void)snprintf(failure.message, sizeof(failure.message), "%s", err->message);
		sandbox_fail_start(sandbox, &failure);
		return;
	}
	if (sandbox->state == SANDBOX_REHEARSING) {
		rehearse(sandbox);
		return;
	}
	if (journal_write(sandbox, SANDBOX_RUNNING, sandbox->directory, &failure) < 0) {
		failure.code = 500;
		sandbox_fail_start(sandbox, &failure);
		return;
	}
	sandbox_move(sandbox, SANDBOX_RUNNING);
	sandbox_start_deadline(sandbox);
	sandbox_report(sandbox, NULL);
}

void sandbox_introduce(struct sandbox *sandbox, node_done_fn *done, void *context)
{
	struct template *template = template_find(sandbox->node, sandbox->build_id);
	struct agent_identity identity = { .sandbox_id = sandbox->id,
		                           .template_id = sandbox->template_id,
		                           .team_id = sandbox->team_id,
		                           .access_token = sandbox->access_token,
		                           .default_user = template ? template->default_user : NULL,
		                           .default_workdir = template ? template->default_workdir : NULL,
		                           .env_vars = sandbox->env_vars,
		                           .volume_mounts = sandbox->volume_mounts };
	char vsock[NODE_PATH_MAX];

	sandbox_vsock_path(sandbox, vsock);
	sandbox->pending++;
	agent_init(sandbox->node, vsock, &identity, done, context);
}

/* The machine runs: it was loaded, or resumed. */
void sandbox_on_machine_runs(int status, const char *data, size_t size, const struct error *err,
                             void *context)
{
	struct sandbox *sandbox = context;
	struct error failure = { 0 };

	if (!sandbox_answer_counts(sandbox))
		return;
	if (status != 204) {
		monitor_refusal(&failure, "restore", status, data, size, err);
		failure.code = 500;
		sandbox_fail_start(sandbox, &failure);
		return;
	}
	sandbox_introduce(sandbox, on_agent_ready, sandbox);
}

/* What this machine may see from now on: its template, and its own disk. */
static int show_files(const struct sandbox *sandbox, const struct template *template, struct error *err)
{
	char disk[NODE_PATH_MAX];
	int ret = monitor_show(sandbox->monitor, template->directory, TEMPLATE_INSIDE, true, err);

	sandbox_disk_directory(sandbox, disk);
	return ret < 0 ? ret : monitor_show(sandbox->monitor, disk, DISK_INSIDE, false, err);
}

/* The journal goes into the shell's directory, which then becomes the sandbox's: with its name it is a
 * sandbox. */
static int take_directory(struct sandbox *sandbox, struct error *err)
{
	char disk[NODE_PATH_MAX];
	int ret = journal_write(sandbox, sandbox->state, sandbox->monitor->directory, err);

	if (ret < 0)
		return ret;
	sandbox_disk_directory(sandbox, disk);
	if ((mkdir(disk, 0700) < 0 && errno != EEXIST) ||
	    chown(disk, sandbox->monitor->uid, sandbox->node->gid) < 0)
		return error_errno(err, errno, "make %s", disk);
	ret = stack_drop_top(disk, &sandbox->stack, err);
	if (ret == 0)
		ret = stack_own_top(disk, &sandbox->stack, sandbox->monitor->uid, sandbox->node->gid, err);
	if (ret < 0)
		return ret;
	if (rename(sandbox->monitor->directory, sandbox->directory) < 0)
		return error_errno(err, errno, "make %s", sandbox->directory);
	(void)snprintf(sandbox->monitor->directory, sizeof(sandbox->monitor->directory), "%s",
	               sandbox->directory);
	return 0;
}

/* The template that it begins from. NULL with `err`. */
static struct template *find_template(const struct sandbox *sandbox, struct error *err)
{
	struct template *template = template_find(sandbox->node, sandbox->build_id);

	if (!template)
		error_set(err, ENOENT, "the template is gone");
	return template;
}

static void fail_load(struct sandbox *sandbox, struct error *err)
{
	err->code = 500;
	sandbox_fail_start(sandbox, err);
}

static void load_machine(struct sandbox *sandbox)
{
	bool resuming = sandbox->state == SANDBOX_RESUMING;
	struct error err = { 0 };
	struct template *template = find_template(sandbox, &err);
	json_t *request;

	if (!template) {
		fail_load(sandbox, &err);
		return;
	}
	if (sandbox->stack.fresh) {
		sandbox_start_reboot(sandbox, template);
		return;
	}
	request = stack_load_request(&template->stack, &sandbox->stack,
	                             template->has_working_set && !sandbox->stack.pauses, !resuming);
	if (resuming) {
		sandbox_start_load(sandbox, request);
		return;
	}
	sandbox->pending++;
	monitor_call(sandbox->monitor, "PUT", "/snapshot/load", request, sandbox_on_machine_runs, sandbox);
}

static void load(struct sandbox *sandbox)
{
	struct error err = { 0 };
	struct template *template = find_template(sandbox, &err);

	if (!template || take_directory(sandbox, &err) < 0 || show_files(sandbox, template, &err) < 0) {
		fail_load(sandbox, &err);
		return;
	}
	sandbox_set_reach(sandbox, load_machine);
}

/* No shell was ready: wait for the monitor that was started for this one. */
static void wait_for_monitor(uv_timer_t *timer)
{
	struct sandbox *sandbox = timer->data;

	if (monitor_ready(sandbox->monitor))
		load(sandbox);
	else
		(void)uv_timer_start(timer, wait_for_monitor, START_WAIT_MS, 0);
}

static int get_monitor(struct sandbox *sandbox, struct error *err)
{
	char directory[NODE_PATH_MAX];

	/* A shell is made to be loaded into, not for a boot. */
	if (!sandbox->stack.fresh)
		sandbox->monitor = pool_take(sandbox->node->pool, sandbox->vcpu_count);
	if (sandbox->monitor)
		return 0;
	sandbox->monitor = calloc(1, sizeof(*sandbox->monitor));
	if (!sandbox->monitor)
		return error_errno(err, ENOMEM, "start a monitor");
	(void)snprintf(directory, sizeof(directory), "%.160s/shells/%s", sandbox->node->run, sandbox->id);
	return monitor_start(sandbox->monitor, sandbox->node, directory, sandbox->id,
	                     sandbox->stack.fresh ? 0 : sandbox->vcpu_count, err);
}

static void copy_text(char *to, size_t size, const char *text)
{
	(void)snprintf(to, size, "%s", text ? text : "");
}

static struct sandbox *sandbox_new(struct node *node, enum sandbox_state state)
{
	struct sandbox *sandbox = calloc(1, sizeof(*sandbox));

	if (!sandbox)
		return NULL;
	sandbox->node = node;
	sandbox->state = state;
	list_init(&sandbox->killers);
	(void)uv_timer_init(node->loop, &sandbox->deadline);
	sandbox->deadline.data = sandbox;
	list_append(&node->sandboxes, &sandbox->link);
	return sandbox;
}

static void fill(struct sandbox *sandbox, const struct sandbox_request *request,
                 const struct template *template)
{
	if (request->sandbox_id) {
		copy_text(sandbox->id, sizeof(sandbox->id), request->sandbox_id);
	} else {
		sandbox->id[0] = 'i';
		random_id(sandbox->id + 1, 19);
	}
	copy_text(sandbox->build_id, sizeof(sandbox->build_id), template->build_id);
	copy_text(sandbox->template_name, sizeof(sandbox->template_name), template->name);
	copy_text(sandbox->template_id, sizeof(sandbox->template_id), request->template_id);
	copy_text(sandbox->team_id, sizeof(sandbox->team_id), request->team_id);
	copy_text(sandbox->alias, sizeof(sandbox->alias), request->alias);
	sandbox->access_token = request->access_token ? strdup(request->access_token) : NULL;
	sandbox->metadata = request->metadata ? json_deep_copy(request->metadata) : json_object();
	sandbox->env_vars = json_deep_copy(template->env_vars);
	if (request->env_vars)
		(void)json_object_update(sandbox->env_vars, request->env_vars);
	/* (A spare one has none yet.) */
	if (json_array_size(request->volume_mounts))
		sandbox->volume_mounts = json_deep_copy(request->volume_mounts);
	sandbox->started_at_ms = time_wall_ms();
	sandbox->end_at_ms = request->end_at_ms;
	sandbox->internet = request->internet;
	sandbox->auto_pause = request->auto_pause;
	sandbox->auto_pause_memory = request->auto_pause_memory;
	sandbox->vcpu_count = template->vcpu_count;
	sandbox->memory_mib = template->memory_mib;
	sandbox->disk_mib = template->disk_mib;
}

static void set_directory(struct sandbox *sandbox)
{
	(void)snprintf(sandbox->directory, sizeof(sandbox->directory), "%.160s/sandboxes/%s",
	               sandbox->node->run, sandbox->id);
}

int sandbox_start_restore(struct sandbox *sandbox, struct error *err)
{
	sandbox->starts++;
	sandbox->started_us = time_monotonic_us();
	if (get_monitor(sandbox, err) < 0) {
		log_error("start %s: %s", sandbox->id, err->message);
		err->code = 503;
		monitor_release(sandbox->monitor);
		sandbox->monitor = NULL;
		if (sandbox->state == SANDBOX_RESUMING) {
			sandbox_fail_start(sandbox, err);
			return -EAGAIN;
		}
		sandbox_report(sandbox, err);
		bury(sandbox);
		return -EAGAIN;
	}
	monitor_on_end(sandbox->monitor, on_monitor_end, sandbox);
	wait_for_monitor(&sandbox->deadline);
	return 0;
}

/* --- spare ones --- */

static struct sandbox *find_spare(struct node *node, const struct template *template)
{
	list_for_each (link, &node->sandboxes) {
		struct sandbox *sandbox = list_entry(link, struct sandbox, link);

		if (sandbox->state == SANDBOX_SPARE && strcmp(sandbox->build_id, template->build_id) == 0)
			return sandbox;
	}
	return NULL;
}

static int move_directories(struct sandbox *sandbox, const char *disk_before, struct error *err)
{
	char before[NODE_PATH_MAX];
	char disk[NODE_PATH_MAX];

	(void)snprintf(before, sizeof(before), "%s", sandbox->directory);
	set_directory(sandbox);
	sandbox_disk_directory(sandbox, disk);
	if (journal_write(sandbox, sandbox->state, before, err) < 0)
		return -err->code;
	if (rename(disk_before, disk) < 0 || rename(before, sandbox->directory) < 0)
		return error_errno(err, errno, "make %s", sandbox->directory);
	(void)snprintf(sandbox->monitor->directory, sizeof(sandbox->monitor->directory), "%s",
	               sandbox->directory);
	return 0;
}

static void let_run(struct sandbox *sandbox)
{
	sandbox->pending++;
	monitor_set_state(sandbox->monitor, MONITOR_RESUMED, sandbox_on_machine_runs, sandbox);
}

/* A spare one becomes somebody's: the journal says whose before its directories say so, and it runs on after
 * that. */
static void assign(struct sandbox *sandbox, const struct sandbox_request *request,
                   const struct template *template)
{
	struct error err = { .code = 500 };
	char disk_before[NODE_PATH_MAX];
	char vsock[NODE_PATH_MAX];

	sandbox_disk_directory(sandbox, disk_before);
	sandbox_vsock_path(sandbox, vsock);
	http_client_forget(sandbox->node->client, vsock);
	json_decref(sandbox->metadata);
	json_decref(sandbox->env_vars);
	sandbox_move(sandbox, SANDBOX_STARTING);
	fill(sandbox, request, template);
	if (move_directories(sandbox, disk_before, &err) < 0) {
		err.code = 500;
		sandbox_fail_start(sandbox, &err);
		return;
	}
	sandbox_set_reach(sandbox, let_run);
	sandboxes_warm_up(sandbox->node);
}

static void make_spare(struct node *node, const struct template *template)
{
	const struct sandbox_request request = { .template_id = template->name,
		                                 .auto_pause_memory = true,
		                                 .internet = true };
	struct sandbox *sandbox = sandbox_new(node, SANDBOX_REHEARSING);
	struct error err = { 0 };

	if (!sandbox)
		return;
	fill(sandbox, &request, template);
	set_directory(sandbox);
	(void)sandbox_start_restore(sandbox, &err);
}

static unsigned count_spare(const struct node *node, const char *build_id, bool *ret_busy)
{
	unsigned count = 0;

	list_for_each (link, &node->sandboxes) {
		const struct sandbox *sandbox = list_entry(link, struct sandbox, link);

		*ret_busy |= sandbox_is_spare(sandbox) && sandbox->state != SANDBOX_SPARE;
		count += sandbox_is_spare(sandbox) && strcmp(sandbox->build_id, build_id) == 0;
	}
	return count;
}

/* Those of a template that has been replaced serve nobody. */
static void drop_outdated(struct node *node)
{
	list_for_each (link, &node->sandboxes) {
		struct sandbox *sandbox = list_entry(link, struct sandbox, link);
		struct template *current = template_find(node, sandbox->template_name);

		if (sandbox->state == SANDBOX_SPARE &&
		    (!current || strcmp(current->build_id, sandbox->build_id) != 0))
			end(sandbox);
	}
}

static void warm_one(uv_timer_t *timer)
{
	struct node *node = timer->data;
	int64_t now_us = time_monotonic_us();
	int64_t later_us = 0; /* until a template that failed may be tried again */

	drop_outdated(node);
	list_for_each (link, &node->templates) {
		struct template *template = list_entry(link, struct template, link);
		bool busy = false;
		unsigned count = count_spare(node, template->build_id, &busy);

		/* One at a time; its end asks for the next. */
		if (busy)
			return;
		if (template->snapshot || template_find(node, template->name) != template ||
		    count >= node->warm)
			continue;
		if (template->warm_after_us <= now_us) {
			make_spare(node, template);
			return;
		}
		if (!later_us || template->warm_after_us - now_us < later_us)
			later_us = template->warm_after_us - now_us;
	}
	if (later_us)
		(void)uv_timer_start(timer, warm_one, (uint64_t)later_us / 1000 + 1, 0);
}

void sandboxes_warm_up(struct node *node)
{
	if (!uv_is_active((uv_handle_t *)&node->warming) || uv_timer_get_due_in(&node->warming) > WARM_MS)
		(void)uv_timer_start(&node->warming, warm_one, WARM_MS, 0);
}

/* --- what a client asks for --- */

struct sandbox *sandbox_create(struct node *node, const struct sandbox_request *request, node_done_fn *done,
                               void *context)
{
	struct template *template = template_find(node, request->template);
	struct sandbox *spare = template ? find_spare(node, template) : NULL;
	struct sandbox *sandbox = spare || !template ? spare : sandbox_new(node, SANDBOX_STARTING);
	struct error err = { 0 };

	if (!sandbox) {
		error_set(&err, template ? 503 : 404, "%s '%s' %s", template ? "no memory for" : "template",
		          request->template, template ? "" : "not found");
		done(context, &err);
		return NULL;
	}
	sandbox->on_created = done;
	sandbox->create_context = context;
	if (spare) {
		assign(spare, request, template);
		return spare;
	}
	fill(sandbox, request, template);
	set_directory(sandbox);
	return sandbox_start_restore(sandbox, &err) < 0 ? NULL : sandbox;
}

/* --- looking --- */

struct sandbox *sandbox_find(struct node *node, const char *id)
{
	list_for_each (link, &node->sandboxes) {
		struct sandbox *sandbox = list_entry(link, struct sandbox, link);

		if (sandbox_is_known(sandbox) && strcmp(sandbox->id, id) == 0)
			return sandbox;
	}
	return NULL;
}

json_t *sandbox_json(const struct sandbox *sandbox)
{
	bool paused = sandbox_is_paused(sandbox);
	char vsock[NODE_PATH_MAX] = "";

	if (!paused)
		sandbox_vsock_path(sandbox, vsock);
	return json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:b,s:b,s:b,s:b,s:I,s:I,s:i,s:i,s:i,s:O,s:s,s:i,s:O*}",
	                 "sandbox_id", sandbox->id, "template", sandbox->template_name, "build_id",
	                 sandbox->build_id, "template_id", sandbox->template_id, "team_id", sandbox->team_id,
	                 "alias", sandbox->alias, "state", paused ? "paused" : "running", "auto_pause",
	                 sandbox->auto_pause, "auto_pause_memory", sandbox->auto_pause_memory, "internet",
	                 sandbox->internet, "memory", !paused || !sandbox->stack.fresh, "started_at_ms",
	                 (json_int_t)sandbox->started_at_ms, "end_at_ms", (json_int_t)sandbox->end_at_ms,
	                 "vcpu_count", (int)sandbox->vcpu_count, "memory_mib", (int)sandbox->memory_mib,
	                 "disk_mib", (int)sandbox->disk_mib, "metadata", sandbox->metadata, "vsock_path",
	                 vsock, "pid", sandbox->monitor ? (int)sandbox->monitor->pid : 0, "volume_mounts",
	                 sandbox->volume_mounts);
}

/* --- adoption --- */

/* It may have been stopped in the middle of a pause or a snapshot that was not to be: it goes on. One that
 * was waking, whose pause counts no more, is told who it is first. */
static void go_on(struct sandbox *sandbox)
{
	log_info("sandbox %s taken up again", sandbox->id);
	sandbox_adopt_reach(sandbox);
	sandbox->pending++;
	monitor_set_state(sandbox->monitor, MONITOR_RESUMED,
	                  sandbox->state == SANDBOX_RUNNING ? sandbox_on_gone_on : sandbox_on_machine_runs,
	                  sandbox);
	sandbox_start_deadline(sandbox);
}

static void adopt(struct node *node, const char *name)
{
	struct sandbox *sandbox = sandbox_new(node, SANDBOX_STARTING);
	struct monitor *monitor = calloc(1, sizeof(*monitor));
	struct error err = { 0 };
	uint64_t start_time = 0;
	uid_t uid = 0;
	pid_t pid = 0;
	int ret;

	if (!sandbox || !monitor)
		return; /* out of memory: it is left alone */
	(void)snprintf(sandbox->directory, sizeof(sandbox->directory), "%.160s/sandboxes/%.64s", node->run,
	               name);
	monitor->pidfd = -1;
	sandbox->monitor = monitor;
	(void)snprintf(sandbox->id, sizeof(sandbox->id), "%.60s", name);
	ret = journal_read(sandbox, sandbox->directory, &pid, &start_time, &uid, &err);
	if (ret == 0)
		ret = monitor_adopt(monitor, node, sandbox->directory, pid, start_time, uid, &err);
	if (ret < 0) {
		log_info("sandbox %s is not there any more: %s", name, err.message);
		bury(sandbox);
		return;
	}
	monitor_on_end(monitor, on_monitor_end, sandbox);
	/* Its create was never answered: nobody knows it. */
	if (sandbox->state == SANDBOX_STARTING)
		end(sandbox);
	else
		go_on(sandbox);
}

/* Its pause counts: what else there is of it, a monitor that was about to end or had only begun, ends. */
static void adopt_paused(struct node *node, const char *name)
{
	struct sandbox *sandbox = sandbox_new(node, SANDBOX_PAUSED);
	struct error err = { 0 };
	char disk[NODE_PATH_MAX];

	if (!sandbox)
		return;
	if (journal_read_pause(sandbox, name, &err) < 0) {
		log_error("%s", err.message);
		list_remove(&sandbox->link);
		return;
	}
	/* What an older version left when it died while it wrote: it never counted. */
	if (strcmp(sandbox->id, name) != 0) {
		(void)snprintf(disk, sizeof(disk), "%.160s/paused/%.80s", node->data, name);
		log_warn("%s is removed: it tells of %s", disk, sandbox->id);
		(void)unlink(disk);
		list_remove(&sandbox->link);
		return;
	}
	set_directory(sandbox);
	(void)monitor_kill_leftover(sandbox->directory, &err);
	(void)file_remove_tree(sandbox->directory, NULL);
	sandbox_disk_directory(sandbox, disk);
	stack_clean(disk, &sandbox->stack);
	(void)stack_drop_top(disk, &sandbox->stack, &err);
	log_info("sandbox %s is paused", sandbox->id);
}

static int for_each_entry(const char *path, struct node *node,
                          void (*handle)(struct node *node, const char *name), struct error *err)
{
	DIR *directory = opendir(path);
	struct dirent *entry;

	if (!directory)
		return error_errno(err, errno, "read %s", path);
	while ((entry = readdir(directory)))
		if (entry->d_name[0] != '.')
			handle(node, entry->d_name);
	(void)closedir(directory);
	return 0;
}

/* A private disk whose sandbox is gone. */
static void drop_orphan_disk(struct node *node, const char *name)
{
	char path[NODE_PATH_MAX * 2];

	list_for_each (link, &node->sandboxes)
		if (strcmp(list_entry(link, struct sandbox, link)->id, name) == 0)
			return;
	(void)snprintf(path, sizeof(path), "%.180s/sandboxes/%s", node->data, name);
	(void)file_remove_tree(path, NULL);
}

int sandboxes_adopt(struct node *node, struct error *err)
{
	char live[NODE_PATH_MAX];
	char disks[NODE_PATH_MAX];
	char paused[NODE_PATH_MAX];
	int ret;

	(void)snprintf(live, sizeof(live), "%.160s/sandboxes", node->run);
	(void)snprintf(disks, sizeof(disks), "%.160s/sandboxes", node->data);
	(void)snprintf(paused, sizeof(paused), "%.160s/paused", node->data);
	ret = file_make_directories(live, 0755, err);
	if (ret == 0)
		ret = file_make_directories(disks, 0755, err);
	if (ret == 0)
		ret = file_make_directories(paused, 0700, err);
	file_remove_temporaries(paused);
	/* First who is paused: their directories of a life before are cleared away by that. */
	if (ret == 0)
		ret = for_each_entry(paused, node, adopt_paused, err);
	if (ret == 0)
		ret = for_each_entry(live, node, adopt, err);
	if (ret == 0)
		ret = for_each_entry(disks, node, drop_orphan_disk, err);
	models_start(node);
	return ret;
}
