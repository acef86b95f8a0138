/* Control groups, version 2 (Documentation/admin-guide/cgroup-v2.rst of the kernel). */
#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "jail/parts.h"

#define TEXT_MAX 4096

/* The unified hierarchy's root directory, a descriptor. */
static int open_hierarchy(int *ret, char *path, size_t size, struct error *err)
{
	FILE *mounts = setmntent("/proc/self/mounts", "re");
	char line[TEXT_MAX];
	struct mntent entry;

	*ret = -1;
	if (!mounts)
		return error_errno(err, errno, "read /proc/self/mounts");
	while (*ret < 0 && getmntent_r(mounts, &entry, line, sizeof(line)))
		if (strcmp(entry.mnt_type, "cgroup2") == 0) {
			*ret = open(entry.mnt_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
			(void)snprintf(path, size, "%s", entry.mnt_dir);
		}
	(void)endmntent(mounts);
	return *ret < 0 ? error_set(err, ENOENT, "no cgroup2 file system is mounted") : 0;
}

static int write_file(int directory, const char *file, const char *value)
{
	cleanup_close int fd = openat(directory, file, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	return write(fd, value, strlen(value)) < 0 ? -errno : 0;
}

/* Whether `word` is one of the words in `file`. */
static bool file_has_word(int directory, const char *file, const char *word)
{
	cleanup_close int fd = openat(directory, file, O_RDONLY | O_CLOEXEC);
	char text[TEXT_MAX];
	char *rest = NULL;
	ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (size < 0)
		return false;
	text[size] = '\0';
	for (char *at = strtok_r(text, " \n", &rest); at; at = strtok_r(NULL, " \n", &rest))
		if (strcmp(at, word) == 0)
			return true;
	return false;
}

/* Let the children of `directory` be controlled as the settings want. */
static int enable_controllers(const struct jail *jail, int directory, const char *where, struct error *err)
{
	for (size_t i = 0; i < jail->setting_count; i++) {
		char controller[64];
		char request[72];
		int ret;

		(void)snprintf(controller, sizeof(controller), "%.*s",
		               (int)strcspn(jail->settings[i].file, "."), jail->settings[i].file);
		if (strcmp(controller, "cgroup") == 0 ||
		    file_has_word(directory, "cgroup.subtree_control", controller))
			continue;
		if (!file_has_word(directory, "cgroup.controllers", controller))
			return error_set(err, ENOTSUP, "cgroup %s has no controller '%s', which %s needs",
			                 where, controller, jail->settings[i].file);
		(void)snprintf(request, sizeof(request), "+%s", controller);
		ret = write_file(directory, "cgroup.subtree_control", request);
		if (ret < 0)
			return error_errno(err, -ret, "enable controller '%s' below cgroup %s", controller,
			                   where);
	}
	return 0;
}

static int move_self(int hierarchy, int group, const char *where, struct jail_made *made, struct error *err)
{
	cleanup_buffer struct buffer text = { .limit = TEXT_MAX };
	char home[TEXT_MAX] = "";
	char *line;
	int ret;

	/* "0::/PATH" */
	if (file_read("/proc/self/cgroup", &text, err) < 0)
		return -err->code;
	line = text.data ? strstr(text.data, "0::/") : NULL;
	if (line)
		(void)snprintf(home, sizeof(home), "./%.*s/cgroup.procs", (int)strcspn(line + 4, "\n"),
		               line + 4);
	made->cgroup_home = line ? openat(hierarchy, home, O_WRONLY | O_CLOEXEC) : -1;
	ret = write_file(group, "cgroup.procs", "0");
	return ret < 0 ? error_errno(err, -ret, "move into cgroup %s", where) : 0;
}

static int write_settings(const struct jail *jail, int group, const char *where, struct error *err)
{
	for (size_t i = 0; i < jail->setting_count; i++) {
		const struct jail_setting *setting = &jail->settings[i];
		int ret = write_file(group, setting->file, setting->value);

		if (ret < 0)
			return error_errno(err, -ret, "write '%s' to %s of cgroup %s", setting->value,
			                   setting->file, where);
	}
	return 0;
}

/* One level down, which is made when it is missing. Replaces *at. */
static int descend(const struct jail *jail, int *at, const char *name, char *where, size_t size,
                   struct jail_made *made, struct error *err)
{
	size_t used = strlen(where);
	int next;

	if (enable_controllers(jail, *at, where, err) < 0)
		return -err->code;
	(void)snprintf(where + used, size - used, "/%s", name);
	if (mkdirat(*at, name, 0755) == 0) {
		if (made_add(made, *at, name, true, err) < 0)
			return -err->code;
	} else if (errno != EEXIST) {
		return error_errno(err, errno, "make cgroup %s", where);
	}
	next = openat(*at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (next < 0)
		return error_errno(err, errno, "open cgroup %s", where);
	close(*at);
	*at = next;
	return 0;
}

int cgroup_join(const struct jail *jail, struct jail_made *made, struct error *err)
{
	cleanup_close int hierarchy = -1;
	cleanup_close int at = -1;
	cleanup_free char *parent = jail->cgroup_parent ? strdup(jail->cgroup_parent) : NULL;
	char where[TEXT_MAX];
	char *rest = NULL;
	int ret;

	if (!parent)
		return jail->cgroup_parent ? error_errno(err, ENOMEM, "make a cgroup") : 0;
	ret = open_hierarchy(&hierarchy, where, sizeof(where), err);
	/* Without settings nothing was asked for: a host without cgroups will do. */
	if (ret < 0)
		return jail->setting_count ? ret : 0;
	at = openat(hierarchy, jail->setting_count ? "." : parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (at < 0)
		return jail->setting_count ? error_errno(err, errno, "open cgroup %s", where) : 0;
	if (jail->setting_count == 0)
		return move_self(hierarchy, at, parent, made, err);
	for (char *name = strtok_r(parent, "/", &rest); ret == 0 && name; name = strtok_r(NULL, "/", &rest))
		ret = descend(jail, &at, name, where, sizeof(where), made, err);
	if (ret == 0)
		ret = descend(jail, &at, jail->cgroup_name, where, sizeof(where), made, err);
	if (ret == 0)
		ret = write_settings(jail, at, where, err);
	return ret < 0 ? ret : move_self(hierarchy, at, where, made, err);
}
