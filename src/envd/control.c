/* What the node tells the agent: who it is after a restore, and that a snapshot is near. */
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include "envd/envd.h"
#include "envd/records.h"
#include "envd/volume_mounts.h"

#define INIT_LIMIT  (1024 * 1024)
#define ENTROPY_MAX 512
#define MARKS       "/run/e2b" /* files that say where a program runs */

void control_health(struct envd *envd, struct http_exchange *exchange)
{
	(void)envd;
	http_reply_header(exchange, "Cache-Control", "no-store");
	http_reply_empty(exchange, 204);
}

void control_envs(struct envd *envd, struct http_exchange *exchange)
{
	http_reply_header(exchange, "Cache-Control", "no-store");
	http_reply_json(exchange, 200, json_deep_copy(envd->env_vars));
}

/* --- /init --- */

struct init_request {
	const char *timestamp;
	const char *entropy;
	const char *token;
	const char *user;
	const char *workdir;
	const char *hostname;
	const char *sandbox;
	const char *template;
	const char *team;
	json_t *env_vars;
	struct volume_mount_request mounts[VOLUME_MOUNTS_MAX];
	size_t mount_count;
};

static int read_request(const json_t *body, struct init_request *request, struct error *err)
{
	const struct {
		const char *key;
		const char **value;
	} strings[] = {
		{ "timestamp", &request->timestamp },
		{ "entropy", &request->entropy },
		{ "accessToken", &request->token },
		{ "defaultUser", &request->user },
		{ "defaultWorkdir", &request->workdir },
		{ "hostname", &request->hostname },
		{ "sandboxId", &request->sandbox },
		{ "templateId", &request->template },
		{ "teamId", &request->team },
	};
	int ret = json_read_string_map(body, "envVars", JSON_OPTIONAL, &request->env_vars, err);

	for (size_t i = 0; ret == 0 && i < ARRAY_SIZE(strings); i++)
		ret = json_read_string(body, strings[i].key, JSON_OPTIONAL, strings[i].value, err);
	if (ret == 0)
		ret = volume_mounts_read(body, request->mounts, err);
	if (ret < 0)
		return ret;
	request->mount_count = (size_t)ret;
	return 0;
}

static int set_clock(const char *timestamp, struct error *err)
{
	struct timespec time;
	int64_t ns;

	if (time_parse_rfc3339(timestamp, &ns) < 0)
		return error_set(err, EINVAL, "'%s' is no RFC 3339 time", timestamp);
	time.tv_sec = ns / 1000000000;
	time.tv_nsec = ns % 1000000000;
	if (clock_settime(CLOCK_REALTIME, &time) < 0)
		return error_errno(err, errno, "set the clock");
	return 0;
}

/* Mix the node's bytes into the kernel's pool and make it draw new keys from it at once: random(4). */
static int add_entropy(const char *text, struct error *err)
{
	cleanup_buffer struct buffer bytes = { .limit = ENTROPY_MAX };
	cleanup_close int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
	_Alignas(struct rand_pool_info) char space[sizeof(struct rand_pool_info) + ENTROPY_MAX];
	struct rand_pool_info *info = (struct rand_pool_info *)space;

	if (base64_decode(&bytes, text, strlen(text)) < 0)
		return error_set(err, EINVAL, "entropy must be base64 of at most %d bytes", ENTROPY_MAX);
	info->entropy_count = (int)bytes.size * 8;
	info->buf_size = (int)bytes.size;
	memcpy(info->buf, bytes.data ? bytes.data : "", bytes.size);
	if (fd < 0 || ioctl(fd, RNDADDENTROPY, info) < 0 || ioctl(fd, RNDRESEEDCRNG) < 0)
		return error_errno(err, errno, "add entropy");
	return 0;
}

static void set_string(char **to, const char *value)
{
	char *copy = value ? strdup(value) : NULL;

	if (value && !copy)
		return;
	free(*to);
	*to = copy;
}

static void write_mark(const char *name, const char *value)
{
	char path[64];

	(void)snprintf(path, sizeof(path), MARKS "/%s", name);
	(void)file_write_atomic(path, value, strlen(value), 0644, NULL);
}

/* The variables that tell a program that it runs in a sandbox, and in which. */
static void set_identity(struct envd *envd, const struct init_request *request)
{
	json_decref(envd->env_vars);
	envd->env_vars = request->env_vars ? json_deep_copy(request->env_vars) : json_object();
	(void)json_object_set_new(envd->env_vars, "E2B_SANDBOX", json_string("true"));
	if (request->sandbox)
		(void)json_object_set_new(envd->env_vars, "E2B_SANDBOX_ID", json_string(request->sandbox));
	if (request->template)
		(void)json_object_set_new(envd->env_vars, "E2B_TEMPLATE_ID", json_string(request->template));
	if (request->team)
		(void)json_object_set_new(envd->env_vars, "E2B_TEAM_ID", json_string(request->team));
	if (envd->native)
		return;
	(void)mkdir(MARKS, 0755);
	write_mark(".E2B_SANDBOX", "true");
	write_mark(".E2B_SANDBOX_ID", request->sandbox ? request->sandbox : "");
	write_mark(".E2B_TEMPLATE_ID", request->template ? request->template : "");
}

static int apply(struct envd *envd, const struct init_request *request, struct error *err)
{
	int ret = request->timestamp ? set_clock(request->timestamp, err) : 0;

	if (ret == 0 && request->entropy)
		ret = add_entropy(request->entropy, err);
	if (ret == 0 && request->hostname && sethostname(request->hostname, strlen(request->hostname)) < 0)
		ret = error_errno(err, errno, "set the host name '%s'", request->hostname);
	if (ret < 0)
		return ret;
	/* What was logged in a template, or in the sandbox that this is a copy of, is no business of this
	 * one. */
	if (!envd->sandbox_id || !request->sandbox || strcmp(envd->sandbox_id, request->sandbox) != 0)
		records_clear(envd->records);
	set_string(&envd->sandbox_id, request->sandbox);
	set_identity(envd, request);
	set_string(&envd->token, request->token);
	if (request->user)
		set_string(&envd->default_user, request->user);
	if (request->workdir)
		set_string(&envd->default_workdir, request->workdir);
	return 0;
}

/* Who waits for the mounts; the exchange may go away first. */
struct init_waiter {
	struct http_exchange *exchange;
};

static void on_waiter_gone(struct http_exchange *exchange, void *context)
{
	struct init_waiter *waiter = context;

	(void)exchange;
	waiter->exchange = NULL;
}

static void on_mounted(void *context, const struct error *err)
{
	struct init_waiter *waiter = context;
	struct http_exchange *exchange = waiter->exchange;

	free(waiter);
	if (!exchange)
		return;
	http_exchange_on_close(exchange, NULL, NULL);
	if (err) {
		http_reply_error(exchange, 500, "%s", err->message);
		return;
	}
	http_reply_header(exchange, "X-Envd-Version", ENVD_VERSION);
	http_reply_empty(exchange, 204);
}

static void on_init(struct http_exchange *exchange, const char *data, size_t size, void *context)
{
	cleanup_json json_t *body = NULL;
	struct init_request request = { 0 };
	struct envd *envd = context;
	struct init_waiter *waiter;
	struct error err = { 0 };
	int ret = json_parse_object(data, size, &body, &err);

	if (ret == 0)
		ret = read_request(body, &request, &err);
	if (ret < 0) {
		http_reply_error(exchange, 400, "%s", err.message);
		return;
	}
	waiter = malloc(sizeof(*waiter));
	if (!waiter)
		error_errno(&err, ENOMEM, "initialise");
	if (!waiter || apply(envd, &request, &err) < 0) {
		http_reply_error(exchange, 500, "%s", err.message);
		free(waiter);
		return;
	}
	waiter->exchange = exchange;
	http_exchange_on_close(exchange, on_waiter_gone, waiter);
	volume_mounts_set(envd->volumes, request.mounts, request.mount_count, on_mounted, waiter);
}

void control_init(struct envd *envd, struct http_exchange *exchange)
{
	http_request_collect(exchange, INIT_LIMIT, on_init, envd);
}

/* --- /prepare-snapshot --- */

/* Write everything out, and give back memory that a snapshot need not carry: it shrinks and restores faster.
 */
void control_prepare_snapshot(struct envd *envd, struct http_exchange *exchange)
{
	cleanup_close int fd = open("/proc/sys/vm/compact_memory", O_WRONLY | O_CLOEXEC);

	(void)envd;
	(void)malloc_trim(0);
	sync();
	if (fd >= 0 && write(fd, "1", 1) < 0)
		log_warn("compact memory: %s", strerror(errno));
	http_reply_empty(exchange, 204);
}
