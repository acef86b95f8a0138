/* places: where a monitor sees what, in its jail. */
#pragma once

#define MONITOR_RUN     "/run"         /* its sockets, its guest's console */
#define TEMPLATE_INSIDE "/template"    /* read-only */
#define DISK_INSIDE     "/disk"        /* the sandbox's directory in the data directory */
#define BUILD_INSIDE    "/build"       /* a build's */
#define WORKING_SET     "/working-set" /* in either of the first two */
