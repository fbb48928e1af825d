//! Which file a connection has open, and whether its path still leads there.
//!
//! Somebody who puts a backup in place with `mv` leaves everybody who had the old file open with the old file. A
//! write-ahead log and its index lie beside the database under names made from its path, so the old ones would be
//! taken for those of the new file: whoever had the old file open and notices first puts them away. Until then, which
//! is until the next call of a service, a program that opens the new file for the first time is misled by them.

use std::{
    fs::{self, File, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

/// What tells one file from another, for as long as somebody has it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl From<Metadata> for FileId {
    fn from(metadata: Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// The file, and the log beside it, of a connection that has read from it.
#[derive(Clone, Debug)]
pub(super) struct OpenFile {
    path: PathBuf,
    database: Option<FileId>,
    log: Option<FileId>,
}

impl OpenFile {
    /// What `path` leads to.
    pub(super) fn at(path: &Path) -> Self {
        let database = fs::metadata(path).ok().map(FileId::from);
        let log = fs::metadata(side_file(path, "-wal")).ok().map(FileId::from);
        Self { path: path.to_owned(), database, log }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether `path` leads to another file, or to none. What cannot be looked at is taken for unchanged.
    pub(super) fn is_replaced(&self) -> bool {
        match fs::metadata(&self.path) {
            Ok(metadata) => self.database != Some(metadata.into()),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Removes the log and the index if they are those of the file that was replaced. The connection to it must
    /// still be open: then their numbers cannot have come to new files.
    pub(super) fn remove_old_log(&self) -> io::Result<()> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        // Others that notice the same wait here, and then see that it is done. A lock on the database itself would
        // not do: closing it would end the locks that SQLite has on it.
        let folder = File::open(folder.unwrap_or(Path::new(".")))?;
        let _locked = Flock::lock(folder, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
        let log = side_file(&self.path, "-wal");
        match fs::metadata(&log).map(FileId::from) {
            Ok(log) if self.log == Some(log) => {}
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
        match fs::remove_file(side_file(&self.path, "-shm")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => fs::remove_file(log),
        }
    }
}

/// The file beside the database whose name has this end.
pub(super) fn side_file(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}
