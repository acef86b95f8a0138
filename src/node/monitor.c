#include "node/monitor.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "jail/jail.h"

#define TAIL_LINES      20
#define CALL_TIMEOUT_MS 120000 /* a snapshot under emulation takes its time */

/* --- watching --- */

static void on_exit_seen(uv_poll_t *poll, int status, int events)
{
	struct monitor *monitor = poll->data;

	(void)status;
	(void)events;
	(void)uv_poll_stop(poll);
	/* Ours must be reaped; an adopted one is not ours, and this fails. */
	(void)waitpid(monitor->pid, NULL, WNOHANG);
	if (monitor->ended)
		monitor->ended(monitor, monitor->context);
}

static int watch(struct monitor *monitor, struct error *err)
{
	monitor->pidfd = (int)syscall(SYS_pidfd_open, monitor->pid, 0);
	if (monitor->pidfd < 0)
		return error_errno(err, errno, "watch process %d", (int)monitor->pid);
	(void)fcntl(monitor->pidfd, F_SETFD, FD_CLOEXEC);
	monitor->poll.data = monitor;
	if (uv_poll_init(monitor->node->loop, &monitor->poll, monitor->pidfd) < 0 ||
	    uv_poll_start(&monitor->poll, UV_READABLE, on_exit_seen) < 0)
		return error_set(err, EIO, "watch process %d", (int)monitor->pid);
	monitor->watched = true;
	return 0;
}

/* Field 22 of /proc/PID/stat, in clock ticks since boot; 0 when there is no such process. */
static uint64_t process_start_time(pid_t pid)
{
	cleanup_buffer struct buffer text = { .limit = 4096 };
	char path[64];
	const char *at;

	(void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	if (file_read(path, &text, NULL) < 0 || !text.data)
		return 0;
	/* The name may hold anything, but the last ')' ends it. */
	at = strrchr(text.data, ')');
	for (int field = 2; at && field < 22; field++)
		at = strchr(at + 1, ' ');
	return at ? strtoull(at, NULL, 10) : 0;
}

/* --- its slot and its network --- */

/* What an answer about its network needs; the monitor may be gone by then. */
struct monitor_link {
	struct monitor *monitor; /* NULL: gone */
};

static int take_slot(struct node *node, struct error *err)
{
	for (unsigned i = 0; i < NODE_SLOTS; i++) {
		unsigned slot = node->next_slot;

		node->next_slot = (slot + 1) % NODE_SLOTS;
		if (node->slots[slot] == 0) {
			node->slots[slot] = 1;
			return (int)slot;
		}
	}
	return error_set(err, EAGAIN, "start a monitor: all %d slots are taken", NODE_SLOTS);
}

static void drop_slot(struct monitor *monitor)
{
	unsigned slot = monitor->uid - NODE_UID_FIRST;

	if (monitor->has_slot && --monitor->node->slots[slot] == 0 && monitor->node->network)
		network_forget(monitor->node->network, slot);
	monitor->has_slot = false;
}

static void on_furnished(void *context, const struct error *err)
{
	struct monitor_link *link = context;
	struct monitor *monitor = link->monitor;

	free(link);
	if (!monitor)
		return;
	monitor->link = NULL;
	monitor->networked = !err && !network_reason(monitor->node->network);
	if (err)
		log_error("monitor %d has no network: %s", (int)monitor->pid, err->message);
}

/* While it starts. Without it the guest has no network, which is no reason not to start. */
static void furnish(struct monitor *monitor)
{
	const struct network_policy policy = { .internet = true };
	struct network *network = monitor->node->network;
	struct error err = { 0 };

	if (!network || !network_has_taps(network))
		return;
	monitor->link = calloc(1, sizeof(*monitor->link));
	if (!monitor->link)
		return;
	monitor->link->monitor = monitor;
	if (network_furnish(network, monitor->pidfd, monitor->uid - NODE_UID_FIRST, monitor->uid, &policy,
	                    on_furnished, monitor->link, &err) == 0)
		return;
	log_error("%s", err.message);
	free(monitor->link);
	monitor->link = NULL;
}

void monitor_set_policy(struct monitor *monitor, const struct network_policy *policy, network_done_fn *done,
                        void *context)
{
	struct error err = { 0 };

	if (!monitor->networked)
		done(context, NULL);
	else if (network_set_policy(monitor->node->network, monitor->pidfd, monitor->uid - NODE_UID_FIRST,
	                            policy, done, context, &err) < 0)
		done(context, &err);
}

/* --- starting --- */

static _Noreturn void run_child(const struct monitor *monitor, const char *id, unsigned shell_vcpus)
{
	char root[NODE_PATH_MAX + 16];
	const struct jail jail = {
		.uid = monitor->uid, .gid = monitor->node->gid, .root = root, .proc = true
	};
	char program[NODE_PATH_MAX];
	char *const empty[] = { NULL };
	char log[NODE_PATH_MAX + 16];
	char vcpus[16];
	struct error err = { 0 };
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int executable;
	int fd;

	(void)snprintf(program, sizeof(program), "%s/atoll-vmm", monitor->node->bin);
	(void)snprintf(root, sizeof(root), "%s/root", monitor->directory);
	(void)snprintf(log, sizeof(log), "%s/vmm.log", monitor->directory);
	(void)snprintf(vcpus, sizeof(vcpus), "%u", shell_vcpus);
	fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
	/* Opened by root: the tree may lie where the monitor's user cannot look. */
	executable = open(program, O_RDONLY | O_CLOEXEC);
	for (int number = 1; number < NSIG; number++)
		(void)signal(number, SIG_DFL);
	if (null < 0 || fd < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(fd, STDOUT_FILENO) < 0 ||
	    dup2(fd, STDERR_FILENO) < 0 || jail_enter(&jail, &err) < 0) {
		(void)dprintf(fd, "%s\n", err.code ? err.message : strerror(errno));
		_exit(126);
	}
	fexecve(executable,
	        (char *const *)(uintptr_t)(const char *const[]){
	                "atoll-vmm", "--api-sock", MONITOR_RUN "/api.sock", "--id", id,
	                shell_vcpus ? "--shell" : NULL, vcpus, NULL },
	        empty);
	(void)dprintf(STDERR_FILENO, "%s: %s\n", program, strerror(errno));
	_exit(127);
}

/* For whoever finds the directory later. */
static int write_pid(const struct monitor *monitor, struct error *err)
{
	char path[NODE_PATH_MAX + 16];
	char text[48];
	int size = snprintf(text, sizeof(text), "%d %llu\n", (int)monitor->pid,
	                    (unsigned long long)monitor->start_time);

	(void)snprintf(path, sizeof(path), "%s/pid", monitor->directory);
	return file_write_atomic(path, text, (size_t)size, 0600, err);
}

int monitor_kill_leftover(const char *directory, struct error *err)
{
	cleanup_buffer struct buffer text = { .limit = 64 };
	char path[NODE_PATH_MAX + 16];
	unsigned long long start_time = 0;
	int pid = 0;

	(void)snprintf(path, sizeof(path), "%.250s/pid", directory);
	if (file_read(path, &text, err) < 0)
		return -err->code;
	if (sscanf(text.data ? text.data : "", "%d %llu", &pid, &start_time) == 2 && pid > 1 &&
	    process_start_time(pid) == start_time)
		(void)kill(pid, SIGKILL);
	return 0;
}

int monitor_start(struct monitor *monitor, struct node *node, const char *directory, const char *id,
                  unsigned shell_vcpus, struct error *err)
{
	int slot;

	*monitor = (struct monitor){ .node = node, .pidfd = -1 };
	slot = take_slot(node, err);
	if (slot < 0)
		return slot;
	monitor->has_slot = true;
	monitor->uid = NODE_UID_FIRST + (uid_t)slot;
	(void)snprintf(monitor->directory, sizeof(monitor->directory), "%s", directory);
	if (mkdir(directory, 0750) < 0 && errno != EEXIST)
		return error_errno(err, errno, "make %s", directory);
	if (chown(directory, 0, node->gid) < 0)
		return error_errno(err, errno, "own %s", directory);
	monitor->pid = fork();
	if (monitor->pid == 0)
		run_child(monitor, id, shell_vcpus);
	if (monitor->pid < 0)
		return error_errno(err, errno, "start a monitor");
	monitor->start_time = process_start_time(monitor->pid);
	if (write_pid(monitor, err) < 0) {
		(void)kill(monitor->pid, SIGKILL);
		return -err->code;
	}
	if (watch(monitor, err) < 0)
		return -err->code;
	furnish(monitor);
	return 0;
}

int monitor_adopt(struct monitor *monitor, struct node *node, const char *directory, pid_t pid,
                  uint64_t start_time, uid_t uid, struct error *err)
{
	int ret;

	*monitor = (struct monitor){
		.node = node, .pid = pid, .start_time = start_time, .uid = uid, .pidfd = -1
	};
	(void)snprintf(monitor->directory, sizeof(monitor->directory), "%s", directory);
	if (uid >= NODE_UID_FIRST && uid - NODE_UID_FIRST < NODE_SLOTS) {
		node->slots[uid - NODE_UID_FIRST]++;
		monitor->has_slot = true;
	}
	/* What leads out was made by an earlier life of the daemon: nothing tells whether it did. */
	monitor->networked = monitor->has_slot && node->network && !network_reason(node->network);
	ret = watch(monitor, err);
	if (ret < 0)
		return ret;
	/* The pidfd holds on to the process: what is read now is of that one. */
	return process_start_time(pid) == start_time ? 0
	                                             : error_set(err, ESRCH, "process %d is gone", (int)pid);
}

void monitor_on_end(struct monitor *monitor, void (*ended)(struct monitor *monitor, void *context),
                    void *context)
{
	monitor->ended = ended;
	monitor->context = context;
}

void monitor_kill(struct monitor *monitor)
{
	if (monitor->pidfd >= 0)
		(void)syscall(SYS_pidfd_send_signal, monitor->pidfd, SIGKILL, NULL, 0);
}

static void log_tail(const char *directory, const char *name)
{
	cleanup_buffer struct buffer text = { .limit = 32 << 20 };
	char path[NODE_PATH_MAX + 32];
	const char *at;
	int lines = 0;

	(void)snprintf(path, sizeof(path), "%s/%s", directory, name);
	if (file_read(path, &text, NULL) < 0 || !text.size)
		return;
	for (at = text.data + text.size - 1; at > text.data && lines < TAIL_LINES; at--)
		lines += at[-1] == '\n';
	log_info("%s ends with:\n%s", path, at);
}

void monitor_log_tail(const struct monitor *monitor)
{
	log_tail(monitor->directory, "vmm.log");
	log_tail(monitor->directory, "root" MONITOR_RUN "/serial.log");
}

/* --- release --- */

static void on_poll_closed(uv_handle_t *handle)
{
	free(handle->data);
}

void monitor_release(struct monitor *monitor)
{
	if (!monitor)
		return;
	drop_slot(monitor);
	if (monitor->link)
		monitor->link->monitor = NULL;
	if (!monitor->watched) {
		if (monitor->pidfd >= 0)
			close(monitor->pidfd);
		free(monitor);
		return;
	}
	(void)uv_poll_stop(&monitor->poll);
	close(monitor->pidfd);
	/* Whoever still has it until then signals nobody. */
	monitor->pidfd = -1;
	monitor->poll.data = monitor;
	uv_close((uv_handle_t *)&monitor->poll, on_poll_closed);
}

int monitor_show(const struct monitor *monitor, const char *source, const char *inside, bool read_only,
                 struct error *err)
{
	const struct jail_bind bind = { .source = source, .target = inside, .read_only = read_only };

	return jail_show(monitor->pid, &bind, err);
}

void monitor_vsock_path(const char *directory, char path[NODE_PATH_MAX])
{
	(void)snprintf(path, NODE_PATH_MAX, "%.180s/root" MONITOR_RUN "/vsock.sock", directory);
}

/* --- the machine API --- */

void monitor_call(struct monitor *monitor, const char *method, const char *target, json_t *body,
                  http_simple_fn *done, void *context)
{
	struct http_endpoint endpoint = { 0 };
	cleanup_free char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;

	json_decref(body);
	(void)snprintf(endpoint.unix_path, sizeof(endpoint.unix_path), "%.80s/root" MONITOR_RUN "/api.sock",
	               monitor->directory);
	http_call_simple(monitor->node->client, &endpoint, method, target, text, CALL_TIMEOUT_MS, done,
	                 context);
}

void monitor_set_state(struct monitor *monitor, enum monitor_state state, http_simple_fn *done, void *context)
{
	monitor_call(monitor, "PATCH", "/vm",
	             json_pack("{s:s}", "state", state == MONITOR_PAUSED ? "Paused" : "Resumed"), done,
	             context);
}

void monitor_refusal(struct error *ret, const char *what, int status, const char *data, size_t size,
                     const struct error *err)
{
	error_set(ret, EIO, "%s%s%.*s", what, *what ? ": " : "",
	          status ? (int)size : (int)strlen(err->message), status ? data : err->message);
}

bool monitor_ready(const struct monitor *monitor)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	cleanup_close int fd = -1;

	if (monitor->link)
		return false;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	/* The path is there a moment before anyone listens. */
	(void)snprintf(address.sun_path, sizeof(address.sun_path), "%.80s/root" MONITOR_RUN "/api.sock",
	               monitor->directory);
	return fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0;
}
