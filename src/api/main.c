/* atoll-api: control plane and edge on one listener. */
#include <errno.h>
#include <getopt.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/api.h"
#include "api/control.h"
#include "api/edge/edge.h"
#include "api/registry.h"
#include "api/rest/rest.h"
#include "api/store/store.h"
#include "api/telemetry.h"
#include "api/volumes/volumes.h"
#include "net/http2.h"
#include "net/tls.h"
#include "net/tls_authority.h"

#define USER             "atoll"
#define FILES_MAX        65536
#define NODE_CONNECTIONS 16
#define SANDBOX_IDLE     64   /* kept connections per endpoint */
#define SANDBOX_IDLE_MS  4000 /* less than the 5 s after which many servers close: Node, uvicorn */
#define CONNECTIONS_MAX  20000
#define VOLUME_MAX       (UINT64_C(10) << 30) /* bytes of a volume */
#define VISITS_MAX       4096
#define THREADS          "16"
#define RENEWAL_MS       (24 * 3600 * 1000)

struct listen {
	char ip[64];
	uint16_t port;
};

struct options {
	const char *run;
	const char *data;
	const char *key_file;
	bool routes; /* print them and end */
	struct control_options control;
	const char *tls_certificate; /* NULL: our own authority makes one */
	const char *tls_key;
	struct listen listen;
	struct listen tls_listen; /* port 0: none */
	unsigned visits_max;      /* in one sandbox at once */
	uint64_t volume_max;      /* bytes that a volume may use */
};

static struct secured {
	struct tls_context *context; /* NULL: no TLS */
	char directory[256];         /* of our own authority; "": the certificate was given */
	uv_timer_t renewal;
} secured;

void api_route(struct http_exchange *exchange, void *context)
{
	struct api *api = context;

	if (edge_serve(api, exchange))
		return;
	telemetry_begin(api->telemetry, exchange);
	if (!volumes_serve(api, exchange))
		rest_route(api, exchange);
}

static int parse_listen(const char *text, struct listen *listen)
{
	const char *colon = strrchr(text, ':');
	char *end;
	unsigned long port = colon ? strtoul(colon + 1, &end, 10) : 0;

	if (!colon || *end || port == 0 || port > UINT16_MAX || (size_t)(colon - text) >= sizeof(listen->ip))
		return -EINVAL;
	(void)snprintf(listen->ip, sizeof(listen->ip), "%.*s", (int)(colon - text), text);
	listen->port = (uint16_t)port;
	return 0;
}

static int parse_number(const char *text, unsigned long maximum, unsigned *ret)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (end == text || *end || value == 0 || value > maximum)
		return -EINVAL;
	*ret = (unsigned)value;
	return 0;
}

/* "none", or requests a second and how many at once: "100:500". */
static int parse_rate(const char *text, struct control_options *options)
{
	char rate[16];
	const char *colon = strchr(text, ':');

	options->unlimited = strcmp(text, "none") == 0;
	if (options->unlimited)
		return 0;
	if (!colon || (size_t)(colon - text) >= sizeof(rate))
		return -EINVAL;
	(void)snprintf(rate, sizeof(rate), "%.*s", (int)(colon - text), text);
	if (parse_number(rate, 1000000, &options->rate) < 0)
		return -EINVAL;
	return parse_number(colon + 1, 1000000, &options->burst);
}

static int parse_options(int argc, char **argv, struct options *options)
{
	static const struct option table[] = { { "run", required_argument, NULL, 'r' },
		                               { "data", required_argument, NULL, 'd' },
		                               { "listen", required_argument, NULL, 'l' },
		                               { "key-file", required_argument, NULL, 'k' },
		                               { "admin-token-file", required_argument, NULL, 'a' },
		                               { "secrets-key-file", required_argument, NULL, 's' },
		                               { "rate-limit", required_argument, NULL, 'R' },
		                               { "sample-seconds", required_argument, NULL, 'S' },
		                               { "routes", no_argument, NULL, 'O' },
		                               { "sandbox-connections", required_argument, NULL, 'C' },
		                               { "volume-mib", required_argument, NULL, 'v' },
		                               { "tls-listen", required_argument, NULL, 't' },
		                               { "tls-cert", required_argument, NULL, 'c' },
		                               { "tls-key", required_argument, NULL, 'p' },
		                               { 0 } };
	int option;

	while ((option = getopt_long(argc, argv, "", table, NULL)) != -1) {
		switch (option) {
		case 'r':
			options->run = optarg;
			break;
		case 'd':
			options->data = optarg;
			break;
		case 'l':
			if (parse_listen(optarg, &options->listen) < 0)
				return -EINVAL;
			break;
		case 't':
			if (parse_listen(optarg, &options->tls_listen) < 0)
				return -EINVAL;
			break;
		case 'c':
			options->tls_certificate = optarg;
			break;
		case 'p':
			options->tls_key = optarg;
			break;
		case 'k':
			options->key_file = optarg;
			break;
		case 'a':
			options->control.admin_token_file = optarg;
			break;
		case 's':
			options->control.secrets_key_file = optarg;
			break;
		case 'R':
			if (parse_rate(optarg, &options->control) < 0)
				return -EINVAL;
			break;
		case 'S':
			if (parse_number(optarg, 86400, &options->control.sample_s) < 0)
				return -EINVAL;
			break;
		case 'O':
			options->routes = true;
			return 0;
		case 'C':
			if (strcmp(optarg, "none") == 0)
				options->visits_max = 0;
			else if (parse_number(optarg, 1000000, &options->visits_max) < 0)
				return -EINVAL;
			break;
		case 'v':
			options->volume_max = (uint64_t)strtoul(optarg, NULL, 10) << 20;
			break;
		default:
			return -EINVAL;
		}
	}
	if (!options->tls_certificate != !options->tls_key ||
	    (options->tls_certificate && !options->tls_listen.port))
		return -EINVAL;
	return options->run && options->data && options->key_file && options->listen.port ? 0 : -EINVAL;
}

/* --- TLS --- */

/* Look whether our own certificate is near its end; read what is there anew. */
static void refresh_certificate(bool always)
{
	struct tls_authority paths;
	struct error err = { 0 };
	bool renewed = false;
	int ret = 0;

	if (!secured.context)
		return;
	if (secured.directory[0])
		ret = tls_authority_ensure(secured.directory, TLS_AUTHORITY_DOMAIN, &paths, &renewed, &err);
	if (ret == 0 && (always || renewed))
		ret = tls_context_reload(secured.context, &err);
	if (ret < 0)
		log_error("the certificate stays as it was: %s", err.message);
	else if (always || renewed)
		log_info("the certificate was %s", renewed ? "renewed" : "read again");
}

static void on_renewal(uv_timer_t *timer)
{
	(void)timer;
	refresh_certificate(false);
}

static void on_hangup(uv_signal_t *handle, int number)
{
	(void)handle;
	(void)number;
	refresh_certificate(true);
}

static int start_tls(struct api *api, const struct options *options, struct error *err)
{
	struct tls_authority paths;
	const char *certificate = options->tls_certificate;
	const char *key = options->tls_key;

	if (!options->tls_listen.port)
		return 0;
	if (!certificate) {
		(void)snprintf(secured.directory, sizeof(secured.directory), "%.240s/tls", options->data);
		if (tls_authority_ensure(secured.directory, TLS_AUTHORITY_DOMAIN, &paths, NULL, err) < 0)
			return -EIO;
		certificate = paths.certificate;
		key = paths.key;
		(void)uv_timer_init(api->loop, &secured.renewal);
		(void)uv_timer_start(&secured.renewal, on_renewal, RENEWAL_MS, RENEWAL_MS);
	}
	secured.context = tls_context_new(certificate, key, err);
	if (!secured.context)
		return -EINVAL;
	return http_server_listen_prepared(api->server, options->tls_listen.ip, options->tls_listen.port,
	                                   tls_secure, secured.context, err);
}

/* --- the start: as root as little as possible --- */

static int read_key(const char *path, char key[128], struct error *err)
{
	cleanup_buffer struct buffer text = { .limit = 127 };
	int ret = file_read(path, &text, err);

	if (ret < 0)
		return error_wrap(err, "the API key");
	(void)snprintf(key, 128, "%.*s", (int)strcspn(text.data, "\n"), text.data);
	if (strncmp(key, "e2b_", 4) != 0 || strspn(key + 4, "0123456789abcdef") != strlen(key + 4) || !key[4])
		return error_set(err, EINVAL, "%s holds no key of the form e2b_<hex>", path);
	return 0;
}

/* Our own authority's files are the service's, which renews them. */
static int give_files(const struct passwd *user)
{
	static const char *const names[] = { "", "/ca.pem", "/ca.key", "/server.pem", "/server.key" };
	char path[300];

	for (size_t i = 0; secured.directory[0] && i < ARRAY_SIZE(names); i++) {
		(void)snprintf(path, sizeof(path), "%s%s", secured.directory, names[i]);
		if (chown(path, user->pw_uid, user->pw_gid) < 0)
			return -errno;
	}
	return 0;
}

/* Become the user of the service; these directories are its own, up to NULL. */
static int drop_privileges(const struct api *api, const char *const *directories, struct error *err)
{
	const struct passwd *user = getpwnam(USER);

	if (geteuid() != 0)
		return 0;
	if (!user) {
		log_warn("there is no user '" USER "': staying root");
		return 0;
	}
	for (; *directories; directories++)
		if (chown(*directories, user->pw_uid, user->pw_gid) < 0)
			return error_errno(err, errno, "own %s", *directories);
	if (telemetry_own(api->telemetry, user->pw_uid, user->pw_gid, err) < 0)
		return -err->code;
	if (give_files(user) < 0 || initgroups(USER, user->pw_gid) < 0 || setgid(user->pw_gid) < 0 ||
	    setuid(user->pw_uid) < 0)
		return error_errno(err, errno, "become user '" USER "'");
	return 0;
}

static int start(struct api *api, const struct options *options, struct error *err)
{
	struct http_server_options server = { .on_request = api_route,
		                              .context = api,
		                              .max_connections = CONNECTIONS_MAX };
	const struct rlimit files = { FILES_MAX, FILES_MAX };
	char directory[256];
	char volumes[256];
	const char *const owned[] = { directory, volumes, NULL };
	char path[300];
	char key[128];
	int ret = read_key(options->key_file, key, err);

	(void)setrlimit(RLIMIT_NOFILE, &files);
	(void)snprintf(directory, sizeof(directory), "%.240s/api", options->data);
	(void)snprintf(volumes, sizeof(volumes), "%.240s/volumes", options->data);
	(void)snprintf(path, sizeof(path), "%s/atoll.db", directory);
	umask(0077);
	if (ret == 0)
		ret = file_make_directories(directory, 0700, err);
	if (ret == 0)
		ret = control_load(api, &options->control, err);
	if (ret == 0)
		ret = file_make_directories(volumes, 0700, err);
	if (ret < 0)
		return ret;
	api->server = http_server_new(api->loop, &server);
	if (api->server)
		http2_enable(api->server);
	ret = api->server ? http_server_listen_tcp(api->server, options->listen.ip, options->listen.port, err)
	                  : error_errno(err, ENOMEM, "start");
	/* After the listening: two of us must not take each other's socket. */
	if (ret == 0 && !(api->telemetry = telemetry_new(api, err)))
		ret = -err->code;
	if (ret == 0)
		ret = start_tls(api, options, err);
	if (ret == 0)
		ret = drop_privileges(api, owned, err);
	if (ret < 0)
		return ret;
	api->store = store_open(path, err);
	if (!api->store || store_ensure_key(api->store, key, err) < 0)
		return -EIO;
	api->registry = registry_new(api->store, err);
	if (!api->registry)
		return -EIO;
	api->volumes = volumes_new(api, volumes, options->volume_max, err);
	return api->volumes ? control_start(api, err) : -EIO;
}

static void on_signal(uv_signal_t *handle, int number)
{
	log_info("signal %d: ending", number);
	uv_stop(handle->loop);
}

int main(int argc, char **argv)
{
	struct options options = { .volume_max = VOLUME_MAX, .visits_max = VISITS_MAX };
	static struct api api; /* static: what it holds lives until the process ends */
	static uv_signal_t signals[2];
	static uv_signal_t hangup;
	struct error err = { 0 };

	if (parse_options(argc, argv, &options) < 0) {
		fputs("usage: atoll-api --run DIR --data DIR --listen IP:PORT --key-file FILE"
		      " [--admin-token-file FILE] [--secrets-key-file FILE] [--rate-limit RATE:BURST|none]"
		      " [--sample-seconds N] [--volume-mib N] [--sandbox-connections N|none]"
		      " [--tls-listen IP:PORT [--tls-cert FILE --tls-key FILE]]\n       atoll-api --routes\n",
		      stderr);
		return 2;
	}
	if (options.routes) {
		rest_print_routes(stdout);
		return EXIT_SUCCESS;
	}
	options.control.data = options.data;
	/* The files of volumes are read and written on threads, which wait for the disk. */
	(void)setenv("UV_THREADPOOL_SIZE", THREADS, 0);
	log_init("api", LOG_LEVEL_INFO);
	api.loop = uv_default_loop();
	api.run = options.run;
	api.visits_max = options.visits_max;
	list_init(&api.switches);
	api.node = http_client_new(api.loop, NODE_CONNECTIONS, SANDBOX_IDLE_MS);
	api.upstream = http_client_new(api.loop, SANDBOX_IDLE, SANDBOX_IDLE_MS);
	(void)signal(SIGPIPE, SIG_IGN);
	if (!api.node || !api.upstream || start(&api, &options, &err) < 0) {
		log_error("%s", err.message);
		return EXIT_FAILURE;
	}
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++) {
		(void)uv_signal_init(api.loop, &signals[i]);
		(void)uv_signal_start(&signals[i], on_signal, i ? SIGINT : SIGTERM);
	}
	(void)uv_signal_init(api.loop, &hangup);
	(void)uv_signal_start(&hangup, on_hangup, SIGHUP);
	api_reconcile(&api);
	if (secured.context)
		log_info("TLS on %s:%u", options.tls_listen.ip, options.tls_listen.port);
	log_info("listening on %s:%u", options.listen.ip, options.listen.port);
	(void)uv_run(api.loop, UV_RUN_DEFAULT);
	store_close(api.store);
	return EXIT_SUCCESS;
}
