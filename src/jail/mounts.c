#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/base.h"
#include "jail/parts.h"

static int join_network(const char *path, struct error *err)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return error_errno(err, errno, "open network namespace %s", path);
	if (setns(fd, CLONE_NEWNET) < 0)
		return error_errno(err, errno, "join network namespace %s", path);
	return 0;
}

int mounts_unshare(const struct jail *jail, struct error *err)
{
	int network = jail->netns ? 0 : CLONE_NEWNET;

	if (jail->netns && join_network(jail->netns, err) < 0)
		return -err->code;
	if (unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | network) < 0)
		return error_errno(err, errno, "make namespaces");
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return error_errno(err, errno, "make mounts private");
	return 0;
}

/* The file or directory that `bind` is mounted on. */
static int make_mount_point(int root, const struct jail_bind *bind, struct jail_made *made, int *ret,
                            struct error *err)
{
	const struct root_owner owner = { 0, 0, 0755 };
	cleanup_free char *parent = NULL;
	cleanup_close int directory = -1;
	const char *name = strrchr(bind->target, '/');
	struct stat st;
	int file;

	if (stat(bind->source, &st) < 0)
		return error_errno(err, errno, "look at %s, which the jail is to show", bind->source);
	if (S_ISDIR(st.st_mode))
		return root_make_directories(root, bind->target, &owner, made, ret, err);
	name = name ? name + 1 : bind->target;
	parent = strndup(bind->target, (size_t)(name - bind->target));
	if (!parent)
		return error_errno(err, ENOMEM, "mount %s", bind->source);
	if (root_make_directories(root, parent, &owner, made, &directory, err) < 0)
		return -err->code;
	file = openat(directory, name, O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
	if (file >= 0) {
		close(file);
		if (made_add(made, directory, name, false, err) < 0)
			return -err->code;
	}
	*ret = openat(directory, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	return *ret < 0 ? error_errno(err, errno, "make mount point %s", bind->target) : 0;
}

int mounts_bind(int root, const struct jail_bind *bind, struct jail_made *made, struct error *err)
{
	struct mount_attr attributes = { .attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV };
	cleanup_close int tree = -1;
	cleanup_close int target = -1;

	if (bind->read_only)
		attributes.attr_set |= MOUNT_ATTR_RDONLY;
	if (!bind->executable)
		attributes.attr_set |= MOUNT_ATTR_NOEXEC;
	if (make_mount_point(root, bind, made, &target, err) < 0)
		return -err->code;
	/* By descriptors: no name is looked up twice, and flags are set before it can be seen. */
	tree = open_tree(AT_FDCWD, bind->source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
	if (tree < 0 ||
	    mount_setattr(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes, sizeof(attributes)) < 0 ||
	    move_mount(tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
		return error_errno(err, errno, "mount %s on %s in the jail", bind->source, bind->target);
	return 0;
}

int mounts_bind_root(const char *path, int root, int *ret, struct error *err)
{
	/* Device nodes must work here, whatever the file system is mounted with. */
	struct mount_attr attributes = { .attr_set = MOUNT_ATTR_NOSUID, .attr_clr = MOUNT_ATTR_NODEV };
	int tree = open_tree(root, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);

	if (tree < 0 || mount_setattr(tree, "", AT_EMPTY_PATH, &attributes, sizeof(attributes)) < 0 ||
	    move_mount(tree, "", root, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0) {
		int failure = errno;

		if (tree >= 0)
			close(tree);
		return error_errno(err, failure, "mount the jail's directory %s", path);
	}
	*ret = tree;
	return 0;
}

int mounts_enter_root(int root, struct error *err)
{
	if (fchdir(root) < 0)
		return error_errno(err, errno, "go to the jail's root directory");
	/* The old root comes to lie over the new one and is taken from there: no directory is needed for it.
	 */
	if (syscall(SYS_pivot_root, ".", ".") < 0)
		return error_errno(err, errno, "make the jail's directory the root (pivot_root)");
	if (umount2(".", MNT_DETACH) < 0)
		return error_errno(err, errno, "detach the old root");
	if (chdir("/") < 0)
		return error_errno(err, errno, "go to the new root");
	return 0;
}
