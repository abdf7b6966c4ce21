//! Disk space kept back for the day the disk is full: a file that is given up so that acks and state still commit.
//!
//! Knows files and free bytes, no record.
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Below this many free bytes the disk counts as full.
const LOW_WATER: u64 = 256 << 10;
/// Free bytes that must be left after the reserve was made again.
const MARGIN: u64 = 1 << 20;

/// The reserve file beside the outbox.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    bytes: u64,
}

impl Reserve {
    /// The reserve of an outbox: `most` bytes, but no more than a twentieth of the file system.
    pub(super) fn beside(outbox: &Path, most: u64) -> io::Result<Self> {
        let path = outbox.with_extension("reserve");
        let dir = outbox.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let fs = rustix::fs::statvfs(dir)?;
        Ok(Self { path, bytes: most.min(fs.f_blocks.saturating_mul(fs.f_frsize) / 20) })
    }

    /// Is there next to no space left?
    pub(super) fn is_low(&self) -> bool {
        self.free().is_ok_and(|free| free < LOW_WATER)
    }

    /// Gives the space up.
    pub(super) fn release(&self) {
        match fs::remove_file(&self.path) {
            Ok(()) => tracing::warn!(reserve_bytes = self.bytes, "disk full: the reserve is given up"),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => tracing::error!(error = %e, "the reserve cannot be given up"),
        }
    }

    /// Takes the space again; false while there is not enough.
    pub(super) fn restore(&self) -> bool {
        if fs::metadata(&self.path).is_ok_and(|m| m.len() == self.bytes) {
            return !self.is_low();
        }
        if self.free().is_ok_and(|free| free < self.bytes + MARGIN) {
            return false;
        }
        let made = self.make();
        if made.is_err() {
            drop(fs::remove_file(&self.path));
        }
        made.is_ok()
    }

    fn make(&self) -> io::Result<()> {
        let file = fs::File::create(&self.path)?;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, self.bytes.max(1))?;
        file.sync_all()
    }

    fn free(&self) -> io::Result<u64> {
        let dir = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let fs = rustix::fs::statvfs(dir)?;
        Ok(fs.f_bavail.saturating_mul(fs.f_frsize))
    }
}
