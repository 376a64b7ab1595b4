/* Preloaded into a program: makes calls on files below a folder fail, as a control file says. Calls that do not go through the
   C library, such as renameat2 of rustix, are not seen. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { NONE, WRITE, SYNC, TRUNCATE, OPEN, UNLINK, MKDIR, READ };
enum { SHORT = -1, SLOW = -2 };
#define SLOW_SECONDS 5

/* Written by the test; the same as Control in faults.py. */
struct control {
    _Atomic int kind;
    _Atomic int fault; /* a number of an error, SHORT or SLOW */
    _Atomic long first; /* the number of the first call that fails */
    _Atomic long count; /* how many calls fail */
    _Atomic long calls;
    _Atomic long hits;
    char path[256]; /* of the first call that failed */
};

static struct control *control;
static char folder[PATH_MAX];
static size_t folder_octets;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAULTS_CONTROL"), *below = getenv("FAULTS_FOLDER");
    if (!path || !below) return;
    int file = REAL(open)(path, O_RDWR | O_CLOEXEC);
    if (file < 0) return;
    void *memory = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (memory == MAP_FAILED) return;
    folder_octets = snprintf(folder, sizeof folder, "%s/", below);
    control = memory;
}

/* The fault of this call, or 0. */
static int fault_of(enum kind kind, const char *path) {
    if (strncmp(path, folder, folder_octets) && strncmp(path, folder, folder_octets - 1)) return 0;
    long number = ++control->calls;
    if (number < control->first || number - control->first >= control->count) return 0;
    if (++control->hits == 1) strncpy(control->path, path, sizeof control->path - 1);
    return control->fault;
}

static int is_armed(enum kind kind) { return control && control->kind == (int)kind; }

static int fault_at(enum kind kind, const char *path) { return is_armed(kind) ? fault_of(kind, path) : 0; }

static int fault_on(enum kind kind, int file) {
    if (!is_armed(kind)) return 0;
    char link[32], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t octets = readlink(link, path, sizeof path - 1);
    if (octets < 0) return 0;
    path[octets] = 0;
    return fault_of(kind, path);
}

#define FAIL_IF(fault) do { int it = (fault); if (it > 0) { errno = it; return -1; } } while (0)

/* Half of it. */
static size_t octets_of(int fault, size_t octets) { return fault == SHORT && octets > 1 ? octets / 2 : octets; }

ssize_t write(int file, const void *from, size_t octets) {
    int fault = fault_on(WRITE, file);
    FAIL_IF(fault);
    return REAL(write)(file, from, octets_of(fault, octets));
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    FAIL_IF(fault_on(WRITE, file));
    return REAL(writev)(file, parts, count);
}

ssize_t pwrite(int file, const void *from, size_t octets, off_t at) {
    int fault = fault_on(WRITE, file);
    FAIL_IF(fault);
    return REAL(pwrite)(file, from, octets_of(fault, octets), at);
}

ssize_t pwrite64(int file, const void *from, size_t octets, off64_t at) {
    int fault = fault_on(WRITE, file);
    FAIL_IF(fault);
    return REAL(pwrite64)(file, from, octets_of(fault, octets), at);
}

ssize_t pread(int file, void *into, size_t octets, off_t at) {
    FAIL_IF(fault_on(READ, file));
    return REAL(pread)(file, into, octets, at);
}

ssize_t pread64(int file, void *into, size_t octets, off64_t at) {
    FAIL_IF(fault_on(READ, file));
    return REAL(pread64)(file, into, octets, at);
}

static int sync_or_fail(int file) {
    int fault = fault_on(SYNC, file);
    FAIL_IF(fault);
    if (fault == SLOW) sleep(SLOW_SECONDS);
    return 0;
}

int fsync(int file) { return sync_or_fail(file) ? -1 : REAL(fsync)(file); }

int fdatasync(int file) { return sync_or_fail(file) ? -1 : REAL(fdatasync)(file); }

int ftruncate(int file, off_t octets) {
    FAIL_IF(fault_on(TRUNCATE, file));
    return REAL(ftruncate)(file, octets);
}

int ftruncate64(int file, off64_t octets) {
    FAIL_IF(fault_on(TRUNCATE, file));
    return REAL(ftruncate64)(file, octets);
}

static int mode_of(int flags, va_list rest) { return flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, int) : 0; }

#define OPEN(name)                                        \
    int name(const char *path, int flags, ...) {          \
        va_list rest;                                     \
        va_start(rest, flags);                            \
        int mode = mode_of(flags, rest);                  \
        va_end(rest);                                     \
        FAIL_IF(fault_at(OPEN, path));                    \
        return REAL(name)(path, flags, mode);             \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                            \
    int name(int directory, const char *path, int flags, ...) { \
        va_list rest;                                           \
        va_start(rest, flags);                                  \
        int mode = mode_of(flags, rest);                        \
        va_end(rest);                                           \
        FAIL_IF(fault_at(OPEN, path));                          \
        return REAL(name)(directory, path, flags, mode);        \
    }
OPENAT(openat)
OPENAT(openat64)

int unlink(const char *path) {
    FAIL_IF(fault_at(UNLINK, path));
    return REAL(unlink)(path);
}

int mkdir(const char *path, mode_t mode) {
    FAIL_IF(fault_at(MKDIR, path));
    return REAL(mkdir)(path, mode);
}
