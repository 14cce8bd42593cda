/* Reads a profile as lines of numbers and names, and writes what libseccomp makes of it.
 * "default A" | "arch TOKEN" | "rule A NAME N (INDEX OP A B)*N" */
#include <seccomp.h>
#include <stdio.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

int main(void) {
  scmp_filter_ctx ctx = NULL;
  char word[64], name[64];
  unsigned int action, count, token;
  while (scanf("%63s", word) == 1) {
    if (!strcmp(word, "default")) {
      if (scanf("%u", &action) != 1 || !(ctx = seccomp_init(action))) return 2;
    } else if (!strcmp(word, "arch")) {
      if (scanf("%u", &token) != 1) return 3;
      int rc = seccomp_arch_add(ctx, token);
      if (rc && rc != -17) return 4;
    } else {
      struct scmp_arg_cmp args[6];
      if (scanf("%u %63s %u", &action, name, &count) != 3 || count > 6) return 5;
      for (unsigned int i = 0; i < count; i++) {
        unsigned int index, op;
        unsigned long long a, b;
        if (scanf("%u %u %llu %llu", &index, &op, &a, &b) != 4) return 6;
        args[i] = (struct scmp_arg_cmp){index, op, a, b};
      }
      int nr = seccomp_syscall_resolve_name(name);
      if (nr == __NR_SCMP_ERROR) continue;
      int rc = seccomp_rule_add_array(ctx, action, nr, count, args);
      if (rc) { fprintf(stderr, "rule %s: %d\n", name, rc); return 7; }
    }
  }
  return seccomp_export_bpf(ctx, STDOUT_FILENO) ? 8 : 0;
}
