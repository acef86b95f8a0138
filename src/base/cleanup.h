/*
 * cleanup: locals that release themselves at the end of their scope.
 *
 *     cleanup_close int fd = open(...);
 *     cleanup_free char *text = NULL;
 *     ...
 *     *ret = TAKE_PTR(text);
 *     return TAKE_FD(fd);
 */
#pragma once

#include <stdlib.h>
#include <unistd.h>

static inline void cleanup_free_pointer(void *pointer)
{
	free(*(void **)pointer);
}

static inline void cleanup_close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

#define cleanup_free  __attribute__((cleanup(cleanup_free_pointer)))
#define cleanup_close __attribute__((cleanup(cleanup_close_fd)))

/* Hand ownership over: yields the value and leaves NULL, or -1, behind. */
#define TAKE_PTR(pointer)                                                                                    \
	__extension__({                                                                                      \
		__typeof__(pointer) taken_ = (pointer);                                                      \
		(pointer) = NULL;                                                                            \
		taken_;                                                                                      \
	})
#define TAKE_FD(fd)                                                                                          \
	__extension__({                                                                                      \
		int taken_ = (fd);                                                                           \
		(fd) = -1;                                                                                   \
		taken_;                                                                                      \
	})
