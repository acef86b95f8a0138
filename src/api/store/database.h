/* The database behind the store, for the files of this folder. */
#pragma once

#include <sqlite3.h>

#include "api/store/store.h"

sqlite3 *store_database(struct store *store);
