/* A library that a test preloads: writes below CHAOS_ROOT fail as on a full disk, and the clock jumps.
   The file CHAOS_STATE, which all processes share, says when. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static struct { int64_t writes, full_at, jump_s, calls; } *state;
static const char *root;

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("CHAOS_STATE");
  int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
  root = getenv("CHAOS_ROOT");
  if (file < 0 || !root) return;
  void *held = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  state = held == MAP_FAILED ? NULL : held;
  close(file);
}

static int is_full(int file) {
  char link[32], path[4096];
  if (!state) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < (ssize_t)strlen(root) || strncmp(path, root, strlen(root))) return 0;
  int64_t number = __sync_add_and_fetch(&state->writes, 1);
  if (!state->full_at || number < state->full_at) return 0;
  errno = ENOSPC;
  return 1;
}

ssize_t write(int file, const void *data, size_t size) {
  return is_full(file) ? -1 : syscall(SYS_write, file, data, size);
}
ssize_t pwrite64(int file, const void *data, size_t size, off64_t at) {
  return is_full(file) ? -1 : syscall(SYS_pwrite64, file, data, size, at);
}
ssize_t pwrite(int file, const void *data, size_t size, off_t at) {
  return pwrite64(file, data, size, at);
}
ssize_t writev(int file, const struct iovec *parts, int count) {
  return is_full(file) ? -1 : syscall(SYS_writev, file, parts, count);
}
ssize_t sendfile64(int file, int from, off64_t *at, size_t size) {
  return is_full(file) ? -1 : syscall(SYS_sendfile, file, from, at, size);
}
ssize_t sendfile(int file, int from, off_t *at, size_t size) {
  return sendfile64(file, from, at, size);
}

/* Eight calls in the past, eight in the present, eight in the future. */
int clock_gettime(clockid_t clock, struct timespec *now) {
  int result = syscall(SYS_clock_gettime, clock, now);
  if (clock == CLOCK_REALTIME && state && state->jump_s)
    now->tv_sec += (__sync_add_and_fetch(&state->calls, 1) / 8 % 3 - 1) * state->jump_s;
  return result;
}
int gettimeofday(struct timeval *restrict now, __attribute__((unused)) void *restrict zone) {
  struct timespec precise;
  clock_gettime(CLOCK_REALTIME, &precise);
  *now = (struct timeval){precise.tv_sec, precise.tv_nsec / 1000};
  return 0;
}
time_t time(time_t *now) {
  struct timespec precise;
  clock_gettime(CLOCK_REALTIME, &precise);
  if (now) *now = precise.tv_sec;
  return precise.tv_sec;
}
