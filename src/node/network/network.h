/*
 * network: what a guest can reach. Opens the folder.
 *
 * A monitor runs in a network namespace of its own, empty when it begins. Here it is furnished from outside,
 * while nobody waits for it yet: `tap0` that the monitor may open, a veth pair to the host, routes, and rules
 * (rules.h). Nothing has a name but the host's end of the pair, and nobody else holds on to the namespace: it
 * goes with its monitor, and with it all that is in it. All guests have the same addresses; the host's ends
 * have a pair of 198.18.0.0/15 each, by the monitor's slot.
 *
 * The work is done by one thread, which is where those namespaces are entered; answers come to the loop.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <uv.h>

#include "base/base.h"

#define NETWORK_TAP       "tap0"
#define NETWORK_TAP_MAC   "02:fc:00:00:00:06" /* one for all: it is in the memory of guests */
#define NETWORK_GUEST_MAC "02:fc:00:00:00:05"
#define NETWORK_GUEST     "169.254.0.21"
#define NETWORK_GATEWAY   "169.254.0.22" /* the tap's address, of 30 bits; also the guest's resolver */
#define NETWORK_SLOTS     65536

struct network;

/* What a guest may reach. Rules by address and domain will be here, too. */
struct network_policy {
	bool internet; /* false: nothing at all */
};

/*
 * How much of the kernel's connection tracking one guest may take: connections that stand at once, and how
 * many it may begin a second in the long run (four seconds' worth at once). No connections: no limits.
 */
struct network_limits {
	unsigned connections;
	unsigned rate;
};

#define NETWORK_LIMITS_DEFAULT                                                                               \
	{                                                                                                    \
		.connections = 4096, .rate = 256                                                             \
	}
#define NETWORK_LIMIT_MAX 1000000

/* Read "CONNECTIONS:RATE", both from 1 to NETWORK_LIMIT_MAX, or "none". 0, or -EINVAL. */
int network_parse_limits(const char *text, struct network_limits *ret);

/* Called on the loop; `err` is NULL when it went well. */
typedef void network_done_fn(void *context, const struct error *err);

/*
 * Look at what the machine can do and write the host's rules. A machine that lacks something is no failure:
 * network_reason says what, and monitors get a tap at most, from which nothing leads anywhere. NULL with
 * `err`: out of memory or threads.
 */
struct network *network_new(uv_loop_t *loop, const struct network_limits *limits, struct error *err);

/* Why no guest can reach anything. NULL: they can. */
const char *network_reason(const struct network *network);

/* Whether there is a tap at least, so that a machine with a network interface can be started. */
bool network_has_taps(const struct network *network);

/* Remove all that is the host's (links, connections) of slots that are not in use: `used(context, slot)` says
 * which are. Once, at the start. */
void network_keep(struct network *network, bool (*used)(void *context, unsigned slot), void *context);

/*
 * Furnish the namespace of a process that was just forked and will be in one of its own in a moment: `pidfd`
 * (borrowed; copied), its slot, and the user who may open the tap. `done` may be called when the process has
 * ended already, with an error.
 */
int network_furnish(struct network *network, int pidfd, unsigned slot, uid_t owner,
                    const struct network_policy *policy, network_done_fn *done, void *context,
                    struct error *err);

/* Other rules from now on, for what is under way as well: at once, or with an error those before. */
int network_set_policy(struct network *network, int pidfd, unsigned slot, const struct network_policy *policy,
                       network_done_fn *done, void *context, struct error *err);

/* Its monitor has ended: what the host remembers of the slot's connections goes soon, so that it is not in
 * the way of those of others. Slots are given again long after. */
void network_forget(struct network *network, unsigned slot);

/* What is missing for guests to reach anything, for a person to mend; without changing anything. 0, or
 * -errno with `err`. */
int network_probe(struct error *err);

/* A base chain of hook forward that drops what it does not know. */
struct network_firewall {
	char family[8];
	char table[128];
	char chain[128];
	bool docker; /* there is a chain for others' rules: DOCKER-USER */
	bool passes; /* rules let sandboxes' interfaces through */
};

/* Look for one in the host's nftables that may cut sandboxes off. 1: found; 0; -errno with `err`. */
int network_find_firewall(struct network_firewall *ret, struct error *err);

/* In words: what it is, and the commands that mend it. 512 bytes are enough for each. */
void network_describe_firewall(const struct network_firewall *firewall, char *what, size_t what_size,
                               char *mend, size_t mend_size);

/*
 * The next such chain in what `nft list chains` says; *chains goes on behind it. *ret is what it was last, at
 * first zeros. False: no more.
 */
bool network_parse_firewall(const char **chains, struct network_firewall *ret);

/* Whether it passes, and the way to mend it, by what `nft list table` says. */
void network_read_firewall(const char *table, struct network_firewall *firewall);

/* The first name server of a resolv.conf that others can reach too, in network byte order. 0: there is none;
 * *ret_loopback when there was one on this machine alone. */
uint32_t network_parse_resolver(const char *text, bool *ret_loopback);
