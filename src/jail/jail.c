#include "jail/jail.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/close_range.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"

#define FILES_MAX 4096 /* a vsock connection is a descriptor: 1023 of them, and some */

static int enter_namespaces(struct error *err)
{
	if (unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) < 0)
		return error_errno(err, errno, "make namespaces");
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return error_errno(err, errno, "make mounts private");
	return 0;
}

static int set_limits(struct error *err)
{
	const struct rlimit files = { FILES_MAX, FILES_MAX };
	const struct rlimit none = { 0, 0 };

	if (setrlimit(RLIMIT_NOFILE, &files) < 0 || setrlimit(RLIMIT_CORE, &none) < 0)
		return error_errno(err, errno, "set limits");
	return 0;
}

static int drop_privileges(const struct jail *jail, struct error *err)
{
	if (setgroups(1, &jail->kvm) < 0 || setresgid(jail->gid, jail->gid, jail->gid) < 0 ||
	    setresuid(jail->uid, jail->uid, jail->uid) < 0)
		return error_errno(err, errno, "become user %u", jail->uid);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return error_errno(err, errno, "give up new privileges");
	return 0;
}

int jail_enter(const struct jail *jail, struct error *err)
{
	int ret = enter_namespaces(err);

	if (ret == 0)
		ret = set_limits(err);
	if (ret == 0 && close_range(STDERR_FILENO + 1, ~0u, CLOSE_RANGE_CLOEXEC) < 0)
		ret = error_errno(err, errno, "close descriptors");
	umask(0007);
	(void)setsid();
	return ret < 0 ? ret : drop_privileges(jail, err);
}
