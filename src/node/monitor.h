/*
 * monitor: an atoll-vmm process, started by us or by an earlier life of this daemon. It is watched through a
 * pidfd, so that both are alike.
 *
 * Its directory holds what is ours (journal, pid, log) and its jail, "root": all that it can see, with its
 * sockets and its guest's console in MONITOR_RUN, and what monitor_show adds.
 */
#pragma once

#include "node/network/network.h"
#include "node/node.h"
#include "node/places.h"

struct monitor {
	struct node *node;
	pid_t pid;
	uint64_t
	        start_time; /* of the process, as /proc tells: tells it from a later one of the same number */
	uid_t uid;
	int pidfd;
	uv_poll_t poll;
	bool watched;
	bool has_slot;
	bool networked;            /* its namespace has what leads out */
	struct monitor_link *link; /* NULL, or its network is being set up */
	char directory[NODE_PATH_MAX];
	void (*ended)(struct monitor *monitor, void *context);
	void *context;
};

/*
 * Start one in `directory`, which is made; `shell_vcpus` as its option. 0, or -errno
 * with `err`.
 */
int monitor_start(struct monitor *monitor, struct node *node, const char *directory, const char *id,
                  unsigned shell_vcpus, struct error *err);

/* Take up the process `pid`. -ESRCH when it is gone, or is another than it was. */
int monitor_adopt(struct monitor *monitor, struct node *node, const char *directory, pid_t pid,
                  uint64_t start_time, uid_t uid, struct error *err);

/* Whom to tell when the process has ended. */
void monitor_on_end(struct monitor *monitor, void (*ended)(struct monitor *monitor, void *context),
                    void *context);

/* Kill it; `ended` follows. */
void monitor_kill(struct monitor *monitor);

/* Stop watching it and free it (heap; NULL is allowed). */
void monitor_release(struct monitor *monitor);

/* A request to its machine API: `done` as in http_call_simple. `body` is taken. */
void monitor_call(struct monitor *monitor, const char *method, const char *target, json_t *body,
                  http_simple_fn *done, void *context);

/* Stop its machine, or let it go on. `done` as in http_call_simple: 204 when it is so. */
enum monitor_state {
	MONITOR_PAUSED,
	MONITOR_RESUMED,
};
void monitor_set_state(struct monitor *monitor, enum monitor_state state, http_simple_fn *done,
                       void *context);

/* Why a call of the machine API failed, as its `done` was told: "what: reason", or the reason alone ("" as
 * `what`). */
void monitor_refusal(struct error *ret, const char *what, int status, const char *data, size_t size,
                     const struct error *err);

/* Let it see the directory `source` as `inside`. It listens already. 0, or -errno with `err`. */
int monitor_show(const struct monitor *monitor, const char *source, const char *inside, bool read_only,
                 struct error *err);

/* Where the machine in `directory` has its vsock socket, for us and for atoll-api. */
void monitor_vsock_path(const char *directory, char path[NODE_PATH_MAX]);

/* Kill the monitor that an earlier life of the daemon started in `directory`, if it still runs. */
int monitor_kill_leftover(const char *directory, struct error *err);

/* Put the end of its own log and of its guest's console into ours: it ended when it should not have. */
void monitor_log_tail(const struct monitor *monitor);

/* What its guest may reach from now on, what is under way included; it is ready. `done` is called at once
 * where nothing can be reached anyhow, and with an error when
 * the monitor has ended. */
void monitor_set_policy(struct monitor *monitor, const struct network_policy *policy, network_done_fn *done,
                        void *context);

/* It listens, and its network is set up: requests can be made. */
bool monitor_ready(const struct monitor *monitor);
