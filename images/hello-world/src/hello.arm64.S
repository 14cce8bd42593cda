// Writes hello.txt to standard output and exits: 0, or 1 when the output refuses bytes.
// System calls only, no libc. Built with:
//   aarch64-linux-gnu-as -o hello.o hello.arm64.S
//   aarch64-linux-gnu-ld -n --build-id=none -s -o hello.arm64 hello.o

.equ SYS_write, 64
.equ SYS_exit_group, 94
.equ EINTR, 4

.globl _start
.text
_start:
    adr x19, text
    mov x20, #(text_end - text)
more:
    mov x0, #1
    mov x1, x19
    mov x2, x20
    mov x8, #SYS_write
    svc #0
    cmn x0, #EINTR
    b.eq more
    cmp x0, #0
    b.le failed
    // A pipe may take less than all.
    add x19, x19, x0
    subs x20, x20, x0
    b.ne more
    mov x0, #0
    b exit
failed:
    mov x0, #1
exit:
    mov x8, #SYS_exit_group
    svc #0

text:
    .incbin "hello.txt"
text_end:

// Without this note the linker gives the program an executable stack.
.section .note.GNU-stack, "", %progbits
