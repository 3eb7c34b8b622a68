//! The tables (`layers.json`, `images.json`, `containers.json` and their volatile halves) and the
//! locks that podman, skopeo, buildah, CRI-O and we share them by.
//!
//! Primer. Each table has a lock file. Who changes the table holds it exclusively, who reads the
//! table holds it shared: POSIX record locks there, open-file-description locks here, which
//! conflict with those as they should. A lock file holds 64 bytes, its *last writer*: time,
//! counter, process, random bytes, compared as a whole and understood by nobody. A writer puts new
//! ones there *before* it replaces the table, since it may die in between; who finds others than
//! it remembers reads the table again.
//!
//! Lock order, the peers' too, since neither side's locks would break a deadlock:
//! **`userns.lock` → layers → (mountpoints) → images → containers.** A debug build panics where a
//! thread takes them in another order. None is held while a process is started, and none while a
//! layer is unpacked.
//!
//! Lists do not wait: they read the 64 bytes, and where those are new and a peer holds the lock
//! (skopeo does for seconds while it unpacks) the last snapshot answers.

mod read_only;

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::ErrorKind;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use sys::lock::{Kind, LockError, LockFile};

pub(crate) use self::read_only::ReadOnly;
use crate::error::Context;
use crate::record::Record;
use crate::{Error, limits};

/// Places in the lock order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    Layers = 1,
    MountPoints,
    Images,
    Containers,
    /// Taken alone.
    Artifacts,
}

/// Files of a table.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) lock: PathBuf,
    /// Held beside it: that of another root, where some of the records are.
    pub(crate) second_lock: Option<PathBuf>,
    pub(crate) stable: PathBuf,
    /// Records of images' layers that current peers put into the images' own root.
    pub(crate) image: Option<PathBuf>,
    pub(crate) volatile: Option<PathBuf>,
}

impl Files {
    /// The files of records.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Path> {
        self.halves().map(|(path, _)| path)
    }

    fn halves(&self) -> impl Iterator<Item = (&Path, Half)> {
        let image = self.image.as_deref().map(|path| (path, Half::Image));
        let volatile = self.volatile.as_deref().map(|path| (path, Half::Volatile));
        let stable = (self.stable.as_path(), Half::Stable);
        std::iter::once(stable).chain(image).chain(volatile)
    }
}

/// What is worked out of all records whenever they are read.
type Derive<R, V> = Box<dyn Fn(&[Arc<R>]) -> V + Send + Sync>;

/// A table of records of one kind, with what is derived from all of them.
pub(crate) struct Table<R: Record, V> {
    files: Files,
    rank: Rank,
    timeout: Duration,
    derive: Derive<R, V>,
    writing: Mutex<()>,
    snapshot: ArcSwapOption<Snapshot<R, V>>,
}

/// A table as it was at one time.
pub(crate) struct Snapshot<R, V> {
    writer: LastWriter,
    pub(crate) rows: Vec<Arc<R>>,
    index: HashMap<Box<str>, usize>,
    pub(crate) view: V,
}

impl<R: Record, V> Snapshot<R, V> {
    fn new(writer: LastWriter, mut rows: Vec<Arc<R>>, derive: &Derive<R, V>) -> Self {
        let mut index = HashMap::with_capacity(rows.len());
        rows.retain(|row| {
            let at = index.len();
            // Of several with one ID the first counts, as with peers.
            index.insert(Box::from(row.id()), at).is_none_or(|first| {
                index.insert(Box::from(row.id()), first);
                false
            })
        });
        let view = derive(&rows);
        Self {
            writer,
            rows,
            index,
            view,
        }
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Arc<R>> {
        self.index.get(id).map(|at| &self.rows[*at])
    }
}

/// Which of its files a change of a table touches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Half {
    /// Synced; in the graph root.
    #[default]
    Stable,
    /// Synced; in the images' own root.
    Image,
    /// Never synced: containers.
    Volatile,
}

impl Half {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Stable, Self::Image, Self::Volatile];
}

impl<R: Record, V> Table<R, V> {
    pub(crate) fn new(
        files: Files,
        rank: Rank,
        timeout: Duration,
        derive: impl Fn(&[Arc<R>]) -> V + Send + Sync + 'static,
    ) -> Self {
        Self {
            files,
            rank,
            timeout,
            derive: Box::new(derive),
            writing: Mutex::default(),
            snapshot: ArcSwapOption::empty(),
        }
    }

    /// The table as it is, or as it was when a peer took the lock.
    pub(crate) fn read(&self) -> Result<Arc<Snapshot<R, V>>, Error> {
        let lock = open_lock(&self.files.lock, Kind::Shared)?;
        let known = self.snapshot.load_full();
        if let Some(known) = &known
            && known.writer == LastWriter::read(&lock, &self.files.lock)?
        {
            return Ok(Arc::clone(known));
        }
        let patience = if known.is_some() {
            Duration::ZERO
        } else {
            self.timeout
        };
        match (lock.lock(Kind::Shared, patience), known) {
            (Ok(()), _) => {
                let _second = self.second(Kind::Shared)?;
                self.load(&lock)
            }
            (Err(LockError::TimedOut { .. }), Some(known)) => Ok(known),
            (Err(error), _) => Err(locked(&self.files.lock, error)),
        }
    }

    /// The table as it is, which nobody changes while the result lives.
    pub(crate) fn hold(&self) -> Result<Held<R, V>, Error> {
        let (lock, order) = take(&self.files.lock, self.rank, Kind::Shared, self.timeout)?;
        let second = self.second(Kind::Shared)?;
        let snapshot = match self.snapshot.load_full() {
            Some(known) if known.writer == LastWriter::read(&lock, &self.files.lock)? => known,
            _ => self.load(&lock)?,
        };
        Ok(Held {
            snapshot,
            _lock: lock,
            _second: second,
            _order: order,
        })
    }

    /// The table to be changed.
    pub(crate) fn write(&self) -> Result<Writing<'_, R, V>, Error> {
        let turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (lock, order) = take(&self.files.lock, self.rank, Kind::Exclusive, self.timeout)?;
        let second = self.second(Kind::Exclusive)?;
        let snapshot = match self.snapshot.load_full() {
            Some(known) if known.writer == LastWriter::read(&lock, &self.files.lock)? => known,
            _ => self.load(&lock)?,
        };
        let rows = snapshot.rows.clone();
        Ok(Writing {
            rows,
            table: self,
            lock,
            second,
            _order: order,
            _turn: turn,
        })
    }

    /// Reads the files. The lock is held.
    fn load(&self, lock: &LockFile) -> Result<Arc<Snapshot<R, V>>, Error> {
        let writer = LastWriter::read(lock, &self.files.lock)?;
        let mut rows = Vec::new();
        for (path, half) in self.files.halves() {
            rows.extend(read_rows(path, half)?);
        }
        Ok(self.publish(writer, rows))
    }

    /// Takes the lock of the other root, if there is one: after the first, as peers do.
    fn second(&self, kind: Kind) -> Result<Option<LockFile>, Error> {
        let path = self.files.second_lock.as_deref();
        path.map(|path| linked(path, kind, self.timeout))
            .transpose()
    }

    fn publish(&self, writer: LastWriter, rows: Vec<Arc<R>>) -> Arc<Snapshot<R, V>> {
        let snapshot = Arc::new(Snapshot::new(writer, rows, &self.derive));
        self.snapshot.store(Some(Arc::clone(&snapshot)));
        snapshot
    }

    /// The file that holds one half.
    pub(crate) fn file(&self, half: Half) -> &Path {
        match (half, &self.files.volatile) {
            (Half::Volatile, Some(volatile)) => volatile,
            (Half::Image, _) => self.files.image.as_ref().unwrap_or(&self.files.stable),
            _ => &self.files.stable,
        }
    }
}

impl<R: Record, V> std::fmt::Debug for Table<R, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

/// A table that nobody changes.
pub(crate) struct Held<R, V> {
    pub(crate) snapshot: Arc<Snapshot<R, V>>,
    _lock: LockFile,
    _second: Option<LockFile>,
    _order: Order,
}

/// A table being changed. Nothing is on disk before [`Writing::save`].
pub(crate) struct Writing<'a, R: Record, V> {
    pub(crate) rows: Vec<Arc<R>>,
    table: &'a Table<R, V>,
    lock: LockFile,
    second: Option<LockFile>,
    _order: Order,
    _turn: MutexGuard<'a, ()>,
}

impl<R: Record, V> Writing<'_, R, V> {
    pub(crate) fn get(&self, id: &str) -> Option<&Arc<R>> {
        self.rows.iter().find(|row| row.id() == id)
    }

    pub(crate) fn get_mut(&mut self, id: &str) -> Option<&mut R> {
        self.rows
            .iter_mut()
            .find(|row| row.id() == id)
            .map(Arc::make_mut)
    }

    /// Writes one half of the table: the stable one durably, the volatile one without a sync.
    pub(crate) fn save(&mut self, half: Half) -> Result<(), Error> {
        let writer = LastWriter::new();
        for lock in std::iter::once(&self.lock).chain(&self.second) {
            lock.write_start(&writer.0)
                .at("write", &self.table.files.lock)?;
        }
        let path = self.table.file(half);
        let volatile = half == Half::Volatile;
        let rows: Vec<&R> = self
            .rows
            .iter()
            .map(AsRef::as_ref)
            .filter(|row| row.half() == half)
            .collect();
        let json = serde_json::to_vec(&rows).map_err(|source| Error::Damaged {
            path: path.to_owned(),
            source,
        })?;
        if volatile {
            sys::durable::replace_volatile(path, &json, 0o600).at("write", path)?;
        } else {
            sys::durable::replace(path, &json, 0o600).at("write", path)?;
        }
        self.table.publish(writer, self.rows.clone());
        Ok(())
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot<R, V>> {
        self.table
            .snapshot
            .load_full()
            .expect("loaded when the lock was taken")
    }
}

/// The bytes by which a change of a table is noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LastWriter(Vec<u8>);

impl LastWriter {
    const LENGTH: usize = 64;

    /// Bytes that nobody had.
    pub(crate) fn new() -> Self {
        use std::sync::atomic::{AtomicU64, Ordering};
        use std::time::SystemTime;
        static COUNTER: AtomicU64 = AtomicU64::new(1);
        let since = SystemTime::UNIX_EPOCH
            .elapsed()
            .unwrap_or_default()
            .as_nanos();
        let mut bytes = Vec::with_capacity(Self::LENGTH);
        bytes.extend_from_slice(&u64::try_from(since).unwrap_or_default().to_le_bytes());
        bytes.extend_from_slice(&COUNTER.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        bytes.extend_from_slice(&std::process::id().to_le_bytes());
        bytes.extend_from_slice(&crate::ids::random_bytes::<44>());
        Self(bytes)
    }

    /// What the lock file holds; nothing before the first change.
    pub(crate) fn read(lock: &LockFile, path: &Path) -> Result<Self, Error> {
        let mut bytes = [0; Self::LENGTH];
        let length = lock.read_start(&mut bytes).at("read", path)?;
        Ok(Self(bytes[..length].to_vec()))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Opens and takes a lock; checks the order.
pub(crate) fn take(
    path: &Path,
    rank: Rank,
    kind: Kind,
    timeout: Duration,
) -> Result<(LockFile, Order), Error> {
    let order = Order::enter(rank);
    Ok((linked(path, kind, timeout)?, order))
}

fn linked(path: &Path, kind: Kind, timeout: Duration) -> Result<LockFile, Error> {
    loop {
        let lock = open_lock(path, kind)?;
        wait(&lock, path, kind, timeout)?;
        // A peer that wiped the store has left us a lock that nobody else can see.
        if lock.is_linked().at("stat", path)? {
            return Ok(lock);
        }
    }
}

/// Takes a lock that is open.
pub(crate) fn wait(
    lock: &LockFile,
    path: &Path,
    kind: Kind,
    timeout: Duration,
) -> Result<(), Error> {
    let taken = lock.lock(kind, timeout);
    taken.map_err(|error| locked(path, error))
}

fn open_lock(path: &Path, kind: Kind) -> Result<LockFile, Error> {
    let opened = match LockFile::open(path) {
        // A disk with errors becomes read-only: what is there can be found all the same.
        Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem && kind == Kind::Shared => {
            LockFile::open_to_read(path)
        }
        opened => opened,
    };
    opened.at("open", path)
}

fn locked(path: &Path, error: LockError) -> Error {
    match error {
        LockError::TimedOut { holder } => Error::Locked {
            path: path.to_owned(),
            holder,
        },
        LockError::Io(source) => Error::Io {
            doing: "lock",
            path: path.to_owned(),
            source,
        },
    }
}

thread_local! {
    static HELD: Cell<u32> = const { Cell::new(0) };
}

/// That this thread holds a lock of some rank.
#[derive(Debug)]
pub(crate) struct Order(u32, std::marker::PhantomData<*const ()>);

impl Order {
    fn enter(rank: Rank) -> Self {
        let bit = 1 << rank as u32;
        HELD.with(|held| {
            debug_assert!(
                held.get() < bit,
                "lock order: {rank:?} while holding {:b}",
                held.get()
            );
            held.set(held.get() | bit);
        });
        Self(bit, std::marker::PhantomData)
    }
}

impl Drop for Order {
    fn drop(&mut self) {
        HELD.with(|held| held.set(held.get() & !self.0));
    }
}

fn read_rows<R: Record>(path: &Path, half: Half) -> Result<Vec<Arc<R>>, Error> {
    let mut json = Vec::new();
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => {
            let file = other.at("open", path)?;
            file.take(limits::TABLE_BYTES)
                .read_to_end(&mut json)
                .at("read", path)?;
        }
    }
    if json.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Option<Vec<R>> = serde_json::from_slice(&json).map_err(|source| Error::Damaged {
        path: path.to_owned(),
        source,
    })?;
    let in_half = |mut row: R| {
        row.set_half(half);
        Arc::new(row)
    };
    Ok(rows.unwrap_or_default().into_iter().map(in_half).collect())
}
