/*
 * mmds: the microVM Metadata Service, as Firecracker's guests and clients know it. The API stores a JSON
 * document; the guest reads it over HTTP at a link-local address. This header opens the folder.
 *
 *     store.c   the document and its configuration, shared by the API thread and the device loop
 *     token.c   session tokens (version 2)
 *     http.c    a request in memory to an answer in memory
 *     tcp.c     one connection; wire.c its frames
 *     peer.c    ARP and the connections of one network interface, behind device/peer.h
 *
 * Nothing here is part of a snapshot: a restored machine begins with an empty document, no tokens and no
 * connections (a guest that goes on with an old one is answered with RST). Its configuration is the caller's
 * to keep.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"
#include "vmm/device/peer.h"

#define MMDS_SIZE_LIMIT 51200 /* bytes of JSON, unless told otherwise (--mmds-size-limit) */

enum mmds_version {
	MMDS_V1 = 1, /* a token is not needed */
	MMDS_V2 = 2,
};

struct mmds_config {
	enum mmds_version version;
	bool imds_compat;   /* text in IMDS form whatever the request accepts */
	uint8_t address[4]; /* IPv4, link-local */
};

#define MMDS_CONFIG_INIT                                                                                     \
	{                                                                                                    \
		.version = MMDS_V1, .imds_compat = false, .address = { 169, 254, 169, 254 }                  \
	}

struct mmds;

/*
 * An empty document of at most `size_limit` bytes (0: the default). `clock` gives monotonic microseconds for
 * tokens and connections (NULL: time_monotonic_us). NULL with `err` on failure.
 */
struct mmds *mmds_new(size_t size_limit, int64_t (*clock)(void), struct error *err);

/* After every peer of it was freed. */
void mmds_free(struct mmds *mmds);

/*
 * Read `version`, `ipv4_address` and `imds_compat` of an MmdsConfig (Firecracker's API) into `config`, which
 * holds the values of absent fields. The list `network_interfaces` is the caller's. 0, or -EINVAL with `err`.
 */
int mmds_config_read(struct mmds_config *config, const json_t *object, struct error *err);

/* Use `config`: before peers are made, which keep the address. 0, or -EINVAL for no link-local address. */
int mmds_configure(struct mmds *mmds, const struct mmds_config *config, struct error *err);
void mmds_get_config(struct mmds *mmds, struct mmds_config *config);

/*
 * The document, from any thread. On failure it is as before.
 * PUT: replace it by the JSON value in `text`. 0, -EINVAL (not JSON, or too deep), -EMSGSIZE (over the
 * limit), -ENOMEM. PATCH: merge `text` into it (RFC 7396). As PUT; -ENOENT when nothing was PUT yet. GET:
 * append it as compact JSON, keys in order; `{}` when nothing was PUT. 0, -ENOMEM or -EMSGSIZE.
 */
int mmds_put(struct mmds *mmds, const char *text, size_t size, struct error *err);
int mmds_patch(struct mmds *mmds, const char *text, size_t size, struct error *err);
int mmds_get(struct mmds *mmds, struct buffer *to, struct error *err);

/*
 * The service as a neighbour on one network interface, whose guest has `guest_mac` (until its frames say
 * otherwise). The peer keeps a reference to `mmds`. Used by one thread. NULL with `err` on failure.
 *
 * A device that has no room for a frame of 60 bytes or more should not ask for it: it asks again when the
 * guest has given it room.
 */
struct net_peer *mmds_peer_new(struct mmds *mmds, const uint8_t guest_mac[6], struct error *err);
void mmds_peer_free(struct net_peer *peer);
