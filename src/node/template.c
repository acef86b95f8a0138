#include "node/template.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "node/boot.h"

#define WORKING_SET_MAX (4 << 20) /* bytes */

static int copy_string(const json_t *json, const char *key, enum json_need need, char *to, size_t size,
                       struct error *err)
{
	const char *text = "";
	int ret = json_read_string(json, key, need, &text, err);

	if (ret == 0 && strlen(text) >= size)
		ret = error_set(err, EINVAL, "'%s' is longer than %zu bytes", key, size - 1);
	if (ret == 0)
		(void)snprintf(to, size, "%s", text);
	return ret;
}

static int parse(struct template *template, const json_t *json, struct error *err)
{
	int64_t vcpus = 0;
	int64_t memory = 0;
	int64_t disk = 0;
	int64_t memory_layers = 0;
	int64_t disk_layers = 0;
	json_t *env_vars = NULL;
	int ret = copy_string(json, "name", JSON_REQUIRED, template->name, sizeof(template->name), err);

	if (ret == 0)
		ret = copy_string(json, "source", JSON_OPTIONAL, template->source, sizeof(template->source),
		                  err);
	if (ret == 0)
		ret = copy_string(json, "default_user", JSON_OPTIONAL, template->default_user,
		                  sizeof(template->default_user), err);
	if (ret == 0)
		ret = copy_string(json, "default_workdir", JSON_OPTIONAL, template->default_workdir,
		                  sizeof(template->default_workdir), err);
	if (ret == 0)
		ret = copy_string(json, "warm_cmd", JSON_OPTIONAL, template->warm_cmd,
		                  sizeof(template->warm_cmd), err);
	if (ret == 0)
		ret = copy_string(json, "boot_args", JSON_OPTIONAL, template->boot_args,
		                  sizeof(template->boot_args), err);
	if (ret == 0)
		ret = copy_string(json, "start_cmd", JSON_OPTIONAL, template->start_cmd,
		                  sizeof(template->start_cmd), err);
	if (ret == 0)
		ret = json_read_integer(json, "vcpu_count", JSON_REQUIRED, 1, 16, &vcpus, err);
	if (ret == 0)
		ret = json_read_integer(json, "memory_mib", JSON_REQUIRED, 128, 32768, &memory, err);
	if (ret == 0)
		ret = json_read_integer(json, "disk_mib", JSON_REQUIRED, 64, 1 << 20, &disk, err);
	if (ret == 0)
		ret = json_read_integer(json, "created_at_ms", JSON_REQUIRED, 0, INT64_MAX,
		                        &template->created_at_ms, err);
	if (ret == 0)
		ret = json_read_bool(json, "snapshot", JSON_OPTIONAL, &template->snapshot, err);
	if (ret == 0)
		ret = json_read_bool(json, "network", JSON_OPTIONAL, &template->network, err);
	if (ret == 0)
		ret = json_read_bool(json, "ephemeral", JSON_OPTIONAL, &template->ephemeral, err);
	if (ret == 0)
		ret = json_read_integer(json, "memory_layers", JSON_OPTIONAL, 0, 64, &memory_layers, err);
	if (ret == 0)
		ret = json_read_integer(json, "disk_layers", JSON_OPTIONAL, 0, 64, &disk_layers, err);
	if (ret == 0)
		ret = json_read_string_map(json, "env_vars", JSON_OPTIONAL, &env_vars, err);
	template->vcpu_count = (unsigned)vcpus;
	template->memory_mib = (unsigned)memory;
	template->disk_mib = (unsigned)disk;
	template->stack = (struct stack_template){ (unsigned)memory_layers, (unsigned)disk_layers };
	template->env_vars = env_vars ? json_deep_copy(env_vars) : json_object();
	return ret;
}

static void template_free(struct template *template)
{
	json_decref(template->env_vars);
	free(template);
}

void template_remove(struct template *template)
{
	char gone[NODE_PATH_MAX + 16];
	struct error err = { 0 };
	char *slash;

	/* Under a name that a start takes for half made: what is left after a crash goes then. */
	(void)snprintf(gone, sizeof(gone), "%s", template->directory);
	slash = strrchr(gone, '/');
	(void)snprintf(slash, sizeof(gone) - (size_t)(slash - gone), "/.old-%s", template->build_id);
	if (rename(template->directory, gone) == 0) {
		/* Models that nobody uses go at the next start anyhow. */
		if (!template->ephemeral && file_sync_parent(gone, &err) < 0)
			log_error("%s", err.message);
		(void)file_remove_tree(gone, NULL);
	}
	list_remove(&template->link);
	template_free(template);
}

struct template *template_add(struct node *node, const char *build_id, struct error *err)
{
	struct template *template = calloc(1, sizeof(*template));
	cleanup_buffer struct buffer text = { .limit = 1 << 20 };
	cleanup_json json_t *json = NULL;
	char path[NODE_PATH_MAX + 32];
	int ret;

	if (!template) {
		error_errno(err, ENOMEM, "read template %s", build_id);
		return NULL;
	}
	(void)snprintf(template->build_id, sizeof(template->build_id), "%s", build_id);
	(void)snprintf(template->directory, sizeof(template->directory), "%.180s/templates/%s", node->data,
	               build_id);
	(void)snprintf(path, sizeof(path), "%s/template.json", template->directory);
	ret = file_read(path, &text, err);
	if (ret == 0)
		ret = json_parse_object(text.data, text.size, &json, err);
	if (ret == 0)
		ret = parse(template, json, err);
	if (ret < 0) {
		error_wrap(err, "template %s", build_id);
		template_free(template);
		return NULL;
	}
	file_remove_temporaries(template->directory);
	(void)snprintf(path, sizeof(path), "%s/working-set", template->directory);
	template->has_working_set = access(path, R_OK) == 0;
	(void)snprintf(path, sizeof(path), "%s/" BOOT_KERNEL, template->directory);
	template->bootable = access(path, R_OK) == 0;
	(void)snprintf(path, sizeof(path), "%s/" BOOT_INITRD, template->directory);
	template->initrd = access(path, R_OK) == 0;
	list_append(&node->templates, &template->link);
	return template;
}

struct template *template_put(struct node *node, const char *directory, const char *build_id, bool lasting,
                              struct error *err)
{
	char final[NODE_PATH_MAX];

	(void)snprintf(final, sizeof(final), "%.180s/templates/%s", node->data, build_id);
	if (rename(directory, final) < 0) {
		error_errno(err, errno, "put the template in place");
		return NULL;
	}
	if (lasting && file_sync_parent(final, err) < 0)
		return NULL;
	return template_add(node, build_id, err);
}

/* A monitor wrote it: a link would have us read something else for it, and so would a file of another owner.
 */
static int read_foreign(const char *path, uid_t owner, char **ret_data, size_t *ret_size, struct error *err)
{
	cleanup_close int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	cleanup_free char *data = NULL;
	struct stat st;
	int ret;

	if (fd < 0 || fstat(fd, &st) < 0)
		return error_errno(err, errno, "open %s", path);
	if (!S_ISREG(st.st_mode) || st.st_uid != owner || st.st_size > WORKING_SET_MAX)
		return error_set(err, EPERM, "%s is not what it should be", path);
	data = malloc((size_t)st.st_size + 1);
	ret = data ? fd_pread_all(fd, data, (size_t)st.st_size, 0) : -ENOMEM;
	if (ret < 0)
		return error_errno(err, -ret, "read %s", path);
	*ret_data = TAKE_PTR(data);
	*ret_size = (size_t)st.st_size;
	return 0;
}

void template_take_working_set(struct template *template, const char *path, uid_t owner)
{
	cleanup_free char *data = NULL;
	size_t size = 0;
	char target[NODE_PATH_MAX + 32];
	struct error err = { 0 };

	(void)snprintf(target, sizeof(target), "%s/working-set", template->directory);
	if (read_foreign(path, owner, &data, &size, &err) < 0 ||
	    file_write_atomic(target, data, size, 0644, &err) < 0)
		log_warn("%s", err.message);
	else
		template->has_working_set = true;
}

int templates_load(struct node *node, struct error *err)
{
	char path[NODE_PATH_MAX];
	struct dirent *entry;
	DIR *directory;

	(void)snprintf(path, sizeof(path), "%.200s/templates", node->data);
	if (file_make_directories(path, 0755, err) < 0)
		return -err->code;
	directory = opendir(path);
	if (!directory)
		return error_errno(err, errno, "read %s", path);
	while ((entry = readdir(directory))) {
		struct error problem = { 0 };
		char half[NODE_PATH_MAX * 2];

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (entry->d_name[0] == '.') {
			/* A build that was broken off. */
			(void)snprintf(half, sizeof(half), "%s/%s", path, entry->d_name);
			(void)file_remove_tree(half, NULL);
		} else if (!template_add(node, entry->d_name, &problem)) {
			log_warn("%s", problem.message);
		}
	}
	(void)closedir(directory);
	return 0;
}

void templates_free(struct node *node)
{
	list_for_each_safe (link, &node->templates) {
		list_remove(link);
		template_free(list_entry(link, struct template, link));
	}
}

struct template *template_find(struct node *node, const char *name_or_build)
{
	struct template *newest = NULL;

	list_for_each (link, &node->templates) {
		struct template *template = list_entry(link, struct template, link);

		if (strcmp(template->build_id, name_or_build) == 0)
			return template;
		if (strcmp(template->name, name_or_build) == 0 &&
		    (!newest || template->created_at_ms > newest->created_at_ms))
			newest = template;
	}
	return newest;
}

json_t *template_json(const struct template *template)
{
	return json_pack("{s:s,s:s,s:s,s:i,s:i,s:i,s:I}", "name", template->name, "build_id",
	                 template->build_id, "source", template->source, "vcpu_count",
	                 (int)template->vcpu_count, "memory_mib", (int)template->memory_mib, "disk_mib",
	                 (int)template->disk_mib, "created_at_ms", (json_int_t) template->created_at_ms);
}
