/* The jail's root directory: made, and filled with what a monitor needs. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "jail/parts.h"

#define COPY_MAX (1 << 30) /* bytes that sendfile is asked for at once */

/* Devices of the host that a monitor may use. */
static const struct {
	const char *directory;
	const char *name;
} devices[] = {
	{ "dev", "kvm" },
	{ "dev/net", "tun" },
	{ "dev", "urandom" },
	{ "dev", "userfaultfd" },
};

/* One step of a walk; replaces *at, a descriptor. */
static int step(int *at, const char *name, const struct root_owner *owner, int follow, struct jail_made *made,
                struct error *err)
{
	bool fresh = mkdirat(*at, name, owner->mode) == 0;
	int next;

	if (!fresh && errno != EEXIST)
		return error_errno(err, errno, "make directory %s", name);
	if (fresh && made_add(made, *at, name, true, err) < 0)
		return -err->code;
	/* The umask had its say. */
	if (fresh && (fchmodat(*at, name, owner->mode, 0) < 0 ||
	              fchownat(*at, name, owner->uid, owner->gid, AT_SYMLINK_NOFOLLOW) < 0))
		return error_errno(err, errno, "own directory %s", name);
	next = openat(*at, name, O_PATH | O_DIRECTORY | O_CLOEXEC | follow);
	if (next < 0)
		return error_errno(err, errno, "open directory %s", name);
	close(*at);
	*at = next;
	return 0;
}

/* Takes `at`. */
static int walk(int at, const char *path, const struct root_owner *owner, int follow, struct jail_made *made,
                int *ret, struct error *err)
{
	cleanup_free char *copy = strdup(path);
	cleanup_close int now = at;
	char *rest = NULL;

	if (!copy || now < 0)
		return error_errno(err, copy ? errno : ENOMEM, "make %s", path);
	for (char *name = strtok_r(copy, "/", &rest); name; name = strtok_r(NULL, "/", &rest)) {
		if (strcmp(name, "..") == 0 && follow)
			return error_set(err, EINVAL, "'%s' leads out of the jail", path);
		if (step(&now, name, owner, follow, made, err) < 0)
			return error_wrap(err, "make %s", path);
	}
	*ret = TAKE_FD(now);
	return 0;
}

int root_make_directories(int root, const char *path, const struct root_owner *owner, struct jail_made *made,
                          int *ret, struct error *err)
{
	return walk(openat(root, ".", O_PATH | O_DIRECTORY | O_CLOEXEC), path, owner, O_NOFOLLOW, made, ret,
	            err);
}

static int make_device(const struct jail *jail, struct jail_made *made, int root, size_t index,
                       struct error *err)
{
	const struct root_owner owner = { 0, 0, 0755 };
	const char *name = devices[index].name;
	cleanup_close int directory = -1;
	char path[32];
	struct stat st;

	(void)snprintf(path, sizeof(path), "/%s/%s", devices[index].directory, name);
	if (stat(path, &st) < 0 || !S_ISCHR(st.st_mode))
		return 0; /* the host has none: whoever needs it will say so */
	if (root_make_directories(root, devices[index].directory, &owner, made, &directory, err) < 0)
		return -err->code;
	/* What an earlier machine of this name left is not trusted. */
	(void)unlinkat(directory, name, 0);
	if (mknodat(directory, name, S_IFCHR | 0600, st.st_rdev) < 0)
		return error_errno(err, errno, "make %s in the jail", path);
	if (made_add(made, directory, name, false, err) < 0)
		return -err->code;
	if (fchownat(directory, name, jail->uid, jail->gid, AT_SYMLINK_NOFOLLOW) < 0)
		return error_errno(err, errno, "own %s in the jail", path);
	return 0;
}

static int copy_file(int from, int to)
{
	ssize_t done;

	while ((done = sendfile(to, from, NULL, COPY_MAX)) != 0)
		if (done < 0 && errno != EINTR)
			return -errno;
	return 0;
}

/*
 * A copy, as Firecracker's jailer makes one: pages of a program that is shared would be shared memory between
 * machines (their cache lines tell what others run). Nor does an upgrade of the original change it.
 */
static int copy_program(const struct jail *jail, struct jail_made *made, int root, struct error *err)
{
	const char *slash = strrchr(jail->program, '/');
	const char *name = slash ? slash + 1 : jail->program;
	cleanup_close int from = open(jail->program, O_RDONLY | O_CLOEXEC);
	cleanup_close int to = -1;
	int ret;

	if (from < 0)
		return error_errno(err, errno, "open program %s", jail->program);
	(void)unlinkat(root, name, 0);
	to = openat(root, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0500);
	if (to < 0)
		return error_errno(err, errno, "copy %s into the jail", jail->program);
	ret = made_add(made, root, name, false, err);
	if (ret < 0)
		return ret;
	ret = copy_file(from, to);
	/* Root's, so that the program cannot write to itself. */
	if (ret == 0 && (fchown(to, 0, jail->gid) < 0 || fchmod(to, 0555) < 0))
		ret = -errno;
	return ret < 0 ? error_errno(err, -ret, "copy %s into the jail", jail->program) : 0;
}

int root_make(const struct jail *jail, struct jail_made *made, int *ret_root, struct error *err)
{
	const struct root_owner plain = { 0, 0, 0755 };
	/* The group is who may talk to the program. */
	const struct root_owner private = { jail->uid, jail->gid, 0750 };
	cleanup_close int root = -1;
	cleanup_close int run = -1;
	int start = open(jail->root[0] == '/' ? "/" : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int ret = walk(start, jail->root, &plain, 0, made, &root, err);

	if (ret == 0 &&
	    (fchownat(root, "", jail->uid, jail->gid, AT_EMPTY_PATH) < 0 || fchmodat(root, ".", 0750, 0) < 0))
		ret = error_errno(err, errno, "own %s", jail->root);
	if (ret == 0)
		ret = root_make_directories(root, "run", &private, made, &run, err);
	for (size_t i = 0; ret == 0 && i < ARRAY_SIZE(devices); i++)
		ret = make_device(jail, made, root, i, err);
	if (ret == 0 && jail->program)
		ret = copy_program(jail, made, root, err);
	if (ret == 0)
		*ret_root = TAKE_FD(root);
	return ret;
}
