/* rtnetlink(7): links, addresses, routes. */
#include <arpa/inet.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "node/network/network_internal.h"

#define MESSAGE_MAX 2048
#define ANSWER_MAX  32768 /* of a list of links: a page or more for each read */
#define LIST_TRIES  100

struct mnl_socket *links_open(struct error *err)
{
	struct mnl_socket *links = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);

	if (links && mnl_socket_bind(links, 0, MNL_SOCKET_AUTOPID) == 0)
		return links;
	error_errno(err, errno, "open a socket for network links");
	if (links)
		(void)mnl_socket_close(links);
	return NULL;
}

static struct nlmsghdr *begin(char *buffer, uint16_t type, uint16_t flags)
{
	static atomic_uint sequence;
	struct nlmsghdr *message = mnl_nlmsg_put_header(buffer);

	message->nlmsg_type = type;
	message->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | flags);
	message->nlmsg_seq = atomic_fetch_add(&sequence, 1) + 1;
	return message;
}

/* Send and read the kernel's answer, by `each` when there is more than "done". 0, or -errno. */
static int ask(struct mnl_socket *links, const struct nlmsghdr *message, mnl_cb_t each, void *context)
{
	_Alignas(struct nlmsghdr) char answer[ANSWER_MAX];
	const struct nlmsghdr *first = (const struct nlmsghdr *)(const void *)answer;
	ssize_t size;
	int ret = MNL_CB_OK;

	if (mnl_socket_sendto(links, message, message->nlmsg_len) < 0)
		return -errno;
	do {
		size = mnl_socket_recvfrom(links, answer, sizeof(answer));
		if (size < 0)
			return -errno;
		/* The rest of an answer whose reading was broken off is none to this question. */
		if ((size_t)size >= sizeof(*first) && first->nlmsg_seq != message->nlmsg_seq)
			continue;
		ret = mnl_cb_run(answer, (size_t)size, message->nlmsg_seq, mnl_socket_get_portid(links), each,
		                 context);
	} while (ret == MNL_CB_OK);
	return ret < 0 ? -errno : 0;
}

int links_make_pair(struct mnl_socket *links, const char *name, int peer_namespace, const char *peer_name,
                    struct error *err)
{
	char buffer[MESSAGE_MAX] = { 0 };
	struct nlmsghdr *message = begin(buffer, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
	struct nlattr *info;
	struct nlattr *data;
	struct nlattr *peer;
	int ret;

	mnl_nlmsg_put_extra_header(message, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(message, IFLA_IFNAME, name);
	info = mnl_attr_nest_start(message, IFLA_LINKINFO);
	mnl_attr_put_strz(message, IFLA_INFO_KIND, "veth");
	data = mnl_attr_nest_start(message, IFLA_INFO_DATA);
	peer = mnl_attr_nest_start(message, VETH_INFO_PEER);
	mnl_nlmsg_put_extra_header(message, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(message, IFLA_IFNAME, peer_name);
	mnl_attr_put_u32(message, IFLA_NET_NS_FD, (uint32_t)peer_namespace);
	mnl_attr_nest_end(message, peer);
	mnl_attr_nest_end(message, data);
	mnl_attr_nest_end(message, info);
	ret = ask(links, message, NULL, NULL);
	return ret < 0 ? error_errno(err, -ret, "make the pair of links %s and %s (veth)", name, peer_name)
	               : 0;
}

int links_remove(struct mnl_socket *links, const char *name, struct error *err)
{
	char buffer[MESSAGE_MAX] = { 0 };
	struct nlmsghdr *message = begin(buffer, RTM_DELLINK, 0);
	int ret;

	mnl_nlmsg_put_extra_header(message, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(message, IFLA_IFNAME, name);
	ret = ask(links, message, NULL, NULL);
	return ret < 0 ? error_errno(err, -ret, "remove link %s", name) : 0;
}

/* The number of a link in the namespace of `links`, which need not be the caller's. */
static int on_link_index(const struct nlmsghdr *message, void *context)
{
	const struct ifinfomsg *info = mnl_nlmsg_get_payload(message);

	if (message->nlmsg_type == RTM_NEWLINK)
		*(int *)context = info->ifi_index;
	return MNL_CB_OK;
}

static int find_index(struct mnl_socket *links, const char *name, unsigned *ret_index, struct error *err)
{
	char buffer[MESSAGE_MAX] = { 0 };
	struct nlmsghdr *message = begin(buffer, RTM_GETLINK, 0);
	int index = 0;
	int ret;

	mnl_nlmsg_put_extra_header(message, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(message, IFLA_IFNAME, name);
	ret = ask(links, message, on_link_index, &index);
	if (ret == 0 && index <= 0)
		ret = -ENODEV;
	*ret_index = (unsigned)index;
	return ret < 0 ? error_errno(err, -ret, "find link %s", name) : 0;
}

int links_set_address(struct mnl_socket *links, const char *name, uint32_t address, unsigned bits,
                      struct error *err)
{
	char buffer[MESSAGE_MAX] = { 0 };
	struct nlmsghdr *message = begin(buffer, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE);
	struct ifaddrmsg *body = mnl_nlmsg_put_extra_header(message, sizeof(*body));
	unsigned index = 0;
	int ret = find_index(links, name, &index, err);

	if (ret < 0)
		return ret;
	body->ifa_family = AF_INET;
	body->ifa_prefixlen = (uint8_t)bits;
	body->ifa_index = index;
	mnl_attr_put_u32(message, IFA_LOCAL, address);
	mnl_attr_put_u32(message, IFA_ADDRESS, address);
	ret = ask(links, message, NULL, NULL);
	return ret < 0 ? error_errno(err, -ret, "set the address of link %s", name) : 0;
}

int links_set_mac(struct mnl_socket *links, const char *name, const char *mac, struct error *err)
{
	char buffer[MESSAGE_MAX] = { 0 };
	struct nlmsghdr *message = begin(buffer, RTM_NEWLINK, 0);
	unsigned char bytes[6];
	int ret;

	if (sscanf(mac, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &bytes[0], &bytes[1], &bytes[2], &bytes[3],
	           &bytes[4], &bytes[5]) != 6)
		return error_set(err, EINVAL, "'%s' is no MAC address", mac);
	mnl_nlmsg_put_extra_header(message, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(message, IFLA_IFNAME, name);
	mnl_attr_put(message, IFLA_ADDRESS, sizeof(bytes), bytes);
	ret = ask(links, message, NULL, NULL);
	return ret < 0 ? error_errno(err, -ret, "set the MAC address of link %s", name) : 0;
}

/* No link-local address of IPv6 comes with being up: none is asked for by router solicitations either. */
static void set_no_ipv6(struct mnl_socket *links, const char *name)
{
	char buffer[MESSAGE_MAX] = { 0 };
	struct nlmsghdr *message = begin(buffer, RTM_NEWLINK, 0);
	struct nlattr *families;
	struct nlattr *family;

	mnl_nlmsg_put_extra_header(message, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(message, IFLA_IFNAME, name);
	families = mnl_attr_nest_start(message, IFLA_AF_SPEC);
	family = mnl_attr_nest_start(message, AF_INET6);
	mnl_attr_put_u8(message, IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
	mnl_attr_nest_end(message, family);
	mnl_attr_nest_end(message, families);
	/* A kernel without IPv6 refuses, and needs it not. */
	(void)ask(links, message, NULL, NULL);
}

int links_set_up(struct mnl_socket *links, const char *name, struct error *err)
{
	char buffer[MESSAGE_MAX] = { 0 };
	struct nlmsghdr *message = begin(buffer, RTM_NEWLINK, 0);
	struct ifinfomsg *body = mnl_nlmsg_put_extra_header(message, sizeof(*body));
	int ret;

	set_no_ipv6(links, name);
	body->ifi_flags = IFF_UP;
	body->ifi_change = IFF_UP;
	mnl_attr_put_strz(message, IFLA_IFNAME, name);
	ret = ask(links, message, NULL, NULL);
	return ret < 0 ? error_errno(err, -ret, "bring up link %s", name) : 0;
}

int links_set_default_route(struct mnl_socket *links, uint32_t gateway, struct error *err)
{
	char buffer[MESSAGE_MAX] = { 0 };
	struct nlmsghdr *message = begin(buffer, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE);
	struct rtmsg *body = mnl_nlmsg_put_extra_header(message, sizeof(*body));
	int ret;

	body->rtm_family = AF_INET;
	body->rtm_table = RT_TABLE_MAIN;
	body->rtm_protocol = RTPROT_STATIC;
	body->rtm_scope = RT_SCOPE_UNIVERSE;
	body->rtm_type = RTN_UNICAST;
	mnl_attr_put_u32(message, RTA_GATEWAY, gateway);
	ret = ask(links, message, NULL, NULL);
	return ret < 0 ? error_errno(err, -ret, "set the default route") : 0;
}

/* --- listing --- */

struct listing {
	void (*each)(void *context, const char *name);
	void *context;
};

static int on_attribute(const struct nlattr *attribute, void *context)
{
	const struct listing *listing = context;

	if (mnl_attr_get_type(attribute) == IFLA_IFNAME)
		listing->each(listing->context, mnl_attr_get_str(attribute));
	return MNL_CB_OK;
}

static int on_link(const struct nlmsghdr *message, void *context)
{
	return message->nlmsg_type == RTM_NEWLINK
	               ? mnl_attr_parse(message, sizeof(struct ifinfomsg), on_attribute, context)
	               : MNL_CB_OK;
}

/* 0, or -errno: -EINTR when links came or went meanwhile, so that the list may lack some. */
static int list_once(struct listing *listing, struct error *err)
{
	char buffer[MESSAGE_MAX] = { 0 };
	struct nlmsghdr *message = begin(buffer, RTM_GETLINK, NLM_F_DUMP);
	/* Of its own: nobody wants to read the rest of a list that was interrupted. */
	struct mnl_socket *links = links_open(err);
	int ret;

	if (!links)
		return -err->code;
	mnl_nlmsg_put_extra_header(message, sizeof(struct ifinfomsg));
	ret = ask(links, message, on_link, listing);
	(void)mnl_socket_close(links);
	return ret < 0 ? error_errno(err, -ret, "list the network links") : 0;
}

int links_list(void (*each)(void *context, const char *name), void *context, struct error *err)
{
	struct listing listing = { each, context };
	int ret = -EINTR;

	for (int tries = 0; ret == -EINTR && tries < LIST_TRIES; tries++)
		ret = list_once(&listing, err);
	return ret;
}

/* --- connections --- */

void links_forget_connections(void)
{
	char buffer[MESSAGE_MAX] = { 0 };
	struct mnl_socket *socket = mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC);
	struct nlmsghdr *message = begin(buffer, (NFNL_SUBSYS_CTNETLINK << 8) | IPCTNL_MSG_CT_DELETE, 0);
	struct nfgenmsg *body = mnl_nlmsg_put_extra_header(message, sizeof(*body));

	/* Of all protocols, all of them. */
	body->nfgen_family = AF_UNSPEC;
	body->version = NFNETLINK_V0;
	if (!socket)
		return;
	if (mnl_socket_bind(socket, 0, MNL_SOCKET_AUTOPID) == 0)
		(void)ask(socket, message, NULL, NULL);
	(void)mnl_socket_close(socket);
}

struct forgetting {
	bool (*doomed)(void *context, uint32_t source);
	void *context;
	struct mnl_socket *deletes; /* never read: an entry may have gone by itself */
};

struct wanted {
	uint16_t type;
	const struct nlattr *found; /* NULL: none yet */
};

static int on_wanted(const struct nlattr *attribute, void *context)
{
	struct wanted *wanted = context;

	if (mnl_attr_get_type(attribute) == wanted->type)
		wanted->found = attribute;
	return MNL_CB_OK;
}

/* The attribute of that type of a message. NULL: none. */
static const struct nlattr *find_attribute(const struct nlmsghdr *message, uint16_t type)
{
	struct wanted wanted = { .type = type };

	(void)mnl_attr_parse(message, sizeof(struct nfgenmsg), on_wanted, &wanted);
	return wanted.found;
}

static const struct nlattr *find_nested(const struct nlattr *outer, uint16_t type)
{
	struct wanted wanted = { .type = type };

	if (outer)
		(void)mnl_attr_parse_nested(outer, on_wanted, &wanted);
	return wanted.found;
}

/* Which one is meant is told by its two ends, its zone and its number. */
static void delete_connection(struct mnl_socket *socket, const struct nlmsghdr *connection)
{
	static const uint16_t names[] = { CTA_TUPLE_ORIG, CTA_ZONE, CTA_ID };
	char buffer[MESSAGE_MAX] = { 0 };
	struct nlmsghdr *message = begin(buffer, (NFNL_SUBSYS_CTNETLINK << 8) | IPCTNL_MSG_CT_DELETE, 0);
	struct nfgenmsg *body = mnl_nlmsg_put_extra_header(message, sizeof(*body));

	message->nlmsg_flags = NLM_F_REQUEST;
	body->nfgen_family = AF_INET;
	body->version = NFNETLINK_V0;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		const struct nlattr *attribute = find_attribute(connection, names[i]);

		if (attribute &&
		    !mnl_attr_put_check(message, sizeof(buffer), attribute->nla_type,
		                        mnl_attr_get_payload_len(attribute), mnl_attr_get_payload(attribute)))
			return;
	}
	(void)mnl_socket_sendto(socket, message, message->nlmsg_len);
}

static int on_connection(const struct nlmsghdr *message, void *context)
{
	const struct forgetting *forgetting = context;
	const struct nlattr *source = find_attribute(message, CTA_TUPLE_ORIG);

	source = find_nested(find_nested(source, CTA_TUPLE_IP), CTA_IP_V4_SRC);
	if (source && mnl_attr_get_payload_len(source) == sizeof(uint32_t) &&
	    forgetting->doomed(forgetting->context, ntohl(mnl_attr_get_u32(source))))
		delete_connection(forgetting->deletes, message);
	return MNL_CB_OK;
}

/* Have the kernel (5.8 on) list those of one source alone; by libnetfilter_conntrack's bits, 0 is the source.
 */
static void put_source(struct nlmsghdr *message, uint32_t source)
{
	struct nlattr *outer = mnl_attr_nest_start(message, CTA_TUPLE_ORIG);
	struct nlattr *inner = mnl_attr_nest_start(message, CTA_TUPLE_IP);

	mnl_attr_put_u32(message, CTA_IP_V4_SRC, htonl(source));
	mnl_attr_nest_end(message, inner);
	mnl_attr_nest_end(message, outer);
	outer = mnl_attr_nest_start(message, CTA_FILTER);
	mnl_attr_put_u32(message, CTA_FILTER_ORIG_FLAGS, 1);
	mnl_attr_put_u32(message, CTA_FILTER_REPLY_FLAGS, 0);
	mnl_attr_nest_end(message, outer);
}

static int forget(struct mnl_socket *list, uint32_t only, struct forgetting *forgetting)
{
	char buffer[MESSAGE_MAX] = { 0 };
	struct nlmsghdr *message =
	        begin(buffer, (NFNL_SUBSYS_CTNETLINK << 8) | IPCTNL_MSG_CT_GET, NLM_F_DUMP);
	struct nfgenmsg *body = mnl_nlmsg_put_extra_header(message, sizeof(*body));

	body->nfgen_family = AF_INET;
	body->version = NFNETLINK_V0;
	if (only)
		put_source(message, only);
	return ask(list, message, on_connection, forgetting);
}

void links_forget_connections_of(uint32_t only, bool (*doomed)(void *context, uint32_t source), void *context)
{
	struct mnl_socket *list = mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC);
	struct forgetting forgetting = { doomed, context, mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC) };

	/* A kernel that does not choose lists all. */
	if (list && forgetting.deletes && mnl_socket_bind(list, 0, MNL_SOCKET_AUTOPID) == 0 &&
	    mnl_socket_bind(forgetting.deletes, 0, MNL_SOCKET_AUTOPID) == 0 &&
	    forget(list, only, &forgetting) < 0 && only)
		(void)forget(list, 0, &forgetting);
	if (list)
		(void)mnl_socket_close(list);
	if (forgetting.deletes)
		(void)mnl_socket_close(forgetting.deletes);
}
