//! Opening, migrating, reading and writing.

use crate::error::Error;
use crate::reserve::Reserve;
use crate::schema;
use errors::{HasKind, Kind};
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// File name of the database in its directory.
const FILE: &str = "brig.db";
/// SQLite's way to files for a database that one process has open: its index of the log is in memory, not in a mapped file
/// `brig.db-shm`. A store to a mapped file ends the process with SIGBUS where the file system finds no room for the page:
/// blocks smaller than pages, and file systems that copy on write, when the disk is full.
const VFS: &str = "unix-excl";
/// Idle readers kept. More may exist while more threads read at once.
const IDLE_READERS: usize = 4;
/// Pages of log after which a commit also checkpoints: 16 MiB. [`Database::checkpoint`] normally comes first.
const CHECKPOINT_PAGES: u32 = 4096;
/// How long a statement waits for a lock. Only a checkpoint can hold one that a writer wants.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The store of one data root, open. Share it in an `Arc`.
#[derive(Debug)]
pub struct Database {
    path: PathBuf,
    writer: Mutex<Writer>,
    readers: Mutex<Vec<Connection>>,
    reserve: Reserve,
    driver: OnceLock<&'static str>,
    /// Holds the data root for this process; the kernel lets go of it when the process ends.
    _lock: File,
}

/// A consistent view of the store.
#[derive(Debug)]
pub struct ReadTx<'a> {
    pub(crate) tx: Transaction<'a>,
    pub(crate) driver: &'static str,
}

/// A view of the store that may be changed. Reads see the changes made in it.
#[derive(Debug)]
pub struct WriteTx<'a> {
    read: ReadTx<'a>,
}

impl<'a> Deref for WriteTx<'a> {
    type Target = ReadTx<'a>;

    fn deref(&self) -> &ReadTx<'a> {
        &self.read
    }
}

/// The connection that writes, and what its commits promise now.
#[derive(Debug)]
struct Writer {
    db: Connection,
    promises: Option<Durability>,
}

/// What a commit promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Durability {
    /// Survives the death of the process.
    Process,
    /// Survives a power loss.
    Power,
}

impl Database {
    /// Opens the store in `dir`, making both where they are missing, and brings it to the present format.
    ///
    /// # Errors
    ///
    /// [`Error::InUse`] while another process, or another `Database`, has it open; [`Error::Newer`] when a later
    /// version wrote it.
    pub fn open(dir: &Path) -> Result<Database, Error> {
        let lock = lock(dir)?;
        let reserve = Reserve::new(dir);
        let path = dir.join(FILE);
        let writer = match open_writer(&path) {
            // Even opening writes: the shared memory file, and recovery of a log.
            Err(e) if e.kind() == Kind::Exhausted && reserve.release() => open_writer(&path),
            other => other,
        }?;
        reserve.restore();
        Ok(Database {
            path,
            writer: Mutex::new(Writer { db: writer, promises: None }),
            readers: Mutex::default(),
            reserve,
            driver: OnceLock::new(),
            _lock: lock,
        })
    }

    /// Says whose layers and snapshots are meant: each family of storage drivers has its own. Once, before they are looked
    /// at; `overlay` when nobody says anything.
    pub fn set_driver(&self, driver: &'static str) {
        // The first word counts. There is one store on a database, and its driver does not change.
        let _known = self.driver.set(driver);
    }

    /// The driver that [`Database::set_driver`] named.
    pub fn driver(&self) -> &'static str {
        self.driver.get().copied().unwrap_or("overlay")
    }

    /// Runs `f` on a consistent view. Other threads' writes neither wait for it nor are seen by it.
    pub fn read<T, E: From<Error>>(&self, f: impl FnOnce(&ReadTx<'_>) -> Result<T, E>) -> Result<T, E> {
        self.read_of(self.driver(), f)
    }

    /// As [`Database::read`], with the layers and snapshots of another driver.
    pub fn read_of<T, E: From<Error>>(
        &self,
        driver: &'static str,
        f: impl FnOnce(&ReadTx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let idle = lock_of(&self.readers).pop();
        let mut reader = idle.map_or_else(|| open_reader(&self.path), Ok)?;
        let tx = reader.transaction().map_err(|source| Error::Query { what: "begin read", source })?;
        let result = f(&ReadTx { tx, driver });
        let mut readers = lock_of(&self.readers);
        if readers.len() < IDLE_READERS {
            readers.push(reader);
        }
        result
    }

    /// Runs `f` and commits what it changed, or nothing when it fails. Survives the death of the process.
    pub fn write<T, E: From<Error>>(&self, f: impl FnOnce(&WriteTx<'_>) -> Result<T, E>) -> Result<T, E> {
        self.commit(Durability::Process, f)
    }

    /// As [`Database::write`], and on disk when it returns.
    pub fn write_durable<T, E: From<Error>>(
        &self,
        f: impl FnOnce(&WriteTx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let value = self.commit(Durability::Power, f)?;
        // Off the hot path, where one more call is nothing.
        self.reserve.restore();
        Ok(value)
    }

    /// As [`Database::write`], for changes that free space: on a full disk the reserve is given up and `f` runs again.
    pub fn delete<T, E>(&self, f: impl Fn(&WriteTx<'_>) -> Result<T, E>) -> Result<T, E>
    where
        E: From<Error> + HasKind,
    {
        self.commit_freeing(Durability::Process, f)
    }

    /// As [`Database::delete`], and on disk when it returns.
    pub fn delete_durable<T, E>(&self, f: impl Fn(&WriteTx<'_>) -> Result<T, E>) -> Result<T, E>
    where
        E: From<Error> + HasKind,
    {
        self.commit_freeing(Durability::Power, f)
    }

    /// Whether a full disk cost the reserve, so that the next deletion has none.
    pub fn is_reserve_spent(&self) -> bool {
        self.reserve.is_spent()
    }

    /// Takes the reserve again that a full disk cost, if there is room for it now.
    pub fn restore_reserve(&self) {
        self.reserve.restore();
    }

    /// Moves the log into the database file and takes the reserve again. For idle moments; it syncs.
    pub fn checkpoint(&self) -> Result<(), Error> {
        self.reserve.restore();
        let writer = lock_of(&self.writer);
        writer
            .db
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .map_err(|source| Error::Query { what: "checkpoint", source })
    }

    fn commit_freeing<T, E>(&self, how: Durability, f: impl Fn(&WriteTx<'_>) -> Result<T, E>) -> Result<T, E>
    where
        E: From<Error> + HasKind,
    {
        match self.commit(how, &f) {
            Err(e) if e.kind() == Kind::Exhausted && self.reserve.release() => self.commit(how, &f),
            other => other,
        }
    }

    fn commit<T, E: From<Error>>(
        &self,
        how: Durability,
        f: impl FnOnce(&WriteTx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut writer = lock_of(&self.writer);
        // Said only where it is another than before: saying it is a statement of its own.
        if writer.promises != Some(how) {
            let level = match how {
                Durability::Process => "NORMAL",
                Durability::Power => "FULL",
            };
            writer.promises = None;
            writer
                .db
                .pragma_update(None, "synchronous", level)
                .map_err(|source| Error::Query { what: "set synchronous", source })?;
            writer.promises = Some(how);
        }
        let tx = writer
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|source| Error::Query { what: "begin write", source })?;
        let tx = WriteTx { read: ReadTx { tx, driver: self.driver() } };
        let value = f(&tx)?;
        tx.read.tx.commit().map_err(|source| Error::Query { what: "commit", source })?;
        Ok(value)
    }
}

/// A panic while the lock was held rolled its transaction back, so the connection is still good.
fn lock_of<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lock(dir: &Path) -> Result<File, Error> {
    use std::os::unix::fs::DirBuilderExt;
    let failed = |what: &'static str, path: &Path| {
        let path = path.to_path_buf();
        move |source: std::io::Error| Error::File { what, path, source }
    };
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(dir).map_err(failed("create directory", dir))?;
    let path = dir.join("lock");
    let file = File::options().create(true).append(true).open(&path).map_err(failed("open lock", &path))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::InUse { path: dir.into() }),
        Err(e) => Err(failed("lock", &path)(e.into())),
    }
}

fn open_writer(path: &Path) -> Result<Connection, Error> {
    let failed = |source| Error::Open { path: path.into(), source };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let mut db = Connection::open_with_flags_and_vfs(path, flags, VFS).map_err(failed)?;
    db.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    db.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    db.pragma_update(None, "foreign_keys", true).map_err(failed)?;
    db.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES).map_err(failed)?;
    db.set_prepared_statement_cache_capacity(64);
    migrate(&mut db, path)?;
    Ok(db)
}

fn open_reader(path: &Path) -> Result<Connection, Error> {
    let failed = |source| Error::Open { path: path.into(), source };
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let db = Connection::open_with_flags_and_vfs(path, flags, VFS).map_err(failed)?;
    db.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    db.pragma_update(None, "query_only", true).map_err(failed)?;
    db.set_prepared_statement_cache_capacity(64);
    Ok(db)
}

fn migrate(db: &mut Connection, path: &Path) -> Result<(), Error> {
    let failed = |source| Error::Open { path: path.into(), source };
    let header = |db: &Connection, name: &str| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let known = i64::try_from(schema::STEPS.len()).expect("a handful of steps");
    let application = header(db, "application_id").map_err(failed)?;
    let found = header(db, "user_version").map_err(failed)?;
    let tables = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0));
    let empty = tables.map_err(failed)? == 0;
    if application != schema::APPLICATION_ID && !empty {
        return Err(Error::Foreign { path: path.into() });
    }
    if found > known {
        return Err(Error::Newer { path: path.into(), found, known });
    }
    db.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    for (step, version) in schema::STEPS.iter().zip(1i64..).filter(|(_, version)| *version > found) {
        let tx = db.transaction_with_behavior(TransactionBehavior::Exclusive).map_err(failed)?;
        tx.execute_batch(step).map_err(failed)?;
        tx.pragma_update(None, "application_id", schema::APPLICATION_ID).map_err(failed)?;
        tx.pragma_update(None, "user_version", version).map_err(failed)?;
        tx.commit().map_err(failed)?;
    }
    Ok(())
}
