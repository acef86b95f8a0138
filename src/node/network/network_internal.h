/* What the files of the folder share: resolver.c, rules.c, links.c, furnish.c (one namespace), network.c (the
 * thread). Private to them. */
#pragma once

#include "node/network/network.h"

#define NETWORK_VETH       "veth0"  /* in the namespace */
#define NETWORK_HOST_VETH  "atoll-" /* and the slot: on the host */
#define NETWORK_VETHS      "198.18.0.0/15"
#define NETWORK_VETHS_BASE 0xc6120000u
#define NETWORK_VETH_BITS  31
#define NETWORK_TAP_BITS   30

struct mnl_socket;

/* Who answers the guests' DNS questions, in network byte order. */
uint32_t network_find_resolver(void);

/* --- rules.c: in the namespace of the calling thread --- */

/*
 * Have nftables run commands; `what` names them in an error. What it prints goes to *ret_output (heap), if
 * that is wanted. 0, -ENOTSUP: it refuses, -ENOMEM; with `err`.
 */
int rules_run(const char *commands, const char *what, char **ret_output, struct error *err);

/* The host's table: replaced as a whole. */
int rules_set_host(uint32_t resolver, const struct network_limits *limits, struct error *err);

/* A guest's tables, replaced as a whole: what was under way ends. */
int rules_set_guest(const struct network_policy *policy, uint32_t resolver,
                    const struct network_limits *limits, struct error *err);

/* --- links.c: rtnetlink(7) --- */

/* Of the namespace of the calling thread. NULL with `err`. */
struct mnl_socket *links_open(struct error *err);

/* `name` and, in the namespace `peer_namespace`, `peer_name`. */
int links_make_pair(struct mnl_socket *links, const char *name, int peer_namespace, const char *peer_name,
                    struct error *err);
int links_remove(struct mnl_socket *links, const char *name, struct error *err);
int links_set_address(struct mnl_socket *links, const char *name, uint32_t address, unsigned bits,
                      struct error *err);
int links_set_mac(struct mnl_socket *links, const char *name, const char *mac, struct error *err);

/* Up, without IPv6 where the kernel has that. */
int links_set_up(struct mnl_socket *links, const char *name, struct error *err);
int links_set_default_route(struct mnl_socket *links, uint32_t gateway, struct error *err);

/* Call `each` with the name of every link of the calling thread's namespace, with some twice when others come
 * and go meanwhile; it may not remove any. */
int links_list(void (*each)(void *context, const char *name), void *context, struct error *err);

/* Forget the connections of the calling thread's namespace. Where the kernel cannot, nothing happens. */
void links_forget_connections(void);

/*
 * The same of those of IPv4 whose source, in host byte order, is `doomed`; with `only` those of that source
 * alone are looked at.
 */
void links_forget_connections_of(uint32_t only, bool (*doomed)(void *context, uint32_t source),
                                 void *context);

/* --- furnish.c --- */

struct furnishing {
	int pidfd;
	unsigned slot;
	uid_t owner;
	bool tap_only;
	struct network_policy policy;
	struct network_limits limits;
	uint32_t resolver;
};

/* In a thread that stays in `home`, the host's namespace, of which `links` is. */
int furnish_namespace(int home, struct mnl_socket *links, const struct furnishing *furnishing,
                      struct error *err);
int furnish_policy(int home, const struct furnishing *furnishing, struct error *err);
void network_host_veth(unsigned slot, char name[16]);

/* The host's entries of a slot's connections, which outlive its namespace. In a thread of the host's. */
void furnish_forget(unsigned slot);
