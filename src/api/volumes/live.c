#include "api/volumes/live.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/store/volumes.h"

#define DELETED ".deleted-" /* before the name of what is to be removed */

/* --- opening --- */

static int open_directory(const struct volumes *volumes, const char *id, const char *name, struct error *err)
{
	char path[400];
	int fd;

	(void)snprintf(path, sizeof(path), "%s/%s/%s", volumes->directory, id, name);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? error_errno(err, errno, "open volume %s", id) : fd;
}

static struct volume *find(struct volumes *volumes, const char *id)
{
	list_for_each (node, &volumes->live) {
		struct volume *volume = list_entry(node, struct volume, link);

		if (strcmp(volume->id, id) == 0)
			return volume;
	}
	return NULL;
}

static void close_directories(struct volume *volume)
{
	if (volume->root >= 0)
		close(volume->root);
	if (volume->uploads >= 0)
		close(volume->uploads);
	volume->root = volume->uploads = -1;
}

static void volume_free(struct volume *volume)
{
	list_remove(&volume->link);
	free(volume);
}

static struct volume *volume_new(struct volumes *volumes, const char *id)
{
	struct volume *volume = calloc(1, sizeof(*volume));

	if (!volume)
		return NULL;
	*volume = (struct volume){ .volumes = volumes, .root = -1, .uploads = -1 };
	(void)snprintf(volume->id, sizeof(volume->id), "%s", id);
	list_init(&volume->changes);
	list_append(&volumes->live, &volume->link);
	return volume;
}

struct volume *volume_get(struct volumes *volumes, const char *id, struct error *err)
{
	struct volume *volume = find(volumes, id);

	if (!volume)
		volume = volume_new(volumes, id);
	if (!volume) {
		error_errno(err, ENOMEM, "open volume %s", id);
		return NULL;
	}
	volume->users++;
	if (volume->root < 0)
		volume->root = open_directory(volumes, id, "files", err);
	if (volume->root >= 0 && volume->uploads < 0)
		volume->uploads = open_directory(volumes, id, "uploads", err);
	if (volume->uploads >= 0)
		return volume;
	volume_put(volume);
	return NULL;
}

void volume_put(struct volume *volume)
{
	if (--volume->users)
		return;
	/* Once measured it stays, so that it need not be again, but holds no descriptors. */
	close_directories(volume);
	if (volume->gone || !(volume->measured || volume->hidden))
		volume_free(volume);
}

uint64_t volume_room(const struct volume *volume)
{
	uint64_t taken = volume->used + volume->reserved;

	return taken < volume->volumes->size_max ? volume->volumes->size_max - taken : 0;
}

/* --- jobs --- */

static void on_work(uv_work_t *work)
{
	struct job *job = work->data;

	job->run(job);
}

static void on_read(uv_work_t *work, int status)
{
	struct job *job = work->data;
	struct volume *volume = job->volume;

	(void)status;
	job->done(job);
	volume_put(volume);
}

static void start(struct job *job, uv_after_work_cb after)
{
	job->work.data = job;
	if (uv_queue_work(job->volume->volumes->api->loop, &job->work, on_work, after) == 0)
		return;
	error_set(&job->err, EIO, "the work cannot be begun");
	after(&job->work, -EIO);
}

void volume_read(struct volume *volume, struct job *job)
{
	job->volume = volume;
	volume->users++;
	start(job, on_read);
}

static void next_change(struct volume *volume);

static void on_change(uv_work_t *work, int status)
{
	struct job *job = work->data;
	struct volume *volume = job->volume;

	(void)status;
	volume->changing = false;
	volume->used += job->cost;
	volume->used -= job->freed < volume->used ? job->freed : volume->used;
	job->done(job);
	next_change(volume);
	volume_put(volume);
}

/* --- the first: how much is there --- */

/* Uploads of an earlier life are nobody's. */
static void clear_uploads(int fd)
{
	int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *stream = copy < 0 ? NULL : fdopendir(copy);
	struct dirent *entry;

	if (!stream) {
		if (copy >= 0)
			close(copy);
		return;
	}
	while ((entry = readdir(stream)))
		if (entry->d_name[0] != '.')
			(void)unlinkat(fd, entry->d_name, 0);
	(void)closedir(stream);
}

static void measure(struct job *job)
{
	clear_uploads(job->volume->uploads);
	(void)tree_measure(job->volume->root, &job->cost, &job->err);
}

static void on_measured(struct job *job)
{
	struct volume *volume = job->volume;

	volume->measured = !job->err.code;
	if (job->err.code)
		volume->used = 0;
	/* Those that wait are told why they cannot be done. */
	list_for_each_safe (node, &volume->changes) {
		struct job *waiting = list_entry(node, struct job, link);

		if (volume->measured)
			break;
		list_remove(&waiting->link);
		waiting->err = job->err;
		waiting->done(waiting);
		volume_put(volume);
	}
	free(job);
}

static void next_change(struct volume *volume)
{
	struct job *job;

	if (volume->changing || list_empty(&volume->changes))
		return;
	if (volume->measured) {
		job = list_entry(volume->changes.next, struct job, link);
		list_remove(&job->link);
	} else {
		job = calloc(1, sizeof(*job));
		if (!job)
			return; /* with the next change */
		job->run = measure;
		job->done = on_measured;
		job->volume = volume;
		volume->users++;
	}
	volume->changing = true;
	if (volume->gone) {
		error_set(&job->err, ENOENT, "the volume has been deleted");
		job->work.data = job;
		on_change(&job->work, 0);
		return;
	}
	job->room = volume_room(volume);
	start(job, on_change);
}

void volume_change(struct volume *volume, struct job *job)
{
	job->volume = volume;
	volume->users++;
	list_append(&volume->changes, &job->link);
	next_change(volume);
}

/* --- all of them --- */

int volumes_make(struct volumes *volumes, const char *id, struct error *err)
{
	char path[400];
	int ret;

	(void)snprintf(path, sizeof(path), "%s/%s/files", volumes->directory, id);
	ret = file_make_directories(path, 0700, err);
	(void)snprintf(path, sizeof(path), "%s/%s/uploads", volumes->directory, id);
	return ret < 0 ? ret : file_make_directories(path, 0700, err);
}

struct removal {
	uv_work_t work;
	char path[640];
	struct error err;
};

static void remove_files(uv_work_t *work)
{
	struct removal *removal = work->data;

	(void)file_remove_tree(removal->path, &removal->err);
}

static void on_removed(uv_work_t *work, int status)
{
	struct removal *removal = work->data;

	(void)status;
	/* The next start tries again. */
	if (removal->err.code)
		log_warn("%s", removal->err.message);
	free(removal);
}

/* Remove a directory of ours in the background. */
static void remove_later(struct volumes *volumes, const char *name)
{
	struct removal *removal = calloc(1, sizeof(*removal));

	if (!removal)
		return;
	removal->work.data = removal;
	(void)snprintf(removal->path, sizeof(removal->path), "%.255s/%s", volumes->directory, name);
	if (uv_queue_work(volumes->api->loop, &removal->work, remove_files, on_removed) < 0)
		free(removal);
}

void volumes_drop(struct volumes *volumes, const char *id)
{
	struct volume *volume = find(volumes, id);
	char name[64];
	char before[400];
	char after[400];

	if (volume) {
		volume->gone = true;
		volume->users++;
		volume_put(volume);
	}
	/* What is to go says so by its name: nothing is removed because a row is missing. */
	(void)snprintf(name, sizeof(name), DELETED "%s", id);
	(void)snprintf(before, sizeof(before), "%s/%s", volumes->directory, id);
	(void)snprintf(after, sizeof(after), "%s/%s", volumes->directory, name);
	if (rename(before, after) == 0)
		remove_later(volumes, name);
	else if (errno != ENOENT)
		log_warn("volume %s cannot be removed: %s", id, strerror(errno));
}

/* Keep in mind that it is to be tidied, if it is. */
static void take_hidden(struct volumes *volumes, const char *id)
{
	struct error err = { 0 };
	struct volume *volume = volume_get(volumes, id, &err);

	if (!volume) {
		log_warn("%s", err.message);
		return;
	}
	volume->hidden = tree_may_have_hidden(volume->root);
	volume_put(volume);
}

/* What an earlier life had not removed yet. */
static void look_around(struct volumes *volumes)
{
	DIR *stream = opendir(volumes->directory);
	struct volume_record volume;
	struct dirent *entry;

	while (stream && (entry = readdir(stream))) {
		if (strncmp(entry->d_name, DELETED, strlen(DELETED)) == 0)
			remove_later(volumes, entry->d_name);
		else if (entry->d_name[0] == '.')
			continue;
		else if (store_find_volume(volumes->api->store, entry->d_name, &volume, NULL) == -ENOENT)
			log_warn("%s/%s belongs to no volume", volumes->directory, entry->d_name);
		else
			take_hidden(volumes, entry->d_name);
	}
	if (stream)
		(void)closedir(stream);
}

struct volumes *volumes_new(struct api *api, const char *directory, uint64_t size_max, struct error *err)
{
	struct volumes *volumes = calloc(1, sizeof(*volumes));

	if (!volumes) {
		error_errno(err, ENOMEM, "volumes");
		return NULL;
	}
	volumes->api = api;
	volumes->size_max = size_max;
	list_init(&volumes->live);
	(void)snprintf(volumes->directory, sizeof(volumes->directory), "%s", directory);
	look_around(volumes);
	return volumes;
}
