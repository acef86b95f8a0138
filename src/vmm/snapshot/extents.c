#include "vmm/snapshot/extents.h"

#include <errno.h>
#include <stdlib.h>

static uint64_t end_of(const struct extent *extent)
{
	return extent->first + extent->count;
}

void extents_fini(struct extents *extents)
{
	free(extents->list);
	*extents = (struct extents){ 0 };
}

int extents_append(struct extents *extents, uint64_t first, uint64_t count)
{
	struct extent *last = extents->count ? &extents->list[extents->count - 1] : NULL;

	if (last && end_of(last) == first) {
		last->count += count;
		return 0;
	}
	if (extents->count == extents->capacity) {
		size_t capacity = extents->capacity ? 2 * extents->capacity : 64;
		struct extent *list = reallocarray(extents->list, capacity, sizeof(*list));

		if (!list)
			return -ENOMEM;
		extents->list = list;
		extents->capacity = capacity;
	}
	extents->list[extents->count++] = (struct extent){ first, count };
	return 0;
}

int extents_subtract(const struct extents *from, const struct extents *without, struct extents *ret)
{
	size_t hole = 0;
	int err = 0;

	for (size_t i = 0; i < from->count && err == 0; i++) {
		uint64_t at = from->list[i].first;
		uint64_t end = end_of(&from->list[i]);

		while (hole < without->count && end_of(&without->list[hole]) <= at)
			hole++;
		/* Holes that begin inside of this run; the last of them may reach into the next run too. */
		for (size_t j = hole; err == 0 && at < end && j < without->count; j++) {
			const struct extent *cut = &without->list[j];

			if (cut->first >= end)
				break;
			if (cut->first > at)
				err = extents_append(ret, at, cut->first - at);
			at = end_of(cut);
		}
		if (err == 0 && at < end)
			err = extents_append(ret, at, end - at);
	}
	return err;
}

/* Append a run that begins at or behind the start of the last one: they may overlap. */
static int append_over(struct extents *extents, const struct extent *extent)
{
	uint64_t covered = extents->count ? end_of(&extents->list[extents->count - 1]) : 0;

	if (end_of(extent) <= covered)
		return 0;
	if (extent->first >= covered)
		return extents_append(extents, extent->first, extent->count);
	return extents_append(extents, covered, end_of(extent) - covered);
}

int extents_unite(const struct extents *one, const struct extents *other, struct extents *ret)
{
	size_t i = 0;
	size_t j = 0;
	int err = 0;

	while (err == 0 && (i < one->count || j < other->count)) {
		if (j == other->count || (i < one->count && one->list[i].first <= other->list[j].first))
			err = append_over(ret, &one->list[i++]);
		else
			err = append_over(ret, &other->list[j++]);
	}
	return err;
}

bool extents_contain(const struct extents *extents, uint64_t page)
{
	size_t low = 0;
	size_t high = extents->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (end_of(&extents->list[middle]) <= page)
			low = middle + 1;
		else
			high = middle;
	}
	return low < extents->count && extents->list[low].first <= page;
}
