#include "jail/jail.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "jail/parts.h"

int jail_check_id(const char *id, struct error *err)
{
	size_t length = strlen(id);

	if (length < 1 || length > JAIL_ID_MAX)
		return error_set(err, EINVAL, "the id has %zu characters, it must have 1 to %d", length,
		                 JAIL_ID_MAX);
	for (size_t i = 0; i < length; i++)
		if (!isascii((unsigned char)id[i]) || (!isalnum((unsigned char)id[i]) && id[i] != '-'))
			return error_set(err, EINVAL,
			                 "the id '%s' may hold letters, digits and '-' only, not the "
			                 "character at position %zu",
			                 id, i);
	return 0;
}

int jail_check_relative(const char *path, const char *what, struct error *err)
{
	const char *at = path;

	if (*path == '\0' || *path == '/')
		return error_set(err, EINVAL, "%s must be a relative path, not '%s'", what, path);
	while (*at) {
		size_t length = strcspn(at, "/");

		if ((length == 1 && at[0] == '.') || (length == 2 && at[0] == '.' && at[1] == '.'))
			return error_set(err, EINVAL, "%s '%s' must not contain '.' or '..'", what, path);
		at += length;
		at += strspn(at, "/");
	}
	return 0;
}

/* --- what was made --- */

int made_add(struct jail_made *made, int directory, const char *name, bool is_directory, struct error *err)
{
	int copy = -1;

	if (made->count < ARRAY_SIZE(made->entries) && strlen(name) < sizeof(made->entries[0].name))
		copy = fcntl(directory, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	if (copy < 0) {
		(void)unlinkat(directory, name, is_directory ? AT_REMOVEDIR : 0);
		return error_set(err, ENOSPC, "make %s: too much is made for one jail", name);
	}
	made->entries[made->count].directory = copy;
	made->entries[made->count].is_directory = is_directory;
	(void)snprintf(made->entries[made->count].name, sizeof(made->entries[0].name), "%s", name);
	made->count++;
	return 0;
}

void jail_undo(struct jail_made *made)
{
	/* A directory with a mount on it cannot be removed: they are all elsewhere, seen from there. */
	if (made->mounts_home >= 0) {
		(void)setns(made->mounts_home, CLONE_NEWNS);
		close(made->mounts_home);
		made->mounts_home = -1;
	}
	/* A cgroup can be removed when nobody is in it. */
	if (made->cgroup_home >= 0) {
		(void)!write(made->cgroup_home, "0", 1);
		close(made->cgroup_home);
		made->cgroup_home = -1;
	}
	while (made->count) {
		made->count--;
		/* A directory that others use by now stays. */
		(void)unlinkat(made->entries[made->count].directory, made->entries[made->count].name,
		               made->entries[made->count].is_directory ? AT_REMOVEDIR : 0);
		close(made->entries[made->count].directory);
	}
}

/* --- building --- */

static int enter_root(const struct jail *jail, int directory, struct jail_made *made, struct error *err)
{
	cleanup_close int root = -1;
	int ret = mounts_bind_root(jail->root, directory, &root, err);

	if (ret < 0)
		return ret;
	for (size_t i = 0; ret == 0 && i < jail->bind_count; i++)
		ret = mounts_bind(root, &jail->binds[i], made, err);
	if (ret == 0 && jail->proc)
		ret = mounts_proc(root, made, err);
	if (ret == 0)
		ret = mounts_enter_root(root, err);
	return ret;
}

static int build(const struct jail *jail, struct jail_made *made, struct error *err)
{
	cleanup_close int root = -1;
	int ret = cgroup_join(jail, made, err);

	if (ret == 0)
		ret = mounts_unshare(jail, err);
	if (ret == 0 && jail->root)
		ret = root_make(jail, made, &root, err);
	if (ret == 0 && jail->root)
		ret = enter_root(jail, root, made, err);
	if (ret == 0)
		ret = limits_set(jail, err);
	if (ret == 0 && close_range(STDERR_FILENO + 1, ~0u, CLOSE_RANGE_CLOEXEC) < 0)
		ret = error_errno(err, errno, "close descriptors");
	return ret;
}

int jail_build(const struct jail *jail, struct jail_made *made, struct error *err)
{
	int ret;

	made->count = 0;
	made->cgroup_home = -1;
	made->mounts_home = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
	if (made->mounts_home < 0)
		return error_errno(err, errno, "open /proc/self/ns/mnt");
	ret = build(jail, made, err);
	if (ret < 0)
		jail_undo(made);
	return ret;
}

int jail_drop(const struct jail *jail, struct error *err)
{
	(void)umask(0007);
	return privileges_drop(jail, err);
}

int jail_enter(const struct jail *jail, struct error *err)
{
	struct jail_made made;
	int ret = jail_build(jail, &made, err);

	if (ret < 0)
		return ret;
	(void)setsid();
	ret = jail_drop(jail, err);
	if (ret < 0)
		jail_undo(&made);
	return ret;
}
