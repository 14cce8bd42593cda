//! An assembler that writes a program from its end. Jumps of classic BPF lead forward only, so whatever a jump leads
//! to is there already, its distance known.

use crate::Instruction;
use crate::profile::Action;
use std::collections::BTreeMap;

pub(crate) const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
pub(crate) const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
pub(crate) const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
pub(crate) const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
pub(crate) const GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
pub(crate) const GREATER_OR_EQUAL: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
pub(crate) const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// An instruction written already, counted from the end of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label(usize);

#[derive(Debug, Default)]
pub(crate) struct Assembler {
    /// Last instruction first.
    reversed: Vec<Instruction>,
    /// The nearest copy of each return.
    returns: BTreeMap<Action, Label>,
}

impl Assembler {
    /// An instruction that returns `action`: the nearest one, or a new one.
    pub(crate) fn ret(&mut self, action: Action) -> Label {
        if let Some(&label) = self.returns.get(&action) {
            return label;
        }
        let label = self.push(RETURN, 0, 0, action.0);
        self.returns.insert(action, label);
        label
    }

    /// A statement that goes on at `next`.
    pub(crate) fn statement(&mut self, code: u16, k: u32, next: Label) -> Label {
        self.fall_to(next);
        self.push(code, 0, 0, k)
    }

    /// A comparison.
    pub(crate) fn branch(&mut self, code: u16, k: u32, yes: Label, no: Label) -> Label {
        if yes == no {
            return yes;
        }
        // Each may need a stepping stone, which moves the other one away by one.
        let yes = self.within_reach(yes, 1);
        let no = self.within_reach(no, 0);
        let (jt, jf) = (self.distance(yes), self.distance(no));
        self.push(code, jt, jf, k)
    }

    pub(crate) fn finish(mut self, first: Label) -> Vec<Instruction> {
        self.fall_to(first);
        self.reversed.reverse();
        self.reversed
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Label {
        self.reversed.push(Instruction { code, jt, jf, k });
        Label(self.reversed.len() - 1)
    }

    /// Makes `next` what follows the instruction pushed next.
    fn fall_to(&mut self, next: Label) {
        if next.0 + 1 != self.reversed.len() {
            self.stone(next);
        }
    }

    /// A label for `target` that a conditional jump reaches even after `spare` more instructions.
    fn within_reach(&mut self, target: Label, spare: usize) -> Label {
        let distance = self.reversed.len() - target.0 - 1;
        if distance + spare <= usize::from(u8::MAX) { target } else { self.stone(target) }
    }

    /// A copy of a far return, or an unconditional jump, whose distance has 32 bits.
    fn stone(&mut self, target: Label) -> Label {
        let there = self.reversed[target.0];
        if there.code == RETURN {
            let label = self.push(RETURN, 0, 0, there.k);
            self.returns.insert(Action(there.k), label);
            return label;
        }
        let distance = self.reversed.len() - target.0 - 1;
        self.push(JUMP, 0, 0, u32::try_from(distance).unwrap_or(u32::MAX))
    }

    fn distance(&self, target: Label) -> u8 {
        // `within_reach` has seen to it.
        u8::try_from(self.reversed.len() - target.0 - 1).unwrap_or(u8::MAX)
    }
}
