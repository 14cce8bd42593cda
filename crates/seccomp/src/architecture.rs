//! Architectures of the specification, and which of them a process on this machine can be.

use crate::Error;
use crate::tables::Table;

/// One way into the kernel, with its own numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Architecture {
    /// `AUDIT_ARCH_*`.
    pub(crate) audit: u32,
    pub(crate) table: Table,
    /// Arguments are compared as 64 bits. x32 passes 32, as i386.
    pub(crate) wide: bool,
}

/// The bit that marks x32 numbers, which come with x86_64's `AUDIT_ARCH`.
pub(crate) const X32_BIT: u32 = 1 << 30;

pub(crate) const X86_64: Architecture = Architecture { audit: 0xc000_003e, table: Table::X86_64, wide: true };
pub(crate) const X32: Architecture = Architecture { audit: 0xc000_003e, table: Table::X32, wide: false };
pub(crate) const I386: Architecture = Architecture { audit: 0x4000_0003, table: Table::I386, wide: false };
pub(crate) const AARCH64: Architecture =
    Architecture { audit: 0xc000_00b7, table: Table::Aarch64, wide: true };
pub(crate) const ARM: Architecture = Architecture { audit: 0x4000_0028, table: Table::Arm, wide: false };

/// The architecture that this program is built for.
#[cfg(target_arch = "x86_64")]
pub(crate) const NATIVE: Architecture = X86_64;
#[cfg(target_arch = "aarch64")]
pub(crate) const NATIVE: Architecture = AARCH64;

/// The names that a profile for this machine lists: its own first.
#[cfg(target_arch = "x86_64")]
pub(crate) const NATIVE_NAMES: [&str; 3] = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];
#[cfg(target_arch = "aarch64")]
pub(crate) const NATIVE_NAMES: [&str; 2] = ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"];

/// The specification's names of architectures whose programs no machine that we build for can run.
const FOREIGN: [&str; 17] = [
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_SHEB",
];

/// Names of all architectures, also of those that nothing on this machine can be.
pub fn names() -> Vec<&'static str> {
    let ours = [
        "SCMP_ARCH_AARCH64",
        "SCMP_ARCH_ARM",
        "SCMP_ARCH_SH",
        "SCMP_ARCH_X32",
        "SCMP_ARCH_X86",
        "SCMP_ARCH_X86_64",
    ];
    let mut names = [&ours[..], &FOREIGN].concat();
    names.sort_unstable();
    names
}

/// The architectures of a profile, each once, the native one first and always.
pub(crate) fn parse(names: &[String]) -> Result<Vec<Architecture>, Error> {
    let mut found = vec![NATIVE];
    for name in names {
        let one = match name.as_str() {
            "SCMP_ARCH_NATIVE" => NATIVE,
            "SCMP_ARCH_X86_64" => X86_64,
            "SCMP_ARCH_X32" => X32,
            "SCMP_ARCH_X86" => I386,
            "SCMP_ARCH_AARCH64" => AARCH64,
            "SCMP_ARCH_ARM" => ARM,
            foreign if FOREIGN.contains(&foreign) || foreign == "SCMP_ARCH_SH" => continue,
            other => return Err(Error::UnknownArchitecture(other.to_owned())),
        };
        if !found.contains(&one) {
            found.push(one);
        }
    }
    Ok(found)
}
