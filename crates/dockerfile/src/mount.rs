//! `RUN --mount=...`.

/// One mount of a RUN, its values expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub kind: MountKind,
    /// Where it is seen; `None` for the kind's own place.
    pub target: Option<String>,
    /// Below what it is taken from.
    pub source: Option<String>,
    /// Stage, image or context.
    pub from: Option<String>,
    /// `rw`, `ro`, or nothing said.
    pub writable: Option<bool>,
    pub id: Option<String>,
    pub sharing: Sharing,
    pub required: bool,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Bytes, for tmpfs.
    pub size: Option<u64>,
    /// Environment variable that gets a secret.
    pub env: Option<String>,
}

/// What is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountKind {
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

/// Who may use a cache mount while someone does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    #[default]
    Shared,
    /// Each gets one of its own.
    Private,
    /// Others wait.
    Locked,
}

impl Mount {
    /// Reads the comma-separated `key=value` fields of one `--mount`, expanding values (not that of `from`).
    ///
    /// # Errors
    ///
    /// A sentence that names the field.
    pub fn parse(text: &str, expand: &dyn Fn(&str) -> Result<String, String>) -> Result<Mount, String> {
        let fields = fields(text)?;
        let mut mount = Mount {
            kind: MountKind::Bind,
            target: None,
            source: None,
            from: None,
            writable: None,
            id: None,
            sharing: Sharing::Shared,
            required: false,
            mode: None,
            uid: None,
            gid: None,
            size: None,
            env: None,
        };
        let mut used: Vec<&'static str> = Vec::new();
        for field in &fields {
            if let Some(key) = mount.field(field, expand)? {
                used.push(key);
            }
        }
        mount.judge(&used)?;
        Ok(mount)
    }

    /// Takes one field; returns the key for the check of what the kind may have.
    fn field(
        &mut self,
        field: &str,
        expand: &dyn Fn(&str) -> Result<String, String>,
    ) -> Result<Option<&'static str>, String> {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.trim().to_ascii_lowercase(), Some(value)),
            None => (field.trim().to_ascii_lowercase(), None),
        };
        let Some(value) = value else {
            return match key.as_str() {
                "readonly" | "ro" => {
                    self.writable = Some(false);
                    Ok(Some("ro"))
                }
                "readwrite" | "rw" => {
                    self.writable = Some(true);
                    Ok(Some("rw"))
                }
                "required" => {
                    self.required = true;
                    Ok(Some("required"))
                }
                _ => Err(format!("invalid field '{field}' must be a key=value pair")),
            };
        };
        if key == "from" {
            if value.contains('$') {
                return Err(format!(
                    "'{value}' in 'from' of a mount cannot have variables, try a stage with a fixed name"
                ));
            }
            self.from = Some(value.to_string());
            return Ok(Some("from"));
        }
        let value = expand(value)?;
        let boolean = || match value.to_ascii_lowercase().as_str() {
            "true" | "1" | "t" => Ok(true),
            "false" | "0" | "f" => Ok(false),
            _ => Err(format!("invalid value for {key}: {value}")),
        };
        let number = |radix| {
            u32::from_str_radix(&value, radix).map_err(|_| format!("invalid value {value} for {key}"))
        };
        Ok(Some(match key.as_str() {
            "type" => {
                self.kind = match value.as_str() {
                    "bind" => MountKind::Bind,
                    "cache" => MountKind::Cache,
                    "tmpfs" => MountKind::Tmpfs,
                    "secret" => MountKind::Secret,
                    "ssh" => MountKind::Ssh,
                    other => {
                        return Err(format!(
                            "unsupported mount type {other:?}: want bind, cache, tmpfs, secret or ssh"
                        ));
                    }
                };
                return Ok(None);
            }
            "source" | "src" => {
                self.source = Some(value);
                "source"
            }
            "target" | "dst" | "destination" => {
                self.target = Some(value);
                "target"
            }
            "readonly" | "ro" => {
                self.writable = Some(!boolean()?);
                "ro"
            }
            "readwrite" | "rw" => {
                self.writable = Some(boolean()?);
                "rw"
            }
            "required" => {
                self.required = boolean()?;
                "required"
            }
            "id" => {
                self.id = Some(value);
                "id"
            }
            "sharing" => {
                self.sharing = match value.as_str() {
                    "shared" => Sharing::Shared,
                    "private" => Sharing::Private,
                    "locked" => Sharing::Locked,
                    other => {
                        return Err(format!(
                            "unsupported sharing value {other:?}: want shared, private or locked"
                        ));
                    }
                };
                "sharing"
            }
            "mode" => {
                self.mode = Some(number(8)?);
                "mode"
            }
            "uid" => {
                self.uid = Some(number(10)?);
                "uid"
            }
            "gid" => {
                self.gid = Some(number(10)?);
                "gid"
            }
            "size" => {
                self.size = Some(size(&value).ok_or_else(|| format!("invalid value for size: {value}"))?);
                "size"
            }
            "env" => {
                self.env = Some(value);
                "env"
            }
            other => return Err(format!("unexpected key '{other}' in '{field}'")),
        }))
    }

    fn judge(&mut self, used: &[&'static str]) -> Result<(), String> {
        let (name, allowed): (&str, &[&str]) = match self.kind {
            MountKind::Bind => ("bind", &["source", "target", "from", "ro", "rw"]),
            MountKind::Cache => {
                ("cache", &["source", "target", "from", "ro", "rw", "id", "sharing", "mode", "uid", "gid"])
            }
            MountKind::Tmpfs => ("tmpfs", &["target", "size"]),
            MountKind::Secret => {
                ("secret", &["id", "source", "target", "env", "required", "mode", "uid", "gid"])
            }
            MountKind::Ssh => ("ssh", &["id", "target", "required", "mode", "uid", "gid"]),
        };
        if let Some(other) = used.iter().find(|key| !allowed.contains(key)) {
            return Err(format!("unexpected key '{other}' for mount type '{name}'"));
        }
        let needs_target = matches!(self.kind, MountKind::Bind | MountKind::Cache | MountKind::Tmpfs);
        match self.target.as_deref() {
            None | Some("") if needs_target => {
                return Err(format!("target is required for mount type '{name}'"));
            }
            Some(target) if crate::ignore::clean(target) == "/" => {
                return Err("invalid mount target \"/\"".into());
            }
            _ => {}
        }
        if self.kind == MountKind::Secret && self.id.is_none() {
            // Docker's default: the file's own name.
            let from = self
                .source
                .clone()
                .or_else(|| self.target.as_deref().and_then(|t| t.rsplit('/').next()).map(str::to_string));
            self.id = from.filter(|id| !id.is_empty());
            if self.id.is_none() {
                return Err("one of source, target required".into());
            }
        }
        if self.mode.is_some_and(|mode| mode > 0o7777) {
            return Err("mode is larger than 07777".into());
        }
        Ok(())
    }
}

/// CSV: commas separate, double quotes protect.
fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut out = vec![String::new()];
    let mut quoted = false;
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => out.push(String::new()),
            c => out.last_mut().expect("never empty").push(c),
        }
    }
    if quoted {
        return Err(format!("a quote is not closed in mount {text:?}"));
    }
    out.retain(|field| !field.trim().is_empty());
    if out.is_empty() { Err("the mount is empty".into()) } else { Ok(out) }
}

/// `64m`, `1GB`, `512`; powers of 1024.
fn size(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let plain = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    let (digits, factor) = match plain.chars().last()? {
        'k' => (&plain[..plain.len() - 1], 1 << 10),
        'm' => (&plain[..plain.len() - 1], 1 << 20),
        'g' => (&plain[..plain.len() - 1], 1 << 30),
        't' => (&plain[..plain.len() - 1], 1u64 << 40),
        _ => (plain, 1),
    };
    digits.trim().parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Mount, String> {
        Mount::parse(text, &|word| Ok(word.replace("$v", "value")))
    }

    #[test]
    fn kinds_and_their_fields() {
        let m = parse("target=/x,source=$v,from=s,rw").expect("good");
        assert_eq!(
            (m.kind, m.target.as_deref(), m.source.as_deref()),
            (MountKind::Bind, Some("/x"), Some("value"))
        );
        assert_eq!((m.from.as_deref(), m.writable), (Some("s"), Some(true)));
        let m = parse("type=cache,dst=/c,id=i,sharing=locked,mode=0700,uid=1,gid=2,ro=true").expect("good");
        assert_eq!((m.kind, m.sharing, m.mode), (MountKind::Cache, Sharing::Locked, Some(0o700)));
        assert_eq!((m.uid, m.gid, m.writable), (Some(1), Some(2), Some(false)));
        assert_eq!(parse("type=tmpfs,target=/t,size=64m").expect("good").size, Some(64 << 20));
        let m = parse("type=secret,id=tok,env=TOKEN,required").expect("good");
        assert_eq!((m.id.as_deref(), m.env.as_deref(), m.required), (Some("tok"), Some("TOKEN"), true));
        assert_eq!(parse("type=secret,target=/a/key").expect("good").id.as_deref(), Some("key"));
        assert_eq!(parse("TYPE=ssh").expect("good").kind, MountKind::Ssh);
        assert_eq!(parse("type=bind,\"target=/a,b\"").expect("good").target.as_deref(), Some("/a,b"));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (text, want) in [
            ("", "the mount is empty"),
            ("type=bind", "target is required for mount type 'bind'"),
            ("type=nfs,target=/x", "unsupported mount type"),
            ("type=bind,target=/", "invalid mount target"),
            ("type=bind,target=/x/..", "invalid mount target"),
            ("type=bind,target=/x,bind-propagation=shared", "unexpected key 'bind-propagation'"),
            ("type=tmpfs,target=/x,source=y", "unexpected key 'source' for mount type 'tmpfs'"),
            ("type=cache,target=/x,sharing=all", "unsupported sharing value"),
            ("type=cache,target=/x,mode=9", "invalid value 9 for mode"),
            ("type=bind,target=/x,from=$v", "cannot have variables"),
            ("type=secret", "one of source, target required"),
            ("target", "must be a key=value pair"),
            ("type=bind,target=/x,\"a", "a quote is not closed"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
