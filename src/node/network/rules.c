/*
 * Rules, as nft(8) reads them. Those of a guest are in its own namespace, those of the host keep guests apart
 * from the host and from each other.
 *
 * A connection that a guest was allowed carries a mark that is drawn anew with each set of rules: only what
 * carries the current one goes on, so a change ends what was under way before. The namespace itself, and a
 * monitor that somebody took over, send nothing but ICMP errors to the guest.
 *
 * A guest's connections are counted in both tables of the kernel's connection tracking, before an entry is
 * made: a packet that is dropped leaves none. In its own namespace first at the rate of new ones, as counting
 * walks the list of those that are counted, and as what TCP has closed (TIME_WAIT, CLOSE) is not counted any
 * more though its entry stays for LIFETIMES: there may be connections + rate x (10 s + burst). The host
 * counts by address what came through. Packets of connections that stand meet none of it.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <nftables/libnftables.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/network/network_internal.h"

#define TEXT_MAX      4096
#define BURST_SECONDS 4 /* so much of the rate at once */

/* What may never be reached: networks of others that this machine is in, and what is no host of the internet
 * (RFC 6890). */
#define NEVER                                                                                                \
	"0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, 192.0.0.0/24, "   \
	"192.168.0.0/16, 198.18.0.0/15, 224.0.0.0/3"

int rules_run(const char *commands, const char *what, char **ret_output, struct error *err)
{
	struct nft_ctx *context = nft_ctx_new(NFT_CTX_DEFAULT);
	const char *why;
	int ret = 0;

	if (!context)
		return error_errno(err, ENOMEM, "%s", what);
	if (nft_ctx_buffer_output(context) != 0 || nft_ctx_buffer_error(context) != 0) {
		ret = error_errno(err, ENOMEM, "%s", what);
	} else if (nft_run_cmd_from_buffer(context, commands) != 0) {
		why = nft_ctx_get_error_buffer(context);
		ret = error_set(err, ENOTSUP, "%s: %.*s", what, (int)strcspn(why, "\n"), why);
	} else if (ret_output) {
		*ret_output = strdup(nft_ctx_get_output_buffer(context));
		if (!*ret_output)
			ret = error_errno(err, ENOMEM, "%s", what);
	}
	nft_ctx_free(context);
	return ret;
}

/* A whole table, in one transaction. */
static int write_rules(const char *text, struct error *err)
{
	return rules_run(text, "write nftables' rules", NULL, err);
}

static void name_address(uint32_t address, char text[INET_ADDRSTRLEN])
{
	(void)inet_ntop(AF_INET, &(struct in_addr){ address }, text, INET_ADDRSTRLEN);
}

/* The first "table" makes it where it is missing, so that "delete" finds one. */
#define REPLACE "table inet atoll\ndelete table inet atoll\n"

/* Of TCP: idle ones go after two hours and five minutes, not five days (RFC 5382, 5: no less than 2:04; Linux
 * asks whether the other end is there after two hours). Ends of connections are their hosts' to remember. */
#define LIFETIMES                                                                                            \
	"  ct timeout lifetimes {\n"                                                                         \
	"    protocol tcp; l3proto ip; policy = { established : 7500, time_wait : 10, close : 10 }\n"        \
	"  }\n"

/* On the host, by address; what is in no connection any more leaves the set by itself. */
static void write_host_count(const struct network_limits *limits, char *text, size_t size)
{
	text[0] = '\0';
	if (limits->connections)
		(void)snprintf(text, size, "    add @connections { ip saddr ct count over %u } drop\n",
		               limits->connections);
}

int rules_set_host(uint32_t resolver, const struct network_limits *limits, struct error *err)
{
	char address[INET_ADDRSTRLEN];
	char text[TEXT_MAX];
	char count[128];

	name_address(resolver, address);
	write_host_count(limits, count, sizeof(count));
	(void)snprintf(text, sizeof(text),
	               REPLACE
	               "table inet atoll {\n" LIFETIMES
	               "  set connections { type ipv4_addr; size 65536; flags dynamic; }\n"
	               "  chain admit {\n"
	               "    ct state invalid drop\n"
	               "    ct status confirmed accept\n"
	               "%s"
	               "    ct timeout set \"lifetimes\"\n"
	               "    accept\n"
	               "  }\n"
	               "  chain input {\n"
	               "    type filter hook input priority filter - 5; policy accept;\n"
	               "    iifname != \"" NETWORK_HOST_VETH "*\" accept\n"
	               "    ip saddr != " NETWORK_VETHS " drop\n"
	               "    ip daddr %s udp dport 53 goto admit\n"
	               "    ip daddr %s tcp dport 53 goto admit\n"
	               "    drop\n"
	               "  }\n"
	               "  chain leave {\n"
	               "    oifname \"" NETWORK_HOST_VETH "*\" drop\n"
	               "    ip saddr != " NETWORK_VETHS " drop\n"
	               "    meta nfproto ipv6 drop\n"
	               "    goto admit\n"
	               "  }\n"
	               "  chain forward {\n"
	               "    type filter hook forward priority filter - 5; policy accept;\n"
	               "    iifname \"" NETWORK_HOST_VETH "*\" goto leave\n"
	               "    oifname \"" NETWORK_HOST_VETH "*\" ct state != { established, related } drop\n"
	               "    ip daddr " NETWORK_VETHS " oifname != \"" NETWORK_HOST_VETH "*\" drop\n"
	               "  }\n"
	               "  chain postrouting {\n"
	               "    type nat hook postrouting priority srcnat; policy accept;\n"
	               "    ip saddr " NETWORK_VETHS " oifname != \"" NETWORK_HOST_VETH "*\" masquerade\n"
	               "  }\n"
	               "}\n",
	               count, address, address);
	return write_rules(text, err);
}

static void write_guest_limits(const struct network_limits *limits, char *text, size_t size)
{
	text[0] = '\0';
	if (limits->connections)
		(void)snprintf(text, size,
		               "    limit rate over %u/second burst %u packets drop\n"
		               "    ct count over %u drop\n",
		               limits->rate, limits->rate * BURST_SECONDS, limits->connections);
}

/* New connections that are allowed get the mark: whatever carries the current one goes on, before they are
 * answered, too. */
static void write_egress(const struct network_policy *policy, const char *resolver, uint32_t mark, char *text,
                         size_t size)
{
	text[0] = '\0';
	if (!policy->internet)
		return;
	(void)snprintf(text, size,
	               "    ct state { established, related, new } ct mark 0x%08x accept\n"
	               "    ct state != new drop\n"
	               "    iifname != \"" NETWORK_TAP "\" drop\n"
	               "    oifname != \"" NETWORK_VETH "\" drop\n"
	               "    tcp flags & (fin | syn | rst | ack) != syn drop\n"
	               "    ip daddr %s udp dport 53 goto admit\n"
	               "    ip daddr %s tcp dport 53 goto admit\n"
	               "    ip daddr { " NEVER " } drop\n"
	               "    meta nfproto ipv4 goto admit\n",
	               mark, resolver, resolver);
}

int rules_set_guest(const struct network_policy *policy, uint32_t resolver,
                    const struct network_limits *limits, struct error *err)
{
	char address[INET_ADDRSTRLEN];
	char egress[TEXT_MAX / 2];
	char text[TEXT_MAX];
	char admit[128];
	uint32_t mark = 0;

	random_bytes(&mark, sizeof(mark));
	mark |= 1;
	name_address(resolver, address);
	write_guest_limits(limits, admit, sizeof(admit));
	write_egress(policy, address, mark, egress, sizeof(egress));
	(void)snprintf(text, sizeof(text),
	               REPLACE "table inet atoll {\n" LIFETIMES "  chain source {\n"
	                       "    type filter hook prerouting priority raw; policy accept;\n"
	                       "    iifname \"" NETWORK_TAP "\" ip saddr " NETWORK_GUEST " return\n"
	                       "    iifname \"" NETWORK_TAP "\" drop\n"
	                       "    meta nfproto ipv6 drop\n"
	                       "  }\n"
	                       "  chain resolver {\n"
	                       "    type nat hook prerouting priority dstnat; policy accept;\n"
	                       "    iifname \"" NETWORK_TAP "\" ip daddr " NETWORK_GATEWAY
	                       " udp dport 53 dnat ip to %s\n"
	                       "    iifname \"" NETWORK_TAP "\" ip daddr " NETWORK_GATEWAY
	                       " tcp dport 53 dnat ip to %s\n"
	                       "  }\n"
	                       "  chain input {\n"
	                       "    type filter hook input priority filter; policy drop;\n"
	                       "  }\n"
	                       "  chain admit {\n"
	                       "%s"
	                       "    ct timeout set \"lifetimes\"\n"
	                       "    ct mark set 0x%08x\n"
	                       "    accept\n"
	                       "  }\n"
	                       "  chain forward {\n"
	                       "    type filter hook forward priority filter; policy drop;\n"
	                       "%s"
	                       "  }\n"
	                       "  chain output {\n"
	                       "    type filter hook output priority filter; policy drop;\n"
	                       "    oifname \"" NETWORK_TAP "\" meta l4proto icmp accept\n"
	                       "  }\n"
	                       "  chain leave {\n"
	                       "    type nat hook postrouting priority srcnat; policy accept;\n"
	                       "    oifname \"" NETWORK_VETH "\" masquerade\n"
	                       "  }\n"
	                       "}\n",
	               address, address, admit, mark, egress);
	return write_rules(text, err);
}
