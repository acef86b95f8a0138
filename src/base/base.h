/* base: what every part of Atoll stands on. Knows nobody. */
#pragma once

#include "base/buffer.h"
#include "base/checked.h"
#include "base/checksum.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/encode.h"
#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/list.h"
#include "base/log.h"
#include "base/random.h"
