/*
 * Files that lost their names while guests had them open (volume.h: hidden names), when nobody can have them
 * open any more: those who had did not come to remove them, since they were killed, or crashed. A volume
 * notes by an attribute of its root that it may have some, so that it is walked only then, also by a later
 * life.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "api/volumes/live.h"
#include "api/volumes/mounted.h"
#include "api/volumes/tree_internal.h"
#include "base/base.h"
#include "volume/volume.h"

#define NOTE "user.atoll.hidden"

/* --- on a thread --- */

int tree_note_hidden(int root)
{
	return fsetxattr(root, NOTE, "", 0, 0) < 0 ? -errno : 0;
}

bool tree_may_have_hidden(int root)
{
	return fgetxattr(root, NOTE, NULL, 0) >= 0;
}

/* Takes `fd`. */
static int remove_hidden_below(int fd, uint64_t *freed)
{
	DIR *stream = tree_read(fd);
	struct dirent *entry;
	int ret = 0;

	if (!stream)
		return -errno;
	while (ret == 0 && (entry = tree_next(stream))) {
		struct stat st;

		if (fstatat(fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
			ret = -errno;
		} else if (S_ISDIR(st.st_mode)) {
			int below = tree_openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);

			ret = below < 0 ? below : remove_hidden_below(below, freed);
		} else if (S_ISREG(st.st_mode) && volume_is_hidden(entry->d_name)) {
			ret = unlinkat(fd, entry->d_name, 0) < 0 ? -errno : 0;
			if (ret == 0)
				*freed += tree_cost_of(&st);
		}
	}
	(void)closedir(stream);
	return ret;
}

int tree_remove_hidden(int root, uint64_t *ret_freed, struct error *err)
{
	int fd = tree_openat(root, "", O_RDONLY | O_DIRECTORY);
	int ret;

	*ret_freed = 0;
	ret = fd < 0 ? fd : remove_hidden_below(fd, ret_freed);
	if (ret == 0 && fremovexattr(root, NOTE) < 0 && errno != ENODATA)
		ret = -errno;
	return ret < 0 ? error_errno(err, -ret, "remove hidden files") : 0;
}

/* --- on the loop --- */

static void tidy(struct job *job)
{
	(void)tree_remove_hidden(job->volume->root, &job->freed, &job->err);
}

static void on_tidied(struct job *job)
{
	/* The next start tries again. */
	if (job->err.code && !job->volume->gone)
		log_warn("volume %s: %s", job->volume->id, job->err.message);
	free(job);
}

/* As a change, it comes before whatever those ask for who mount the volume from now on. */
static int begin(struct volume *volume)
{
	struct error err = { 0 };
	struct job *job = calloc(1, sizeof(*job));

	if (!job)
		return -ENOMEM;
	volume->hidden = false;
	if (!volume_get(volume->volumes, volume->id, &err)) {
		log_warn("%s", err.message);
		free(job);
		return -EIO;
	}
	job->run = tidy;
	job->done = on_tidied;
	volume_change(volume, job);
	volume_put(volume);
	return 0;
}

void volumes_tidy(struct volumes *volumes)
{
	list_for_each_safe (node, &volumes->live) {
		struct volume *volume = list_entry(node, struct volume, link);

		if (volume->hidden && !volume->gone && !mounted_by_any(volumes->api, volume->id))
			(void)begin(volume);
	}
}
