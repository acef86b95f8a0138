/*
 * model: the snapshot that copies of a sandbox (forks) began from. It is of use as long as there are copies
 * of it, which begin from its files again after a pause; then it goes.
 */
#pragma once

#include "node/node.h"

/* Remove a build that is a model and has no copies. */
void model_drop_unused(struct node *node, const char *build_id);

/* The daemon begins, and no copy is about to be made: the same with all of them. */
void models_start(struct node *node);

/* A model has been made: if nobody begins from it, because who asked for it has died, it goes nevertheless.
 */
void models_watch(struct node *node);
