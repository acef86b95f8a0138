/*
 * table: every system call that a thread of the monitor may make. generate.c turns it into BPF when the
 * monitor is built; anything else kills the process. Not for inclusion elsewhere.
 *
 *     RULE(ROLES, call, conditions...)    the call is allowed to these roles when all conditions hold;
 *                                         several rules for one call: any of them
 *     REFUSE(ROLES, call, errno)          fails instead of killing
 *
 * Conditions look at the lower 32 bits of an argument, which is what the kernel looks at in an int:
 * IS(argument, value), and WITHOUT(argument, bits): none of these bits is set.
 *
 * A thread inherits the filters of the one that starts it, and all of them apply. vCPU threads and the device
 * thread are started by the main thread, also after it has installed its own: so what is allowed to them is
 * allowed to it, which the roles below say. It needs most of that anyway to make and free a machine.
 *
 *     API      main thread: event loop, machine API, boot, restore, snapshot
 *     DEVICE   device thread (and API)
 *     VCPU     vCPU threads (and API)
 *     EVERY    all
 *
 * Sanitizers make calls of their own: seccomp_install does nothing in builds with one.
 *
 * io_uring: what is submitted to a ring is not filtered. Drives with io_engine Async make one when they are
 * made, which may be long after the filters: so it has to be allowed, as in Firecracker. A monitor whose
 * drives are Sync, as the node's, is held by the jail's other walls alone where this rule is used against it.
 */

/* --- what the C library does by itself --- */

/* Memory: never executable. */
RULE(EVERY, brk)
RULE(EVERY, mmap, WITHOUT(2, PROT_EXEC))
RULE(EVERY, mprotect, WITHOUT(2, PROT_EXEC))
RULE(EVERY, mremap)
RULE(EVERY, munmap)
RULE(EVERY, madvise, IS(2, MADV_DONTNEED)) /* stack of a thread that ends; free() */

/* Locks, conditions, pthread_join. */
RULE(EVERY, futex, IS(1, FUTEX_WAIT_PRIVATE))
RULE(EVERY, futex, IS(1, FUTEX_WAKE_PRIVATE))
RULE(EVERY, futex, IS(1, FUTEX_WAIT_BITSET_PRIVATE))
RULE(EVERY, futex, IS(1, FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME))
RULE(EVERY, futex, IS(1, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME))
RULE(EVERY, futex, IS(1, FUTEX_WAIT))
RULE(EVERY, futex, IS(1, FUTEX_WAKE))

/* Signals: handlers return, SIGTERM's (libuv's) writes to a pipe on whichever thread it hits; abort(). */
RULE(EVERY, rt_sigreturn)
RULE(EVERY, rt_sigprocmask)
RULE(EVERY, rt_sigaction, IS(0, SIGABRT))
RULE(EVERY, tgkill, IS(2, SIGABRT))
RULE(EVERY, gettid)
RULE(EVERY, getpid)
RULE(EVERY, restart_syscall)

/* Time, where the vDSO cannot tell it. */
RULE(EVERY, clock_gettime)
RULE(EVERY, gettimeofday)
RULE(EVERY, sched_yield)

/* The size of memory, which qsort() asks for when it sorts more than a KiB. */
RULE(DEVICE, sysinfo)

RULE(EVERY, read)
RULE(EVERY, write)
RULE(EVERY, writev) /* the message of an assertion */
RULE(EVERY, close)
RULE(EVERY, exit)
RULE(EVERY, exit_group)

/* --- vCPU threads: their one loop; notifications to others are write() above --- */

RULE(VCPU, ioctl, IS(1, KVM_RUN))

/* --- the device thread --- */

/* Its loop. */
RULE(DEVICE, epoll_wait)
RULE(DEVICE, epoll_pwait)
RULE(DEVICE, epoll_ctl)
RULE(DEVICE, eventfd2)
RULE(DEVICE, timerfd_create) /* rate limiters */
RULE(DEVICE, timerfd_settime, IS(1, 0))

/* Disks, tap devices, serial output. What may be opened is what the jail shows. */
RULE(DEVICE, openat)
RULE(DEVICE, newfstatat)
RULE(DEVICE, fstat)
RULE(DEVICE, lseek)
RULE(DEVICE, readv)
RULE(DEVICE, pread64)
RULE(DEVICE, pwrite64)
RULE(DEVICE, preadv)
RULE(DEVICE, pwritev)
RULE(DEVICE, ftruncate)
RULE(DEVICE, fallocate, IS(1, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE))
RULE(DEVICE, fallocate, IS(1, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE))
RULE(DEVICE, fsync)
RULE(DEVICE, fdatasync)
RULE(DEVICE, io_uring_enter)
RULE(DEVICE, io_uring_setup)
RULE(DEVICE, io_uring_register)
RULE(DEVICE, ioctl, IS(1, SIOCGIFINDEX)) /* is the tap there? */
RULE(DEVICE, ioctl, IS(1, TUNSETIFF))
RULE(DEVICE, ioctl, IS(1, TUNSETOFFLOAD))
RULE(DEVICE, ioctl, IS(1, TUNSETVNETHDRSZ))
RULE(DEVICE, ioctl, IS(1, TUNGETIFF))
RULE(DEVICE, fcntl, IS(1, F_GETFL))
RULE(DEVICE, fcntl, IS(1, F_SETFL))
RULE(DEVICE, fcntl, IS(1, F_DUPFD_CLOEXEC))

/* vsock: sockets in the file system. */
RULE(DEVICE, socket, IS(0, AF_UNIX), IS(2, 0))
RULE(DEVICE, bind)
RULE(DEVICE, listen)
RULE(DEVICE, accept4)
RULE(DEVICE, connect)
RULE(DEVICE, getsockopt, IS(1, SOL_SOCKET), IS(2, SO_ERROR))
RULE(DEVICE, recvfrom)
RULE(DEVICE, recvmsg)
RULE(DEVICE, sendto)
RULE(DEVICE, sendmsg)
RULE(DEVICE, shutdown)
RULE(DEVICE, chmod)
RULE(DEVICE, unlink)

/* Entropy; balloon. */
RULE(DEVICE, getrandom)
RULE(DEVICE, madvise, IS(2, MADV_REMOVE))
RULE(DEVICE, madvise, IS(2, MADV_FREE))

/* Devices are connected to the guest where they are made. */
RULE(DEVICE, ioctl, IS(1, KVM_IRQFD))
RULE(DEVICE, ioctl, IS(1, KVM_IOEVENTFD))

/* --- the main thread --- */

/* To start threads. clone3 hides its flags in memory: without it the C library takes clone. */
REFUSE(API, clone3, ENOSYS)
RULE(API, clone,
     IS(0, CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SYSVSEM | CLONE_SIGHAND | CLONE_THREAD | CLONE_SETTLS |
                   CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID))
RULE(API, rt_sigaction, IS(0, SETXID_SIGNAL)) /* at the first thread */
RULE(API, set_robust_list)
RULE(API, rseq)
RULE(API, sched_getaffinity)
RULE(API, prctl, IS(0, PR_SET_NAME))
RULE(API, prctl, IS(0, PR_SET_NO_NEW_PRIVS))
RULE(API, seccomp, IS(0, SECCOMP_SET_MODE_FILTER), IS(1, 0)) /* a thread's own filter: it can only narrow */

/* To kick a vCPU out of KVM_RUN. */
RULE(API, rt_sigaction, IS(0, KICK_SIGNAL))
RULE(API, tgkill, IS(2, KICK_SIGNAL))

/* libuv: connections of the API socket, a timer by its wait's limit. */
RULE(API, epoll_create1)
RULE(API, pipe2)
RULE(API, poll)
RULE(API, ioctl, IS(1, FIONBIO))
RULE(API, ioctl, IS(1, TCGETS)) /* isatty, before the first line of output */
RULE(API, fcntl, IS(1, F_GETFD))
RULE(API, fcntl, IS(1, F_SETFD))
RULE(API, getsockname)
RULE(API, access)

/* Snapshot files, written beside their name and renamed. */
RULE(API, rename)
RULE(API, fchmod)

/* Memory: mapped ahead of the guest's looks; faults served by another process. */
RULE(API, madvise, IS(2, MADV_HUGEPAGE))
RULE(API, madvise, IS(2, MADV_POPULATE_READ))
RULE(API, madvise, IS(2, MADV_POPULATE_WRITE))
RULE(API, userfaultfd)
RULE(API, ioctl, IS(1, USERFAULTFD_IOC_NEW))
RULE(API, ioctl, IS(1, UFFDIO_API))
RULE(API, ioctl, IS(1, UFFDIO_REGISTER))

/* KVM: making, restoring and saving a machine. */
RULE(API, ioctl, IS(1, KVM_GET_API_VERSION))
RULE(API, ioctl, IS(1, KVM_CHECK_EXTENSION))
RULE(API, ioctl, IS(1, KVM_GET_VCPU_MMAP_SIZE))
RULE(API, ioctl, IS(1, KVM_GET_SUPPORTED_CPUID))
RULE(API, ioctl, IS(1, KVM_GET_MSR_INDEX_LIST))
RULE(API, ioctl, IS(1, KVM_CREATE_VM))
RULE(API, ioctl, IS(1, KVM_SET_TSS_ADDR))
RULE(API, ioctl, IS(1, KVM_SET_USER_MEMORY_REGION))
RULE(API, ioctl, IS(1, KVM_GET_DIRTY_LOG))
RULE(API, ioctl, IS(1, KVM_CREATE_IRQCHIP))
RULE(API, ioctl, IS(1, KVM_CREATE_PIT2))
RULE(API, ioctl, IS(1, KVM_GET_IRQCHIP))
RULE(API, ioctl, IS(1, KVM_SET_IRQCHIP))
RULE(API, ioctl, IS(1, KVM_GET_PIT2))
RULE(API, ioctl, IS(1, KVM_SET_PIT2))
RULE(API, ioctl, IS(1, KVM_GET_CLOCK))
RULE(API, ioctl, IS(1, KVM_SET_CLOCK))
RULE(API, ioctl, IS(1, KVM_CREATE_VCPU))
RULE(API, ioctl, IS(1, KVM_KVMCLOCK_CTRL))
RULE(API, ioctl, IS(1, KVM_GET_TSC_KHZ))
RULE(API, ioctl, IS(1, KVM_SET_TSC_KHZ))
RULE(API, ioctl, IS(1, KVM_GET_CPUID2))
RULE(API, ioctl, IS(1, KVM_SET_CPUID2))
RULE(API, ioctl, IS(1, KVM_GET_MSRS))
RULE(API, ioctl, IS(1, KVM_SET_MSRS))
RULE(API, ioctl, IS(1, KVM_GET_REGS))
RULE(API, ioctl, IS(1, KVM_SET_REGS))
RULE(API, ioctl, IS(1, KVM_GET_SREGS))
RULE(API, ioctl, IS(1, KVM_SET_SREGS))
RULE(API, ioctl, IS(1, KVM_GET_FPU))
RULE(API, ioctl, IS(1, KVM_SET_FPU))
RULE(API, ioctl, IS(1, KVM_GET_XSAVE))
RULE(API, ioctl, IS(1, KVM_GET_XSAVE2))
RULE(API, ioctl, IS(1, KVM_SET_XSAVE))
RULE(API, ioctl, IS(1, KVM_GET_XCRS))
RULE(API, ioctl, IS(1, KVM_SET_XCRS))
RULE(API, ioctl, IS(1, KVM_GET_LAPIC))
RULE(API, ioctl, IS(1, KVM_SET_LAPIC))
RULE(API, ioctl, IS(1, KVM_GET_MP_STATE))
RULE(API, ioctl, IS(1, KVM_SET_MP_STATE))
RULE(API, ioctl, IS(1, KVM_GET_VCPU_EVENTS))
RULE(API, ioctl, IS(1, KVM_SET_VCPU_EVENTS))
RULE(API, ioctl, IS(1, KVM_GET_DEBUGREGS))
RULE(API, ioctl, IS(1, KVM_SET_DEBUGREGS))
