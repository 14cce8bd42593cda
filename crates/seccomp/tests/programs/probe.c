/* Installs the filter in the file named and prints "name result" of calls made under it. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void report(const char *name, long result) {
  printf("%s %d\n", name, result < 0 ? errno : 0);
}
#define CALL(n, ...) report(#n, syscall(SYS_##n, ##__VA_ARGS__))

int main(int argc, char **argv) {
  static struct sock_filter code[4096];
  FILE *file = fopen(argv[1], "r");
  size_t count = file ? fread(code, sizeof code[0], 4096, file) : 0;
  struct sock_fprog program = {count, code};
  unsigned long flags = argc > 2 ? strtoul(argv[2], NULL, 0) : 0;
  struct timespec a, b;
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  clock_gettime(CLOCK_MONOTONIC, &a);
  long rc = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
  clock_gettime(CLOCK_MONOTONIC, &b);
  report("install", rc);
  fprintf(stderr, "%zu instructions installed in %ld us\n", count,
          (b.tv_sec - a.tv_sec) * 1000000 + (b.tv_nsec - a.tv_nsec) / 1000);
  CALL(read, 0, NULL, 0);
  CALL(getpid);
  CALL(uname, malloc(1024));
  CALL(mount, NULL, NULL, NULL, 0, NULL);
  CALL(umount2, NULL, 0);
  CALL(pivot_root, NULL, NULL);
  CALL(unshare, 0);
  CALL(setns, -1, 0);
  CALL(clone3, NULL, 0);
  report("clone_newuser", syscall(SYS_clone, 0x10000000UL | 17, 0, 0, 0, 0));
  CALL(keyctl, 0, 0, 0, 0, 0);
  CALL(add_key, NULL, NULL, NULL, 0, 0);
  CALL(bpf, 0, NULL, 0);
  CALL(perf_event_open, NULL, 0, 0, 0, 0);
  CALL(userfaultfd, 0);
  CALL(io_uring_setup, 0, NULL);
  CALL(open_by_handle_at, -1, NULL, 0);
  CALL(finit_module, -1, NULL, 0);
  CALL(reboot, 0, 0, 0, NULL);
  CALL(settimeofday, NULL, NULL);
  report("socket_alg", syscall(SYS_socket, 38, 5, 0));
  report("socket_alg_high", syscall(SYS_socket, 0x100000026ULL, 5, 0));
  report("socket_vsock", syscall(SYS_socket, 40, 1, 0));
  report("socket_unix", syscall(SYS_socket, 1, 1, 0));
  report("socket_inet", syscall(SYS_socket, 2, 1, 0));
  report("personality_query", syscall(SYS_personality, 0xffffffffUL));
  report("personality_odd", syscall(SYS_personality, 0x0400000UL));
  report("unheard_of", syscall(900));
#ifdef __x86_64__
  long result;
  /* keyctl and getpid through the 32-bit table. */
  __asm__ volatile("int $0x80" : "=a"(result) : "a"(288), "b"(0) : "memory", "r8", "r9", "r10", "r11");
  printf("i386_keyctl %d\n", result < 0 ? (int)-result : 0);
  __asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory", "r8", "r9", "r10", "r11");
  printf("i386_getpid %d\n", result < 0 ? (int)-result : 0);
#endif
  return 0;
}
