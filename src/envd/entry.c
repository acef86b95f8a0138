#include "envd/entry.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "envd/metadata.h"
#include "envd/user.h"

/* As Go's FileMode prints it: "-rw-r--r--", "drwxr-xr-x", "Lrwxrwxrwx". */
static void permissions_text(mode_t mode, char text[16])
{
	static const char letters[] = "rwxrwxrwx";
	char *out = text;

	if (S_ISLNK(mode))
		*out++ = 'L';
	else if (S_ISDIR(mode))
		*out++ = 'd';
	else if (S_ISFIFO(mode))
		*out++ = 'p';
	else if (S_ISSOCK(mode))
		*out++ = 'S';
	else if (S_ISCHR(mode) || S_ISBLK(mode))
		*out++ = 'D';
	if (mode & S_ISUID)
		*out++ = 'u';
	if (mode & S_ISGID)
		*out++ = 'g';
	if (mode & S_ISVTX)
		*out++ = 't';
	if (out == text)
		*out++ = '-';
	for (int i = 0; i < 9; i++)
		*out++ = mode & (0400 >> i) ? letters[i] : '-';
	*out = '\0';
}

static const char *type_name(mode_t mode)
{
	return S_ISDIR(mode)   ? "FILE_TYPE_DIRECTORY"
	       : S_ISREG(mode) ? "FILE_TYPE_FILE"
	                       : "FILE_TYPE_UNSPECIFIED";
}

/* Where a link leads; its own path when that cannot be told. */
static void add_target(json_t *entry, const char *path)
{
	cleanup_free char *target = realpath(path, NULL);

	(void)json_object_set_new(entry, "symlinkTarget", json_string(target ? target : path));
}

json_t *entry_of(const char *path, struct error *err)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash && slash[1] ? slash + 1 : path;
	char permissions[16];
	char size[24];
	char time[TIME_RFC3339_SIZE];
	char owner[64];
	char group[64];
	const char *type;
	struct stat own;
	struct stat target;
	json_t *metadata;
	json_t *entry;
	bool link;

	if (lstat(path, &own) < 0) {
		error_set(err, errno, "file not found: %s: %s", path, strerror(errno));
		return NULL;
	}
	link = S_ISLNK(own.st_mode);
	target = own;
	if (link && stat(path, &target) < 0)
		target.st_mode = 0; /* it leads nowhere */
	type = type_name(target.st_mode);
	permissions_text(own.st_mode, permissions);
	(void)snprintf(size, sizeof(size), "%lld", (long long)own.st_size);
	(void)time_format_rfc3339(own.st_mtim.tv_sec * 1000 + own.st_mtim.tv_nsec / 1000000, time);
	entry = json_pack("{s:s,s:s,s:s,s:s,s:i,s:s,s:s,s:s,s:s}", "name", name, "type", type, "path", path,
	                  "size", size, "mode", (int)(target.st_mode & 0777), "permissions", permissions,
	                  "owner", user_name(own.st_uid, owner), "group", group_name(own.st_gid, group),
	                  "modifiedTime", time);
	if (!entry) {
		error_set(err, EILSEQ, "the name of '%s' is not UTF-8", path);
		return NULL;
	}
	if (link)
		add_target(entry, path);
	metadata = metadata_read(path);
	if (metadata)
		(void)json_object_set_new(entry, "metadata", metadata);
	return entry;
}
