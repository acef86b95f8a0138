/* Unit tests of the probe's judgement, and of a lab host that does not run. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/base.h"
#include "host/host.h"

static void slow_kvm_is_told_from_hardware(void **state)
{
	(void)state;
	assert_int_equal(host_judge_rate(0.5), HOST_KVM_TOO_SLOW);
	assert_int_equal(host_judge_rate(2.5), HOST_KVM_TOO_SLOW);
	assert_int_equal(host_judge_rate(1000), HOST_KVM_USABLE);
}

static void the_probe_comes_to_an_end(void **state)
{
	struct host_probe probe;
	int64_t started = time_monotonic_us();

	(void)state;
	host_probe(&probe);
	assert_true(time_monotonic_us() - started < 60000000);
	if (probe.kvm == HOST_KVM_NONE)
		assert_true(probe.reason[0]);
	else
		assert_true(probe.rate > 0);
}

static void a_lab_that_does_not_run_is_said_so(void **state)
{
	char directory[] = "/tmp/atoll-host-XXXXXX";
	struct lab lab = { .bin = directory, .scripts = directory, .ip = "127.0.0.1", .port = 1 };
	const char *const argv[] = { "true", NULL };
	struct error err = { 0 };

	(void)state;
	assert_non_null(mkdtemp(directory));
	lab.data = directory;
	assert_false(lab_running(&lab));
	assert_int_equal(lab_stop(&lab, &err), 0);
	assert_int_equal(lab_exec(&lab, argv, &err), -ESRCH);
	assert_non_null(strstr(err.message, "make up"));
	lab.data = "/tmp/with space";
	assert_int_equal(lab_exec(&lab, argv, &err), -EINVAL);
	assert_int_equal(file_remove_tree(directory, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(slow_kvm_is_told_from_hardware),
		cmocka_unit_test(the_probe_comes_to_an_end),
		cmocka_unit_test(a_lab_that_does_not_run_is_said_so),
	};

	return cmocka_run_group_tests_name("host", tests, NULL, NULL);
}
