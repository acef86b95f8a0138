/*
 * atoll-envd: the agent of a sandbox.
 *
 * As pid 1 it is the guest's init; with --native it serves TCP only, which is how the SDKs' debug mode drives
 * it on a developer's machine.
 */
#include <errno.h>
#include <getopt.h>
#include <linux/vm_sockets.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "envd/envd.h"
#include "envd/records.h"
#include "envd/volume_mounts.h"

static void usage(FILE *to)
{
	fputs("usage: atoll-envd --native [--listen-ip IP] [--port PORT] [--user NAME] [--token TOKEN]\n"
	      "                           [--control PATH]\n"
	      "       PATH: a socket to make, the node's door of a native agent\n"
	      "       (without --native it must be the init of a sandbox)\n",
	      to);
}

struct options {
	const char *ip;
	const char *user;
	const char *token;
	const char *control;
	uint16_t port;
	bool native;
};

/* 0 to go on, otherwise 1 + the exit status. */
static int parse_options(int argc, char **argv, struct options *options)
{
	static const struct option table[] = {
		{ "native", no_argument, NULL, 'n' },      { "listen-ip", required_argument, NULL, 'i' },
		{ "port", required_argument, NULL, 'p' },  { "user", required_argument, NULL, 'u' },
		{ "token", required_argument, NULL, 't' }, { "control", required_argument, NULL, 'c' },
		{ "version", no_argument, NULL, 'v' },     { 0 }
	};
	int option;

	while ((option = getopt_long(argc, argv, "", table, NULL)) != -1) {
		switch (option) {
		case 'n':
			options->native = true;
			break;
		case 'i':
			options->ip = optarg;
			break;
		case 'p':
			options->port = (uint16_t)strtoul(optarg, NULL, 10);
			break;
		case 'u':
			options->user = optarg;
			break;
		case 't':
			options->token = optarg;
			break;
		case 'c':
			options->control = optarg;
			break;
		case 'v':
			puts("atoll-envd " ATOLL_VERSION " (E2B " ENVD_VERSION ")");
			return 1;
		default:
			usage(stderr);
			return 3;
		}
	}
	if (!options->native && getpid() != 1) {
		usage(stderr);
		return 3;
	}
	return 0;
}

/* --- listening --- */

static int vsock_bind(uint32_t port, struct error *err)
{
	struct sockaddr_vm address = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port };
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		int code = errno;

		if (fd >= 0)
			close(fd);
		return error_errno(err, code, "bind vsock port %u", port);
	}
	return fd;
}

static int listen_vsock(struct envd *envd, struct error *err)
{
	int public = vsock_bind(ENVD_PORT, err);
	int control = public < 0 ? public : vsock_bind(ENVD_PORT_CONTROL, err);
	int tunnel = control < 0 ? control : vsock_bind(ENVD_PORT_TUNNEL, err);
	int ret = tunnel;

	if (ret >= 0)
		ret = http_server_listen_fd(envd->server, public, ENVD_DOOR_PUBLIC, err);
	if (ret >= 0)
		ret = http_server_listen_fd(envd->server, control, ENVD_DOOR_CONTROL, err);
	return ret < 0 ? ret : tunnel_listen(envd, tunnel, err);
}

/* The node's door where there is no vsock: a socket that its owner alone can connect to. */
static int listen_control(struct envd *envd, const char *path, struct error *err)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd;

	if (strlen(path) >= sizeof(address.sun_path))
		return error_errno(err, ENAMETOOLONG, "listen on %s", path);
	memcpy(address.sun_path, path, strlen(path));
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0 || fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		int code = errno;

		if (fd >= 0)
			close(fd);
		return error_errno(err, code, "listen on %s", path);
	}
	return http_server_listen_fd(envd->server, fd, ENVD_DOOR_CONTROL, err);
}

static int start(struct envd *envd, const struct options *options, struct error *err)
{
	struct http_server_options server = { .on_request = envd_route, .context = envd };
	int ret;

	envd->server = http_server_new(envd->loop, &server);
	envd->processes = processes_new(envd);
	envd->records = records_new();
	envd->volumes = volume_mounts_new(envd, options->control);
	list_init(&envd->watchers);
	envd->env_vars = json_object();
	envd->default_user = strdup(options->user);
	envd->default_workdir = strdup("");
	envd->token = options->token ? strdup(options->token) : NULL;
	if (!envd->server || !envd->processes || !envd->records || !envd->volumes || !envd->default_user ||
	    !envd->default_workdir || (options->token && !envd->token))
		return error_errno(err, ENOMEM, "start");
	memory_init(envd);
	ret = http_server_listen_tcp(envd->server, options->ip, options->port, err);
	if (ret < 0)
		return ret;
	if (!envd->native)
		return listen_vsock(envd, err);
	return options->control ? listen_control(envd, options->control, err) : 0;
}

/* --- signals --- */

static void on_child(uv_signal_t *handle, int number)
{
	struct envd *envd = handle->data;

	(void)number;
	processes_reap(envd->processes);
}

/* A guest has no power button: whoever asks init to end means the machine. */
static void on_end(uv_signal_t *handle, int number)
{
	struct envd *envd = handle->data;

	(void)number;
	if (envd->native) {
		volume_mounts_stop(envd->volumes);
		uv_stop(envd->loop);
		return;
	}
	sync();
	(void)reboot(RB_AUTOBOOT);
}

static void watch_signals(struct envd *envd)
{
	static uv_signal_t handles[4];
	static const int numbers[] = { SIGCHLD, SIGTERM, SIGINT, SIGPWR };

	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		handles[i].data = envd;
		(void)uv_signal_init(envd->loop, &handles[i]);
		(void)uv_signal_start(&handles[i], i == 0 ? on_child : on_end, numbers[i]);
	}
	(void)signal(SIGPIPE, SIG_IGN);
}

/* A thousand processes and their streams are more descriptors than a shell allows. */
static void raise_limit(void)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) < 0)
		return;
	files.rlim_cur = files.rlim_max < 65536 ? files.rlim_max : 65536;
	(void)setrlimit(RLIMIT_NOFILE, &files);
}

int main(int argc, char **argv)
{
	struct options options = { .ip = NULL, .user = NULL, .port = ENVD_PORT };
	struct envd envd = { .loop = uv_default_loop() };
	struct error err = { 0 };
	int stop;

	if (argc > 2 && strcmp(argv[1], VOLUME_ARGUMENT) == 0)
		return volume_process_main(argv + 2, argc - 2);
	stop = parse_options(argc, argv, &options);
	if (stop)
		return stop - 1;
	log_init("envd", LOG_LEVEL_INFO);
	envd.native = options.native;
	if (!options.ip)
		options.ip = envd.native ? "127.0.0.1" : "0.0.0.0";
	if (!options.user)
		options.user = "root";
	if (!envd.native)
		init_prepare();
	else
		raise_limit();
	watch_signals(&envd);
	if (start(&envd, &options, &err) < 0) {
		log_error("%s", err.message);
		return EXIT_FAILURE;
	}
	(void)uv_run(envd.loop, UV_RUN_DEFAULT);
	return EXIT_SUCCESS;
}
