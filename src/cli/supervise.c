/*
 * atoll supervise: the service's one parent. Starts atoll-node and atoll-api, starts them again when they
 * end, and ends them on SIGTERM. Monitors are not its children.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "cli/cli.h"

#define RESTART_FIRST_MS 100
#define RESTART_MAX_MS   5000
#define STEADY_MS        10000 /* a program that ran this long starts again without delay */
#define LOG_LIMIT        (16 << 20)
#define LOG_LOOK_MS      60000

struct child {
	const char *name;
	const char *argv[24];
	pid_t pid;
	int64_t started_ms;
	int64_t start_at_ms; /* when it is to be started again */
	unsigned delay_ms;
};

struct service {
	const char *run;
	const char *data;
	const char *bin;
	const char *listen;
	const char *tls_listen; /* NULL: no TLS */
	const char *tls_certificate;
	const char *tls_key;
	const char *rate_limit; /* NULL: atoll-api's own default, as of the next */
	const char *sandbox_connections;
	const char *egress_limit; /* NULL: atoll-node's own default */
	bool emulated;            /* no hardware virtualisation below: see atoll-node */
	char paths[2][300];
	char key[300];
	struct child children[2];
};

static volatile sig_atomic_t stopping;

static void on_signal(int number)
{
	if (number != SIGCHLD)
		stopping = 1;
}

static int64_t now_ms(void)
{
	return time_monotonic_us() / 1000;
}

static void start(struct child *child)
{
	pid_t parent = getpid();

	child->started_ms = now_ms();
	child->start_at_ms = 0;
	child->pid = fork();
	if (child->pid != 0) {
		log_info("%s started as %d", child->name, (int)child->pid);
		return;
	}
	(void)prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != parent)
		_exit(1);
	execv(child->argv[0], (char *const *)(uintptr_t)child->argv);
	fprintf(stderr, "%s: %s\n", child->argv[0], strerror(errno));
	_exit(127);
}

static void note_end(struct child *child, int status)
{
	bool steady = now_ms() - child->started_ms >= STEADY_MS;

	log_warn("%s ended (%s %d)", child->name, WIFSIGNALED(status) ? "signal" : "status",
	         WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	child->pid = 0;
	child->delay_ms = steady || !child->delay_ms ? RESTART_FIRST_MS : child->delay_ms * 2;
	if (child->delay_ms > RESTART_MAX_MS)
		child->delay_ms = RESTART_MAX_MS;
	child->start_at_ms = now_ms() + child->delay_ms;
}

static void reap(struct service *service)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		for (size_t i = 0; i < ARRAY_SIZE(service->children); i++)
			if (service->children[i].pid == pid)
				note_end(&service->children[i], status);
}

static void stop_all(struct service *service)
{
	for (size_t i = 0; i < ARRAY_SIZE(service->children); i++) {
		struct child *child = &service->children[i];

		if (child->pid > 0) {
			(void)kill(child->pid, SIGTERM);
			(void)waitpid(child->pid, NULL, 0);
		}
	}
}

/* Append an option to arguments that end with NULL and have room; NULL: it was not given. */
static void add_option(struct child *child, const char *name, const char *value)
{
	const char **end = child->argv;

	while (*end)
		end++;
	if (value) {
		end[0] = name;
		end[1] = value;
	}
}

static void plan(struct service *service)
{
	struct child *node = &service->children[0];
	struct child *api = &service->children[1];

	(void)snprintf(service->paths[0], sizeof(service->paths[0]), "%s/atoll-node", service->bin);
	(void)snprintf(service->paths[1], sizeof(service->paths[1]), "%s/atoll-api", service->bin);
	(void)snprintf(service->key, sizeof(service->key), "%s/api-key", service->data);
	*node = (struct child){ .name = "atoll-node",
		                .argv = { service->paths[0], "--run", service->run, "--data", service->data,
		                          "--bin", service->bin, service->emulated ? "--emulated" : NULL } };
	*api = (struct child){ .name = "atoll-api",
		               .argv = { service->paths[1], "--run", service->run, "--data", service->data,
		                         "--listen", service->listen, "--key-file", service->key } };
	add_option(node, "--egress-limit", service->egress_limit);
	add_option(api, "--tls-listen", service->tls_listen);
	add_option(api, "--tls-cert", service->tls_certificate);
	add_option(api, "--tls-key", service->tls_key);
	add_option(api, "--rate-limit", service->rate_limit);
	add_option(api, "--sandbox-connections", service->sandbox_connections);
}

static int parse(int argc, char **argv, struct service *service)
{
	static const struct option table[] = { { "run", required_argument, NULL, 'r' },
		                               { "data", required_argument, NULL, 'd' },
		                               { "bin", required_argument, NULL, 'b' },
		                               { "listen", required_argument, NULL, 'l' },
		                               { "emulated", no_argument, NULL, 'e' },
		                               { "tls-listen", required_argument, NULL, 't' },
		                               { "tls-cert", required_argument, NULL, 'c' },
		                               { "tls-key", required_argument, NULL, 'k' },
		                               { "rate-limit", required_argument, NULL, 'R' },
		                               { "sandbox-connections", required_argument, NULL, 'C' },
		                               { "egress-limit", required_argument, NULL, 'E' },
		                               { 0 } };
	int option;

	while ((option = getopt_long(argc, argv, "", table, NULL)) != -1) {
		switch (option) {
		case 'r':
			service->run = optarg;
			break;
		case 'd':
			service->data = optarg;
			break;
		case 'b':
			service->bin = optarg;
			break;
		case 'l':
			service->listen = optarg;
			break;
		case 't':
			service->tls_listen = optarg;
			break;
		case 'c':
			service->tls_certificate = optarg;
			break;
		case 'k':
			service->tls_key = optarg;
			break;
		case 'R':
			service->rate_limit = optarg;
			break;
		case 'C':
			service->sandbox_connections = optarg;
			break;
		case 'E':
			service->egress_limit = optarg;
			break;
		case 'e':
			service->emulated = true;
			break;
		default:
			return -EINVAL;
		}
	}
	if (!service->tls_certificate != !service->tls_key ||
	    (service->tls_certificate && !service->tls_listen))
		return -EINVAL;
	return service->run && service->data && service->bin && service->listen ? 0 : -EINVAL;
}

int cli_supervise(int argc, char **argv)
{
	struct service service = { 0 };
	struct sigaction action = { .sa_handler = on_signal };
	int64_t look_at_ms = 0;

	if (parse(argc, argv, &service) < 0) {
		fputs("usage: atoll supervise --run DIR --data DIR --bin DIR --listen IP:PORT\n"
		      "                       [--tls-listen IP:PORT [--tls-cert FILE --tls-key FILE]]\n"
		      "                       [--rate-limit RATE:BURST|none] [--sandbox-connections "
		      "N|none]\n"
		      "                       [--egress-limit CONNECTIONS:RATE|none]\n",
		      stderr);
		return 2;
	}
	log_init("supervise", LOG_LEVEL_INFO);
	plan(&service);
	(void)sigaction(SIGTERM, &action, NULL);
	(void)sigaction(SIGINT, &action, NULL);
	(void)sigaction(SIGCHLD, &action, NULL);
	while (!stopping) {
		for (size_t i = 0; i < ARRAY_SIZE(service.children); i++)
			if (service.children[i].pid <= 0 && now_ms() >= service.children[i].start_at_ms)
				start(&service.children[i]);
		/* A signal cuts this short. */
		(void)usleep(100 * 1000);
		reap(&service);
		/* The programs write to the same file. */
		if (now_ms() >= look_at_ms) {
			look_at_ms = now_ms() + LOG_LOOK_MS;
			(void)log_rotate(STDERR_FILENO, LOG_LIMIT);
		}
	}
	stop_all(&service);
	return EXIT_SUCCESS;
}
