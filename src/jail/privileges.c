#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "jail/parts.h"

/* An exec cannot bring back what is not in the bounding set, not even root's. */
static int drop_bounding_set(struct error *err)
{
	for (unsigned long number = 0; prctl(PR_CAPBSET_READ, number, 0, 0, 0) >= 0; number++)
		if (prctl(PR_CAPBSET_DROP, number, 0, 0, 0) < 0)
			return error_errno(err, errno, "drop capability %lu from the bounding set", number);
	return 0;
}

static int drop_capabilities(struct error *err)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	const struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = { 0 };

	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return error_errno(err, errno, "clear ambient capabilities");
	/* A change of user clears them too, but not when the user is root. */
	if (syscall(SYS_capset, &header, none) < 0)
		return error_errno(err, errno, "drop capabilities");
	return 0;
}

int privileges_drop(const struct jail *jail, struct error *err)
{
	int ret = drop_bounding_set(err);

	if (ret < 0)
		return ret;
	if (setgroups(jail->root ? 0 : 1, jail->root ? NULL : &jail->kvm) < 0)
		return error_errno(err, errno, "set supplementary groups");
	if (setresgid(jail->gid, jail->gid, jail->gid) < 0)
		return error_errno(err, errno, "become group %u", jail->gid);
	if (setresuid(jail->uid, jail->uid, jail->uid) < 0)
		return error_errno(err, errno, "become user %u", jail->uid);
	ret = drop_capabilities(err);
	if (ret < 0)
		return ret;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return error_errno(err, errno, "give up new privileges");
	return 0;
}
