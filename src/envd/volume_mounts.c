#include "envd/volume_mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "envd/records.h"

#define REPORT_MS 15000 /* that a mount may take */
#define AGAIN_MS  500   /* from a process' end to the next; twice as much with each failure, ... */
#define DOUBLINGS 6     /* ... so often at most */

/* One place: the N-th mounted volume. */
struct place {
	struct volume_mounts *mounts;
	unsigned index;
	char *id; /* NULL: none */
	char *path;
	pid_t pid;         /* 0: none */
	uv_pipe_t *report; /* until it has told how its mount went */
	uv_timer_t timer;  /* for that; or until it is started again */
	bool mounted;
	unsigned failures; /* in a row */
	char text[256];    /* of its report */
	size_t text_size;
};

struct volume_mounts {
	struct envd *envd;
	const char *door;
	struct place places[VOLUME_MOUNTS_MAX];
	volume_mounts_fn *done; /* who waits; NULL: nobody */
	void *context;
	struct error failure; /* the first, for who waits */
	bool setting;         /* not all have been begun */
};

/* --- what /init says --- */

static bool is_id(const char *text)
{
	size_t length = strlen(text);

	return length > 0 && length <= VOLUME_ID_MAX &&
	       strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == length;
}

static bool contains(const char *outer, const char *inner)
{
	size_t length = strlen(outer);

	return strncmp(outer, inner, length) == 0 && (inner[length] == '/' || inner[length] == '\0');
}

static int read_one(const json_t *value, struct volume_mount_request *request, struct error *err)
{
	int ret = json_is_object(value) ? 0 : error_set(err, EINVAL, "an entry is no object");

	if (ret == 0)
		ret = json_read_string(value, "volumeId", JSON_REQUIRED, &request->id, err);
	if (ret == 0)
		ret = json_read_string(value, "path", JSON_REQUIRED, &request->path, err);
	if (ret < 0)
		return error_wrap(err, "volumeMounts");
	if (!is_id(request->id))
		return error_set(err, EINVAL, "volumeMounts: '%.80s' is no id of a volume", request->id);
	if (strlen(request->path) > VOLUME_MOUNT_PATH_MAX || !file_path_is_plain(request->path) ||
	    !request->path[1])
		return error_set(err, EINVAL,
		                 "volumeMounts: '%.200s' is no path to mount at: it must be absolute and "
		                 "normalised, and not the root",
		                 request->path);
	return 0;
}

int volume_mounts_read(const json_t *body, struct volume_mount_request requests[VOLUME_MOUNTS_MAX],
                       struct error *err)
{
	json_t *list = NULL;
	int ret = json_read_array(body, "volumeMounts", JSON_OPTIONAL, &list, err);
	size_t count = json_array_size(list);

	if (ret < 0)
		return ret;
	if (count > VOLUME_MOUNTS_MAX)
		return error_set(err, EINVAL, "volumeMounts: %zu are too many, at most %d can be mounted",
		                 count, VOLUME_MOUNTS_MAX);
	for (size_t i = 0; i < count; i++) {
		ret = read_one(json_array_get(list, i), &requests[i], err);
		if (ret < 0)
			return ret;
		for (size_t j = 0; j < i; j++)
			if (contains(requests[i].path, requests[j].path) ||
			    contains(requests[j].path, requests[i].path))
				return error_set(err, EINVAL, "volumeMounts: '%.200s' and '%.200s' overlap",
				                 requests[j].path, requests[i].path);
	}
	return (int)count;
}

/* --- processes --- */

static void start(struct place *place);

/* Tell who waits once all mounts are there, or have failed. */
static void report_if_settled(struct volume_mounts *mounts)
{
	volume_mounts_fn *done = mounts->done;
	struct error failure = mounts->failure;

	if (mounts->setting)
		return;
	for (size_t i = 0; i < VOLUME_MOUNTS_MAX; i++)
		if (mounts->places[i].report)
			return;
	mounts->done = NULL;
	mounts->failure = (struct error){ 0 };
	if (done)
		done(mounts->context, failure.code ? &failure : NULL);
}

static void on_report_closed(uv_handle_t *handle)
{
	free(handle);
}

static void close_report(struct place *place)
{
	if (place->report)
		uv_close((uv_handle_t *)place->report, on_report_closed);
	place->report = NULL;
	(void)uv_timer_stop(&place->timer);
}

/* The process first: with it the file system ends, and detaching waits for nobody. */
static void end_process(struct place *place)
{
	close_report(place);
	if (place->pid) {
		(void)kill(place->pid, SIGKILL);
		while (waitpid(place->pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	place->pid = 0;
	if (place->mounted && umount2(place->path, MNT_DETACH | UMOUNT_NOFOLLOW) < 0 && errno != EINVAL)
		log_warn("detach %s: %s", place->path, strerror(errno));
	place->mounted = false;
}

static void clear(struct place *place)
{
	end_process(place);
	free(place->id);
	free(place->path);
	place->id = place->path = NULL;
}

static void record_end(struct place *place, const char *what)
{
	log_warn("volume %s at %s: %s", place->id, place->path, what);
	records_add(place->mounts->envd->records, RECORD_WARN, what,
	            json_pack("{s:s,s:o?}", "volume_id", place->id, "path", records_text(place->path)));
}

static void on_again(uv_timer_t *timer)
{
	start(timer->data);
}

/* It could not be mounted: who waits is told; otherwise it is tried again. */
static void fail(struct place *place, const char *why)
{
	struct volume_mounts *mounts = place->mounts;

	record_end(place, why);
	end_process(place);
	if (!mounts->done) {
		(void)uv_timer_start(&place->timer, on_again, (uint64_t)AGAIN_MS << place->failures, 0);
		place->failures += place->failures < DOUBLINGS;
		return;
	}
	if (!mounts->failure.code)
		error_set(&mounts->failure, EIO, "mount volume %s at %s: %s", place->id, place->path, why);
	clear(place);
	report_if_settled(mounts);
}

static void on_late(uv_timer_t *timer)
{
	fail(timer->data, "the file system there does not answer");
}

static void on_report_room(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
	struct place *place = handle->data;

	(void)suggested;
	*buffer = uv_buf_init(place->text + place->text_size,
	                      (unsigned)(sizeof(place->text) - 1 - place->text_size));
}

/* A zero: it is mounted. The end without one: it is not, and the text says why. */
static void on_report(uv_stream_t *stream, ssize_t got, const uv_buf_t *buffer)
{
	struct place *place = stream->data;

	(void)buffer;
	if (got > 0) {
		place->text_size += (size_t)got;
		if (place->text_size == 1 && place->text[0] == '\0') {
			place->mounted = true;
			place->failures = 0;
			close_report(place);
			log_info("volume %s is mounted at %s", place->id, place->path);
			report_if_settled(place->mounts);
		}
	} else if (got < 0) {
		place->text[place->text_size] = '\0';
		fail(place, place->text_size ? place->text : "its process ended");
	}
}

static int spawn(struct place *place, int report)
{
	const char *door = place->mounts->door;
	char index[12];
	const char *arguments[] = {
		"atoll-envd", VOLUME_ARGUMENT, index, place->id, place->path, door ? door : "", NULL,
	};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none;
	int ret;

	(void)snprintf(index, sizeof(index), "%u", place->index);
	(void)sigemptyset(&none);
	(void)posix_spawn_file_actions_init(&actions);
	(void)posix_spawnattr_init(&attributes);
	(void)posix_spawn_file_actions_adddup2(&actions, report, VOLUME_REPORT_FD);
	(void)posix_spawnattr_setsigmask(&attributes, &none);
	/* Away from whoever signals the group of a native agent. */
	(void)posix_spawnattr_setpgroup(&attributes, 0);
	(void)posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
	ret = posix_spawn(&place->pid, "/proc/self/exe", &actions, &attributes,
	                  (char *const *)(uintptr_t)arguments, environ);
	if (ret)
		place->pid = 0;
	(void)posix_spawn_file_actions_destroy(&actions);
	(void)posix_spawnattr_destroy(&attributes);
	return -ret;
}

static int open_report(struct place *place, int fd)
{
	int ret;

	place->report = calloc(1, sizeof(*place->report));
	ret = place->report ? uv_pipe_init(place->mounts->envd->loop, place->report, 0) : -ENOMEM;
	if (ret < 0) {
		free(place->report);
		place->report = NULL;
		close(fd);
		return ret;
	}
	place->report->data = place;
	place->text_size = 0;
	ret = uv_pipe_open(place->report, fd);
	if (ret < 0)
		close(fd);
	return ret < 0 ? ret : uv_read_start((uv_stream_t *)place->report, on_report_room, on_report);
}

static void start(struct place *place)
{
	int ends[2];
	int ret = pipe2(ends, O_CLOEXEC) < 0 ? -errno : 0;

	if (ret == 0) {
		ret = spawn(place, ends[1]);
		close(ends[1]);
		if (ret == 0)
			ret = open_report(place, ends[0]);
		else
			close(ends[0]);
	}
	if (ret < 0)
		fail(place, strerror(-ret));
	else
		(void)uv_timer_start(&place->timer, on_late, REPORT_MS, 0);
}

bool volume_mounts_reaped(struct volume_mounts *mounts, pid_t pid)
{
	for (size_t i = 0; i < VOLUME_MOUNTS_MAX; i++) {
		struct place *place = &mounts->places[i];

		if (place->pid != pid)
			continue;
		place->pid = 0;
		/* (While its report is open that tells of its end.) */
		if (!place->report) {
			record_end(place, "its process ended: it is mounted again");
			end_process(place);
			(void)uv_timer_start(&place->timer, on_again, AGAIN_MS, 0);
		}
		return true;
	}
	return false;
}

/* --- all of them --- */

struct volume_mounts *volume_mounts_new(struct envd *envd, const char *door)
{
	struct volume_mounts *mounts = calloc(1, sizeof(*mounts));

	if (!mounts)
		return NULL;
	mounts->envd = envd;
	mounts->door = door;
	for (unsigned i = 0; i < VOLUME_MOUNTS_MAX; i++) {
		mounts->places[i].mounts = mounts;
		mounts->places[i].index = i;
		(void)uv_timer_init(envd->loop, &mounts->places[i].timer);
		mounts->places[i].timer.data = &mounts->places[i];
	}
	return mounts;
}

/* Whether it stays as it is, or is on its way to that. */
static bool stays(const struct place *place, const struct volume_mount_request *request)
{
	return place->id && strcmp(place->id, request->id) == 0 && strcmp(place->path, request->path) == 0;
}

static void mount_at(struct place *place, const struct volume_mount_request *request)
{
	place->id = strdup(request->id);
	place->path = strdup(request->path);
	if (place->id && place->path)
		start(place);
	else
		error_errno(&place->mounts->failure, ENOMEM, "mount volume %s", request->id);
}

void volume_mounts_set(struct volume_mounts *mounts, const struct volume_mount_request *requests,
                       size_t count, volume_mounts_fn *done, void *context)
{
	static const struct error superseded = { .code = ECANCELED, .message = "another /init came" };
	volume_mounts_fn *before = mounts->done;

	mounts->done = NULL;
	if (before)
		before(mounts->context, &superseded);
	for (size_t i = 0; i < VOLUME_MOUNTS_MAX; i++)
		if (mounts->places[i].id && (i >= count || !stays(&mounts->places[i], &requests[i])))
			clear(&mounts->places[i]);
	mounts->failure = (struct error){ 0 };
	mounts->context = context;
	mounts->done = done;
	mounts->setting = true;
	for (size_t i = 0; i < count; i++) {
		struct place *place = &mounts->places[i];

		if (!place->id) {
			mount_at(place, &requests[i]);
		} else if (!place->pid) {
			(void)uv_timer_stop(&place->timer);
			start(place);
		}
	}
	mounts->setting = false;
	report_if_settled(mounts);
}

void volume_mounts_stop(struct volume_mounts *mounts)
{
	for (size_t i = 0; i < VOLUME_MOUNTS_MAX; i++)
		if (mounts->places[i].id)
			clear(&mounts->places[i]);
}
