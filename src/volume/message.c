#include "volume/volume.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

_Static_assert(sizeof(struct volume_request) == 64, "the head of a request has no holes");
_Static_assert(sizeof(struct volume_reply) == 80, "the head of a reply has no holes");
_Static_assert(sizeof(struct volume_entry) == 24, "an entry has no holes");

/* Of a path or a target: the kernel has no names with zeros, and neither side need look for them again. */
static int check_text(const char *text, size_t size, const char *what, struct error *err)
{
	return size && memchr(text, '\0', size)
	               ? error_set(err, EPROTO, "a volume's message: a zero in its %s", what)
	               : 0;
}

int volume_request_read(const void *bytes, size_t size, struct volume_request *ret,
                        struct volume_parts *ret_parts, struct error *err)
{
	const char *at = bytes;
	int bad;

	if (size < sizeof(*ret))
		return 0;
	memcpy(ret, bytes, sizeof(*ret));
	if (ret->path_size > VOLUME_PATH_MAX || ret->other_size > VOLUME_PATH_MAX ||
	    ret->data_size > VOLUME_DATA_MAX)
		return error_set(err, EPROTO, "a volume's request: a part is too long");
	if (ret->size != sizeof(*ret) + ret->path_size + ret->other_size + ret->data_size)
		return error_set(err, EPROTO, "a volume's request: its size is not that of its parts");
	if (ret->op < VOLUME_STAT || ret->op > VOLUME_OP_MAX)
		return error_set(err, EPROTO, "a volume's request: there is no operation %u", ret->op);
	if (size < ret->size)
		return 0;
	ret_parts->path = at + sizeof(*ret);
	ret_parts->other = ret_parts->path + ret->path_size;
	ret_parts->data = ret_parts->other + ret->other_size;
	bad = check_text(ret_parts->path, ret->path_size, "path", err);
	if (bad == 0)
		bad = check_text(ret_parts->other, ret->other_size, "other path", err);
	return bad < 0 ? bad : (int)ret->size;
}

int volume_reply_read(const void *bytes, size_t size, struct volume_reply *ret, const char **ret_data,
                      struct error *err)
{
	if (size < sizeof(*ret))
		return 0;
	memcpy(ret, bytes, sizeof(*ret));
	if (ret->data_size > VOLUME_DATA_MAX || ret->size != sizeof(*ret) + ret->data_size)
		return error_set(err, EPROTO, "a volume's reply: its size is not that of its data");
	if (size < ret->size)
		return 0;
	*ret_data = (const char *)bytes + sizeof(*ret);
	return (int)ret->size;
}

int volume_entry_read(const void *bytes, size_t size, struct volume_entry *ret, const char **ret_name,
                      struct error *err)
{
	const char *name = (const char *)bytes + sizeof(*ret);

	if (size == 0)
		return 0;
	if (size < sizeof(*ret))
		return error_set(err, EPROTO, "a volume's listing: it breaks off");
	memcpy(ret, bytes, sizeof(*ret));
	if (ret->name_size == 0 || ret->name_size > NAME_MAX || ret->name_size > size - sizeof(*ret))
		return error_set(err, EPROTO, "a volume's listing: a name of %u bytes", ret->name_size);
	if (memchr(name, '/', ret->name_size) || memchr(name, '\0', ret->name_size) ||
	    (name[0] == '.' && (ret->name_size == 1 || (ret->name_size == 2 && name[1] == '.'))))
		return error_set(err, EPROTO, "a volume's listing: a name that is none");
	*ret_name = name;
	return (int)(sizeof(*ret) + ret->name_size);
}
