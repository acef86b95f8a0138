#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "cli/cli.h"

static int parse_listen(const char *text, struct cli_places *places, struct error *err)
{
	const char *colon = strrchr(text, ':');
	char *end;
	unsigned long port = colon ? strtoul(colon + 1, &end, 10) : 0;

	if (!colon || *end || port == 0 || port > UINT16_MAX || (size_t)(colon - text) >= sizeof(places->ip))
		return error_set(err, EINVAL, "ATOLL_LISTEN must be IP:PORT, not '%s'", text);
	(void)snprintf(places->ip, sizeof(places->ip), "%.*s", (int)(colon - text), text);
	places->port = (uint16_t)port;
	return 0;
}

int cli_find_places(struct cli_places *places, struct error *err)
{
	const char *data = getenv("ATOLL_DATA");
	const char *run = getenv("ATOLL_RUN");
	const char *listen = getenv("ATOLL_LISTEN");
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
	return parse_listen(listen ? listen : "127.0.0.1:3000", places, err);
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
		             .port = places->port };
}

int cli_fail(const struct error *err)
{
	fprintf(stderr, "atoll: %s\n", err->message);
	return EXIT_FAILURE;
}
