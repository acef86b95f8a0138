#include "host/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"

#define VIRTIOFSD       "/usr/lib/qemu/virtiofsd"
#define MEMORY_MIN      2048 /* MiB */
#define MEMORY_MAX      8192
#define STEADY_US       (20 * 1000000ll) /* what broke down earlier would do so again */
#define SHORT_LIVES_MAX 5                /* in a row: it comes up and breaks down again */

/* Half of the machine's memory, within limits, in MiB. */
static long lab_memory(void)
{
	long half = sysconf(_SC_PHYS_PAGES) / 2 * (sysconf(_SC_PAGESIZE) / 1024) / 1024;

	return half < MEMORY_MIN ? MEMORY_MIN : half > MEMORY_MAX ? MEMORY_MAX : half;
}

/* A view of the machine's whole file system that nothing can be written through, in a mount namespace of
 * ours. */
static int make_root_view(const char *path)
{
	struct mount_attr attributes = { .attr_set = MOUNT_ATTR_RDONLY };

	if ((mkdir(path, 0700) < 0 && errno != EEXIST) || unshare(CLONE_NEWNS) < 0 ||
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("/", path, NULL, MS_BIND | MS_REC, NULL) < 0 ||
	    mount_setattr(AT_FDCWD, path, AT_RECURSIVE, &attributes, sizeof(attributes)) < 0)
		return -errno;
	return 0;
}

/* Start a program that does not outlive us. */
static pid_t spawn(const char *const argv[])
{
	pid_t parent = getpid();
	pid_t pid = fork();

	if (pid)
		return pid;
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	execv(argv[0], (char *const *)(uintptr_t)argv);
	fprintf(stderr, "%s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

static pid_t start_virtiofsd(const char *root, const char *socket)
{
	char socket_option[LAB_PATH_MAX + 32];
	char source[LAB_PATH_MAX + 32];
	const char *const argv[] = {
		VIRTIOFSD, socket_option, "-o", source, "-o", "cache=always", "-f", NULL
	};
	pid_t pid;

	(void)snprintf(socket_option, sizeof(socket_option), "--socket-path=%s", socket);
	(void)snprintf(source, sizeof(source), "source=%s", root);
	(void)unlink(socket);
	pid = spawn(argv);
	for (int i = 0; pid > 0 && i < 100 && access(socket, F_OK) < 0; i++)
		(void)usleep(50 * 1000);
	return pid;
}

static pid_t start_qemu(const struct keeper_plan *plan, const char *socket)
{
	const struct lab *lab = plan->lab;
	char memory[32];
	char backend[64];
	char cpus[24];
	char serial[LAB_PATH_MAX + 16];
	char kernel[LAB_PATH_MAX + 16];
	char initrd[LAB_PATH_MAX + 16];
	char append[4 * LAB_PATH_MAX];
	char chardev[LAB_PATH_MAX + 64];
	char drive[LAB_PATH_MAX + 128];
	char netdev[256];
	const char *const argv[] = {
		"/usr/bin/qemu-system-x86_64",
		"-M",
		"q35",
		"-accel",
		"tcg,thread=multi,tb-size=512",
		"-cpu",
		/* Page tables of four levels: a nested walk reads a fifth less memory than with five. No
		 * ERMS: the emulator goes through `rep movsb` byte by byte. */
		"max,+svm,-la57,-erms",
		"-smp",
		cpus,
		"-m",
		memory,
		"-object",
		backend,
		"-numa",
		"node,memdev=mem",
		"-nodefaults",
		"-no-reboot",
		"-display",
		"none",
		"-serial",
		serial,
		"-kernel",
		kernel,
		"-initrd",
		initrd,
		"-append",
		append,
		"-chardev",
		chardev,
		"-device",
		"vhost-user-fs-pci,chardev=root,tag=hostroot,queue-size=1024",
		"-drive",
		drive,
		"-device",
		"virtio-blk-pci,drive=data",
		"-netdev",
		netdev,
		"-device",
		"virtio-net-pci,netdev=net",
		"-device",
		"virtio-rng-pci",
		NULL,
	};

	(void)snprintf(memory, sizeof(memory), "%ldM", lab_memory());
	(void)snprintf(backend, sizeof(backend), "memory-backend-memfd,id=mem,size=%ldM,share=on",
	               lab_memory());
	/*
	 * One more than the machine has: CPU 0 runs no guests. In QEMU's emulation every CPU that loads FPU
	 * state clears a flag of CPU 0 (cpu_clear_ignne() in target/i386/tcg/sysemu/fpu_helper.c, 7.2 and
	 * later) by a read and a write that are not one step; where that meets a VMRUN or #VMEXIT of CPU 0,
	 * the nested-paging flag beside it flips and guest and host registers mix. second-stage keeps all
	 * away from CPU 0 but the kernel's own work, and says why the others come late (maxcpus).
	 */
	(void)snprintf(cpus, sizeof(cpus), "%ld", sysconf(_SC_NPROCESSORS_ONLN) + 1);
	(void)snprintf(serial, sizeof(serial), "file:%s", plan->console);
	(void)snprintf(kernel, sizeof(kernel), "%s/vmlinuz", plan->image);
	(void)snprintf(initrd, sizeof(initrd), "%s/initrd", plan->image);
	(void)snprintf(append, sizeof(append),
	               "console=ttyS0 panic=-1 quiet loglevel=3 mitigations=off tsc=reliable norandmaps "
	               "oops=panic clearcpuid=rep_good maxcpus=1 noreplace-smp -- "
	               "%s/second-stage %s %s %s %u %u",
	               lab->scripts, plan->image, plan->state, plan->programs, lab->port, lab->tls_port);
	(void)snprintf(chardev, sizeof(chardev), "socket,id=root,path=%s", socket);
	(void)snprintf(drive, sizeof(drive),
	               "file=%s,format=raw,if=none,id=data,discard=unmap,cache=writeback", plan->disk);
	(void)snprintf(netdev, sizeof(netdev),
	               "user,id=net,hostfwd=tcp:%s:%u-10.0.2.15:%u,hostfwd=tcp:127.0.0.1:%u-10.0.2.15:22",
	               lab->ip, lab->port, lab->port, plan->exec_port);
	if (lab->tls_port)
		(void)snprintf(netdev + strlen(netdev), sizeof(netdev) - strlen(netdev),
		               ",hostfwd=tcp:%s:%u-10.0.2.15:%u", lab->tls_ip, lab->tls_port, lab->tls_port);
	return spawn(argv);
}

/* Leave the caller's session and streams; what the programs say goes to a log beside their files. */
static void become_daemon(const struct keeper_plan *plan)
{
	char log[LAB_PATH_MAX + 16];
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	int fd;

	(void)snprintf(log, sizeof(log), "%s/keeper.log", plan->state);
	fd = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fork() != 0)
		_exit(0);
	(void)setsid();
	(void)dup2(null, STDIN_FILENO);
	(void)dup2(fd, STDOUT_FILENO);
	(void)dup2(fd, STDERR_FILENO);
	if (chdir("/") < 0)
		_exit(1);
}

static void on_terminate(int number)
{
	(void)number;
	/* The programs get their PDEATHSIG. */
	_exit(0);
}

/* Whether the console of the last run has a line of second-stage. */
static bool has_said(const struct keeper_plan *plan, const char *line)
{
	cleanup_buffer struct buffer console = { .limit = 16 << 20 };

	return file_read(plan->console, &console, NULL) == 0 && console.data && strstr(console.data, line);
}

/* One life of the lab host, from start to end. */
static void run_once(const struct keeper_plan *plan, const char *root, const char *socket)
{
	pid_t files = start_virtiofsd(root, socket);
	pid_t qemu = files > 0 ? start_qemu(plan, socket) : -1;

	while (qemu > 0 && waitpid(qemu, NULL, 0) < 0 && errno == EINTR)
		continue;
	/* It ends by itself when QEMU is gone, but not if QEMU never came. */
	if (files > 0) {
		(void)kill(files, SIGTERM);
		(void)waitpid(files, NULL, 0);
	}
}

_Noreturn void keeper_main(const struct keeper_plan *plan, int lock)
{
	char root[LAB_PATH_MAX + 16];
	char socket[LAB_PATH_MAX + 16];
	char crash[LAB_PATH_MAX + 16];
	struct sigaction action = { .sa_handler = on_terminate };
	int ret;

	become_daemon(plan);
	if (ftruncate(lock, 0) < 0 || dprintf(lock, "%d\n", (int)getpid()) < 0)
		_exit(1);
	(void)sigaction(SIGTERM, &action, NULL);
	(void)snprintf(root, sizeof(root), "%s/root", plan->state);
	(void)snprintf(socket, sizeof(socket), "%s/root.sock", plan->state);
	(void)snprintf(crash, sizeof(crash), "%s.crash", plan->console);
	ret = make_root_view(root);
	if (ret < 0) {
		fprintf(stderr, "make a read-only view of /: %s\n", strerror(-ret));
		_exit(1);
	}
	for (int short_lives = 0; short_lives <= SHORT_LIVES_MAX;) {
		int64_t started = time_monotonic_us();

		run_once(plan, root, socket);
		/* It was asked to end, or is not able to begin. */
		if (has_said(plan, "lab: off") || !has_said(plan, "lab: ready"))
			break;
		short_lives = time_monotonic_us() - started < STEADY_US ? short_lives + 1 : 0;
		/* Its kernel or QEMU broke down under the service: bring both back. */
		fprintf(stderr, "the lab host broke down; its console is kept in %s; starting it again\n",
		        crash);
		(void)rename(plan->console, crash);
	}
	_exit(0);
}
