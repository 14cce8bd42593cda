//! `--chmod`: octal, or chmod(1)'s symbols.

/// A change of permission bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Chmod {
    Bits(u32),
    Symbols(Vec<Clause>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Clause {
    /// Mask over the nine bits and the special three.
    who: u32,
    op: char,
    perms: Vec<char>,
}

const USER: u32 = 0o4700;
const GROUP: u32 = 0o2070;
const OTHER: u32 = 0o1007;

impl Chmod {
    /// Reads `0644` or `u=rwX,go-w`.
    pub(crate) fn parse(text: &str) -> Result<Chmod, String> {
        let wrong = || {
            format!("invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777")
        };
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            return match u32::from_str_radix(text, 8) {
                Ok(bits) if bits <= 0o7777 => Ok(Chmod::Bits(bits)),
                _ => Err(wrong()),
            };
        }
        let mut clauses = Vec::new();
        for part in text.split(',') {
            let names = part.len() - part.trim_start_matches(['u', 'g', 'o', 'a']).len();
            let who = part[..names].chars().fold(0, |mask, c| {
                mask | match c {
                    'u' => USER,
                    'g' => GROUP,
                    'o' => OTHER,
                    _ => 0o7777,
                }
            });
            let who = if who == 0 { 0o7777 } else { who };
            let mut rest = &part[names..];
            if rest.is_empty() {
                return Err(wrong());
            }
            while let Some(op) = rest.chars().next() {
                if !matches!(op, '+' | '-' | '=') {
                    return Err(wrong());
                }
                rest = &rest[1..];
                let end = rest.find(['+', '-', '=']).unwrap_or(rest.len());
                let perms: Vec<char> = rest[..end].chars().collect();
                if perms.iter().any(|c| !matches!(c, 'r' | 'w' | 'x' | 'X' | 's' | 't' | 'u' | 'g' | 'o')) {
                    return Err(wrong());
                }
                clauses.push(Clause { who, op, perms });
                rest = &rest[end..];
            }
        }
        Ok(Chmod::Symbols(clauses))
    }

    /// The mode that a file of mode `old` gets.
    pub(crate) fn apply(&self, old: u32, is_dir: bool) -> u32 {
        let clauses = match self {
            Chmod::Bits(bits) => return *bits,
            Chmod::Symbols(clauses) => clauses,
        };
        let mut mode = old & 0o7777;
        for clause in clauses {
            let copied = |bits: u32| bits | bits << 3 | bits << 6;
            let mut bits = 0;
            for perm in &clause.perms {
                bits |= match perm {
                    'r' => 0o444,
                    'w' => 0o222,
                    'x' => 0o111,
                    'X' if is_dir || mode & 0o111 != 0 => 0o111,
                    's' => 0o6000,
                    't' => 0o1000,
                    'u' => copied(mode >> 6 & 7),
                    'g' => copied(mode >> 3 & 7),
                    'o' => copied(mode & 7),
                    _ => 0,
                };
            }
            bits &= clause.who;
            mode = match clause.op {
                '+' => mode | bits,
                '-' => mode & !bits,
                // Special bits of directories stay, as chmod(1) has it.
                _ if is_dir => mode & !(clause.who & 0o777) | bits,
                _ => mode & !clause.who | bits,
            };
        }
        mode
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        let check = |text: &str, old: u32, is_dir: bool, want: u32| {
            let got = Chmod::parse(text).map(|c| c.apply(old, is_dir));
            assert_eq!(got, Ok(want), "{text} on {old:o}");
        };
        check("755", 0o600, false, 0o755);
        check("04755", 0o600, false, 0o4755);
        check("u=rwX,go=rX", 0o600, false, 0o644);
        check("u=rwX,go=rX", 0o700, false, 0o755);
        check("u=rwX,go=rX", 0o600, true, 0o755);
        check("+x", 0o644, false, 0o755);
        check("g=u", 0o640, false, 0o660);
        check("a-w", 0o666, false, 0o444);
        check("u+s,o+t", 0o755, false, 0o5755);
        check("go=", 0o777, false, 0o700);
        check("u+w-x", 0o577, false, 0o677);
        for bad in ["", "8", "10000", "u", "u=z", "x=r", "u=r,", "-1"] {
            assert!(Chmod::parse(bad).is_err() || bad == "-1" && Chmod::parse(bad).is_err(), "{bad}");
        }
    }
}
