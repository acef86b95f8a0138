/*
 * A firewall beside our rules: what one base chain accepts another may drop. One that forwards nothing that
 * it does not know (Docker's `iptables -P FORWARD DROP`) cuts sandboxes off without a word, so we look for
 * it. What a chain's single rules drop is not looked at, nor what the old iptables (legacy) wrote.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/network/network_internal.h"

#define DOCKER_CHAIN "DOCKER-USER" /* Docker leaves it to others, and asks it first */

/* A line without what it is indented by; *text goes on to the next. False: there was none. */
static bool next_line(const char **text, char *line, size_t size)
{
	const char *from = *text + strspn(*text, " \t");
	size_t length = strcspn(from, "\n");

	if (!**text)
		return false;
	text_copy(line, size, from, length);
	*text = from + length + (from[length] == '\n');
	return true;
}

bool network_parse_firewall(const char **chains, struct network_firewall *ret)
{
	char line[256];

	while (next_line(chains, line, sizeof(line))) {
		if (sscanf(line, "table %7s %127s {", ret->family, ret->table) == 2 ||
		    sscanf(line, "chain %127s {", ret->chain) == 1)
			continue;
		if (!strstr(line, "hook forward ") || !strstr(line, "policy drop") ||
		    (strcmp(ret->family, "ip") != 0 && strcmp(ret->family, "inet") != 0))
			continue;
		return true;
	}
	return false;
}

void network_read_firewall(const char *table, struct network_firewall *firewall)
{
	bool out = false;
	bool back = false;
	char line[512];

	firewall->docker = false;
	while (next_line(&table, line, sizeof(line))) {
		bool accepts = strstr(line, " accept") != NULL;

		if (strncmp(line, "chain " DOCKER_CHAIN " ", sizeof("chain " DOCKER_CHAIN)) == 0)
			firewall->docker = true;
		out |= accepts && strstr(line, "iifname \"" NETWORK_HOST_VETH "*\"");
		/* Or whatever answers. */
		back |= accepts && (strstr(line, "oifname \"" NETWORK_HOST_VETH "*\"") ||
		                    (strncmp(line, "ct state ", 9) == 0 && strstr(line, "established") &&
		                     !strstr(line, "ifname")));
	}
	firewall->passes = out && back;
}

int network_find_firewall(struct network_firewall *ret, struct error *err)
{
	char *chains = NULL;
	const char *rest;
	int found = rules_run("list chains", "list nftables' chains", &chains, err);

	if (found < 0)
		return found;
	rest = chains;
	*ret = (struct network_firewall){ 0 };
	while (!found && network_parse_firewall(&rest, ret)) {
		char command[300];
		char *table = NULL;

		(void)snprintf(command, sizeof(command), "list table %s %s", ret->family, ret->table);
		(void)rules_run(command, "list a table of nftables", &table, NULL);
		network_read_firewall(table ? table : "", ret);
		free(table);
		found = !ret->passes;
	}
	free(chains);
	return found;
}

void network_describe_firewall(const struct network_firewall *firewall, char *what, size_t what_size,
                               char *mend, size_t mend_size)
{
	bool iptables = strcmp(firewall->family, "ip") == 0 && strcmp(firewall->table, "filter") == 0 &&
	                strcmp(firewall->chain, "FORWARD") == 0;
	const char *chain = firewall->docker ? DOCKER_CHAIN : "FORWARD";

	(void)snprintf(
	        what, what_size,
	        "a firewall may cut sandboxes off: chain %s of nftables' table %s %s drops what it does "
	        "not know",
	        firewall->chain, firewall->family, firewall->table);
	if (iptables)
		(void)snprintf(mend, mend_size,
		               "iptables -I %s -i " NETWORK_HOST_VETH "+ -j ACCEPT; "
		               "iptables -I %s -o " NETWORK_HOST_VETH "+ -j ACCEPT",
		               chain, chain);
	else
		(void)snprintf(mend, mend_size,
		               "nft 'insert rule %s %s %s iifname \"" NETWORK_HOST_VETH "*\" accept; "
		               "insert rule %s %s %s oifname \"" NETWORK_HOST_VETH "*\" accept'",
		               firewall->family, firewall->table, firewall->chain, firewall->family,
		               firewall->table, firewall->chain);
}
