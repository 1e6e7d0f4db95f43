/* A disk that is full while a flag file exists. A server preloads this library (LD_PRELOAD).
 *
 * FULL_DISK is the path of the flag file, which holds a part of the paths that are full ("/base/", "/pg_wal/"). The
 * space that a file has already can be overwritten, as on a real disk. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* Whether there is no room for the bytes up to `end` of a file. */
static int is_full(int fd, off_t end)
{
    char part[64] = "", link[64], path[PATH_MAX] = "";
    struct stat file;
    const char *flag = getenv("FULL_DISK");
    int found, error = errno;

    if (flag == NULL || (found = open(flag, O_RDONLY | O_CLOEXEC)) < 0) {
        errno = error;
        return 0;
    }
    ssize_t length = read(found, part, sizeof(part) - 1);
    close(found);
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t path_length = readlink(link, path, sizeof(path) - 1);
    errno = error;
    return length > 0 && path_length > 0 && strstr(path, part) != NULL
        && fstat(fd, &file) == 0 && S_ISREG(file.st_mode) && end > file.st_size;
}

static size_t total(const struct iovec *parts, int count)
{
    size_t sum = 0;
    for (int at = 0; at < count; at++)
        sum += parts[at].iov_len;
    return sum;
}

#define REFUSE_IF_FULL(fd, end) \
    if (is_full(fd, end)) {     \
        errno = ENOSPC;         \
        return -1;              \
    }

ssize_t pwrite64(int fd, const void *data, size_t length, off_t offset)
{
    REFUSE_IF_FULL(fd, offset + length)
    return syscall(SYS_pwrite64, fd, data, length, offset);
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset)
{
    return pwrite64(fd, data, length, offset);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t offset)
{
    REFUSE_IF_FULL(fd, offset + total(parts, count))
    return syscall(SYS_pwritev, fd, parts, count, offset, 0);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset)
{
    return pwritev64(fd, parts, count, offset);
}

ssize_t write(int fd, const void *data, size_t length)
{
    off_t offset = lseek(fd, 0, SEEK_CUR);
    if (offset >= 0)
        REFUSE_IF_FULL(fd, offset + length)
    return syscall(SYS_write, fd, data, length);
}

/* Returns its error and leaves errno alone. */
int posix_fallocate64(int fd, off_t offset, off_t length)
{
    static int (*real)(int, off_t, off_t);
    if (is_full(fd, offset + length))
        return ENOSPC;
    if (real == NULL)
        real = dlsym(RTLD_NEXT, "posix_fallocate64");
    return real(fd, offset, length);
}

int posix_fallocate(int fd, off_t offset, off_t length)
{
    return posix_fallocate64(fd, offset, length);
}
