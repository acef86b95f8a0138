/* The document of the metadata service. */
#include <errno.h>
#include <string.h>

#include "base/base.h"
#include "vmm/api/resources.h"

typedef int change_fn(struct mmds *mmds, const char *text, size_t size, struct error *err);

static int change(const struct api_call *call, change_fn *function, struct error *err)
{
	cleanup_free char *text = json_dumps(call->body, JSON_COMPACT);

	if (!text)
		return error_errno(err, ENOMEM, "set the metadata");
	return function(call->api->mmds, text, strlen(text), err);
}

int metadata_put(const struct api_call *call, struct error *err)
{
	return change(call, mmds_put, err);
}

int metadata_patch(const struct api_call *call, struct error *err)
{
	return change(call, mmds_patch, err);
}

int metadata_get(const struct api_call *call, struct error *err)
{
	cleanup_buffer struct buffer text = BUFFER_INIT;
	int ret = mmds_get(call->api->mmds, &text, err);

	if (ret < 0)
		return ret;
	*call->ret_reply = json_loadb(text.data, text.size, JSON_DECODE_ANY, NULL);
	return *call->ret_reply ? 0 : error_errno(err, ENOMEM, "show the metadata");
}
