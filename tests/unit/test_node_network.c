/* Unit test of node/network: whose name server the guests ask, limits, firewalls of others. */
#include <arpa/inet.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "node/boot.h"
#include "node/network/network.h"

static void resolver_is_the_first_that_others_reach(void **state)
{
	static const struct {
		const char *text;
		const char *address; /* NULL: none */
		bool loopback;
	} cases[] = {
		{ "", NULL, false },
		{ "nameserver 10.0.2.3\n", "10.0.2.3", false },
		{ "nameserver 10.0.2.3", "10.0.2.3", false },
		{ "# nameserver 1.2.3.4\nsearch a.b\nnameserver\t 8.8.8.8  # theirs\n", "8.8.8.8", false },
		{ "nameserver 9.9.9.9;comment\r\n", "9.9.9.9", false },
		{ "nameserver ::1\nnameserver fe80::1%eth0\nnameserver 4.4.4.4\n", "4.4.4.4", false },
		{ "nameserver 127.0.0.53\noptions edns0\n", NULL, true },
		{ "nameserver 127.0.0.53\nnameserver 5.5.5.5\n", "5.5.5.5", true },
		{ "nameserver 0.0.0.0\n", NULL, true },
		{ "nameserver 224.0.0.1\nnameserver 255.255.255.255\n", NULL, false },
		{ "nameserver 1.2.3\nnameserver 1.2.3.4.5\nnameserver 300.1.1.1\nnameserver\n", NULL, false },
		{ "nameserver 1111111111111111111111111111111111111\n", NULL, false },
		{ "nameservers 1.2.3.4\nnameserver1.2.3.4\n nameserver 1.2.3.4\n", NULL, false },
		{ "nameserver 169.254.169.254\n", "169.254.169.254", false },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		bool loopback = !cases[i].loopback;
		uint32_t found = network_parse_resolver(cases[i].text, &loopback);

		assert_int_equal(found, cases[i].address ? inet_addr(cases[i].address) : 0);
		assert_int_equal(loopback, cases[i].loopback);
	}
}

/* Requests that boot a machine, in their order. */
static unsigned count_requests(bool network, unsigned *ret_interface)
{
	cleanup_json json_t *drive = json_object();
	const struct boot boot = { .vcpu_count = 1,
		                   .memory_mib = 128,
		                   .inside = "/x",
		                   .network = network,
		                   .args = "",
		                   .drive = drive };
	const char *method;
	const char *target = "";
	unsigned count = 0;
	json_t *body;

	*ret_interface = 0;
	while ((body = boot_request(&boot, count, &method, &target))) {
		count++;
		if (strcmp(target, "/network-interfaces/eth0") == 0) {
			*ret_interface = count;
			assert_string_equal(json_string_value(json_object_get(body, "host_dev_name")),
			                    "tap0");
			assert_string_equal(json_string_value(json_object_get(body, "guest_mac")),
			                    "02:fc:00:00:00:05");
		}
		json_decref(body);
	}
	assert_string_equal(target, "/actions");
	return count;
}

static void interface_is_made_before_the_start(void **state)
{
	unsigned with;
	unsigned without;
	unsigned count = count_requests(true, &with);

	(void)state;
	assert_int_equal(count, count_requests(false, &without) + 1);
	assert_int_equal(with, count - 1);
	assert_int_equal(without, 0);
}

static void limits_are_two_numbers_or_none(void **state)
{
	static const char *const wrong[] = { "",          ":",
		                             "1",         "1:",
		                             ":1",        "0:1",
		                             "1:0",       "-1:1",
		                             "1:-1",      "1000001:1",
		                             "1:1000001", "1:2:3",
		                             "1 : 2",     " 1:2",
		                             "1:2 ",      "1:2x",
		                             "none:1",    "None",
		                             "1e3:10",    "+1:1",
		                             "1:+1",      "99999999999999999999:1" };
	struct network_limits limits;

	(void)state;
	assert_int_equal(network_parse_limits("4096:256", &limits), 0);
	assert_int_equal(limits.connections, 4096);
	assert_int_equal(limits.rate, 256);
	assert_int_equal(network_parse_limits("1000000:1", &limits), 0);
	assert_int_equal(limits.connections, 1000000);
	assert_int_equal(network_parse_limits("none", &limits), 0);
	assert_int_equal(limits.connections, 0);
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
		assert_int_equal(network_parse_limits(wrong[i], &limits), -EINVAL);
}

static void firewalls_that_drop_are_found(void **state)
{
	const char *chains =
	        "table inet atoll {\n\tchain admit {\n\t}\n\tchain forward {\n"
	        "\t\ttype filter hook forward priority filter; policy accept;\n\t}\n"
	        "}\ntable ip6 filter {\n\tchain FORWARD {\n"
	        "\t\ttype filter hook forward priority filter; policy drop;\n\t}\n"
	        "}\ntable ip filter {\n\tchain INPUT {\n"
	        "\t\ttype filter hook input priority filter; policy drop;\n\t}\n\tchain FORWARD {\n"
	        "\t\ttype filter hook forward priority filter; policy drop;\n\t}\n"
	        "\tchain DOCKER-USER {\n\t}\n\tchain second {\n"
	        "\t\ttype filter hook forward priority filter; policy drop;\n\t}\n"
	        "}\ntable inet own {\n\tchain f {\n"
	        "\t\ttype filter hook forward priority filter; policy drop;\n\t}\n"
	        "}\n";
	struct network_firewall found = { 0 };

	(void)state;
	assert_true(network_parse_firewall(&chains, &found));
	assert_string_equal(found.family, "ip");
	assert_string_equal(found.table, "filter");
	assert_string_equal(found.chain, "FORWARD");
	assert_true(network_parse_firewall(&chains, &found));
	assert_string_equal(found.table, "filter");
	assert_string_equal(found.chain, "second");
	assert_true(network_parse_firewall(&chains, &found));
	assert_string_equal(found.family, "inet");
	assert_string_equal(found.chain, "f");
	assert_false(network_parse_firewall(&chains, &found));
	assert_false(network_parse_firewall(&chains, &found));
}

static void firewalls_pass_what_they_accept(void **state)
{
	static const struct {
		const char *rules;
		bool passes;
	} cases[] = {
		{ "", false },
		{ "iifname \"atoll-*\" accept\n\t\toifname \"atoll-*\" accept", true },
		{ "iifname \"atoll-*\" counter packets 1 bytes 2 accept\nct state established,related accept",
		  true },
		{ "iifname \"atoll-*\" accept", false },
		{ "ct state established,related accept", false },
		{ "iifname \"atoll-*\" accept\noifname \"docker0\" ct state established accept", false },
		{ "iifname \"atoll-*\" accept\nct state established iifname \"eth0\" accept", false },
		{ "iifname \"atoll-*\" drop\noifname \"atoll-*\" drop", false },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct network_firewall firewall = { .passes = !cases[i].passes, .docker = true };

		network_read_firewall(cases[i].rules, &firewall);
		assert_int_equal(firewall.passes, cases[i].passes);
		assert_false(firewall.docker);
	}
}

static void firewalls_are_mended_where_they_are(void **state)
{
	struct network_firewall firewall = { .family = "ip", .table = "filter", .chain = "FORWARD" };
	char what[512];
	char mend[512];

	(void)state;
	network_describe_firewall(&firewall, what, sizeof(what), mend, sizeof(mend));
	assert_non_null(strstr(what, "chain FORWARD of nftables' table ip filter"));
	assert_string_equal(mend, "iptables -I FORWARD -i atoll-+ -j ACCEPT; "
	                          "iptables -I FORWARD -o atoll-+ -j ACCEPT");
	network_read_firewall("chain DOCKER-USER {\n", &firewall);
	network_describe_firewall(&firewall, what, sizeof(what), mend, sizeof(mend));
	assert_string_equal(mend, "iptables -I DOCKER-USER -i atoll-+ -j ACCEPT; "
	                          "iptables -I DOCKER-USER -o atoll-+ -j ACCEPT");
	strcpy(firewall.chain, "mine");
	network_describe_firewall(&firewall, what, sizeof(what), mend, sizeof(mend));
	assert_string_equal(mend, "nft 'insert rule ip filter mine iifname \"atoll-*\" accept; "
	                          "insert rule ip filter mine oifname \"atoll-*\" accept'");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(limits_are_two_numbers_or_none),
		cmocka_unit_test(firewalls_that_drop_are_found),
		cmocka_unit_test(firewalls_pass_what_they_accept),
		cmocka_unit_test(firewalls_are_mended_where_they_are),
		cmocka_unit_test(resolver_is_the_first_that_others_reach),
		cmocka_unit_test(interface_is_made_before_the_start),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
