/* mmds_internal: what the files of this folder, their tests and their fuzz harness share. */
#pragma once

#include <pthread.h>

#include "vmm/mmds/mmds.h"

/* --- tokens --- */

#define MMDS_TOKEN_BYTES       32 /* of a token, before base64 */
#define MMDS_TOKEN_TEXT        44 /* characters of it */
#define MMDS_TOKEN_TTL_MINIMUM 1
#define MMDS_TOKEN_TTL_MAXIMUM 21600
#define MMDS_TOKENS_MAX        8192

struct mmds_token {
	uint8_t secret[MMDS_TOKEN_BYTES];
	int64_t end; /* microseconds of the clock */
};

struct mmds_tokens {
	struct mmds_token *items;
	size_t count;
	size_t capacity;
};

/*
 * Make a token for `ttl` seconds (within the limits above) and append its text. Beyond MMDS_TOKENS_MAX the
 * one that would end first makes room. 0 or -ENOMEM.
 */
int mmds_token_new(struct mmds_tokens *tokens, int64_t now, uint32_t ttl, struct buffer *to);

/* Whether `text` is a token that was made here and has not ended. */
bool mmds_token_valid(const struct mmds_tokens *tokens, int64_t now, const char *text, size_t size);

void mmds_tokens_fini(struct mmds_tokens *tokens);

/* --- the store --- */

struct mmds {
	pthread_mutex_t lock; /* guards what follows but for `clock` and `limit` */
	json_t *document;     /* NULL: nothing was PUT */
	size_t flags;         /* how it is written, see store_flags() */
	struct mmds_config config;
	struct mmds_tokens tokens;
	size_t limit;
	int64_t (*clock)(void);
};

/*
 * What lies at `path`, a JSON pointer (RFC 6901) in which empty steps do not count, as text: `json` or IMDS
 * form. Lock held. 0, -ENOENT, -ENOTSUP (neither object nor string has an IMDS form), -ENOMEM.
 */
int mmds_look_up(const struct mmds *mmds, const char *path, size_t size, bool json, struct buffer *to);

/* --- HTTP --- */

#define MMDS_REQUEST_MAX 4096 /* bytes of a request with its body */

/*
 * Take one request from the front of `data` and append the whole answer to `to`. Returns the request's size,
 * 0 when it is not all there yet, -EMSGSIZE when it cannot fit into MMDS_REQUEST_MAX, or -ENOMEM. After
 * `*close` nothing more should be taken.
 */
ssize_t mmds_http_answer(struct mmds *mmds, const char *data, size_t size, struct buffer *to, bool *close);
