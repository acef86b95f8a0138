/* The thread that enters namespaces, and what is asked of it. */
#include "node/network/network.h"

#include <errno.h>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "node/network/network_internal.h"

enum job_kind {
	JOB_FURNISH,
	JOB_POLICY,
	JOB_FORGET
};

struct job {
	struct list link;
	struct furnishing furnishing; /* owns its descriptor; JOB_FORGET: -1 */
	enum job_kind kind;
	struct error err;
	network_done_fn *done; /* NULL: nobody waits */
	void *context;
};

struct network {
	int home; /* the host's network namespace */
	struct mnl_socket *links;
	uint32_t resolver;
	struct network_limits limits;
	bool has_taps;
	bool usable;
	struct error reason;
	pthread_mutex_t lock;
	pthread_cond_t wanted;
	/* Under the lock. Somebody waits for a change of rules, so they go first; nobody does for what is
	 * forgotten, which takes a walk through the host's connection table (10 ms or more), so it goes last.
	 */
	struct list policies;
	struct list furnishings;
	struct list forgettings;
	struct list done;
	uv_async_t answered;
};

/* --- the thread --- */

static struct job *take_job(struct network *network)
{
	struct list *const queues[] = { &network->policies, &network->furnishings, &network->forgettings };
	struct job *job = NULL;

	(void)pthread_mutex_lock(&network->lock);
	while (!job) {
		for (size_t i = 0; i < ARRAY_SIZE(queues) && !job; i++)
			if (!list_empty(queues[i]))
				job = list_entry(queues[i]->next, struct job, link);
		if (!job)
			(void)pthread_cond_wait(&network->wanted, &network->lock);
	}
	list_remove(&job->link);
	(void)pthread_mutex_unlock(&network->lock);
	return job;
}

static void do_job(const struct network *network, struct job *job)
{
	switch (job->kind) {
	case JOB_FURNISH:
		(void)furnish_namespace(network->home, network->links, &job->furnishing, &job->err);
		break;
	case JOB_POLICY:
		(void)furnish_policy(network->home, &job->furnishing, &job->err);
		break;
	case JOB_FORGET:
		furnish_forget(job->furnishing.slot);
		break;
	}
}

static _Noreturn void *work(void *context)
{
	struct network *network = context;

	for (;;) {
		struct job *job = take_job(network);
		unsigned slot = job->furnishing.slot;
		bool cut_off = job->kind == JOB_POLICY && !job->furnishing.policy.internet;

		do_job(network, job);
		(void)pthread_mutex_lock(&network->lock);
		list_append(&network->done, &job->link);
		(void)pthread_mutex_unlock(&network->lock);
		(void)uv_async_send(&network->answered);
		/* Behind the answer, but before rules under which it may begin others. */
		if (cut_off && network->usable)
			furnish_forget(slot);
	}
}

/* --- the loop --- */

static struct job *take_done(struct network *network)
{
	struct job *job = NULL;

	(void)pthread_mutex_lock(&network->lock);
	if (!list_empty(&network->done)) {
		job = list_entry(network->done.next, struct job, link);
		list_remove(&job->link);
	}
	(void)pthread_mutex_unlock(&network->lock);
	return job;
}

static void on_answered(uv_async_t *async)
{
	struct job *job;

	while ((job = take_done(async->data))) {
		if (job->done)
			job->done(job->context, job->err.code ? &job->err : NULL);
		if (job->furnishing.pidfd >= 0)
			close(job->furnishing.pidfd);
		free(job);
	}
}

static void submit(struct network *network, struct job *job)
{
	struct list *queue = job->kind == JOB_POLICY    ? &network->policies
	                     : job->kind == JOB_FURNISH ? &network->furnishings
	                                                : &network->forgettings;

	(void)pthread_mutex_lock(&network->lock);
	list_append(queue, &job->link);
	(void)pthread_cond_signal(&network->wanted);
	(void)pthread_mutex_unlock(&network->lock);
}

static int submit_furnishing(struct network *network, int pidfd, const struct furnishing *furnishing,
                             enum job_kind kind, network_done_fn *done, void *context, struct error *err)
{
	struct job *job = calloc(1, sizeof(*job));
	int copy = fcntl(pidfd, F_DUPFD_CLOEXEC, 3);

	if (!job || copy < 0) {
		int code = job ? errno : ENOMEM;

		free(job);
		if (copy >= 0)
			close(copy);
		return error_errno(err, code, "set up a sandbox's network");
	}
	*job = (struct job){ .furnishing = *furnishing, .kind = kind, .done = done, .context = context };
	job->furnishing.pidfd = copy;
	job->furnishing.tap_only = !network->usable;
	job->furnishing.resolver = network->resolver;
	job->furnishing.limits = network->limits;
	submit(network, job);
	return 0;
}

int network_furnish(struct network *network, int pidfd, unsigned slot, uid_t owner,
                    const struct network_policy *policy, network_done_fn *done, void *context,
                    struct error *err)
{
	const struct furnishing furnishing = { .slot = slot, .owner = owner, .policy = *policy };

	return submit_furnishing(network, pidfd, &furnishing, JOB_FURNISH, done, context, err);
}

int network_set_policy(struct network *network, int pidfd, unsigned slot, const struct network_policy *policy,
                       network_done_fn *done, void *context, struct error *err)
{
	const struct furnishing furnishing = { .slot = slot, .policy = *policy };

	return submit_furnishing(network, pidfd, &furnishing, JOB_POLICY, done, context, err);
}

void network_forget(struct network *network, unsigned slot)
{
	struct job *job = network->usable ? calloc(1, sizeof(*job)) : NULL;

	/* Without memory for it, or a thread that has it done, they go when they are old. */
	if (!job)
		return;
	*job = (struct job){ .furnishing = { .pidfd = -1, .slot = slot }, .kind = JOB_FORGET };
	submit(network, job);
}

/* --- what the machine can do --- */

/* In a namespace of its own, where nobody is: what furnishing needs. */
static void *try_all(void *context)
{
	struct error *err = context;
	struct mnl_socket *links;
	const struct network_policy policy = { .internet = true };
	const struct network_limits limits = NETWORK_LIMITS_DEFAULT;
	uint32_t resolver = network_find_resolver();
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	if (fd < 0) {
		error_errno(err, errno, "open /dev/net/tun (module tun)");
		return NULL;
	}
	close(fd);
	if (unshare(CLONE_NEWNET) < 0) {
		error_errno(err, errno, "make a network namespace");
		return NULL;
	}
	links = links_open(err);
	if (!links)
		return NULL;
	fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		error_errno(err, errno, "open a network namespace");
	else if (links_make_pair(links, NETWORK_VETH, fd, "veth1", err) == 0 &&
	         rules_set_host(resolver, &limits, err) == 0)
		(void)rules_set_guest(&policy, resolver, &limits, err);
	if (fd >= 0)
		close(fd);
	(void)mnl_socket_close(links);
	return NULL;
}

int network_probe(struct error *err)
{
	struct error found = { 0 };
	pthread_t thread;
	int code = pthread_create(&thread, NULL, try_all, &found);

	if (code != 0)
		return error_errno(err, code, "start a thread");
	(void)pthread_join(thread, NULL);
	return found.code ? error_set(err, found.code, "%s", found.message) : 0;
}

static int forward_host(struct error *err)
{
	cleanup_close int fd = open("/proc/sys/net/ipv4/ip_forward", O_RDWR | O_CLOEXEC);
	char now = '0';

	/* It may be on already where it cannot be written. */
	if (fd >= 0 && read(fd, &now, 1) == 1 && now == '1')
		return 0;
	if (fd < 0 || pwrite(fd, "1", 1, 0) != 1)
		return error_errno(err, errno, "switch on the host's forwarding of packets");
	return 0;
}

/* It may come later, too: Docker's does. */
static void look_for_firewall(void)
{
	struct network_firewall firewall;
	char what[512];
	char mend[512];

	if (network_find_firewall(&firewall, NULL) <= 0)
		return;
	network_describe_firewall(&firewall, what, sizeof(what), mend, sizeof(mend));
	log_warn("%s; mend it with: %s", what, mend);
}

static void look_at_host(struct network *network)
{
	struct error *err = &network->reason;
	struct stat st;

	/* First the rules: with forwarding alone guests could reach what they may not. */
	network->has_taps = stat("/dev/net/tun", &st) == 0 && S_ISCHR(st.st_mode);
	if (network_probe(err) == 0 && rules_set_host(network->resolver, &network->limits, err) == 0 &&
	    forward_host(err) == 0)
		network->usable = true;
	else
		log_warn("sandboxes have no network: %s", err->message);
	if (network->usable)
		look_for_firewall();
}

/* --- limits --- */

int network_parse_limits(const char *text, struct network_limits *ret)
{
	if (strcmp(text, "none") == 0) {
		*ret = (struct network_limits){ 0 };
		return 0;
	}
	if (!text_take_number(&text, NETWORK_LIMIT_MAX, &ret->connections) || *text++ != ':' ||
	    !text_take_number(&text, NETWORK_LIMIT_MAX, &ret->rate))
		return -EINVAL;
	return *text ? -EINVAL : 0;
}

/* --- making it --- */

static void network_free(struct network *network)
{
	if (network->links)
		(void)mnl_socket_close(network->links);
	if (network->home >= 0)
		close(network->home);
	free(network);
}

struct network *network_new(uv_loop_t *loop, const struct network_limits *limits, struct error *err)
{
	struct network *network = calloc(1, sizeof(*network));
	pthread_t thread;

	if (!network) {
		error_errno(err, ENOMEM, "set up the network");
		return NULL;
	}
	list_init(&network->policies);
	list_init(&network->furnishings);
	list_init(&network->forgettings);
	list_init(&network->done);
	(void)pthread_mutex_init(&network->lock, NULL);
	(void)pthread_cond_init(&network->wanted, NULL);
	network->answered.data = network;
	network->limits = *limits;
	network->home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	network->links = links_open(err);
	network->resolver = network_find_resolver();
	if (network->home < 0 || !network->links) {
		if (network->home < 0)
			error_errno(err, errno, "open the host's network namespace");
		network_free(network);
		return NULL;
	}
	look_at_host(network);
	if (uv_async_init(loop, &network->answered, on_answered) < 0 ||
	    pthread_create(&thread, NULL, work, network) != 0) {
		error_set(err, EAGAIN, "start the network's thread");
		/* The loop may know it: the caller ends. */
		return NULL;
	}
	(void)pthread_detach(thread);
	uv_unref((uv_handle_t *)&network->answered);
	return network;
}

const char *network_reason(const struct network *network)
{
	return network->usable ? NULL : network->reason.message;
}

bool network_has_taps(const struct network *network)
{
	return network->has_taps;
}

/* --- what others left --- */

struct keeping {
	bool (*used)(void *context, unsigned slot);
	void *context;
	unsigned *doomed;
	size_t count;
};

static void consider(void *context, const char *name)
{
	struct keeping *keeping = context;
	static const char prefix[] = NETWORK_HOST_VETH;
	unsigned long slot;
	unsigned *more;
	char *end;

	if (strncmp(name, prefix, sizeof(prefix) - 1) != 0)
		return;
	slot = strtoul(name + sizeof(prefix) - 1, &end, 10);
	if (*end || end == name + sizeof(prefix) - 1 || slot >= NETWORK_SLOTS ||
	    keeping->used(keeping->context, (unsigned)slot))
		return;
	more = realloc(keeping->doomed, (keeping->count + 1) * sizeof(*more));
	if (!more)
		return;
	keeping->doomed = more;
	keeping->doomed[keeping->count++] = (unsigned)slot;
}

/* One of a slot that nobody has. */
static bool is_nobodys(void *context, uint32_t source)
{
	const struct keeping *keeping = context;
	uint32_t at = source - NETWORK_VETHS_BASE;

	return at / 2 < NETWORK_SLOTS && !keeping->used(keeping->context, at / 2);
}

void network_keep(struct network *network, bool (*used)(void *context, unsigned slot), void *context)
{
	struct keeping keeping = { .used = used, .context = context };
	struct error err = { 0 };
	char name[16];

	if (links_list(consider, &keeping, &err) < 0)
		log_error("%s", err.message);
	for (size_t i = 0; i < keeping.count; i++) {
		network_host_veth(keeping.doomed[i], name);
		/* It may go with its namespace meanwhile. */
		(void)links_remove(network->links, name, NULL);
	}
	free(keeping.doomed);
	if (network->usable)
		links_forget_connections_of(0, is_nobodys, &keeping);
}
