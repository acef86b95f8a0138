/*
 * list: an intrusive doubly linked list. Linking never allocates; a node that is not linked points at itself.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct list {
	struct list *next;
	struct list *prev;
};

#define list_entry(node, type, member) ((type *)(void *)((char *)(node)-offsetof(type, member)))

#define list_for_each(node, head)      for (struct list *node = (head)->next; node != (head); node = node->next)

/* As list_for_each; the current node may be removed and freed. */
#define list_for_each_safe(node, head)                                                                       \
	for (struct list *node = (head)->next, *node##_next = node->next; node != (head);                    \
	     node = node##_next, node##_next = node->next)

static inline void list_init(struct list *node)
{
	node->next = node;
	node->prev = node;
}

static inline bool list_empty(const struct list *head)
{
	return head->next == head;
}

static inline void list_append(struct list *head, struct list *node)
{
	node->prev = head->prev;
	node->next = head;
	head->prev->next = node;
	head->prev = node;
}

static inline void list_remove(struct list *node)
{
	node->prev->next = node->next;
	node->next->prev = node->prev;
	list_init(node);
}
