#include "node/pool.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define REFILL_MS    250  /* after a create, so that starting the next one is not in its way */
#define RETRY_MS     2000 /* after a shell failed */
#define SHELL_VCPUS  1
#define AGE_READY_US 100000 /* a younger shell's first memory slot waits for the kernel's grace period */

struct shell {
	struct list link;
	struct pool *pool;
	struct monitor *monitor;
	int64_t started_us;
};

struct pool {
	struct node *node;
	unsigned size;
	unsigned count;
	unsigned long next;
	struct list shells;
	uv_timer_t timer;
};

static void on_shell_end(struct monitor *monitor, void *context)
{
	struct shell *shell = context;

	log_warn("shell %d ended by itself", (int)monitor->pid);
	list_remove(&shell->link);
	shell->pool->count--;
	(void)file_remove_tree(monitor->directory, NULL);
	monitor_release(monitor);
	pool_refill(shell->pool);
	free(shell);
}

static int start_shell(struct pool *pool, struct error *err)
{
	struct shell *shell = calloc(1, sizeof(*shell));
	struct monitor *monitor = calloc(1, sizeof(*monitor));
	char directory[NODE_PATH_MAX];
	char id[32];

	if (!shell || !monitor) {
		free(shell);
		free(monitor);
		return error_errno(err, ENOMEM, "start a shell");
	}
	(void)snprintf(id, sizeof(id), "shell-%lu", pool->next++);
	(void)snprintf(directory, sizeof(directory), "%.160s/shells/%s", pool->node->run, id);
	if (monitor_start(monitor, pool->node, directory, id, SHELL_VCPUS, err) < 0) {
		monitor_release(monitor);
		free(shell);
		return -err->code;
	}
	*shell = (struct shell){ .pool = pool, .monitor = monitor, .started_us = time_monotonic_us() };
	monitor_on_end(monitor, on_shell_end, shell);
	list_append(&pool->shells, &shell->link);
	pool->count++;
	return 0;
}

static void refill(uv_timer_t *timer)
{
	struct pool *pool = timer->data;
	struct error err = { 0 };

	if (pool->count >= pool->size)
		return;
	if (start_shell(pool, &err) < 0)
		log_error("%s", err.message);
	/* One at a time. */
	(void)uv_timer_start(timer, refill, err.code ? RETRY_MS : REFILL_MS, 0);
}

void pool_refill(struct pool *pool)
{
	if (!uv_is_active((uv_handle_t *)&pool->timer))
		(void)uv_timer_start(&pool->timer, refill, REFILL_MS, 0);
}

/* Shells of an earlier life of the daemon are of no use: nobody watched them. */
static int clear_leftovers(struct node *node, struct error *err)
{
	char path[NODE_PATH_MAX];
	struct dirent *entry;
	DIR *directory;

	(void)snprintf(path, sizeof(path), "%.160s/shells", node->run);
	if (file_make_directories(path, 0755, err) < 0)
		return -err->code;
	directory = opendir(path);
	while (directory && (entry = readdir(directory))) {
		char one[NODE_PATH_MAX * 2];

		if (entry->d_name[0] == '.')
			continue;
		(void)snprintf(one, sizeof(one), "%s/%s", path, entry->d_name);
		(void)monitor_kill_leftover(one, err);
		(void)file_remove_tree(one, NULL);
	}
	if (directory)
		(void)closedir(directory);
	return 0;
}

struct pool *pool_new(struct node *node, unsigned size, struct error *err)
{
	struct pool *pool = calloc(1, sizeof(*pool));

	if (!pool || clear_leftovers(node, err) < 0) {
		if (!pool)
			error_errno(err, ENOMEM, "make the pool");
		free(pool);
		return NULL;
	}
	pool->node = node;
	pool->size = size;
	list_init(&pool->shells);
	(void)uv_timer_init(node->loop, &pool->timer);
	pool->timer.data = pool;
	(void)uv_timer_start(&pool->timer, refill, 0, 0);
	return pool;
}

void pool_drain(struct pool *pool)
{
	(void)uv_timer_stop(&pool->timer);
	list_for_each (node, &pool->shells) {
		struct monitor *monitor = list_entry(node, struct shell, link)->monitor;

		monitor_on_end(monitor, NULL, NULL);
		monitor_kill(monitor);
		(void)file_remove_tree(monitor->directory, NULL);
	}
}

struct monitor *pool_take(struct pool *pool, unsigned vcpu_count)
{
	list_for_each (node, &pool->shells) {
		struct shell *shell = list_entry(node, struct shell, link);
		struct monitor *monitor = shell->monitor;

		if (vcpu_count != SHELL_VCPUS || time_monotonic_us() - shell->started_us < AGE_READY_US ||
		    !monitor_ready(monitor))
			continue;
		list_remove(node);
		free(shell);
		pool->count--;
		pool_refill(pool);
		monitor_on_end(monitor, NULL, NULL);
		return monitor;
	}
	return NULL;
}
