/*
 * layer: disks as a stack of layers. Opens the folder.
 *
 * The lowest layer is a raw image. Each layer over it is a sparse file with a header, a bitmap of the blocks
 * that it holds, and the blocks at their own offset. Reading a block asks the layers from the top; writing
 * goes to the top one. Freezing a disk is closing its top layer and naming it as the highest frozen one.
 * Files are never changed once frozen.
 *
 * A layer file is hostile input: everything in its header is checked against the file.
 */
#pragma once

#include "layer/disk.h"
