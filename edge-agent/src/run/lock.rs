//! One agent per state folder: a lock on `agent.lock`, whose content says who holds it. The kernel gives the lock back
//! when the process dies, however it dies.
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
};

/// Who holds the lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub pid: u32,
    /// Where it answers.
    pub socket: PathBuf,
}

/// Why the lock was not given.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("{} cannot be opened", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("another agent (pid {pid}) runs on the state folder {}", state_dir.display())]
    Taken { pid: u32, state_dir: PathBuf },
}

/// The lock; given back when dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Takes the lock for this process.
pub fn take(state_dir: &Path, socket: &Path) -> Result<Lock, LockError> {
    let path = state_dir.join("agent.lock");
    let failed = |source| LockError::Open { path: path.clone(), source };
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let pid = read(&mut file).map_or(0, |h| h.pid);
        return Err(LockError::Taken { pid, state_dir: state_dir.to_owned() });
    }
    let held = Held { pid: std::process::id(), socket: socket.to_owned() };
    let text = serde_json::to_vec(&held).expect("a pid and a path can be written as JSON");
    // On a full disk the agent still starts: the content only helps people and `status`.
    let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(&text));
    if let Err(error) = written {
        tracing::warn!(%error, "agent.lock cannot be written; `status` will not find this agent");
    }
    Ok(Lock { _file: file })
}

/// Who runs on this state folder now; nobody if the lock is free.
pub fn holder(state_dir: &Path) -> Option<Held> {
    let mut file = File::open(state_dir.join("agent.lock")).ok()?;
    // A shared lock is given only when nobody holds the exclusive one; it goes with the file.
    if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
        return None;
    }
    read(&mut file)
}

fn read(file: &mut File) -> Option<Held> {
    let mut text = String::new();
    file.take(16 << 10).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_is_refused_by_the_pid_of_the_first() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(holder(dir.path()), None);
        let lock = take(dir.path(), Path::new("/run/x/status.sock")).expect("free");
        let error = take(dir.path(), Path::new("/y")).expect_err("taken").to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        assert_eq!(holder(dir.path()).expect("held").socket, Path::new("/run/x/status.sock"));
        drop(lock);
        assert_eq!(holder(dir.path()), None);
        take(dir.path(), Path::new("/y")).expect("free again");
    }
}
