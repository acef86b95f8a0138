#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "cli/cli.h"

#define TLS_DISTANCE 443 /* of its port from the plain one */

/* "IP:PORT" of the environment variable `name`. */
static int parse_listen(const char *name, const char *text, char ip[64], uint16_t *port, struct error *err)
{
	const char *colon = strrchr(text, ':');
	char *end;
	unsigned long number = colon ? strtoul(colon + 1, &end, 10) : 0;

	if (!colon || *end || number == 0 || number > UINT16_MAX || colon - text >= 64)
		return error_set(err, EINVAL, "%s must be IP:PORT, not '%s'", name, text);
	(void)snprintf(ip, 64, "%.*s", (int)(colon - text), text);
	*port = (uint16_t)number;
	return 0;
}

static int find_listeners(struct cli_places *places, struct error *err)
{
	const char *listen = getenv("ATOLL_LISTEN");
	const char *tls = getenv("ATOLL_TLS_LISTEN");
	int ret = parse_listen("ATOLL_LISTEN", listen ? listen : "127.0.0.1:3000", places->ip, &places->port,
	                       err);

	if (ret < 0 || (tls && strcmp(tls, "none") == 0))
		return ret;
	if (tls && tls[0])
		return parse_listen("ATOLL_TLS_LISTEN", tls, places->tls_ip, &places->tls_port, err);
	(void)snprintf(places->tls_ip, sizeof(places->tls_ip), "%s", places->ip);
	if (places->port <= UINT16_MAX - TLS_DISTANCE)
		places->tls_port = (uint16_t)(places->port + TLS_DISTANCE);
	return 0;
}

int cli_find_places(struct cli_places *places, struct error *err)
{
	const char *data = getenv("ATOLL_DATA");
	const char *run = getenv("ATOLL_RUN");
	char path[200] = { 0 };

	if (readlink("/proc/self/exe", path, sizeof(path) - 1) < 0)
		return error_errno(err, errno, "find this program");
	(void)snprintf(places->bin, sizeof(places->bin), "%s", dirname(path));
	/* build/bin -> the tree */
	(void)snprintf(places->source, sizeof(places->source), "%s", dirname(dirname(path)));
	(void)snprintf(places->scripts, sizeof(places->scripts), "%s/src/host/lab", places->source);
	(void)snprintf(places->data, sizeof(places->data), "%s", data ? data : "/var/lib/atoll");
	if (run)
		(void)snprintf(places->run, sizeof(places->run), "%s", run);
	else if (data)
		(void)snprintf(places->run, sizeof(places->run), "%.240s/run", data);
	else
		(void)snprintf(places->run, sizeof(places->run), "/run/atoll");
	if (places->data[0] != '/' || places->run[0] != '/')
		return error_set(err, EINVAL, "ATOLL_DATA and ATOLL_RUN must be absolute paths");
	return find_listeners(places, err);
}

void cli_choose_mode(struct cli_places *places, struct host_probe *probe)
{
	const char *mode = getenv("ATOLL_MODE");

	host_probe(probe);
	places->lab = probe->kvm != HOST_KVM_USABLE;
	if (mode && strcmp(mode, "kvm") == 0)
		places->lab = false;
	else if (mode && strcmp(mode, "lab") == 0)
		places->lab = true;
}

struct lab cli_lab(const struct cli_places *places)
{
	return (struct lab){ .data = places->data,
		             .bin = places->bin,
		             .scripts = places->scripts,
		             .ip = places->ip,
		             .port = places->port,
		             .tls_ip = places->tls_ip,
		             .tls_port = places->tls_port };
}

int cli_fail(const struct error *err)
{
	fprintf(stderr, "atoll: %s\n", err->message);
	return EXIT_FAILURE;
}
