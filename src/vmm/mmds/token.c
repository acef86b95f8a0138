/*
 * Session tokens are random numbers that are remembered: nothing to forge, no key, no cryptographic library
 * in the monitor for this alone. They are not saved, so they end with the process, and mean nothing in
 * another machine. What a guest can make of them is bounded.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "vmm/mmds/mmds_internal.h"

static void token_remove(struct mmds_tokens *tokens, size_t index)
{
	tokens->items[index] = tokens->items[--tokens->count];
}

static void tokens_expire(struct mmds_tokens *tokens, int64_t now)
{
	for (size_t i = tokens->count; i-- > 0;)
		if (tokens->items[i].end <= now)
			token_remove(tokens, i);
}

static int tokens_make_room(struct mmds_tokens *tokens, int64_t now)
{
	struct mmds_token *items;
	size_t capacity = tokens->capacity ? tokens->capacity * 2 : 8;
	size_t first = 0;

	if (tokens->count < tokens->capacity)
		return 0;
	tokens_expire(tokens, now);
	if (tokens->count < tokens->capacity)
		return 0;
	if (tokens->capacity < MMDS_TOKENS_MAX) {
		items = realloc(tokens->items, capacity * sizeof(*items));
		if (!items)
			return -ENOMEM;
		tokens->items = items;
		tokens->capacity = capacity;
		return 0;
	}
	for (size_t i = 1; i < tokens->count; i++)
		if (tokens->items[i].end < tokens->items[first].end)
			first = i;
	token_remove(tokens, first);
	return 0;
}

int mmds_token_new(struct mmds_tokens *tokens, int64_t now, uint32_t ttl, struct buffer *to)
{
	struct mmds_token *token;
	int result = tokens_make_room(tokens, now);

	if (result < 0)
		return result;
	token = &tokens->items[tokens->count];
	random_bytes(token->secret, sizeof(token->secret));
	token->end = now + (int64_t)ttl * 1000000;
	result = base64_encode(to, token->secret, sizeof(token->secret));
	if (result == 0)
		tokens->count++;
	return result;
}

/* Takes as long wherever the two differ. */
static bool same_secret(const uint8_t *a, const uint8_t *b)
{
	uint8_t different = 0;

	for (size_t i = 0; i < MMDS_TOKEN_BYTES; i++)
		different |= (uint8_t)(a[i] ^ b[i]);
	return different == 0;
}

bool mmds_token_valid(const struct mmds_tokens *tokens, int64_t now, const char *text, size_t size)
{
	cleanup_buffer struct buffer secret = BUFFER_INIT;
	bool valid = false;

	if (size != MMDS_TOKEN_TEXT || base64_decode(&secret, text, size) < 0 ||
	    secret.size != MMDS_TOKEN_BYTES)
		return false;
	for (size_t i = 0; i < tokens->count; i++)
		if (same_secret(tokens->items[i].secret, (const uint8_t *)secret.data) &&
		    tokens->items[i].end > now)
			valid = true;
	return valid;
}

void mmds_tokens_fini(struct mmds_tokens *tokens)
{
	free(tokens->items);
	*tokens = (struct mmds_tokens){ 0 };
}
