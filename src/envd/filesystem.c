/* The Connect service filesystem.Filesystem (spec/envd/filesystem/filesystem.proto of E2B); watching is in
 * watch_service.c. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "envd/entry.h"
#include "envd/filesystem.h"
#include "envd/path.h"
#include "envd/schema.h"

#define DEPTH_MAX   64
#define ENTRIES_MAX 100000

bool filesystem_read_path(struct envd *envd, struct connect_call *call, const json_t *request,
                          const char *key, struct user *user, char path[4096])
{
	struct error err = { 0 };
	const char *text = "";

	if (user_of_call(envd, call, user) < 0)
		return false;
	if (json_read_string(request, key, JSON_OPTIONAL, &text, &err) < 0 ||
	    path_resolve(envd, user, text, path, &err) < 0) {
		connect_fail(call, CONNECT_INVALID_ARGUMENT, "%s", err.message);
		return false;
	}
	return true;
}

enum connect_code filesystem_code(int code)
{
	switch (code) {
	case ENOENT:
		return CONNECT_NOT_FOUND;
	case EEXIST:
		return CONNECT_ALREADY_EXISTS;
	case EACCES:
	case EPERM:
		return CONNECT_PERMISSION_DENIED;
	case ENOTDIR:
	case EINVAL:
	case ENAMETOOLONG:
		return CONNECT_INVALID_ARGUMENT;
	case ELOOP:
		return CONNECT_FAILED_PRECONDITION;
	case ENOSPC:
	case EDQUOT:
		return CONNECT_RESOURCE_EXHAUSTED;
	default:
		return CONNECT_INTERNAL;
	}
}

static void reply_entry(struct connect_call *call, const char *path)
{
	struct error err = { 0 };
	json_t *entry = entry_of(path, &err);

	if (entry)
		connect_reply(call, json_pack("{s:o}", "entry", entry));
	else
		connect_fail(call, filesystem_code(err.code), "%s", err.message);
}

static void handle_stat(struct connect_call *call, const json_t *request, void *context)
{
	struct user user;
	char path[4096];

	if (filesystem_read_path(context, call, request, "path", &user, path))
		reply_entry(call, path);
}

static void handle_make_dir(struct connect_call *call, const json_t *request, void *context)
{
	struct error err = { 0 };
	struct user user;
	struct stat st;
	char path[4096];
	int ret;

	if (!filesystem_read_path(context, call, request, "path", &user, path))
		return;
	ret = path_make_directories(path, &user, &err);
	if (ret == 0)
		reply_entry(call, path);
	else if (ret == -EEXIST && stat(path, &st) == 0 && S_ISDIR(st.st_mode))
		connect_fail(call, CONNECT_ALREADY_EXISTS, "directory already exists: %s", path);
	else if (ret == -EEXIST)
		connect_fail(call, CONNECT_INVALID_ARGUMENT,
		             "path already exists but it is not a directory: %s", path);
	else
		connect_fail(call, filesystem_code(-ret), "%s", err.message);
}

static void handle_move(struct connect_call *call, const json_t *request, void *context)
{
	struct error err = { 0 };
	struct user user;
	struct stat st;
	char source[4096];
	char destination[4096];

	if (!filesystem_read_path(context, call, request, "source", &user, source) ||
	    !filesystem_read_path(context, call, request, "destination", &user, destination))
		return;
	if (lstat(source, &st) < 0)
		connect_fail(call, filesystem_code(errno), "source file not found: %s: %s", source,
		             strerror(errno));
	else if (path_make_parents(destination, &user, &err) < 0)
		connect_fail(call, filesystem_code(err.code), "%s", err.message);
	else if (rename(source, destination) < 0)
		connect_fail(call, filesystem_code(errno), "rename %s to %s: %s", source, destination,
		             strerror(errno));
	else
		reply_entry(call, destination);
}

static void handle_remove(struct connect_call *call, const json_t *request, void *context)
{
	struct error err = { 0 };
	struct user user;
	char path[4096];

	if (!filesystem_read_path(context, call, request, "path", &user, path))
		return;
	if (strcmp(path, "/") == 0)
		connect_fail(call, CONNECT_INVALID_ARGUMENT, "the root directory cannot be removed");
	else if (file_remove_tree(path, &err) < 0)
		connect_fail(call, filesystem_code(err.code), "error removing file or directory: %s",
		             err.message);
	else
		connect_reply(call, json_object());
}

/* --- list --- */

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int not_dots(const struct dirent *entry)
{
	return strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
}

/*
 * Add what is in `real` as entries below `shown`, in order of names, directories followed by their content
 * down to `depth`.
 */
static int list_into(json_t *entries, const char *shown, int64_t depth, struct error *err)
{
	struct dirent **names;
	int count = scandir(shown, &names, not_dots, by_name);
	int ret = 0;

	if (count < 0)
		return error_set(err, errno, "error reading directory %s: %s", shown, strerror(errno));
	for (int i = 0; i < count; i++) {
		char path[4096];
		struct stat st;
		json_t *entry = NULL;
		bool fits = snprintf(path, sizeof(path), "%s/%s", strcmp(shown, "/") == 0 ? "" : shown,
		                     names[i]->d_name) < (int)sizeof(path);

		/* What vanished meanwhile is not in the list. */
		if (ret == 0 && fits && json_array_size(entries) < ENTRIES_MAX)
			entry = entry_of(path, NULL);
		if (entry)
			(void)json_array_append_new(entries, entry);
		if (entry && depth > 1 && lstat(path, &st) == 0 && S_ISDIR(st.st_mode) &&
		    list_into(entries, path, depth - 1, err) < 0 && err->code != ENOENT)
			ret = -err->code;
		free(names[i]);
	}
	free(names);
	return ret;
}

static void handle_list_dir(struct connect_call *call, const json_t *request, void *context)
{
	struct error err = { 0 };
	struct user user;
	struct stat st;
	char path[4096];
	int64_t depth = 1;
	json_t *entries;

	if (!filesystem_read_path(context, call, request, "path", &user, path))
		return;
	if (json_read_integer(request, "depth", JSON_OPTIONAL, 0, UINT32_MAX, &depth, &err) < 0) {
		connect_fail(call, CONNECT_INVALID_ARGUMENT, "%s", err.message);
		return;
	}
	if (stat(path, &st) < 0) {
		connect_fail(call, filesystem_code(errno), "directory not found: %s: %s", path,
		             strerror(errno));
		return;
	}
	if (!S_ISDIR(st.st_mode)) {
		connect_fail(call, CONNECT_INVALID_ARGUMENT, "path is not a directory: %s", path);
		return;
	}
	entries = json_array();
	if (list_into(entries, path, depth < 1 ? 1 : depth > DEPTH_MAX ? DEPTH_MAX : depth, &err) < 0) {
		json_decref(entries);
		connect_fail(call, filesystem_code(err.code), "%s", err.message);
		return;
	}
	connect_reply(call, json_pack("{s:o}", "entries", entries));
}

const struct connect_method filesystem_methods[] = {
	{ "/filesystem.Filesystem/Stat", CONNECT_UNARY, handle_stat, &schema_path_request,
	  &schema_entry_response },
	{ "/filesystem.Filesystem/MakeDir", CONNECT_UNARY, handle_make_dir, &schema_path_request,
	  &schema_entry_response },
	{ "/filesystem.Filesystem/Move", CONNECT_UNARY, handle_move, &schema_move_request,
	  &schema_entry_response },
	{ "/filesystem.Filesystem/ListDir", CONNECT_UNARY, handle_list_dir, &schema_list_dir_request,
	  &schema_list_dir_response },
	{ "/filesystem.Filesystem/Remove", CONNECT_UNARY, handle_remove, &schema_path_request,
	  &schema_empty },
	{ 0 },
};
