#include "cli/service.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "cli/request.h"
#include "cli/settings.h"
#include "net/tls_authority.h"

#define HEALTH_SECONDS 60
#define STOP_SECONDS   20

/* --- the key --- */

int service_key(const struct cli_places *places, bool make, char key[CLI_KEY_SIZE], struct error *err)
{
	cleanup_buffer struct buffer text = { .limit = CLI_KEY_SIZE - 1 };
	unsigned char bytes[20];
	char path[300];
	int ret;

	(void)snprintf(path, sizeof(path), "%s/api-key", places->data);
	if (access(path, F_OK) == 0 || !make) {
		ret = file_read(path, &text, err);
		if (ret < 0)
			return ret;
		(void)snprintf(key, CLI_KEY_SIZE, "%.*s", (int)strcspn(text.data, "\n"), text.data);
		return 0;
	}
	random_bytes(bytes, sizeof(bytes));
	(void)snprintf(key, CLI_KEY_SIZE, "e2b_");
	for (size_t i = 0; i < sizeof(bytes); i++)
		(void)snprintf(key + 4 + 2 * i, 3, "%02x", bytes[i]);
	ret = file_make_directories(places->data, 0755, err);
	return ret < 0 ? ret : file_write_atomic(path, key, strlen(key), 0600, err);
}

/* --- health --- */

bool service_healthy(const struct cli_places *places)
{
	struct error err;
	char url[128];
	struct cli_request request = { .method = "GET", .url = url, .timeout_seconds = 3 };
	long status = 0;

	(void)snprintf(url, sizeof(url), "http://%s:%u/health", places->ip, places->port);
	return cli_request_run(&request, &status, NULL, &err) == 0 && status == 200;
}

static int wait_healthy(const struct cli_places *places, struct error *err)
{
	for (int i = 0; i < HEALTH_SECONDS * 10; i++) {
		if (service_healthy(places))
			return 0;
		(void)usleep(100 * 1000);
	}
	return error_set(err, ETIMEDOUT, "the service did not answer on %s:%u within %d s", places->ip,
	                 places->port, HEALTH_SECONDS);
}

/* --- directly on this machine --- */

static int lock_pid_file(const struct cli_places *places)
{
	char path[300];
	int fd;

	(void)snprintf(path, sizeof(path), "%s/supervise.pid", places->data);
	fd = open(path, O_RDWR | O_CREAT, 0600);
	if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
		return fd;
	if (fd >= 0)
		close(fd);
	return -EWOULDBLOCK;
}

/* Append words to arguments, both ended by NULL. */
static void add_words(const char **arguments, const char *const *words)
{
	while (*arguments)
		arguments++;
	while (*words)
		*arguments++ = *words++;
}

/* What there is of TLS; three pairs have room. */
static void add_tls(const struct cli_places *places, const char **arguments, const char *listen)
{
	const char *certificate = getenv("ATOLL_TLS_CERT");
	const char *key = getenv("ATOLL_TLS_KEY");
	const char *const own[] = { "--tls-listen", listen, NULL };
	const char *const given[] = { "--tls-cert", certificate, "--tls-key", key, NULL };

	if (!places->tls_port)
		return;
	add_words(arguments, own);
	if (certificate && key)
		add_words(arguments, given);
}

/* Run `atoll supervise` as a daemon; it inherits the lock on its pid file. */
static void become_supervisor(const struct cli_places *places, const char *const *settings, int lock)
{
	char log[300];
	char listen[96];
	char tls_listen[96];
	char self[300];
	const char *arguments[24] = { "atoll",      "supervise", "--run",     places->run, "--data",
		                      places->data, "--bin",     places->bin, "--listen",  listen };
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	int fd;

	(void)snprintf(log, sizeof(log), "%s/atoll.log", places->data);
	(void)snprintf(listen, sizeof(listen), "%s:%u", places->ip, places->port);
	(void)snprintf(self, sizeof(self), "%s/atoll", places->bin);
	(void)snprintf(tls_listen, sizeof(tls_listen), "%s:%u", places->tls_ip, places->tls_port);
	add_tls(places, arguments, tls_listen);
	add_words(arguments, settings);
	fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	(void)setsid();
	if (ftruncate(lock, 0) < 0 || dprintf(lock, "%d\n", (int)getpid()) < 0)
		_exit(1);
	(void)dup2(null, STDIN_FILENO);
	(void)dup2(fd, STDOUT_FILENO);
	(void)dup2(fd, STDERR_FILENO);
	execv(self, (char *const *)arguments);
	_exit(127);
}

static int start_here(const struct cli_places *places, const char *const *settings, struct error *err)
{
	int lock;
	pid_t pid;

	if (file_make_directories(places->data, 0755, err) < 0)
		return -err->code;
	lock = lock_pid_file(places);
	if (lock < 0)
		return 0;
	pid = fork();
	if (pid == 0)
		become_supervisor(places, settings, lock);
	close(lock);
	return pid < 0 ? error_errno(err, errno, "start the service") : 0;
}

/* End every monitor that this service left: they outlive it on purpose. */
static void kill_monitors(const struct cli_places *places)
{
	char path[600];
	DIR *directory;
	struct dirent *entry;

	(void)snprintf(path, sizeof(path), "%s/sandboxes", places->run);
	directory = opendir(path);
	while (directory && (entry = readdir(directory))) {
		cleanup_buffer struct buffer text = { .limit = 32 };

		(void)snprintf(path, sizeof(path), "%s/sandboxes/%s/pid", places->run, entry->d_name);
		if (entry->d_name[0] != '.' && file_read(path, &text, NULL) == 0 && atoi(text.data) > 1)
			(void)kill(atoi(text.data), SIGKILL);
	}
	if (directory)
		(void)closedir(directory);
}

static int stop_here(const struct cli_places *places, struct error *err)
{
	cleanup_buffer struct buffer text = { .limit = 32 };
	char path[300];
	int lock = lock_pid_file(places);

	(void)snprintf(path, sizeof(path), "%s/supervise.pid", places->data);
	if (lock < 0 && file_read(path, &text, NULL) == 0 && atoi(text.data) > 1)
		(void)kill(atoi(text.data), SIGTERM);
	for (int i = 0; lock < 0 && i < STOP_SECONDS * 10; i++) {
		(void)usleep(100 * 1000);
		lock = lock_pid_file(places);
	}
	if (lock < 0)
		return error_set(err, EBUSY, "the service does not end");
	close(lock);
	kill_monitors(places);
	return 0;
}

/* --- both --- */

/* The authority that clients are told to trust is made on this machine, before the service asks for it. */
static int prepare_tls(const struct cli_places *places, struct error *err)
{
	const char *certificate = getenv("ATOLL_TLS_CERT");
	const char *key = getenv("ATOLL_TLS_KEY");
	struct tls_authority authority;
	char directory[300];

	if (!places->tls_port)
		return 0;
	if (!certificate != !key)
		return error_set(err, EINVAL, "ATOLL_TLS_CERT and ATOLL_TLS_KEY go together");
	if (certificate && places->lab)
		return error_set(err, ENOTSUP,
		                 "ATOLL_TLS_CERT: a lab host has certificates of its own authority only");
	if (certificate)
		return 0;
	(void)snprintf(directory, sizeof(directory), "%s/tls", places->data);
	return tls_authority_ensure(directory, TLS_AUTHORITY_DOMAIN, &authority, NULL, err);
}

int service_start(const struct cli_places *places, struct error *err)
{
	const char *settings[SETTINGS_WORDS];
	struct lab lab = cli_lab(places);
	int ret = settings_read(settings, err);

	if (ret == 0)
		ret = prepare_tls(places, err);
	if (ret < 0)
		return ret;
	lab.settings = settings;
	ret = places->lab ? lab_start(&lab, err) : start_here(places, settings, err);

	return ret < 0 ? ret : wait_healthy(places, err);
}

int service_stop(const struct cli_places *places, struct error *err)
{
	struct lab lab = cli_lab(places);

	return lab_running(&lab) ? lab_stop(&lab, err) : stop_here(places, err);
}
