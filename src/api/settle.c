/* The node's word on snapshots that were being made, or removed, when one of us died. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "api/store/snapshots.h"

#define MAKING_MS 180000 /* the node is not about to make it any more: longer than a call to it may take */

struct unsettled {
	struct api *api;
	char build_id[40];
	int64_t created_at_ms;
};

static void on_answer(int status, const char *data, size_t size, const struct error *err, void *context)
{
	struct unsettled *unsettled = context;
	struct store *store = unsettled->api->store;
	struct error failure = { 0 };
	int ret = 0;

	(void)data;
	(void)size;
	(void)err;
	if (status == 200)
		ret = store_settle_snapshot(store, unsettled->build_id, true, &failure);
	else if (status == 404 && time_wall_ms() - unsettled->created_at_ms > MAKING_MS)
		ret = store_delete_snapshot(store, unsettled->build_id, &failure);
	if (ret < 0)
		log_error("%s", failure.message);
	free(unsettled);
}

static bool ask(void *context, const struct snapshot *snapshot)
{
	struct unsettled *unsettled = malloc(sizeof(*unsettled));
	char target[80];

	if (!unsettled)
		return false;
	*unsettled = (struct unsettled){ .api = context, .created_at_ms = snapshot->created_at_ms };
	(void)snprintf(unsettled->build_id, sizeof(unsettled->build_id), "%s", snapshot->build_id);
	(void)snprintf(target, sizeof(target), "/v1/templates/%s", snapshot->build_id);
	api_call_node(unsettled->api, "GET", target, NULL, on_answer, unsettled);
	return true;
}

/* One that is just being made or removed is asked for as well: the answer is true all the same, but for one
 * that is being removed, which its own answer removes. */
void api_settle_snapshots(struct api *api)
{
	struct error err = { 0 };

	if (store_list_snapshots(api->store, NULL, ask, api, &err) < 0)
		log_error("%s", err.message);
}
