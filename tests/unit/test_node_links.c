/* Unit test of node/network: network links, in a namespace of our own, while others change it. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <libmnl/libmnl.h>

#include "node/network/network_internal.h"

#define PAIRS 30 /* their list takes several reads */
#define LISTS 200

static atomic_bool enough;

/* Whatever we ask for, a pair comes and goes. */
static void *disturb(void *context)
{
	struct error err = { 0 };
	struct mnl_socket *links = links_open(&err);
	int home = *(const int *)context;

	while (links && !atomic_load(&enough)) {
		if (links_make_pair(links, "come", home, "go", &err) < 0 ||
		    links_remove(links, "come", &err) < 0)
			break;
	}
	if (links)
		(void)mnl_socket_close(links);
	return NULL;
}

static void count(void *context, const char *name)
{
	unsigned char *seen = context;
	unsigned index;

	if (sscanf(name, "left%u", &index) == 1 && index < PAIRS)
		seen[index] = 1;
}

static void lists_are_whole_while_links_come_and_go(void **state)
{
	struct mnl_socket *links;
	struct error err = { 0 };
	pthread_t thread;
	int home;

	(void)state;
	if (unshare(CLONE_NEWNET) < 0) {
		print_message("a network namespace cannot be made here: %s\n", strerror(errno));
		skip();
	}
	home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	links = links_open(&err);
	assert_non_null(links);
	for (unsigned i = 0; i < PAIRS; i++) {
		char left[16];
		char right[16];

		(void)snprintf(left, sizeof(left), "left%u", i);
		(void)snprintf(right, sizeof(right), "right%u", i);
		assert_int_equal(links_make_pair(links, left, home, right, &err), 0);
	}
	assert_int_equal(pthread_create(&thread, NULL, disturb, &home), 0);
	for (unsigned i = 0; i < LISTS; i++) {
		unsigned char seen[PAIRS] = { 0 };

		if (links_list(count, seen, &err) < 0)
			fail_msg("%s", err.message);
		assert_null(memchr(seen, 0, sizeof(seen)));
		/* What is asked next has an answer of its own. */
		assert_int_equal(links_set_address(links, "left7", 0x0100000a, 24, &err), 0);
		assert_int_equal(links_set_up(links, "none", &err), -ENODEV);
	}
	atomic_store(&enough, true);
	(void)pthread_join(thread, NULL);
	(void)mnl_socket_close(links);
	(void)close(home);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lists_are_whole_while_links_come_and_go),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
