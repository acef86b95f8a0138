/*
 * atoll-vmm: one microVM per process.
 *
 *     atoll-vmm --api-sock PATH [--id ID] [--shell VCPUS] [--config-file FILE]
 *     atoll-vmm --no-api --config-file FILE [--id ID]
 *     atoll-vmm --describe-snapshot FILE
 *
 * ends with 0 when the guest resets or SIGTERM comes, after its disks are flushed.
 */
#include <errno.h>
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <uv.h>

#include "base/base.h"
#include "vmm/api/api.h"
#include "vmm/config/config.h"

#define DEFAULT_SOCKET "/run/firecracker.socket"
#define BODY_LIMIT_MAX (64ul << 20) /* bytes */

/* Firecracker's exit codes for a bad configuration and bad arguments. */
#define EXIT_BAD_CONFIG    152
#define EXIT_BAD_ARGUMENTS 153

struct monitor {
	uv_loop_t loop;
	uv_signal_t terminate;
	uv_signal_t interrupt;
	struct api_options options;
	const char *config_file;
	const char *describe;
	const char *shell;
	const char *body_limit;
	const char *metadata_limit;
	const char *log_path;
	const char *level;
	const char *metrics_path;
	bool no_api;
	bool no_seccomp;
	bool version;
	bool snapshot_version;
	bool help;
	int status;
};

/* --- the command line: Firecracker's, and --shell and --trace-restore --- */

static const struct monitor_option {
	const char *name;
	const char *value; /* what it takes, for the help; NULL: nothing */
	size_t offset;     /* of a const char * or a bool in struct monitor; 0: taken, and changes nothing */
} monitor_options[] = {
	{ "api-sock", "PATH", offsetof(struct monitor, options.socket_path) },
	{ "id", "ID", offsetof(struct monitor, options.id) },
	{ "config-file", "FILE", offsetof(struct monitor, config_file) },
	{ "no-api", NULL, offsetof(struct monitor, no_api) },
	{ "boot-timer", NULL, offsetof(struct monitor, options.boot_timer) },
	{ "log-path", "PATH", offsetof(struct monitor, log_path) },
	{ "level", "LEVEL", offsetof(struct monitor, level) },
	{ "show-level", NULL, 0 },
	{ "show-log-origin", NULL, 0 },
	{ "module", "NAME", 0 },
	{ "metrics-path", "PATH", offsetof(struct monitor, metrics_path) },
	{ "http-api-max-payload-size", "BYTES", offsetof(struct monitor, body_limit) },
	{ "metadata", "FILE", offsetof(struct monitor, options.metadata_path) },
	{ "mmds-size-limit", "BYTES", offsetof(struct monitor, metadata_limit) },
	{ "start-time-us", "US", 0 },
	{ "start-time-cpu-us", "US", 0 },
	{ "parent-cpu-time-us", "US", 0 },
	{ "snapshot-version", NULL, offsetof(struct monitor, snapshot_version) },
	{ "describe-snapshot", "FILE", offsetof(struct monitor, describe) },
	{ "shell", "VCPUS", offsetof(struct monitor, shell) },
	{ "no-seccomp", NULL, offsetof(struct monitor, no_seccomp) },
	{ "trace-restore", NULL, offsetof(struct monitor, options.trace) },
	{ "version", NULL, offsetof(struct monitor, version) },
	{ "help", NULL, offsetof(struct monitor, help) },
};

#define OPTION_COUNT (sizeof(monitor_options) / sizeof(monitor_options[0]))

static void usage(FILE *to)
{
	fputs("usage: atoll-vmm [--api-sock PATH | --no-api] [options]\n", to);
	for (size_t i = 0; i < OPTION_COUNT; i++)
		fprintf(to, "  --%s%s%s\n", monitor_options[i].name, monitor_options[i].value ? " " : "",
		        monitor_options[i].value ? monitor_options[i].value : "");
}

/* Of the form [1-9][0-9]* and at most `maximum`. */
static int parse_number(const char *option, const char *text, unsigned long maximum, unsigned long *ret)
{
	char *end;

	errno = 0;
	*ret = strtoul(text, &end, 10);
	if (*end == '\0' && *text >= '1' && *text <= '9' && errno == 0 && *ret <= maximum)
		return 0;
	fprintf(stderr, "atoll-vmm: --%s wants a number from 1 to %lu, not '%s'\n", option, maximum, text);
	return -EINVAL;
}

/* Firecracker's rule: letters, digits and '-', 1 to 64 of them. */
static int check_id(const char *id)
{
	size_t length = strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-");

	if (id[length] == '\0' && length >= 1 && length <= 64)
		return 0;
	fprintf(stderr, "atoll-vmm: --id wants 1 to 64 letters, digits and '-', not '%s'\n", id);
	return -EINVAL;
}

static int check_options(struct monitor *monitor)
{
	unsigned long number;

	if (check_id(monitor->options.id) < 0)
		return -EINVAL;
	if (monitor->shell) {
		if (parse_number("shell", monitor->shell, LAYOUT_VCPUS_MAX, &number) < 0)
			return -EINVAL;
		monitor->options.shell_vcpus = (unsigned)number;
	}
	if (monitor->body_limit) {
		if (parse_number("http-api-max-payload-size", monitor->body_limit, BODY_LIMIT_MAX, &number) <
		    0)
			return -EINVAL;
		monitor->options.body_limit = number;
	}
	if (monitor->metadata_limit) {
		if (parse_number("mmds-size-limit", monitor->metadata_limit, BODY_LIMIT_MAX, &number) < 0)
			return -EINVAL;
		monitor->options.metadata_limit = number;
	}
	if (monitor->no_api && !monitor->config_file) {
		fputs("atoll-vmm: --no-api needs --config-file\n", stderr);
		return -EINVAL;
	}
	if (monitor->no_api)
		monitor->options.socket_path = NULL;
	return 0;
}

static int parse_options(int argc, char **argv, struct monitor *monitor)
{
	struct option table[OPTION_COUNT + 1] = { 0 };
	int option;
	int index;

	for (size_t i = 0; i < OPTION_COUNT; i++)
		table[i] = (struct option){ .name = monitor_options[i].name,
			                    .has_arg = monitor_options[i].value ? required_argument
			                                                        : no_argument };
	while ((option = getopt_long(argc, argv, "", table, &index)) != -1) {
		size_t offset = option ? 0 : monitor_options[index].offset;

		if (option) {
			usage(stderr);
			return -EINVAL;
		}
		if (offset && monitor_options[index].value)
			*(const char **)((char *)monitor + offset) = optarg;
		else if (offset)
			*(bool *)((char *)monitor + offset) = true;
	}
	if (optind < argc) {
		fprintf(stderr, "atoll-vmm: what is '%s'?\n", argv[optind]);
		return -EINVAL;
	}
	return check_options(monitor);
}

static int describe_snapshot(const char *path)
{
	struct snapshot_reader snapshot;
	struct error err = { 0 };

	/* Reading is checking: a snapshot of another version says so. */
	if (snapshot_read(&snapshot, path, &err) < 0) {
		fprintf(stderr, "atoll-vmm: %s\n", err.message);
		return EXIT_FAILURE;
	}
	printf("v%d.0.0\n", SNAPSHOT_VERSION);
	snapshot_reader_fini(&snapshot);
	return EXIT_SUCCESS;
}

/* --- running --- */

static void on_ended(void *context, int status)
{
	struct monitor *monitor = context;

	monitor->status = status;
	uv_stop(&monitor->loop);
}

static void on_signal(uv_signal_t *handle, int number)
{
	(void)number;
	on_ended(handle->data, EXIT_SUCCESS);
}

static void watch_signals(struct monitor *monitor)
{
	monitor->terminate.data = monitor;
	monitor->interrupt.data = monitor;
	(void)uv_signal_init(&monitor->loop, &monitor->terminate);
	(void)uv_signal_init(&monitor->loop, &monitor->interrupt);
	(void)uv_signal_start(&monitor->terminate, on_signal, SIGTERM);
	(void)uv_signal_start(&monitor->interrupt, on_signal, SIGINT);
	(void)signal(SIGPIPE, SIG_IGN);
}

/* What the command line says of log and metrics: the form of the configuration file. */
static int observe(const struct monitor *monitor, struct api *api, struct error *err)
{
	cleanup_json json_t *config = json_pack("{s:{s:s*,s:s*}}", "logger", "log_path", monitor->log_path,
	                                        "level", monitor->level);

	if (monitor->metrics_path)
		(void)json_object_set_new(config, "metrics",
		                          json_pack("{s:s}", "metrics_path", monitor->metrics_path));
	return api_observe(api, config, err);
}

static int run(struct monitor *monitor)
{
	json_t *config = NULL;
	struct error err = { 0 };
	struct api *api;

	if (monitor->config_file && config_read_file(monitor->config_file, &config, &err) < 0) {
		log_error("%s", err.message);
		return EXIT_BAD_CONFIG;
	}
	if (uv_loop_init(&monitor->loop) < 0)
		return EXIT_FAILURE;
	watch_signals(monitor);
	api = api_new(&monitor->loop, &monitor->options, &err);
	if (!api || observe(monitor, api, &err) < 0 || (config && api_boot_file(api, config, &err) < 0)) {
		log_error("%s", err.message);
		api_free(api);
		return EXIT_FAILURE;
	}
	(void)uv_run(&monitor->loop, UV_RUN_DEFAULT);
	api_free(api);
	log_info("the machine has ended");
	return monitor->status;
}

int main(int argc, char **argv)
{
	struct monitor monitor = { .options = { .id = "anonymous-instance", .socket_path = DEFAULT_SOCKET } };

	if (parse_options(argc, argv, &monitor) < 0)
		return EXIT_BAD_ARGUMENTS;
	if (monitor.help) {
		usage(stdout);
		return EXIT_SUCCESS;
	}
	if (monitor.version || monitor.snapshot_version) {
		if (monitor.version)
			puts("atoll-vmm v" ATOLL_VERSION);
		else
			printf("v%d.0.0\n", SNAPSHOT_VERSION);
		return EXIT_SUCCESS;
	}
	if (monitor.describe)
		return describe_snapshot(monitor.describe);
	/* One arena: a monitor's few allocations should not cost a heap per thread. */
	(void)mallopt(M_ARENA_MAX, 1);
	monitor.options.seccomp = !monitor.no_seccomp;
	monitor.options.ended = on_ended;
	monitor.options.context = &monitor;
	log_init(monitor.options.id, LOG_LEVEL_INFO);
	/* Reads a file when it is called first, and a line of the log calls it: vCPUs could not. */
	tzset();
	return run(&monitor);
}
