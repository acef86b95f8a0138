#include "node/template.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
		ret = json_read_integer(json, "vcpu_count", JSON_REQUIRED, 1, 16, &vcpus, err);
	if (ret == 0)
		ret = json_read_integer(json, "memory_mib", JSON_REQUIRED, 128, 32768, &memory, err);
	if (ret == 0)
		ret = json_read_integer(json, "disk_mib", JSON_REQUIRED, 64, 1 << 20, &disk, err);
	if (ret == 0)
		ret = json_read_integer(json, "created_at_ms", JSON_REQUIRED, 0, INT64_MAX,
		                        &template->created_at_ms, err);
	if (ret == 0)
		ret = json_read_string_map(json, "env_vars", JSON_OPTIONAL, &env_vars, err);
	template->vcpu_count = (unsigned)vcpus;
	template->memory_mib = (unsigned)memory;
	template->disk_mib = (unsigned)disk;
	template->env_vars = env_vars ? json_deep_copy(env_vars) : json_object();
	return ret;
}

static void template_free(struct template *template)
{
	json_decref(template->env_vars);
	free(template);
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
	list_append(&node->templates, &template->link);
	return template;
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
