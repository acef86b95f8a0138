/* Unit tests of the jail as the node uses it, in process: a root directory with parts of the host in it. As
 * root. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base.h"
#include "jail/jail.h"

#define USER  54321
#define GROUP 65432

struct fixture {
	char directory[64];
	char template[96]; /* seen read-only */
	char sandbox[96];  /* the user's */
	char file[96];
	char root[96];
};

static int setup(void **state)
{
	static struct fixture fixture;
	char path[128];

	strcpy(fixture.directory, "/tmp/jail-XXXXXX");
	assert_non_null(mkdtemp(fixture.directory));
	assert_int_equal(chmod(fixture.directory, 0755), 0);
	(void)snprintf(fixture.template, sizeof(fixture.template), "%s/template", fixture.directory);
	(void)snprintf(fixture.sandbox, sizeof(fixture.sandbox), "%s/sandbox", fixture.directory);
	(void)snprintf(fixture.file, sizeof(fixture.file), "%s/file", fixture.directory);
	(void)snprintf(fixture.root, sizeof(fixture.root), "%s/jails/one/root", fixture.directory);
	(void)snprintf(path, sizeof(path), "%s/memory", fixture.template);
	assert_int_equal(mkdir(fixture.template, 0755), 0);
	assert_int_equal(mkdir(fixture.sandbox, 0700), 0);
	assert_int_equal(chown(fixture.sandbox, USER, GROUP), 0);
	assert_int_equal(file_write_atomic(path, "memory", 6, 0666, NULL), 0);
	assert_int_equal(file_write_atomic(fixture.file, "file", 4, 0666, NULL), 0);
	*state = &fixture;
	return 0;
}

static int teardown(void **state)
{
	const struct fixture *fixture = *state;

	return file_remove_tree(fixture->directory, NULL);
}

/* Exit status of a child that enters `jail` and then does `look`; the message of a failure to standard error.
 */
static int enter(const struct jail *jail, int (*look)(const struct fixture *fixture),
                 const struct fixture *fixture, char message[ERROR_MESSAGE_SIZE])
{
	int ends[2];
	int status = 0;
	pid_t pid;

	memset(message, 0, ERROR_MESSAGE_SIZE);
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		struct error err = { 0 };

		if (jail_enter(jail, &err) < 0) {
			(void)fd_write_all(ends[1], err.message, strlen(err.message));
			_exit(99);
		}
		_exit(look(fixture));
	}
	assert_true(pid > 0);
	close(ends[1]);
	(void)!read(ends[0], message, ERROR_MESSAGE_SIZE - 1);
	close(ends[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Each step has a status of its own. */
static int look_at_binds(const struct fixture *fixture)
{
	char data[6];
	int fd = open("/template/memory", O_RDONLY);

	if (fd < 0 || read(fd, data, sizeof(data)) != 6 || memcmp(data, "memory", 6) != 0)
		return 1;
	if (open("/template/memory", O_RDWR) >= 0 || errno != EROFS)
		return 2;
	if (open("/template/more", O_WRONLY | O_CREAT, 0600) >= 0 || errno != EROFS)
		return 3;
	if (open("/var/deep/sandbox/made", O_WRONLY | O_CREAT, 0600) < 0)
		return 4;
	if (open("/var/file", O_RDWR) < 0)
		return 5;
	if (access(fixture->directory, F_OK) == 0 || access("/etc", F_OK) == 0 || access("/proc", F_OK) == 0)
		return 6;
	return getuid() == USER && getgid() == GROUP && getgroups(0, NULL) == 0 ? 0 : 7;
}

static void parts_of_the_host_are_seen(void **state)
{
	const struct fixture *fixture = *state;
	const struct jail_bind binds[] = {
		{ .source = fixture->template, .target = "/template", .read_only = true },
		{ .source = fixture->sandbox, .target = "/var/deep/sandbox" },
		{ .source = fixture->file, .target = "/var/file" }
	};
	const struct jail jail = {
		.uid = USER, .gid = GROUP, .root = fixture->root, .binds = binds, .bind_count = 3
	};
	char message[ERROR_MESSAGE_SIZE];
	char made[128];
	struct stat st;

	/* Twice: mount points that are there already will do. */
	for (int i = 0; i < 2; i++) {
		int status = enter(&jail, look_at_binds, fixture, message);

		if (status)
			fail_msg("status %d: %s", status, message);
	}
	(void)snprintf(made, sizeof(made), "%s/made", fixture->sandbox);
	assert_int_equal(stat(made, &st), 0);
	assert_int_equal(st.st_uid, USER);
}

static void a_failure_leaves_nothing(void **state)
{
	const struct fixture *fixture = *state;
	struct jail_bind binds[] = { { .source = fixture->template, .target = "/template" },
		                     { .source = "/nowhere", .target = "/other" } };
	struct jail jail = {
		.uid = USER, .gid = GROUP, .root = fixture->root, .binds = binds, .bind_count = 2
	};
	char jails[128];
	char message[ERROR_MESSAGE_SIZE];

	(void)snprintf(jails, sizeof(jails), "%s/jails", fixture->directory);
	assert_int_equal(enter(&jail, look_at_binds, fixture, message), 99);
	assert_non_null(strstr(message, "/nowhere"));
	assert_int_not_equal(access(jails, F_OK), 0);
	binds[1] = (struct jail_bind){ .source = fixture->sandbox, .target = "/a/../../out" };
	assert_int_equal(enter(&jail, look_at_binds, fixture, message), 99);
	assert_non_null(strstr(message, "leads out of the jail"));
	assert_int_not_equal(access(jails, F_OK), 0);
	/* After the change of root, too. */
	jail.bind_count = 1;
	jail.files = UINT64_MAX - 1;
	assert_int_equal(enter(&jail, look_at_binds, fixture, message), 99);
	assert_non_null(strstr(message, "no-file"));
	assert_int_not_equal(access(jails, F_OK), 0);
}

/* Waits to be shown something, and says by its status what it sees. */
static int look_when_shown(void)
{
	char data[6];
	int fd = -1;

	for (int i = 0; fd < 0 && i < 6000; i++) {
		usleep(10000);
		fd = open("/later/memory", O_RDONLY);
	}
	if (fd < 0 || read(fd, data, sizeof(data)) != 6 || memcmp(data, "memory", 6) != 0)
		return 1;
	if (open("/later/more", O_WRONLY | O_CREAT, 0600) >= 0 || errno != EROFS)
		return 2;
	/* Its own pages can be looked up (exec makes a process look like its user's again), and nobody else
	 * is seen. */
	(void)prctl(PR_SET_DUMPABLE, 1);
	fd = open("/proc/self/pagemap", O_RDONLY);
	return fd >= 0 && access("/proc/1", F_OK) != 0 && access("/proc/meminfo", F_OK) != 0 ? 0 : 3;
}

static void more_is_shown_later(void **state)
{
	const struct fixture *fixture = *state;
	const struct jail jail = { .uid = USER, .gid = GROUP, .root = fixture->root, .proc = true };
	const struct jail_bind bind = { .source = fixture->template, .target = "/later", .read_only = true };
	const struct jail_bind missing = { .source = "/nowhere", .target = "/other" };
	struct error err = { 0 };
	int ends[2];
	int status = 0;
	char ready;
	pid_t pid;

	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		if (jail_enter(&jail, &err) < 0)
			_exit(99);
		(void)!write(ends[1], "r", 1);
		_exit(look_when_shown());
	}
	close(ends[1]);
	assert_int_equal(read(ends[0], &ready, 1), 1);
	close(ends[0]);
	assert_int_equal(jail_show(pid, &missing, &err), -ENOENT);
	if (jail_show(pid, &bind, &err) < 0)
		fail_msg("%s", err.message);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), 0);
	assert_true(WIFEXITED(status));
}

static int look_at_host(const struct fixture *fixture)
{
	gid_t groups[2];

	if (access(fixture->template, F_OK) < 0)
		return 1;
	return getuid() == USER && getgroups(2, groups) == 1 && groups[0] == 77 ? 0 : 2;
}

static void without_a_root_the_host_stays(void **state)
{
	const struct jail jail = { .uid = USER, .gid = GROUP, .kvm = 77 };
	char message[ERROR_MESSAGE_SIZE];

	assert_int_equal(enter(&jail, look_at_host, *state, message), 0);
}

static void names_are_checked(void **state)
{
	struct error err;

	(void)state;
	assert_int_equal(jail_check_id("a-B-9", &err), 0);
	assert_int_equal(jail_check_id("", &err), -EINVAL);
	assert_int_equal(jail_check_id("a/b", &err), -EINVAL);
	assert_int_equal(jail_check_id("\xc3\xa9", &err), -EINVAL);
	assert_int_equal(jail_check_relative("a/b.c", "x", &err), 0);
	assert_int_equal(jail_check_relative("a/...", "x", &err), 0);
	assert_int_equal(jail_check_relative("", "x", &err), -EINVAL);
	assert_int_equal(jail_check_relative("/a", "x", &err), -EINVAL);
	assert_int_equal(jail_check_relative("a/..", "x", &err), -EINVAL);
	assert_int_equal(jail_check_relative("./a", "x", &err), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest any[] = { cmocka_unit_test(names_are_checked) };
	const struct CMUnitTest as_root[] = {
		cmocka_unit_test_setup_teardown(parts_of_the_host_are_seen, setup, teardown),
		cmocka_unit_test_setup_teardown(more_is_shown_later, setup, teardown),
		cmocka_unit_test_setup_teardown(a_failure_leaves_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(without_a_root_the_host_stays, setup, teardown),
	};
	int failed = cmocka_run_group_tests_name("jail names", any, NULL, NULL);

	if (geteuid() != 0) {
		fprintf(stderr, "test_jail: the rest is skipped, only root can make a jail\n");
		return failed;
	}
	return failed + cmocka_run_group_tests_name("jail", as_root, NULL, NULL);
}
