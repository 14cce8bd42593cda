//! A build context: a directory of files that a client sent, seen through its ignore file.

use crate::error::{During, Error, IoDuring};
use crate::kept::{Kept, Known, Picks};
use dockerfile::Ignore;
use engine::{Engine, Scratch};
use rootdir::RootDir;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

/// Largest Dockerfile or ignore file.
const MAX_TEXT: usize = 8 << 20;

/// Files to build from.
#[derive(Debug)]
pub struct Context {
    pub(crate) root: RootDir,
    pub(crate) ignore: Ignore,
    /// Digests of files that are known to be as they were, and of sources. Dropped before `home`: they are written while
    /// nobody else has it.
    pub(crate) known: Option<Arc<Known>>,
    pub(crate) picks: Option<Arc<Picks>>,
    home: Home,
    /// Where it came from, of one that the daemon read itself.
    pub(crate) material: Option<crate::attest::Material>,
}

/// Where the files are.
#[derive(Debug)]
enum Home {
    /// Removed with the context.
    Scratch(Scratch),
    /// Stays for the next build.
    Kept(#[expect(dead_code, reason = "keeps others away while it lives")] Kept),
}

impl Context {
    /// Unpacks a tar stream, compressed or not, into a directory of its own. Blocking.
    ///
    /// # Errors
    ///
    /// InvalidArgument for what is no tar, or one with devices or names that climb out.
    pub fn from_tar(engine: &Engine, tar: impl Read + Send) -> Result<Context, Error> {
        let context = Context::empty(engine)?;
        let doing = || "unpack the build context".to_string();
        let options = archive::Options {
            whiteouts: archive::Whiteouts::Keep,
            forbid_devices: true,
            keep_owner: false,
            ..archive::Options::default()
        };
        let plain = archive::decompress(tar).during(doing)?;
        archive::apply(plain, &context.root, &options).during(doing)?;
        Ok(context)
    }

    /// A context without files. Blocking.
    pub fn empty(engine: &Engine) -> Result<Context, Error> {
        let scratch = engine.make_scratch().during(|| "make room for the build context".into())?;
        // A copy of the context's root gets this mode.
        let path = scratch.path().join("context");
        let doing = || format!("create {}", path.display());
        std::fs::DirBuilder::new().mode(0o755).create(&path).io_during(doing)?;
        let root = RootDir::open(&path).during(doing)?;
        Ok(Context {
            root,
            ignore: Ignore::default(),
            known: None,
            picks: None,
            home: Home::Scratch(scratch),
            material: None,
        })
    }

    /// An empty context whose directory is `context` in the directory that comes back. What is beside it goes with it.
    pub(crate) fn with_room(engine: &Engine) -> Result<(Context, std::path::PathBuf), Error> {
        let (context, path) = Context::for_file(engine, "")?;
        let home = path.parent().map(Path::to_path_buf).unwrap_or_default();
        Ok((context, home))
    }

    /// A context for one file, which the caller writes to the path that comes back.
    pub(crate) fn for_file(engine: &Engine, name: &str) -> Result<(Context, std::path::PathBuf), Error> {
        let context = Context::empty(engine)?;
        let Home::Scratch(scratch) = &context.home else { unreachable!("it was made so") };
        let path = scratch.path().join("context").join(name);
        Ok((context, path))
    }

    /// The files that a client sends again and again, as they were received.
    pub fn of_kept(kept: Kept) -> Result<Context, Error> {
        let root = kept.root().try_clone().during(|| "open the build context".into())?;
        let (known, picks) = (Some(kept.known().clone()), Some(kept.picks().clone()));
        Ok(Context { root, ignore: Ignore::default(), known, picks, home: Home::Kept(kept), material: None })
    }

    /// Reads the Dockerfile at `path` (empty for the usual names), and takes the ignore file that belongs to it. Returns
    /// the path and the text. Blocking.
    pub fn take_dockerfile(&mut self, path: &str) -> Result<(String, String), Error> {
        let candidates: Vec<&str> =
            if path.is_empty() { vec!["Dockerfile", "dockerfile"] } else { vec![path] };
        for name in &candidates {
            let Some(text) = self.read(name)? else { continue };
            self.take_ignore(name)?;
            return Ok((name.to_string(), text));
        }
        Err(Error::invalid(format!("Cannot locate specified Dockerfile: {}", candidates[0])))
    }

    /// Takes the ignore file that belongs to the Dockerfile `name`: its own, else the context's. Blocking.
    pub fn take_ignore(&mut self, name: &str) -> Result<(), Error> {
        for ignore in [format!("{name}.dockerignore"), ".dockerignore".to_string()] {
            if let Some(text) = self.read(&ignore)? {
                self.ignore = Ignore::parse(&text).map_err(|m| Error::invalid(format!("{ignore}: {m}")))?;
                return Ok(());
            }
        }
        Ok(())
    }

    /// The build checks of a Dockerfile for this context, in the order of its lines.
    pub fn check(&self, file: &dockerfile::Dockerfile) -> Vec<dockerfile::Warning> {
        let mut warnings = dockerfile::check(file);
        warnings.extend(dockerfile::check_ignored(file, &self.ignore));
        warnings.sort_by_key(|w| w.lines);
        warnings
    }

    /// Puts a file at the top of the context. Blocking.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let mode = rustix::fs::Mode::from_raw_mode(0o644);
        self.root
            .write_file_atomic(Path::new(name), bytes, mode)
            .during(|| format!("write {name} to the context"))
    }

    /// The text of a regular file of the context, if there is one. Blocking.
    pub fn text(&self, name: &str) -> Result<Option<String>, Error> {
        self.read(name)
    }

    fn read(&self, name: &str) -> Result<Option<String>, Error> {
        use errors::HasKind;
        match self.root.read_bounded(Path::new(name), MAX_TEXT) {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) => Ok(Some(text)),
                Err(_) => Err(Error::invalid(format!("{name} is not UTF-8 text"))),
            },
            Err(e) if e.kind() == errors::Kind::NotFound => Ok(None),
            Err(e) => Err(e).during(|| format!("read {name} of the context")),
        }
    }
}
