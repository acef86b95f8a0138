#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
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

int mounts_proc(int root, struct jail_made *made, struct error *err)
{
	const struct root_owner owner = { 0, 0, 0555 };
	cleanup_close int target = -1;
	cleanup_close int context = -1;
	cleanup_close int tree = -1;
	int ret = root_make_directories(root, "proc", &owner, made, &target, err);

	if (ret < 0)
		return ret;
	context = fsopen("proc", FSOPEN_CLOEXEC);
	if (context < 0 || fsconfig(context, FSCONFIG_SET_STRING, "hidepid", "invisible", 0) < 0 ||
	    fsconfig(context, FSCONFIG_SET_STRING, "subset", "pid", 0) < 0 ||
	    fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return error_errno(err, errno, "make a /proc for the jail");
	tree = fsmount(context, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
	if (tree < 0 ||
	    move_mount(tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
		return error_errno(err, errno, "mount /proc in the jail");
	return 0;
}

/* A tree of the host, with the flags that it shall have, before it can be seen anywhere. */
static int open_source(const struct jail_bind *bind, struct error *err)
{
	struct mount_attr attributes = { .attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV };
	int tree;

	if (bind->read_only)
		attributes.attr_set |= MOUNT_ATTR_RDONLY;
	if (!bind->executable)
		attributes.attr_set |= MOUNT_ATTR_NOEXEC;
	tree = open_tree(AT_FDCWD, bind->source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
	if (tree >= 0 &&
	    mount_setattr(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes, sizeof(attributes)) == 0)
		return tree;
	error_errno(err, errno, "take %s into the jail", bind->source);
	if (tree >= 0)
		close(tree);
	return -err->code;
}

/* In the child: its own view of the file system becomes the jail's. The exit status is an errno. */
static _Noreturn void show_from_inside(int namespace, int tree, const char *target)
{
	int point;

	if (setns(namespace, CLONE_NEWNS) < 0 || (mkdir(target, 0755) < 0 && errno != EEXIST))
		_exit(errno);
	point = open(target, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (point < 0 ||
	    move_mount(tree, "", point, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
		_exit(errno);
	_exit(0);
}

int jail_show(pid_t pid, const struct jail_bind *bind, struct error *err)
{
	cleanup_close int namespace = -1;
	cleanup_close int tree = open_source(bind, err);
	char path[64];
	pid_t child;
	int status;

	if (tree < 0)
		return tree;
	(void)snprintf(path, sizeof(path), "/proc/%d/ns/mnt", (int)pid);
	namespace = open(path, O_RDONLY | O_CLOEXEC);
	if (namespace < 0)
		return error_errno(err, errno, "open %s", path);
	/* A process of several threads cannot change its mount namespace: a child does. */
	child = fork();
	if (child == 0)
		show_from_inside(namespace, tree, bind->target);
	if (child < 0)
		return error_errno(err, errno, "show %s to the jail", bind->source);
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	return error_errno(err, WIFEXITED(status) ? WEXITSTATUS(status) : EIO, "show %s as %s to the jail",
	                   bind->source, bind->target);
}

int mounts_bind(int root, const struct jail_bind *bind, struct jail_made *made, struct error *err)
{
	cleanup_close int tree = -1;
	cleanup_close int target = -1;

	if (make_mount_point(root, bind, made, &target, err) < 0)
		return -err->code;
	/* By descriptors: no name is looked up twice, and flags are set before it can be seen. */
	tree = open_source(bind, err);
	if (tree < 0)
		return tree;
	if (move_mount(tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
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
