#include "envd/user.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static void read_groups(struct user *user)
{
	FILE *file = fopen("/etc/group", "re");
	struct group *group;

	user->groups[0] = user->gid;
	user->group_count = 1;
	while (file && user->group_count < USER_GROUPS_MAX && (group = fgetgrent(file))) {
		for (char **member = group->gr_mem; *member; member++) {
			if (strcmp(*member, user->name) == 0 && group->gr_gid != user->gid) {
				user->groups[user->group_count++] = group->gr_gid;
				break;
			}
		}
	}
	if (file)
		(void)fclose(file);
}

int user_lookup(const char *name, struct user *user, struct error *err)
{
	FILE *file = fopen("/etc/passwd", "re");
	struct passwd *entry = NULL;

	while (file && (entry = fgetpwent(file)) && strcmp(entry->pw_name, name) != 0)
		continue;
	if (entry) {
		(void)snprintf(user->name, sizeof(user->name), "%s", entry->pw_name);
		(void)snprintf(user->home, sizeof(user->home), "%s", entry->pw_dir);
		user->uid = entry->pw_uid;
		user->gid = entry->pw_gid;
		read_groups(user);
	}
	if (file)
		(void)fclose(file);
	return entry ? 0 : error_set(err, ENOENT, "user: unknown user %s", name);
}

/* The user name of "Basic BASE64(name:password)". */
static int parse_basic(const char *authorization, struct buffer *text, struct error *err)
{
	char *colon;

	if (strncasecmp(authorization, "Basic ", 6) != 0 ||
	    base64_decode(text, authorization + 6, strlen(authorization + 6)) < 0)
		return error_set(err, EINVAL, "invalid authorization header");
	colon = text->data ? strchr(text->data, ':') : NULL;
	if (colon)
		*colon = '\0';
	return 0;
}

int user_of_request(const struct envd *envd, const char *authorization, struct user *user, struct error *err)
{
	cleanup_buffer struct buffer text = { .limit = 1024 };
	int ret = authorization ? parse_basic(authorization, &text, err) : 0;

	if (ret < 0)
		return ret;
	return user_lookup(text.data && text.data[0] ? text.data : envd->default_user, user, err);
}

int user_of_call(const struct envd *envd, struct connect_call *call, struct user *user)
{
	cleanup_buffer struct buffer text = { .limit = 1024 };
	const char *authorization = connect_header(call, "Authorization");
	struct error err = { 0 };

	if (user_of_request(envd, authorization, user, &err) == 0)
		return 0;
	if (authorization)
		(void)parse_basic(authorization, &text, &err);
	connect_fail(call, CONNECT_UNAUTHENTICATED, "invalid username: '%s'",
	             text.data && text.data[0] ? text.data : envd->default_user);
	return -EACCES;
}

const char *user_name(uid_t uid, char name[64])
{
	FILE *file = fopen("/etc/passwd", "re");
	struct passwd *entry = NULL;

	while (file && (entry = fgetpwent(file)) && entry->pw_uid != uid)
		continue;
	if (entry)
		(void)snprintf(name, 64, "%s", entry->pw_name);
	else
		(void)snprintf(name, 64, "%u", uid);
	if (file)
		(void)fclose(file);
	return name;
}

const char *group_name(gid_t gid, char name[64])
{
	FILE *file = fopen("/etc/group", "re");
	struct group *entry = NULL;

	while (file && (entry = fgetgrent(file)) && entry->gr_gid != gid)
		continue;
	if (entry)
		(void)snprintf(name, 64, "%s", entry->gr_name);
	else
		(void)snprintf(name, 64, "%u", gid);
	if (file)
		(void)fclose(file);
	return name;
}
