#include "vmm/device/loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/list.h"

#define LOOP_BATCH 16 /* events taken from the kernel at once */

struct loop_source {
	struct loop *loop;
	int fd;
	loop_fn *callback;
	void *context;
	bool dead; /* unwatched while a batch may still name it */
	struct list link;
};

/* A function that waits to be run for another thread; lives in that thread's frame. */
struct loop_task {
	void (*function)(void *context);
	void *context;
	bool done;
	struct list link;
};

struct loop {
	int epoll;
	int wake; /* eventfd: tasks wait, or the loop is to stop */
	struct loop_source *wake_source;
	atomic_bool stopping;
	struct list dead; /* sources to free after the batch */
	pthread_mutex_t lock;
	pthread_cond_t finished;
	struct list tasks;
	bool running;     /* by loop_run */
	bool borrowed;    /* by a loop_call before that: loop_run waits */
	pthread_t thread; /* of whoever has it */
};

static void on_wake(void *context, uint32_t events)
{
	struct loop *loop = context;
	uint64_t count;

	(void)events;
	if (read(loop->wake, &count, sizeof(count)) < 0)
		return;
	pthread_mutex_lock(&loop->lock);
	while (!list_empty(&loop->tasks)) {
		struct loop_task *task = list_entry(loop->tasks.next, struct loop_task, link);

		list_remove(&task->link);
		pthread_mutex_unlock(&loop->lock);
		task->function(task->context);
		pthread_mutex_lock(&loop->lock);
		task->done = true;
		pthread_cond_broadcast(&loop->finished);
	}
	pthread_mutex_unlock(&loop->lock);
}

struct loop *loop_new(struct error *err)
{
	struct loop *loop = calloc(1, sizeof(*loop));

	if (!loop) {
		error_errno(err, ENOMEM, "make an event loop");
		return NULL;
	}
	list_init(&loop->dead);
	list_init(&loop->tasks);
	(void)pthread_mutex_init(&loop->lock, NULL);
	(void)pthread_cond_init(&loop->finished, NULL);
	loop->epoll = epoll_create1(EPOLL_CLOEXEC);
	loop->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (loop->epoll < 0 || loop->wake < 0)
		error_errno(err, errno, "make an event loop");
	else
		loop->wake_source = loop_watch(loop, loop->wake, EPOLLIN, on_wake, loop, err);
	if (!loop->wake_source) {
		loop_free(loop);
		return NULL;
	}
	return loop;
}

static void free_dead(struct loop *loop)
{
	list_for_each_safe (node, &loop->dead) {
		list_remove(node);
		free(list_entry(node, struct loop_source, link));
	}
}

void loop_free(struct loop *loop)
{
	if (!loop)
		return;
	free_dead(loop);
	free(loop->wake_source);
	if (loop->epoll >= 0)
		close(loop->epoll);
	if (loop->wake >= 0)
		close(loop->wake);
	(void)pthread_mutex_destroy(&loop->lock);
	(void)pthread_cond_destroy(&loop->finished);
	free(loop);
}

struct loop_source *loop_watch(struct loop *loop, int fd, uint32_t events, loop_fn *callback, void *context,
                               struct error *err)
{
	struct loop_source *source = calloc(1, sizeof(*source));
	struct epoll_event event = { .events = events, .data.ptr = source };

	if (!source) {
		error_errno(err, ENOMEM, "watch a descriptor");
		return NULL;
	}
	*source = (struct loop_source){ .loop = loop, .fd = fd, .callback = callback, .context = context };
	list_init(&source->link);
	if (epoll_ctl(loop->epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
		error_errno(err, errno, "watch descriptor %d", fd);
		free(source);
		return NULL;
	}
	return source;
}

int loop_modify(struct loop_source *source, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = source };

	return epoll_ctl(source->loop->epoll, EPOLL_CTL_MOD, source->fd, &event) < 0 ? -errno : 0;
}

void loop_unwatch(struct loop_source *source)
{
	if (!source || source->dead)
		return;
	(void)epoll_ctl(source->loop->epoll, EPOLL_CTL_DEL, source->fd, NULL);
	source->dead = true;
	list_append(&source->loop->dead, &source->link);
}

int loop_run(struct loop *loop)
{
	int ret = 0;

	pthread_mutex_lock(&loop->lock);
	while (loop->borrowed)
		pthread_cond_wait(&loop->finished, &loop->lock);
	loop->running = true;
	loop->thread = pthread_self();
	pthread_mutex_unlock(&loop->lock);
	while (!atomic_load(&loop->stopping)) {
		struct epoll_event events[LOOP_BATCH];
		int count = epoll_wait(loop->epoll, events, LOOP_BATCH, -1);

		if (count < 0 && errno != EINTR) {
			ret = -errno;
			break;
		}
		for (int i = 0; i < count; i++) {
			struct loop_source *source = events[i].data.ptr;

			if (!source->dead)
				source->callback(source->context, events[i].events);
		}
		free_dead(loop);
	}
	pthread_mutex_lock(&loop->lock);
	loop->running = false;
	pthread_mutex_unlock(&loop->lock);
	/* Whoever asked while we were leaving still gets an answer. */
	on_wake(loop, 0);
	return ret;
}

void loop_stop(struct loop *loop)
{
	uint64_t one = 1;

	atomic_store(&loop->stopping, true);
	/* Fails only when the counter is full, and then the loop wakes anyway. */
	if (write(loop->wake, &one, sizeof(one)) < 0)
		return;
}

/* Nobody runs the loop: be its thread for as long as the function takes. Called and left with the lock held.
 */
static void call_borrowed(struct loop *loop, void (*function)(void *context), void *context)
{
	loop->borrowed = true;
	loop->thread = pthread_self();
	pthread_mutex_unlock(&loop->lock);
	function(context);
	pthread_mutex_lock(&loop->lock);
	loop->borrowed = false;
	pthread_cond_broadcast(&loop->finished);
}

static void call_queued(struct loop *loop, struct loop_task *task)
{
	uint64_t one = 1;

	list_append(&loop->tasks, &task->link);
	if (write(loop->wake, &one, sizeof(one)) < 0 && errno != EAGAIN)
		abort();
	while (!task->done)
		pthread_cond_wait(&loop->finished, &loop->lock);
}

void loop_call(struct loop *loop, void (*function)(void *context), void *context)
{
	struct loop_task task = { .function = function, .context = context };

	pthread_mutex_lock(&loop->lock);
	if ((loop->running || loop->borrowed) && pthread_equal(loop->thread, pthread_self())) {
		pthread_mutex_unlock(&loop->lock);
		function(context);
		return;
	}
	while (loop->borrowed)
		pthread_cond_wait(&loop->finished, &loop->lock);
	if (loop->running)
		call_queued(loop, &task);
	else
		call_borrowed(loop, function, context);
	pthread_mutex_unlock(&loop->lock);
}
