//! Images and models in a folder, by content: `sha256/<two digits>/<hex>`, and `partial/<hex>` while one is on its way in.
//!
//! A blob is in its place only after its digest was computed over the whole file and the file is durable; several hubs may
//! share the folder. It knows neither operators nor hosts, nor what a blob is. Flow sets do not lie here: they are small,
//! and go into the database with the revision that names them.
use redforge_shared::ids::Digest;
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::sync::watch;

/// How long a call waits for the check of a whole blob; the caller asks again.
const CHECK_PATIENCE: Duration = Duration::from_secs(20);

/// What went wrong with a blob.
#[derive(Debug, thiserror::Error)]
pub enum DepotError {
    #[error("'{0}' is not a folder: write a path or file:///path (S3-compatible stores are not supported yet)")]
    Url(String),
    #[error("{} cannot be used", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("the blob has {size} bytes, allowed are 1 to {most}")]
    Size { size: u64, most: u64 },
    #[error("{0} is being sent by somebody else at the moment")]
    Busy(Digest),
    #[error("what arrived as {wanted} has digest {got}, and is thrown away")]
    Digest { wanted: Digest, got: Digest },
    #[error("{0} could not be checked: {1}")]
    Check(Digest, String),
}

impl DepotError {
    /// Is the disk full?
    pub fn is_full(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }
}

/// How much of a blob is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// So many bytes from its beginning.
    Part(u64),
    /// All, checked and durable.
    Whole,
}

#[derive(Clone, Debug)]
enum Checked {
    Good,
    Other(Digest),
    Failed(String),
}

type Check = watch::Receiver<Option<Checked>>;

/// The folder. Clones share it.
#[derive(Clone, Debug)]
pub struct Depot {
    root: Arc<PathBuf>,
    most: u64,
    checks: Arc<Mutex<BTreeMap<Digest, Check>>>,
}

/// The folder of `[artifacts] url`.
pub fn folder(url: &str) -> Result<PathBuf, DepotError> {
    let path = url.strip_prefix("file://").unwrap_or(url);
    if path.contains("://") || !path.starts_with('/') || path.contains('\0') {
        return Err(DepotError::Url(url.chars().take(80).collect()));
    }
    Ok(PathBuf::from(path))
}

impl Depot {
    /// The store in this folder, with blobs of at most `most` bytes. Nothing is made before the first blob.
    pub fn new(root: PathBuf, most: u64) -> Self {
        Self { root: Arc::new(root), most, checks: Arc::default() }
    }

    fn whole(&self, digest: Digest) -> PathBuf {
        let hex = digest.hex();
        self.root.join("sha256").join(&hex[..2]).join(&hex)
    }

    fn part(&self, digest: Digest) -> PathBuf {
        self.root.join("partial").join(digest.hex())
    }

    /// Size of a blob that is there.
    pub async fn size(&self, digest: Digest) -> Result<Option<u64>, DepotError> {
        let path = self.whole(digest);
        match tokio::fs::metadata(&path).await {
            Ok(found) => Ok(Some(found.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DepotError::File { path, source }),
        }
    }

    /// A blob from `offset` on.
    pub async fn open(&self, digest: Digest, offset: u64) -> Result<Option<tokio::fs::File>, DepotError> {
        let path = self.whole(digest);
        let opened = run(&path, {
            let path = path.clone();
            move || {
                let mut file = fs::File::open(&path)?;
                file.seek(io::SeekFrom::Start(offset))?;
                Ok(file)
            }
        });
        match opened.await {
            Ok(file) => Ok(Some(tokio::fs::File::from_std(file))),
            Err(DepotError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// A small blob, whole; none also where it is larger.
    pub async fn read(&self, digest: Digest, most: u64) -> Result<Option<Vec<u8>>, DepotError> {
        if self.size(digest).await?.is_none_or(|size| size > most) {
            return Ok(None);
        }
        let path = self.whole(digest);
        run(&path.clone(), move || fs::read(&path)).await.map(Some)
    }

    /// Takes the next bytes of a blob; bytes that do not go on where it ends are left out. `Part` with all its bytes means
    /// that the check of the whole is still going on: the caller asks again.
    pub async fn take(&self, digest: Digest, size: u64, offset: u64, data: Vec<u8>) -> Result<Taken, DepotError> {
        if size == 0 || size > self.most {
            return Err(DepotError::Size { size, most: self.most });
        }
        if self.size(digest).await? == Some(size) {
            return Ok(Taken::Whole);
        }
        if self.check_of(digest).is_some() {
            return self.checked(digest, size).await;
        }
        let path = self.part(digest);
        let appended = run(&path.clone(), move || append(&path, size, offset, &data)).await?;
        let Some(have) = appended else { return Err(DepotError::Busy(digest)) };
        if have < size {
            return Ok(Taken::Part(have));
        }
        self.begin_check(digest);
        self.checked(digest, size).await
    }

    /// Is the blob that lies there what its digest says? One that is not is thrown away.
    pub async fn verify(&self, digest: Digest) -> Result<bool, DepotError> {
        let path = self.whole(digest);
        let found = run(&path, {
            let path = path.clone();
            move || fs::File::open(path).and_then(Digest::of_reader)
        });
        match found.await {
            Ok(found) if found == digest => Ok(true),
            Ok(found) => {
                tracing::error!(blob = %digest, found = %found, "a blob on disk is damaged and thrown away");
                self.remove(digest).await?;
                Ok(false)
            }
            Err(DepotError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Throws a blob away; one that is gone is fine.
    pub async fn remove(&self, digest: Digest) -> Result<(), DepotError> {
        let path = self.whole(digest);
        match tokio::fs::remove_file(&path).await {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(DepotError::File { path, source: e }),
            _ => Ok(()),
        }
    }

    /// Throws away what came in before `before`, whole or in part, and is not among `known`. Returns how many.
    pub async fn sweep(&self, known: Vec<Digest>, before: SystemTime) -> Result<u64, DepotError> {
        let root = self.root.clone();
        run(&root.clone(), move || {
            let mut swept = 0;
            let mut folders = vec![root.join("partial")];
            folders.extend(entries(&root.join("sha256"))?);
            for folder in folders {
                for path in entries(&folder)? {
                    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
                    let Ok(digest) = name.parse::<Digest>() else { continue };
                    let old = fs::metadata(&path).and_then(|m| m.modified()).is_ok_and(|at| at < before);
                    if old && !known.contains(&digest) && fs::remove_file(&path).is_ok() {
                        swept += 1;
                    }
                }
            }
            Ok(swept)
        })
        .await
    }

    fn check_of(&self, digest: Digest) -> Option<Check> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner).get(&digest).cloned()
    }

    /// Checks a whole part and puts it in its place, beside the calls: a large one takes longer than a call may.
    fn begin_check(&self, digest: Digest) {
        let (done, check) = watch::channel(None);
        self.checks.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, check);
        let (part, whole) = (self.part(digest), self.whole(digest));
        tokio::task::spawn_blocking(move || {
            let checked = match put_in_place(digest, &part, &whole) {
                Ok(None) => Checked::Good,
                Ok(Some(found)) => Checked::Other(found),
                Err(e) => Checked::Failed(e.to_string()),
            };
            done.send_replace(Some(checked));
        });
    }

    async fn checked(&self, digest: Digest, size: u64) -> Result<Taken, DepotError> {
        let Some(mut check) = self.check_of(digest) else { return Ok(Taken::Part(size)) };
        let checked = match tokio::time::timeout(CHECK_PATIENCE, check.wait_for(Option::is_some)).await {
            Err(_) => return Ok(Taken::Part(size)),
            Ok(Err(_)) => Checked::Failed("the check ended early".into()),
            Ok(Ok(said)) => said.clone().unwrap_or_else(|| Checked::Failed("nothing was said".into())),
        };
        self.checks.lock().unwrap_or_else(PoisonError::into_inner).remove(&digest);
        match checked {
            Checked::Good => Ok(Taken::Whole),
            Checked::Other(got) => Err(DepotError::Digest { wanted: digest, got }),
            Checked::Failed(why) => Err(DepotError::Check(digest, why)),
        }
    }
}

/// File work beside the tasks; its error bears the path.
async fn run<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, DepotError> {
    let failed = |source| DepotError::File { path: path.to_owned(), source };
    tokio::task::spawn_blocking(work).await.map_err(|e| failed(io::Error::other(e)))?.map_err(failed)
}

fn make_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Appends what goes on where the part ends; says how much there is then. None: another writes it now.
fn append(path: &Path, size: u64, offset: u64, data: &[u8]) -> io::Result<Option<u64>> {
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    let mut file = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        Err(e) => return Err(e.into()),
    }
    let have = file.metadata()?.len();
    let fits = have.checked_add(data.len() as u64).is_some_and(|end| end <= size);
    if have > size {
        // Of another try, with another size: it begins anew.
        file.set_len(0)?;
        return Ok(Some(0));
    }
    if offset != have || !fits {
        return Ok(Some(have));
    }
    if let Err(e) = file.write_all(data) {
        // A piece of a piece would be taken for the whole one.
        file.set_len(have)?;
        return Err(e);
    }
    Ok(Some(have + data.len() as u64))
}

/// Moves a whole part into its place; what it really is where that is something else.
fn put_in_place(digest: Digest, part: &Path, whole: &Path) -> io::Result<Option<Digest>> {
    let file = fs::File::open(part)?;
    let found = Digest::of_reader(&file)?;
    if found != digest {
        fs::remove_file(part)?;
        return Ok(Some(found));
    }
    file.sync_all()?;
    let folder = whole.parent().ok_or_else(|| io::Error::other("a blob has a folder"))?;
    make_folder(folder)?;
    fs::rename(part, whole)?;
    // The name has to be durable too, and so has a folder that was made just now.
    for folder in [Some(folder), folder.parent(), folder.parent().and_then(Path::parent)].into_iter().flatten() {
        fs::File::open(folder)?.sync_all()?;
    }
    Ok(None)
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(found) => Ok(found.filter_map(|e| Some(e.ok()?.path())).collect()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// Reads the next piece of an open blob; empty at its end.
pub async fn piece(file: &mut tokio::fs::File, most: usize) -> io::Result<Vec<u8>> {
    use tokio::io::AsyncReadExt as _;
    let mut piece = Vec::with_capacity(most);
    let mut rest = file.take(most as u64);
    while piece.len() < most && rest.read_buf(&mut piece).await? > 0 {}
    Ok(piece)
}

#[cfg(test)]
mod tests;
