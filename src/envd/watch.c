#include "envd/watch.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "envd/entry.h"

#define DIRECTORIES_MAX 8192 /* of one watch */
#define DEPTH_MAX       64
#define EVENTS_SIZE     (16 * 1024)

/* What fsnotify, which E2B's agent uses, asks for. */
#define CHANGES                                                                                              \
	(IN_CREATE | IN_MOVED_TO | IN_MOVED_FROM | IN_MOVE_SELF | IN_DELETE | IN_DELETE_SELF | IN_MODIFY |   \
	 IN_ATTRIB)

/* A directory that is watched. */
struct directory {
	struct list link;
	int descriptor;
	char name[]; /* below the root; "" is the root */
};

struct watch {
	uv_poll_t poll;
	int fd;
	struct list directories;
	unsigned count;
	struct watch_options options;
	watch_event_fn *on_event;
	void *context;
	bool freed; /* by an event of it: what is read already goes nowhere */
	bool reading;
	char root[];
};

/* --- names --- */

/* "DIRECTORY/NAME" below the root, without a slash where one of them is empty. False when it is too long. */
static bool join(char path[PATH_MAX], const char *directory, const char *name)
{
	return snprintf(path, PATH_MAX, "%s%s%s", directory, *directory && *name ? "/" : "", name) < PATH_MAX;
}

static bool full_path(const struct watch *watch, const char *name, char path[PATH_MAX])
{
	const char *root = strcmp(watch->root, "/") == 0 ? "" : watch->root;

	return snprintf(path, PATH_MAX, "%s%s%s", root, *name || !*root ? "/" : "", name) < PATH_MAX;
}

/* --- telling --- */

static void tell(struct watch *watch, const char *name, const char *type, bool exists)
{
	json_t *event = json_pack("{s:s,s:s}", "name", *name ? name : ".", "type", type);
	char path[PATH_MAX];
	json_t *entry = NULL;

	if (exists && watch->options.include_entry && full_path(watch, name, path))
		entry = entry_of(path, NULL);
	if (entry)
		(void)json_object_set_new(event, "entry", entry);
	watch->on_event(watch->context, event);
}

/* --- the directories --- */

static int add_tree(struct watch *watch, const char *name, unsigned depth, bool is_new, struct error *err);

static struct directory *find_directory(struct watch *watch, int descriptor)
{
	list_for_each (link, &watch->directories) {
		struct directory *directory = list_entry(link, struct directory, link);

		if (directory->descriptor == descriptor)
			return directory;
	}
	return NULL;
}

static void forget(struct watch *watch, struct directory *directory)
{
	list_remove(&directory->link);
	watch->count--;
	free(directory);
}

/* A directory has gone elsewhere: what was below it is no longer ours. */
static void drop_tree(struct watch *watch, const char *name)
{
	size_t size = strlen(name);

	list_for_each_safe (link, &watch->directories) {
		struct directory *directory = list_entry(link, struct directory, link);

		if (strncmp(directory->name, name, size) == 0 &&
		    (!directory->name[size] || directory->name[size] == '/')) {
			(void)inotify_rm_watch(watch->fd, directory->descriptor);
			forget(watch, directory);
		}
	}
}

static int add_directory(struct watch *watch, const char *name, struct error *err)
{
	size_t size = strlen(name) + 1;
	struct directory *directory;
	char path[PATH_MAX];
	/* The root may be reached by a link, as the client wrote it; below it links are not followed. */
	int descriptor = !full_path(watch, name, path)
	                         ? -1
	                         : inotify_add_watch(watch->fd, path,
	                                             CHANGES | IN_ONLYDIR | (*name ? IN_DONT_FOLLOW : 0));

	if (descriptor < 0)
		return error_errno(err, errno, "watch %s", path);
	directory = find_directory(watch, descriptor);
	if (directory)
		return 0;
	directory = watch->count < DIRECTORIES_MAX ? malloc(sizeof(*directory) + size) : NULL;
	if (!directory) {
		(void)inotify_rm_watch(watch->fd, descriptor);
		return error_set(err, ENOSPC, "watch %s: more than %d directories", watch->root,
		                 DIRECTORIES_MAX);
	}
	directory->descriptor = descriptor;
	memcpy(directory->name, name, size);
	list_append(&watch->directories, &directory->link);
	watch->count++;
	return 0;
}

static bool is_directory(const struct watch *watch, const char *name, unsigned char type)
{
	char path[PATH_MAX];
	struct stat st;

	if (type != DT_UNKNOWN)
		return type == DT_DIR;
	return full_path(watch, name, path) && lstat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* What is in a directory. Of a new one it is told, because it may have come before the watch. */
static int add_content(struct watch *watch, const char *name, unsigned depth, bool is_new, struct error *err)
{
	char path[PATH_MAX];
	struct dirent *entry;
	DIR *stream = full_path(watch, name, path) ? opendir(path) : NULL;
	int ret = 0;

	while (stream && ret == 0 && !watch->freed && (entry = readdir(stream))) {
		char below[PATH_MAX];

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
		    !join(below, name, entry->d_name))
			continue;
		if (is_new)
			tell(watch, below, "EVENT_TYPE_CREATE", true);
		if (!watch->freed && is_directory(watch, below, entry->d_type))
			ret = add_tree(watch, below, depth + 1, is_new, err);
		/* What vanished meanwhile is of no matter. */
		if (ret < 0 && err->code != ENOSPC)
			ret = 0;
	}
	if (stream)
		(void)closedir(stream);
	return ret;
}

static int add_tree(struct watch *watch, const char *name, unsigned depth, bool is_new, struct error *err)
{
	int ret = depth > DEPTH_MAX ? 0 : add_directory(watch, name, err);

	return ret < 0 || !watch->options.recursive || depth > DEPTH_MAX
	               ? ret
	               : add_content(watch, name, depth, is_new, err);
}

/* --- events --- */

static void on_change(struct watch *watch, const struct directory *directory, uint32_t mask, const char *leaf)
{
	static const struct {
		uint32_t mask;
		const char *type;
		bool exists;
	} types[] = {
		{ IN_CREATE | IN_MOVED_TO, "EVENT_TYPE_CREATE", true },
		{ IN_MODIFY, "EVENT_TYPE_WRITE", true },
		{ IN_DELETE | IN_DELETE_SELF, "EVENT_TYPE_REMOVE", false },
		{ IN_MOVED_FROM | IN_MOVE_SELF, "EVENT_TYPE_RENAME", false },
		{ IN_ATTRIB, "EVENT_TYPE_CHMOD", true },
	};
	struct error err = { 0 };
	char name[PATH_MAX];

	/* Of a directory below the root its parent tells. */
	if ((!*leaf && *directory->name) || !join(name, directory->name, leaf))
		return;
	if ((mask & IN_ISDIR) && (mask & IN_MOVED_FROM))
		drop_tree(watch, name);
	for (size_t i = 0; i < ARRAY_SIZE(types) && !watch->freed; i++)
		if (mask & types[i].mask)
			tell(watch, name, types[i].type, types[i].exists);
	if (!watch->freed && watch->options.recursive && (mask & IN_ISDIR) &&
	    (mask & (IN_CREATE | IN_MOVED_TO)) && add_tree(watch, name, 1, true, &err) < 0)
		log_warn("%s", err.message);
}

static void on_poll_closed(uv_handle_t *handle)
{
	struct watch *watch = handle->data;

	free(watch);
}

static void destroy(struct watch *watch)
{
	list_for_each_safe (link, &watch->directories)
		forget(watch, list_entry(link, struct directory, link));
	close(watch->fd);
	uv_close((uv_handle_t *)&watch->poll, on_poll_closed);
}

static void take_events(struct watch *watch, const char *data, size_t size)
{
	while (size >= sizeof(struct inotify_event) && !watch->freed) {
		struct inotify_event event;
		struct directory *directory;

		memcpy(&event, data, sizeof(event));
		directory = find_directory(watch, event.wd);
		if (event.mask & IN_Q_OVERFLOW)
			log_warn("watch %s: more changes than could be told", watch->root);
		else if (directory && (event.mask & IN_IGNORED))
			forget(watch, directory);
		else if (directory)
			on_change(watch, directory, event.mask, event.len ? data + sizeof(event) : "");
		data += sizeof(event) + event.len;
		size -= sizeof(event) + event.len;
	}
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
	struct watch *watch = poll->data;
	char data[EVENTS_SIZE];
	ssize_t size;

	(void)status;
	(void)events;
	watch->reading = true;
	while (!watch->freed && (size = read(watch->fd, data, sizeof(data))) > 0)
		take_events(watch, data, (size_t)size);
	watch->reading = false;
	if (watch->freed)
		destroy(watch);
}

/* --- life --- */

static int check_root(const char *path, const struct watch_options *options, struct error *err)
{
	static const long network[] = { NFS_SUPER_MAGIC, SMB_SUPER_MAGIC, CIFS_SUPER_MAGIC, SMB2_SUPER_MAGIC,
		                        FUSE_SUPER_MAGIC };
	struct statfs fs;
	struct stat st;

	if (stat(path, &st) < 0)
		return error_set(err, errno, "path %s not found: %s", path, strerror(errno));
	if (!S_ISDIR(st.st_mode))
		return error_set(err, ENOTDIR, "path %s is not a directory", path);
	if (options->allow_network || statfs(path, &fs) < 0)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(network); i++)
		if ((uint32_t)fs.f_type == (uint32_t)network[i])
			return error_set(err, EINVAL,
			                 "cannot watch %s: it is on a network mount, where changes may go "
			                 "unseen",
			                 path);
	return 0;
}

struct watch *watch_new(uv_loop_t *loop, const char *path, const struct watch_options *options,
                        watch_event_fn *on_event, void *context, struct error *err)
{
	size_t size = strlen(path) + 1;
	struct watch *watch;

	if (check_root(path, options, err) < 0)
		return NULL;
	watch = calloc(1, sizeof(*watch) + size);
	if (!watch) {
		error_errno(err, ENOMEM, "watch %s", path);
		return NULL;
	}
	memcpy(watch->root, path, size);
	watch->options = *options;
	watch->on_event = on_event;
	watch->context = context;
	watch->poll.data = watch;
	list_init(&watch->directories);
	watch->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (watch->fd < 0 || uv_poll_init(loop, &watch->poll, watch->fd) < 0) {
		error_errno(err, errno, "watch %s", path);
		if (watch->fd >= 0)
			close(watch->fd);
		free(watch);
		return NULL;
	}
	if (add_tree(watch, "", 0, false, err) < 0) {
		destroy(watch);
		return NULL;
	}
	(void)uv_poll_start(&watch->poll, UV_READABLE, on_readable);
	return watch;
}

void watch_free(struct watch *watch)
{
	if (!watch || watch->freed)
		return;
	watch->freed = true;
	if (!watch->reading)
		destroy(watch);
}
