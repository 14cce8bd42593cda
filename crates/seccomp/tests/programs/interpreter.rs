//! Classic BPF as the kernel runs it for seccomp, with the kernel's checks of a program.

use seccomp::Instruction;

/// `struct seccomp_data`, as 32-bit words.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub arch: u32,
    pub nr: u32,
    pub args: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.nr,
            4 => self.arch,
            16..64 if offset.is_multiple_of(4) => {
                let arg = self.args[(offset as usize - 16) / 8];
                if offset.is_multiple_of(8) { arg as u32 } else { (arg >> 32) as u32 }
            }
            _ => panic!("load of offset {offset}"),
        }
    }
}

/// Panics on whatever the kernel would refuse; tells how many instructions ran.
pub fn run(program: &[Instruction], call: Call) -> (u32, usize) {
    let (mut accumulator, mut at) = (0u32, 0usize);
    for steps in 1..=program.len() {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        let branch = |yes: bool| usize::from(if yes { jt } else { jf });
        match code {
            0x20 => accumulator = call.word(k),
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => at += branch(accumulator == k),
            0x25 => at += branch(accumulator > k),
            0x35 => at += branch(accumulator >= k),
            0x45 => at += branch(accumulator & k != 0),
            0x06 => return (k, steps),
            other => panic!("code {other:#x}"),
        }
    }
    panic!("ran off the end");
}
