/*
 * Unit tests of the monitor's seccomp filters. Built without sanitizers, from the sources: a filter does
 * nothing in sanitized code.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "vmm/seccomp/seccomp.h"

#define PAGE 4096

typedef void call_fn(void);

/* Exit status of a child that made `call` under `role`'s filter; 128 + signal when one killed it. */
static int run_child(enum seccomp_role role, call_fn *call)
{
	const struct rlimit no_core = { 0, 0 };
	int status = 0;
	pid_t pid = fork();

	if (pid == 0) {
		struct error err;

		(void)setrlimit(RLIMIT_CORE, &no_core);
		if (seccomp_install(role, &err) < 0)
			_exit(99);
		call();
		_exit(0);
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void need(int holds)
{
	if (!holds)
		_exit(1);
}

/* --- what a role needs --- */

static void *change_memory(void *context)
{
	void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	void *large = malloc(1 << 20);

	need(page != MAP_FAILED && large);
	memset(large, 1, 1 << 20);
	large = realloc(large, 8 << 20);
	need(large != NULL);
	need(mprotect(page, PAGE, PROT_READ) == 0 && madvise(page, PAGE, MADV_DONTNEED) == 0);
	need(munmap(page, PAGE) == 0);
	free(large);
	return context;
}

static void use_files(void)
{
	char path[] = "/tmp/seccomp-XXXXXX";
	char data[PAGE] = { 0 };
	struct iovec part = { data, sizeof(data) };
	struct stat st;
	int fd = mkstemp(path);

	need(fd >= 0 && ftruncate(fd, (off_t)4 * PAGE) == 0 && pwritev(fd, &part, 1, PAGE) == PAGE);
	need(preadv(fd, &part, 1, 0) == PAGE && fstat(fd, &st) == 0 && fdatasync(fd) == 0);
	need(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE) == 0 || errno == EOPNOTSUPP);
	need(unlink(path) == 0 && close(fd) == 0);
}

static void use_events(void)
{
	struct epoll_event event = { .events = EPOLLIN };
	int pair = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
	int epoll = open("/dev/null", O_RDONLY | O_CLOEXEC);
	uint64_t count;

	need(pair >= 0 && fd >= 0 && epoll >= 0 && read(fd, &count, sizeof(count)) == sizeof(count));
	/* Calls are let through; that this is no epoll descriptor is the kernel's to say. */
	need(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0 && errno == EINVAL);
	need(epoll_wait(epoll, &event, 1, 0) < 0 && errno == EINVAL);
}

static void be_vcpu(void)
{
	struct timespec now;

	change_memory(NULL);
	need(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
	need(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now) == 0);
	need(ioctl(-1, KVM_RUN, 0) < 0 && errno == EBADF);
	need(write(-1, "", 1) < 0 && errno == EBADF);
}

static int compare_words(const void *one, const void *other)
{
	uint32_t a = *(const uint32_t *)one;
	uint32_t b = *(const uint32_t *)other;

	return (a > b) - (a < b);
}

/* As much as the balloon and the metadata's keys may be: the C library asks for the size of memory then. */
static void sort_much(void)
{
	uint32_t words[8192];

	for (uint32_t i = 0; i < 8192; i++)
		words[i] = i * 2654435761u;
	qsort(words, 8192, sizeof(words[0]), compare_words);
	need(words[0] == 0 && words[8191] > words[8190]);
}

static void be_device(void)
{
	change_memory(NULL);
	sort_much();
	use_files();
	use_events();
	need(ioctl(-1, KVM_IRQFD, 0) < 0 && errno == EBADF);
}

/* A thread made under the filter narrows itself, as the monitor's do, and ends. */
static void *be_narrowed(void *context)
{
	struct error err;

	need(pthread_setname_np(pthread_self(), "narrowed") == 0);
	need(seccomp_install(*(enum seccomp_role *)context, &err) == 0);
	if (*(enum seccomp_role *)context == SECCOMP_VCPU)
		be_vcpu();
	else
		be_device();
	return change_memory(NULL);
}

static void be_api(void)
{
	enum seccomp_role kinds[] = { SECCOMP_DEVICE, SECCOMP_VCPU };

	be_device();
	for (size_t i = 0; i < 2; i++) {
		pthread_t thread;

		need(pthread_create(&thread, NULL, be_narrowed, &kinds[i]) == 0);
		need(pthread_join(thread, NULL) == 0);
	}
	need(ioctl(-1, KVM_CREATE_VM, 0) < 0 && errno == EBADF);
}

static void abort_here(void)
{
	abort();
}

/* --- what it may not --- */

static void call_execve(void)
{
	char *const none[] = { NULL };

	(void)execve("/bin/true", none, none);
}

static void call_socket_inet(void)
{
	(void)socket(AF_INET, SOCK_STREAM, 0);
}

static void call_mmap_exec(void)
{
	(void)mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void call_mprotect_exec(void)
{
	static char page[2 * PAGE] __attribute__((aligned(PAGE)));

	(void)mprotect(page, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
}

static void call_ptrace(void)
{
	(void)ptrace(PTRACE_TRACEME, 0, NULL, NULL);
}

static void call_open_by_handle(void)
{
	(void)syscall(SYS_open_by_handle_at, AT_FDCWD, NULL, O_RDONLY);
}

static void call_ioctl_unknown(void)
{
	(void)ioctl(STDIN_FILENO, TIOCSTI, "x");
}

/* The request that the kernel sees is in the lower half. */
static void call_ioctl_high_bits(void)
{
	(void)syscall(SYS_ioctl, STDIN_FILENO, 0x100000000ul | TIOCSTI, "x");
}

static void call_fork(void)
{
	(void)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}

static void call_new_namespace(void)
{
	(void)unshare(CLONE_NEWUSER);
}

static void call_prctl_unknown(void)
{
	(void)prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
}

static void call_personality(void)
{
	(void)personality(READ_IMPLIES_EXEC);
}

static void call_kill(void)
{
	(void)kill(getppid(), 0);
}

static void call_tgkill_kill(void)
{
	(void)syscall(SYS_tgkill, getpid(), gettid(), SIGKILL);
	_exit(2);
}

static void call_bpf(void)
{
	(void)syscall(SYS_bpf, 0, NULL, 0);
}

static void call_mount(void)
{
	(void)syscall(SYS_mount, "none", "/", "tmpfs", 0, NULL);
}

/* Call numbers of another ABI (x32) do not get around the list. */
static void call_x32(void)
{
	(void)syscall(0x40000000 | SYS_read, -1, NULL, 0);
}

static call_fn *const forbidden[] = {
	call_execve,          call_socket_inet, call_mmap_exec,     call_mprotect_exec, call_ptrace,
	call_open_by_handle,  call_fork,        call_ioctl_unknown, call_new_namespace, call_prctl_unknown,
	call_ioctl_high_bits, call_personality, call_kill,          call_tgkill_kill,   call_bpf,
	call_mount,           call_x32,
};

static void kills_each(enum seccomp_role role)
{
	for (size_t i = 0; i < sizeof(forbidden) / sizeof(forbidden[0]); i++) {
		int status = run_child(role, forbidden[i]);

		if (status != 128 + SIGSYS)
			fail_msg("role %d, call %zu: status %d", role, i, status);
	}
}

static void the_main_thread_has_what_it_needs(void **state)
{
	(void)state;
	assert_int_equal(run_child(SECCOMP_API, be_api), 0);
	assert_int_equal(run_child(SECCOMP_API, abort_here), 128 + SIGABRT);
}

static void the_device_thread_has_what_it_needs(void **state)
{
	(void)state;
	assert_int_equal(run_child(SECCOMP_DEVICE, be_device), 0);
	assert_int_equal(run_child(SECCOMP_DEVICE, abort_here), 128 + SIGABRT);
}

static void a_vcpu_has_what_it_needs(void **state)
{
	(void)state;
	assert_int_equal(run_child(SECCOMP_VCPU, be_vcpu), 0);
	assert_int_equal(run_child(SECCOMP_VCPU, abort_here), 128 + SIGABRT);
}

static void all_else_kills(void **state)
{
	(void)state;
	kills_each(SECCOMP_API);
	kills_each(SECCOMP_DEVICE);
	kills_each(SECCOMP_VCPU);
}

static void roles_do_not_do_each_others_work(void **state)
{
	(void)state;
	/* A vCPU opens nothing; the device thread runs no vCPU and makes no thread. */
	assert_int_equal(run_child(SECCOMP_VCPU, use_files), 128 + SIGSYS);
	assert_int_equal(run_child(SECCOMP_VCPU, use_events), 128 + SIGSYS);
	assert_int_equal(run_child(SECCOMP_DEVICE, be_vcpu), 128 + SIGSYS);
	assert_int_equal(run_child(SECCOMP_DEVICE, be_api), 128 + SIGSYS);
	assert_int_equal(run_child(SECCOMP_VCPU, be_device), 128 + SIGSYS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_main_thread_has_what_it_needs),
		cmocka_unit_test(the_device_thread_has_what_it_needs),
		cmocka_unit_test(a_vcpu_has_what_it_needs),
		cmocka_unit_test(all_else_kills),
		cmocka_unit_test(roles_do_not_do_each_others_work),
	};

	return cmocka_run_group_tests_name("seccomp", tests, NULL, NULL);
}
