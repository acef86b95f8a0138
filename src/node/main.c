/* atoll-node: the daemon that owns a machine's sandboxes. */
#include <errno.h>
#include <getopt.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "node/history.h"
#include "node/network/network.h"
#include "node/node.h"
#include "node/observe.h"
#include "node/pool.h"
#include "node/sandbox.h"
#include "node/template.h"

#define DEFAULT_SHELLS  2
#define DEFAULT_WARM    2
#define DEFAULT_OBSERVE 5 /* seconds */
#define OBSERVE_MAX     3600
#define IDLE_CALLS      2 /* connections kept per agent */
#define IDLE_TIMEOUT_MS 5000

struct options {
	const char *run;
	const char *data;
	const char *bin;
	unsigned shells;
	unsigned warm;
	unsigned observe; /* seconds */
	struct network_limits limits;
	bool emulated;
	bool probe_network;
};

static int parse_options(int argc, char **argv, struct options *options)
{
	static const struct option table[] = {
		{ "run", required_argument, NULL, 'r' },     { "data", required_argument, NULL, 'd' },
		{ "bin", required_argument, NULL, 'b' },     { "shells", required_argument, NULL, 's' },
		{ "warm", required_argument, NULL, 'w' },    { "observe", required_argument, NULL, 'o' },
		{ "emulated", no_argument, NULL, 'e' },      { "egress-limit", required_argument, NULL, 'l' },
		{ "probe-network", no_argument, NULL, 'n' }, { 0 }
	};
	int option;

	while ((option = getopt_long(argc, argv, "", table, NULL)) != -1) {
		switch (option) {
		case 'r':
			options->run = optarg;
			break;
		case 'd':
			options->data = optarg;
			break;
		case 'b':
			options->bin = optarg;
			break;
		case 'o':
			options->observe = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 'l':
			if (network_parse_limits(optarg, &options->limits) < 0)
				return -EINVAL;
			break;
		case 'n':
			options->probe_network = true;
			return 0;
		case 'e':
			options->emulated = true;
			break;
		case 'w':
			options->warm = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 's':
			options->shells = (unsigned)strtoul(optarg, NULL, 10);
			break;
		default:
			return -EINVAL;
		}
	}
	/* Unix sockets have short paths, and sandboxes' lie below. */
	return options->run && options->data && options->bin && strlen(options->run) < 64 &&
	                       options->observe <= OBSERVE_MAX
	               ? 0
	               : -EINVAL;
}

/* Who may use what we make: group atoll where it exists. */
static int find_group(struct node *node, struct error *err)
{
	const struct group *group = getgrnam("atoll");

	node->gid = group ? group->gr_gid : getgid();
	/* Monitors have device nodes of their own; that the device is there is said here rather than by each.
	 */
	return access("/dev/kvm", R_OK | W_OK) < 0 ? error_errno(err, errno, "/dev/kvm") : 0;
}

static bool is_slot_used(void *context, unsigned slot)
{
	const struct node *node = context;

	return slot < NODE_SLOTS && node->slots[slot];
}

static int serve(struct node *node, const struct options *options, struct error *err)
{
	struct http_server_options server = { .on_request = node_route, .context = node };
	char path[NODE_PATH_MAX];
	int ret = file_make_directories(node->run, 0755, err);

	if (ret == 0)
		ret = file_make_directories(node->data, 0755, err);
	if (ret == 0)
		ret = find_group(node, err);
	if (ret == 0)
		ret = templates_load(node, err);
	if (ret < 0)
		return ret;
	node->network = network_new(node->loop, &options->limits, err);
	if (!node->network)
		return -err->code;
	ret = sandboxes_adopt(node, err);
	if (ret < 0)
		return ret;
	network_keep(node->network, is_slot_used, node);
	node->pool = pool_new(node, options->shells, err);
	node->server = http_server_new(node->loop, &server);
	if (!node->pool || !node->server)
		return error_errno(err, ENOMEM, "start");
	(void)snprintf(path, sizeof(path), "%s/node.sock", node->run);
	(void)unlink(path);
	ret = http_server_listen_unix(node->server, path, 0660, err);
	if (ret == 0 && chown(path, 0, node->gid) < 0)
		ret = error_errno(err, errno, "own %s", path);
	return ret;
}

/* For `atoll doctor`. */
static int probe_network(void)
{
	struct network_firewall firewall;
	struct error err = { 0 };
	char what[512];
	char mend[512];

	if (network_probe(&err) == 0) {
		int found = network_find_firewall(&firewall, &err);

		if (found > 0) {
			network_describe_firewall(&firewall, what, sizeof(what), mend, sizeof(mend));
			printf("warning: %s\n         mend it with: %s\n", what, mend);
		} else if (found < 0)
			printf("warning: no firewall was looked for (%s)\n", err.message);
		else
			puts("network: sandboxes can reach the internet");
		return EXIT_SUCCESS;
	}
	printf("missing: the network of sandboxes (%s)\n", err.message);
	return EXIT_FAILURE;
}

static void on_signal(uv_signal_t *handle, int number)
{
	struct node *node = handle->data;

	/* Sandboxes stay: whoever starts us again takes them up. */
	log_info("signal %d: ending", number);
	pool_drain(node->pool);
	uv_stop(node->loop);
}

int main(int argc, char **argv)
{
	struct options options = { .shells = DEFAULT_SHELLS,
		                   .warm = DEFAULT_WARM,
		                   .observe = DEFAULT_OBSERVE,
		                   .limits = NETWORK_LIMITS_DEFAULT };
	static struct node node;
	static uv_signal_t signals[2];
	struct error err = { 0 };

	if (parse_options(argc, argv, &options) < 0) {
		fputs("usage: atoll-node --run DIR --data DIR --bin DIR [--shells N] [--warm N] "
		      "[--observe SECONDS] [--egress-limit CONNECTIONS:RATE|none] [--emulated]\n       "
		      "atoll-node --probe-network\n",
		      stderr);
		return 2;
	}
	if (options.probe_network)
		return probe_network();
	log_init("node", LOG_LEVEL_INFO);
	node.loop = uv_default_loop();
	node.run = options.run;
	node.data = options.data;
	node.bin = options.bin;
	node.warm = options.warm;
	node.emulated = options.emulated;
	node.observe_ms = options.observe * 1000;
	(void)uv_timer_init(node.loop, &node.warming);
	node.warming.data = &node;
	list_init(&node.sandboxes);
	list_init(&node.templates);
	node.client = http_client_new(node.loop, IDLE_CALLS, IDLE_TIMEOUT_MS);
	(void)signal(SIGPIPE, SIG_IGN);
	if (!node.client || serve(&node, &options, &err) < 0) {
		log_error("%s", err.message);
		return EXIT_FAILURE;
	}
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++) {
		signals[i].data = &node;
		(void)uv_signal_init(node.loop, &signals[i]);
		(void)uv_signal_start(&signals[i], on_signal, i ? SIGINT : SIGTERM);
	}
	history_start(&node);
	observe_start(&node);
	sandboxes_warm_up(&node);
	log_info("ready");
	(void)uv_run(node.loop, UV_RUN_DEFAULT);
	return EXIT_SUCCESS;
}
