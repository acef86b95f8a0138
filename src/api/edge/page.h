/* page: what the edge answers by itself: a page for people with a browser, JSON for everybody else. */
#pragma once

#include "net/net.h"

struct page {
	int status;
	const char *id;      /* of the sandbox */
	const char *message; /* for programs, which know it by heart */
	const char *title;   /* for people */
	const char *advice;
	unsigned port;  /* 0: none */
	unsigned limit; /* of connections; 0: it is not about that */
};

/* Ends the exchange. */
void page_reply(struct http_exchange *exchange, const struct page *page);

/* The ones that are told in more than one place. */
void page_not_found(struct http_exchange *exchange, const char *id);

/* Whether a person looks at the answer: a browser that goes to an address, not a script in one. */
bool page_is_wanted(const struct http_exchange *exchange);
