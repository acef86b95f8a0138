/*
 * Memory goes back to the kernel once the work that took it is over. What thousands of processes and their
 * clients took is free then, but lies between records and connections that go on, and the C library by itself
 * gives back no more than the end of its heap. The guest's pages are the host's, and every snapshot's.
 */
#include <malloc.h>

#include "envd/envd.h"

#define SETTLE_MS 5000

static void on_settled(uv_timer_t *timer)
{
	struct envd *envd = timer->data;

	(void)malloc_trim(0);
	/* Who is still connected may be about to take more, or to end: we will see then. */
	if (http_server_connections(envd->server) || !processes_idle(envd->processes))
		memory_settle(envd);
}

void memory_init(struct envd *envd)
{
	(void)uv_timer_init(envd->loop, &envd->settle);
	envd->settle.data = envd;
}

void memory_settle(struct envd *envd)
{
	/* (Not anew: whoever is never idle would never get here.) */
	if (!uv_is_active((uv_handle_t *)&envd->settle))
		(void)uv_timer_start(&envd->settle, on_settled, SETTLE_MS, 0);
}
