#include "node/history.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "node/sandbox.h"

#define SWEEP_MS (10 * 60 * 1000)

static void make_path(const struct node *node, const char *id, const char *name, char path[NODE_PATH_MAX])
{
	(void)snprintf(path, NODE_PATH_MAX, "%.150s/history/%.64s%s", node->data, id, name);
}

static bool is_id(const char *id)
{
	size_t size = strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789");

	return size > 0 && size < 64 && !id[size];
}

struct history *history_open(const struct sandbox *sandbox)
{
	struct history *history = calloc(1, sizeof(*history));
	struct error err = { 0 };
	char path[NODE_PATH_MAX];

	if (!history)
		return NULL;
	make_path(sandbox->node, sandbox->id, "", path);
	if (file_make_directories(path, 0700, &err) == 0) {
		make_path(sandbox->node, sandbox->id, "/owner", path);
		(void)file_write_atomic(path, sandbox->team_id, strlen(sandbox->team_id), 0600, &err);
	}
	make_path(sandbox->node, sandbox->id, "/usage", path);
	history->usage = usage_new(path);
	if (err.code || !history->usage) {
		log_warn("the history of %s cannot be kept: %s", sandbox->id,
		         err.code ? err.message : "out of memory");
		history_close(history);
		return NULL;
	}
	make_path(sandbox->node, sandbox->id, "/logs.jsonl", path);
	guest_log_open(&history->log, path);
	return history;
}

void history_close(struct history *history)
{
	if (!history)
		return;
	usage_free(history->usage);
	free(history);
}

int history_find(const struct node *node, const char *id, char log_path[NODE_PATH_MAX], char team_id[64])
{
	cleanup_buffer struct buffer owner = { .limit = 63 };
	char path[NODE_PATH_MAX];

	make_path(node, id, "/owner", path);
	if (!is_id(id) || file_read(path, &owner, NULL) < 0)
		return -ENOENT;
	(void)snprintf(team_id, 64, "%s", owner.data ? owner.data : "");
	make_path(node, id, "/logs.jsonl", log_path);
	return 0;
}

/* --- the end of it --- */

static int64_t last_write(const struct node *node, const char *id)
{
	static const char *const names[] = { "", "/owner", "/usage", "/logs.jsonl" };
	char path[NODE_PATH_MAX];
	struct stat st;
	int64_t last = 0;

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		make_path(node, id, names[i], path);
		if (stat(path, &st) == 0 && st.st_mtime > last)
			last = st.st_mtime;
	}
	return last;
}

static bool is_alive(const struct node *node, const char *id)
{
	list_for_each (link, &node->sandboxes)
		if (strcmp(list_entry(link, struct sandbox, link)->id, id) == 0)
			return true;
	return false;
}

static void sweep(uv_timer_t *timer)
{
	struct node *node = timer->data;
	char path[NODE_PATH_MAX];
	struct dirent *entry;
	DIR *directory;

	(void)uv_timer_start(timer, sweep, SWEEP_MS, 0);
	make_path(node, "", "", path);
	directory = opendir(path);
	if (!directory)
		return;
	while ((entry = readdir(directory))) {
		if (!is_id(entry->d_name) || is_alive(node, entry->d_name) ||
		    last_write(node, entry->d_name) > time_wall_ms() / 1000 - HISTORY_KEEP_S)
			continue;
		make_path(node, entry->d_name, "", path);
		(void)file_remove_tree(path, NULL);
	}
	(void)closedir(directory);
}

void history_start(struct node *node)
{
	(void)uv_timer_init(node->loop, &node->sweeping);
	node->sweeping.data = node;
	sweep(&node->sweeping);
}
