#include "node/builder.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "node/agent.h"
#include "node/boot.h"
#include "node/monitor.h"
#include "node/sandbox.h"
#include "node/stack.h"

#define BOOT_SECONDS  300 /* under emulation, on a busy machine */
#define READY_SECONDS 900
#define READY_MS      1000 /* between two looks */
#define SETTLE_MS     2000 /* between readiness and the snapshot: what just started comes to rest */
#define COPY_CHUNK    (1 << 20)

struct build {
	struct node *node;
	const struct build_events *events; /* NULL: nobody listens any more */
	void *context;
	char id[40];
	json_t *request; /* as template.json will be */
	char kernel[512];
	char initrd[512]; /* "": none */
	char boot_args[512];
	char rootfs[512];
	char start_cmd[4096];
	char ready_cmd[4096];
	char user[64];
	bool network; /* it gets an interface */
	unsigned vcpu_count;
	unsigned memory_mib;
	char directory[NODE_PATH_MAX]; /* templates/.new-ID */
	char run[NODE_PATH_MAX];       /* of the monitor */
	struct monitor *monitor;
	bool monitor_gone;
	uv_timer_t timer;
	uv_work_t copy;
	struct error copy_error;
	struct buffer log; /* BUILD_LOG as it will be */
	unsigned requests_made;
	int64_t started_us;
	int64_t ready_deadline_us;
	unsigned pending;
	bool over;
};

static void vsock_of(const struct build *build, char path[NODE_PATH_MAX])
{
	monitor_vsock_path(build->run, path);
}

static int64_t elapsed_ms(const struct build *build)
{
	return (time_monotonic_us() - build->started_us) / 1000;
}

/* A line that does not fit in is left out, and so is what one without memory would have said. */
static void keep_line(struct build *build, const char *step, const char *message)
{
	cleanup_json json_t *entry = json_pack("{s:I,s:s,s:s,s:s}", "time_ms", (json_int_t)time_wall_ms(),
	                                       "level", "info", "step", step, "message", message);
	cleanup_free char *line = entry ? json_dumps(entry, JSON_COMPACT) : NULL;

	if (line)
		(void)buffer_printf(&build->log, "%s\n", line);
}

static void tell(struct build *build, const char *step, const char *message)
{
	log_info("build %s: %s", build->id, message);
	keep_line(build, step, message);
	if (build->events)
		build->events->step(build->context, step, message, elapsed_ms(build));
}

/* --- the end --- */

static void on_timer_closed(uv_handle_t *handle)
{
	struct build *build = handle->data;

	buffer_fini(&build->log);
	json_decref(build->request);
	free(build);
}

static void free_if_done(struct build *build)
{
	if (!build->over || build->pending || (build->monitor && !build->monitor_gone))
		return;
	monitor_release(build->monitor);
	build->monitor = NULL;
	build->over = false;
	(void)file_remove_tree(build->run, NULL);
	uv_close((uv_handle_t *)&build->timer, on_timer_closed);
}

static void finish(struct build *build, const struct template *template, const struct error *err)
{
	if (build->over)
		return;
	build->over = true;
	(void)uv_timer_stop(&build->timer);
	if (err) {
		log_error("build %s: %s", build->id, err->message);
		(void)file_remove_tree(build->directory, NULL);
	}
	if (build->events)
		build->events->done(build->context, template, err);
	build->events = NULL;
	if (build->monitor)
		monitor_kill(build->monitor);
	free_if_done(build);
}

static void fail(struct build *build, const struct error *err, const char *what)
{
	struct error failure;

	error_set(&failure, EIO, "%s: %s", what, err ? err->message : "failed");
	finish(build, NULL, &failure);
}

/* An answer came. False: the build is over already. */
static bool answer_counts(struct build *build)
{
	bool counts = !build->over;

	build->pending--;
	if (!counts)
		free_if_done(build);
	return counts;
}

static void on_monitor_end(struct monitor *monitor, void *context)
{
	struct build *build = context;
	struct error err;

	(void)monitor;
	build->monitor_gone = true;
	if (build->over) {
		free_if_done(build);
		return;
	}
	monitor_log_tail(monitor);
	error_set(&err, EIO, "the machine ended by itself: see the node's log");
	finish(build, NULL, &err);
}

/* --- step 5: in place --- */

/* What a file of the template takes on disk: holes are not counted. */
static long long file_mib(const struct build *build, const char *name)
{
	char path[NODE_PATH_MAX + 64];
	struct stat st;

	(void)snprintf(path, sizeof(path), "%s/%s", build->directory, name);
	return stat(path, &st) < 0 ? 0 : (long long)st.st_blocks * 512 >> 20;
}

static void tell_sizes(struct build *build)
{
	char message[160];

	(void)snprintf(
	        message, sizeof(message),
	        "putting the template in place: root file system %lld MiB, disk layer %lld MiB, memory %lld "
	        "MiB",
	        file_mib(build, "rootfs.ext4"), file_mib(build, "disk.layer"), file_mib(build, "memory"));
	tell(build, "finish", message);
}

/* Its files become root's, and it a template. NULL with `err`. */
static struct template *seal(struct build *build, struct error *err)
{
	static const char *const files[] = { "state",       "memory",    "disk.layer",
		                             "rootfs.ext4", BOOT_KERNEL, BOOT_INITRD };
	char path[NODE_PATH_MAX * 2];
	cleanup_free char *text = NULL;

	/* The directory first: from then on the monitor can put nothing in a file's place. */
	if (chown(build->directory, 0, 0) < 0 || chmod(build->directory, 0755) < 0) {
		error_errno(err, errno, "put the template in place");
		return NULL;
	}
	for (size_t i = 0; i < ARRAY_SIZE(files) - !build->initrd[0]; i++)
		if (stack_give(build->directory, files[i], build->monitor->uid, 0, 0, 0644, err) < 0)
			return NULL;
	tell_sizes(build);
	(void)json_object_set_new(build->request, "created_at_ms", json_integer(time_wall_ms()));
	text = json_dumps(build->request, JSON_INDENT(2));
	(void)snprintf(path, sizeof(path), "%s/template.json", build->directory);
	if (!text || file_write_atomic(path, text, strlen(text), 0644, err) < 0)
		return NULL;
	(void)snprintf(path, sizeof(path), "%s/" BUILD_LOG, build->directory);
	if (file_write_atomic(path, build->log.data, build->log.size, 0644, err) < 0)
		return NULL;
	return template_put(build->node, build->directory, build->id, true, err);
}

static void on_snapshot(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct build *build = context;
	struct template *template = NULL;
	struct error failure = { 0 };

	if (!answer_counts(build))
		return;
	if (status == 204)
		template = seal(build, &failure);
	else
		monitor_refusal(&failure, "", status, data, size, err);
	if (!template) {
		fail(build, &failure, "take the snapshot");
		return;
	}
	sandboxes_warm_up(build->node);
	finish(build, template, NULL);
}

/* --- step 4: snapshot --- */

static void on_paused(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct build *build = context;

	(void)data;
	(void)size;
	if (!answer_counts(build))
		return;
	if (status != 204) {
		fail(build, err, "pause the machine");
		return;
	}
	build->pending++;
	monitor_call(build->monitor, "PUT", "/snapshot/create",
	             json_pack("{s:s,s:s}", "snapshot_path", BUILD_INSIDE "/state", "mem_file_path",
	                       BUILD_INSIDE "/memory"),
	             on_snapshot, build);
}

static void on_prepared(void *context, const struct error *err)
{
	struct build *build = context;

	if (!answer_counts(build))
		return;
	if (err) {
		fail(build, err, "prepare the snapshot");
		return;
	}
	tell(build, "snapshot", "taking the snapshot");
	build->pending++;
	monitor_set_state(build->monitor, MONITOR_PAUSED, on_paused, build);
}

static void prepare(uv_timer_t *timer)
{
	struct build *build = timer->data;
	char vsock[NODE_PATH_MAX];

	vsock_of(build, vsock);
	build->pending++;
	agent_prepare_snapshot(build->node, vsock, on_prepared, build);
}

/* --- step 3: start and readiness --- */

static void settle(struct build *build)
{
	tell(build, "ready", "ready; letting it settle");
	(void)uv_timer_start(&build->timer, prepare, SETTLE_MS, 0);
}

static void look_ready(uv_timer_t *timer);

static void on_looked(void *context, int exit_code, const struct error *err)
{
	struct build *build = context;
	struct error failure;

	if (!answer_counts(build))
		return;
	if (!err && exit_code == 0) {
		settle(build);
	} else if (time_monotonic_us() > build->ready_deadline_us) {
		error_set(&failure, ETIMEDOUT, "the ready command '%s' never succeeded", build->ready_cmd);
		finish(build, NULL, &failure);
	} else {
		(void)uv_timer_start(&build->timer, look_ready, READY_MS, 0);
	}
}

static void look_ready(uv_timer_t *timer)
{
	struct build *build = timer->data;
	char vsock[NODE_PATH_MAX];

	vsock_of(build, vsock);
	build->pending++;
	agent_command(build->node, vsock, build->user, build->ready_cmd, true, on_looked, build);
}

static void on_started(void *context, int exit_code, const struct error *err)
{
	struct build *build = context;

	(void)exit_code;
	if (!answer_counts(build))
		return;
	if (err) {
		fail(build, err, "start command");
		return;
	}
	if (!build->ready_cmd[0]) {
		settle(build);
		return;
	}
	tell(build, "ready", "waiting for the ready command");
	build->ready_deadline_us = time_monotonic_us() + (int64_t)READY_SECONDS * 1000000;
	look_ready(&build->timer);
}

static void on_agent_set(void *context, const struct error *err)
{
	struct build *build = context;
	char vsock[NODE_PATH_MAX];

	if (!answer_counts(build))
		return;
	if (err) {
		fail(build, err, "initialise");
		return;
	}
	vsock_of(build, vsock);
	build->pending++;
	if (!build->start_cmd[0]) {
		on_started(build, 0, NULL);
		return;
	}
	tell(build, "start", "running the start command");
	agent_command(build->node, vsock, build->user, build->start_cmd, false, on_started, build);
}

static void on_agent_up(void *context, const struct error *err)
{
	struct build *build = context;
	struct agent_identity identity = { .sandbox_id = "build", .default_user = build->user };
	char vsock[NODE_PATH_MAX];

	if (!answer_counts(build))
		return;
	if (err) {
		fail(build, err, "boot");
		return;
	}
	tell(build, "boot", "booted");
	identity.env_vars = json_object_get(build->request, "env_vars");
	vsock_of(build, vsock);
	build->pending++;
	agent_init(build->node, vsock, &identity, on_agent_set, build);
}

/* --- step 2: boot --- */

/* The machine API's requests that boot it, one after the other. NULL: there are no more. */
static json_t *next_request(const struct build *build, unsigned index, const char **method,
                            const char **target)
{
	cleanup_json json_t *drive = json_pack(
	        "{s:s,s:s,s:b,s:s,s:s}", "drive_id", "rootfs", "path_on_host", BUILD_INSIDE "/rootfs.ext4",
	        "is_root_device", 1, "overlay_path", BUILD_INSIDE "/disk.layer", "cache_type", "Writeback");
	const struct boot boot = {
		.vcpu_count = build->vcpu_count,
		.memory_mib = build->memory_mib,
		.inside = BUILD_INSIDE,
		.initrd = build->initrd[0],
		.emulated = build->node->emulated,
		.network = build->network,
		.args = build->boot_args,
		.drive = drive,
	};

	return boot_request(&boot, index, method, target);
}

static void on_configured(int status, const char *data, size_t size, const struct error *err, void *context);

static void configure_next(struct build *build)
{
	const char *method;
	const char *target;
	json_t *body = next_request(build, build->requests_made++, &method, &target);
	char vsock[NODE_PATH_MAX];

	build->pending++;
	if (body) {
		monitor_call(build->monitor, method, target, body, on_configured, build);
		return;
	}
	tell(build, "boot", "booting");
	vsock_of(build, vsock);
	agent_wait(build->node, vsock, BOOT_SECONDS, on_agent_up, build);
}

static void on_configured(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct build *build = context;
	struct error failure;

	if (!answer_counts(build))
		return;
	if (status == 204) {
		configure_next(build);
		return;
	}
	monitor_refusal(&failure, "", status, data, size, err);
	fail(build, &failure, "configure the machine");
}

static void wait_for_monitor(uv_timer_t *timer)
{
	struct build *build = timer->data;

	struct error err = { 0 };

	if (!monitor_ready(build->monitor))
		(void)uv_timer_start(timer, wait_for_monitor, 20, 0);
	else if (monitor_show(build->monitor, build->directory, BUILD_INSIDE, false, &err) < 0)
		fail(build, &err, "start");
	else
		configure_next(build);
}

static void boot(struct build *build)
{
	struct error err = { 0 };

	build->monitor = calloc(1, sizeof(*build->monitor));
	if (!build->monitor)
		error_errno(&err, ENOMEM, "start a monitor");
	else if (monitor_start(build->monitor, build->node, build->run, build->id, 0, &err) == 0 &&
	         chown(build->directory, build->monitor->uid, build->node->gid) < 0)
		error_errno(&err, errno, "own %s", build->directory);
	if (err.code) {
		build->monitor_gone = true;
		fail(build, &err, "start");
		return;
	}
	monitor_on_end(build->monitor, on_monitor_end, build);
	wait_for_monitor(&build->timer);
}

/* --- step 1: the root file system --- */

/* Copy [at, end) through `chunk`. */
static int copy_extent(int from, int to, char *chunk, off_t at, off_t end)
{
	while (at < end) {
		size_t want = end - at < COPY_CHUNK ? (size_t)(end - at) : COPY_CHUNK;
		ssize_t got = pread(from, chunk, want, at);

		if (got <= 0 || pwrite(to, chunk, (size_t)got, at) != got)
			return errno ? -errno : -EIO;
		at += got;
	}
	return 0;
}

/* Copy what is no hole. */
static int copy_sparse(int from, int to)
{
	cleanup_free char *chunk = malloc(COPY_CHUNK);
	struct stat st;
	off_t at = 0;
	int ret = 0;

	if (!chunk || fstat(from, &st) < 0 || ftruncate(to, st.st_size) < 0)
		return -errno;
	while (ret == 0 && at < st.st_size && (at = lseek(from, at, SEEK_DATA)) >= 0) {
		off_t end = lseek(from, at, SEEK_HOLE);

		ret = copy_extent(from, to, chunk, at, end);
		at = end;
	}
	if (ret == 0 && fsync(to) < 0)
		ret = -errno;
	return ret;
}

static int copy_in(const struct build *build, const char *source, const char *name, struct error *err)
{
	cleanup_close int from = open(source, O_RDONLY | O_CLOEXEC);
	cleanup_close int to = -1;
	char path[NODE_PATH_MAX + 32];
	int ret;

	(void)snprintf(path, sizeof(path), "%s/%s", build->directory, name);
	if (from < 0)
		return error_errno(err, errno, "open %s", source);
	to = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	/* A reflink where the file system can. */
	ret = to < 0 ? -errno : ioctl(to, FICLONE, from) == 0 ? 0 : copy_sparse(from, to);
	return ret < 0 ? error_errno(err, -ret, "copy %s", source) : 0;
}

/* On a thread: hundreds of megabytes. The kernel comes along because the monitor's user may not see the
 * original, and because sandboxes boot from it later. */
static void copy_work(uv_work_t *work)
{
	struct build *build = work->data;

	if (copy_in(build, build->kernel, BOOT_KERNEL, &build->copy_error) == 0 &&
	    (!build->initrd[0] || copy_in(build, build->initrd, BOOT_INITRD, &build->copy_error) == 0))
		(void)copy_in(build, build->rootfs, "rootfs.ext4", &build->copy_error);
}

static void on_copied(uv_work_t *work, int status)
{
	struct build *build = work->data;
	struct stat st;
	char path[NODE_PATH_MAX + 32];

	(void)status;
	if (!answer_counts(build))
		return;
	if (build->copy_error.code) {
		fail(build, &build->copy_error, "root file system");
		return;
	}
	(void)snprintf(path, sizeof(path), "%s/rootfs.ext4", build->directory);
	if (stat(path, &st) == 0)
		(void)json_object_set_new(build->request, "disk_mib", json_integer(st.st_size >> 20));
	boot(build);
}

/* --- beginning --- */

static void copy_text(char *to, size_t size, const char *text)
{
	(void)snprintf(to, size, "%s", text ? text : "");
}

struct build *build_start(struct node *node, const struct build_request *request,
                          const struct build_events *events, void *context)
{
	struct build *build = calloc(1, sizeof(*build));
	struct error err = { 0 };

	if (!build) {
		error_errno(&err, ENOMEM, "build");
		events->done(context, NULL, &err);
		return NULL;
	}
	build->node = node;
	build->events = events;
	build->context = context;
	build->started_us = time_monotonic_us();
	buffer_init(&build->log, BUILD_LOG_MAX);
	random_uuid(build->id);
	build->request =
	        json_pack("{s:s,s:s,s:s,s:i,s:i,s:s,s:s}", "warm_cmd", request->warm_cmd, "name",
	                  request->name, "source", request->source, "vcpu_count", (int)request->vcpu_count,
	                  "memory_mib", (int)request->memory_mib, "default_user", request->default_user,
	                  "default_workdir", request->default_workdir);
	(void)json_object_set_new(build->request, "env_vars",
	                          request->env_vars ? json_deep_copy(request->env_vars) : json_object());
	/* What a sandbox of it is booted with. */
	(void)json_object_set_new(build->request, "boot_args", json_string(request->boot_args));
	(void)json_object_set_new(build->request, "start_cmd", json_string(request->start_cmd));
	build->vcpu_count = request->vcpu_count;
	build->memory_mib = request->memory_mib;
	build->network = network_has_taps(node->network);
	(void)json_object_set_new(build->request, "network", json_boolean(build->network));
	copy_text(build->kernel, sizeof(build->kernel), request->kernel);
	copy_text(build->initrd, sizeof(build->initrd), request->initrd);
	copy_text(build->boot_args, sizeof(build->boot_args), request->boot_args);
	copy_text(build->rootfs, sizeof(build->rootfs), request->rootfs);
	copy_text(build->start_cmd, sizeof(build->start_cmd), request->start_cmd);
	copy_text(build->ready_cmd, sizeof(build->ready_cmd), request->ready_cmd);
	copy_text(build->user, sizeof(build->user),
	          request->default_user[0] ? request->default_user : "root");
	(void)snprintf(build->directory, sizeof(build->directory), "%.160s/templates/.new-%s", node->data,
	               build->id);
	(void)snprintf(build->run, sizeof(build->run), "%.160s/shells/build-%s", node->run, build->id);
	(void)uv_timer_init(node->loop, &build->timer);
	build->timer.data = build;
	build->copy.data = build;
	if (file_make_directories(build->directory, 0755, &err) < 0) {
		fail(build, &err, "build");
		return NULL;
	}
	tell(build, "copy", "copying the root file system");
	build->pending++;
	(void)uv_queue_work(node->loop, &build->copy, copy_work, on_copied);
	return build;
}

void build_forget(struct build *build)
{
	build->events = NULL;
}
