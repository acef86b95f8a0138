#include "node/model.h"

#include <string.h>

#include "node/sandbox.h"
#include "node/template.h"

#define COPY_WITHIN_MS 30000

static bool is_used(const struct node *node, const char *build_id)
{
	list_for_each (link, &node->sandboxes)
		if (strcmp(list_entry(link, struct sandbox, link)->build_id, build_id) == 0)
			return true;
	return false;
}

void model_drop_unused(struct node *node, const char *build_id)
{
	struct template *template = template_find(node, build_id);

	if (template && template->ephemeral && !is_used(node, build_id))
		template_remove(template);
}

/* All that are unused and older. True: there are younger ones. */
static bool drop_older(struct node *node, int64_t age_ms)
{
	bool younger = false;

	list_for_each_safe (link, &node->templates) {
		struct template *template = list_entry(link, struct template, link);

		if (!template->ephemeral || is_used(node, template->build_id))
			continue;
		if (time_wall_ms() - template->created_at_ms < age_ms) {
			younger = true;
			continue;
		}
		log_warn("nobody began from the model %s: it is removed", template->build_id);
		template_remove(template);
	}
	return younger;
}

static void look(uv_timer_t *timer)
{
	if (drop_older(timer->data, COPY_WITHIN_MS))
		models_watch(timer->data);
}

void models_start(struct node *node)
{
	(void)uv_timer_init(node->loop, &node->modelling);
	node->modelling.data = node;
	(void)drop_older(node, INT64_MIN);
}

void models_watch(struct node *node)
{
	if (!uv_is_active((uv_handle_t *)&node->modelling))
		(void)uv_timer_start(&node->modelling, look, COPY_WITHIN_MS + 1000, 0);
}
