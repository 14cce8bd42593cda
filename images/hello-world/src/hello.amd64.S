# Writes hello.txt to standard output and exits: 0, or 1 when the output refuses bytes.
# System calls only, no libc. Built with:
#   as -o hello.o hello.amd64.S
#   ld -n --build-id=none -s -o hello.amd64 hello.o

.equ SYS_write, 1
.equ SYS_exit_group, 231
.equ EINTR, 4

.globl _start
.text
_start:
    lea text(%rip), %rsi
    mov $(text_end - text), %edx
more:
    mov $SYS_write, %eax
    mov $1, %edi
    syscall
    cmp $-EINTR, %rax
    je more
    test %rax, %rax
    jle failed
    # A pipe may take less than all.
    add %rax, %rsi
    sub %rax, %rdx
    jnz more
    xor %edi, %edi
    jmp exit
failed:
    mov $1, %edi
exit:
    mov $SYS_exit_group, %eax
    syscall

text:
    .incbin "hello.txt"
text_end:

# Without this note the linker gives the program an executable stack.
.section .note.GNU-stack, "", @progbits
