//! [`StateFile`]: what a service wants to know again after its next start, on disk.
//!
//! ```text
//!  "LARSTATE"  format   length of   written at,    body   CRC-32C of
//!   8 bytes    u32 LE   the body    ms since 1970          all before
//!                        u64 LE       u64 LE                 u32 LE
//! ```
//!
//! A file is written beside its place, flushed to the disk and renamed, so that there is always a whole one: the one before
//! or the new one. One that is not whole all the same, or that this program cannot know, is moved aside, to
//! be looked at, and the service starts without. What the body means is the service's own business.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

const MAGIC: [u8; 8] = *b"LARSTATE";
const HEADER_LEN: usize = MAGIC.len() + 4 + 8 + 8;
const CRC_LEN: usize = 4;

/// Bytes of the longest body. A million modules of ten hosts have some 150 MB.
pub const STATE_LEN_MAX: usize = 1 << 30;

/// A file may say that it was written so much later than now: clocks are set. One from further ahead is not used,
/// because how old anything in it is cannot be told.
pub const STATE_AHEAD_MAX: Duration = Duration::from_secs(60);

/// Files that were moved aside and are kept: `NAME.bad` is the newest, then `NAME.bad.1` and `NAME.bad.2`.
pub const BAD_FILES_MAX: usize = 3;

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedState {
    /// When it was written, by the clock of then; at most [`STATE_AHEAD_MAX`] ahead.
    pub written_at: SystemTime,
    /// What was written.
    pub body: Vec<u8>,
}

impl SavedState {
    /// How long ago it was written; 0 if the clock was set back since.
    #[must_use]
    pub fn age(&self, now: SystemTime) -> Duration {
        now.duration_since(self.written_at).unwrap_or_default()
    }
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateProblem {
    /// It does not begin as a state file does.
    #[error("it is no state file")]
    NoStateFile,
    /// It is of another version of the program, or of another program.
    #[error("it has format {0}, which this program does not know")]
    Format(u32),
    /// It has not the length that it says.
    #[error("it has {actual} bytes instead of {announced}")]
    Length {
        /// What its header says.
        announced: u64,
        /// What there is.
        actual: u64,
    },
    /// It is not what was written.
    #[error("its checksum is wrong")]
    Checksum,
    /// It was written later than now.
    #[error("it was written {}s from now", ahead.as_secs())]
    Future {
        /// So much later.
        ahead: Duration,
    },
    /// It is longer than any file that is written.
    #[error("it has {0} bytes, which is too much")]
    TooLong(u64),
    /// It is what was written, and the service cannot use it.
    #[error("{0}")]
    Body(String),
}

/// Why a state was not read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The system does not let us.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried, like `read`.
        what: &'static str,
        /// Of which file or folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The file is unusable and was moved aside.
    #[error("{} is not used, see {}: {problem}", path.display(), moved_to.display())]
    MovedAside {
        /// Where it was.
        path: PathBuf,
        /// Where it is.
        moved_to: PathBuf,
        /// What is wrong with it.
        problem: StateProblem,
    },
    /// The file is unusable, and could not be moved aside either.
    #[error("{} is not used: {problem}; it cannot be moved aside: {source}", path.display())]
    LeftInPlace {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        problem: StateProblem,
        /// Why it could not be moved.
        source: io::Error,
    },
    /// There is more than a file may hold.
    #[error("a state of {0} bytes is not written, it is over the limit of {STATE_LEN_MAX}")]
    TooLong(usize),
}

/// A file that holds what a service wants to know again after its next start. For one process at a time.
#[derive(Clone, Debug)]
pub struct StateFile {
    dir: PathBuf,
    path: PathBuf,
    format: u32,
}

impl StateFile {
    /// The file `name` in `dir`, whose body has the given format: a number that is never used again for another one.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, name: &str, format: u32) -> Self {
        let dir = dir.into();
        Self { path: dir.join(name), dir, format }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was written last; `None` if there is no such file.
    ///
    /// # Errors
    /// If it cannot be read, or is not usable; then it is moved aside.
    pub fn read(&self, now: SystemTime) -> Result<Option<SavedState>, StateError> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed("read", error)),
        };
        let mut bytes = Vec::new();
        let limit = (HEADER_LEN + STATE_LEN_MAX + CRC_LEN) as u64;
        let len = file.metadata().map_err(|error| self.failed("read", error))?.len();
        if len > limit {
            return Err(self.move_aside(StateProblem::TooLong(len)));
        }
        file.take(limit).read_to_end(&mut bytes).map_err(|error| self.failed("read", error))?;
        self.parse(bytes, now).map(Some).map_err(|problem| self.move_aside(problem))
    }

    /// Replaces what was written before. Makes the folder if there is none.
    ///
    /// # Errors
    /// If the system does not let us; then what was written before is still there.
    pub fn write(&self, body: &[u8], now: SystemTime) -> Result<(), StateError> {
        if body.len() > STATE_LEN_MAX {
            return Err(StateError::TooLong(body.len()));
        }
        let written_ms = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let mut header = Vec::with_capacity(HEADER_LEN);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&self.format.to_le_bytes());
        header.extend_from_slice(&(body.len() as u64).to_le_bytes());
        header.extend_from_slice(&written_ms.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&header), body);

        fs::create_dir_all(&self.dir).map_err(|error| failed("make", &self.dir, error))?;
        // Always the same name, so that a crash leaves one such file at most.
        let new = self.with_suffix(".new");
        let written = write_through(&new, &[&header, body, &crc.to_le_bytes()]);
        if written.is_err() {
            // What is half written may be what fills the disk.
            let _ = fs::remove_file(&new);
        }
        written.map_err(|error| failed("write", &new, error))?;
        fs::rename(&new, &self.path).map_err(|error| self.failed("replace", error))?;
        // The name must be on the disk as well.
        let synced = File::open(&self.dir).and_then(|dir| dir.sync_all());
        synced.map_err(|error| failed("flush", &self.dir, error))
    }

    /// For a service that cannot use what is in the body: moves the file aside. What it returns is to be logged.
    #[must_use]
    pub fn reject(&self, problem: impl Into<String>) -> StateError {
        self.move_aside(StateProblem::Body(problem.into()))
    }

    fn parse(&self, mut bytes: Vec<u8>, now: SystemTime) -> Result<SavedState, StateProblem> {
        let magic = bytes.first_chunk().ok_or(StateProblem::NoStateFile)?;
        if *magic != MAGIC {
            return Err(StateProblem::NoStateFile);
        }
        let too_short =
            StateProblem::Length { announced: (HEADER_LEN + CRC_LEN) as u64, actual: bytes.len() as u64 };
        let Some((header, _)) = bytes.split_first_chunk::<HEADER_LEN>() else { return Err(too_short) };
        let field = |at: usize| header[at..].first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let (format, body_len, written_ms) = (field(8) as u32, field(12), field(20));
        if format != self.format {
            return Err(StateProblem::Format(format));
        }
        let announced = body_len.saturating_add((HEADER_LEN + CRC_LEN) as u64);
        if announced != bytes.len() as u64 {
            return Err(StateProblem::Length { announced, actual: bytes.len() as u64 });
        }
        let Some((content, crc)) = bytes.split_last_chunk::<CRC_LEN>() else { return Err(too_short) };
        if crc32c::crc32c(content) != u32::from_le_bytes(*crc) {
            return Err(StateProblem::Checksum);
        }
        let now_ms = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let ahead = Duration::from_millis(written_ms.saturating_sub(now_ms));
        if ahead > STATE_AHEAD_MAX {
            return Err(StateProblem::Future { ahead });
        }
        bytes.truncate(bytes.len() - CRC_LEN);
        bytes.drain(..HEADER_LEN);
        Ok(SavedState { written_at: UNIX_EPOCH + Duration::from_millis(written_ms), body: bytes })
    }

    /// The newest bad files are kept, the oldest gives way.
    fn move_aside(&self, problem: StateProblem) -> StateError {
        let path = self.path.clone();
        let name = |n: usize| match n {
            0 => self.with_suffix(".bad"),
            n => self.with_suffix(&format!(".bad.{n}")),
        };
        for n in (1..BAD_FILES_MAX).rev() {
            // Mostly there is none.
            let _ = fs::rename(name(n - 1), name(n));
        }
        match fs::rename(&path, name(0)) {
            Ok(()) => StateError::MovedAside { path, moved_to: name(0), problem },
            Err(source) => StateError::LeftInPlace { path, problem, source },
        }
    }

    fn with_suffix(&self, suffix: &str) -> PathBuf {
        let mut path = OsString::from(&self.path);
        path.push(suffix);
        path.into()
    }

    fn failed(&self, what: &'static str, source: io::Error) -> StateError {
        failed(what, &self.path, source)
    }
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> StateError {
    StateError::Io { what, path: path.into(), source }
}

/// Writes a new file, or one anew, and waits until it is on the disk.
fn write_through(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let mut file = File::create(path)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FORMAT: u32 = 7;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    struct Place {
        dir: tempfile::TempDir,
        file: StateFile,
    }

    fn place() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let file = StateFile::new(dir.path(), "state", FORMAT);
        Place { dir, file }
    }

    fn names(place: &Place) -> Vec<String> {
        let entries = fs::read_dir(place.dir.path()).unwrap().map(Result::unwrap);
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    fn problem(result: Result<Option<SavedState>, StateError>) -> StateProblem {
        match result {
            Err(StateError::MovedAside { problem, .. }) => problem,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_was_written_last_is_read() {
        let place = place();
        assert_eq!(place.file.read(at(0)).unwrap(), None);
        for (body, seconds) in [(&b"first"[..], 1_000), (b"", 2_000), (b"third", 3_000)] {
            place.file.write(body, at(seconds)).unwrap();
            let expected = SavedState { written_at: at(seconds), body: body.to_vec() };
            assert_eq!(place.file.read(at(seconds + 7)).unwrap(), Some(expected.clone()));
            assert_eq!(expected.age(at(seconds + 7)).as_secs(), 7);
            assert_eq!(expected.age(at(seconds - 7)).as_secs(), 0);
        }
        assert_eq!(names(&place), ["state"], "nothing is left over");
    }

    #[test]
    fn a_missing_folder_is_made() {
        let place = place();
        let file = StateFile::new(place.dir.path().join("a/b"), "state", FORMAT);
        file.write(b"x", at(1)).unwrap();
        assert!(file.read(at(1)).unwrap().is_some());
    }

    #[test]
    fn what_a_crash_left_half_written_is_in_nobodys_way() {
        let place = place();
        place.file.write(b"before", at(1)).unwrap();
        fs::write(place.dir.path().join("state.new"), b"LARSTATE half").unwrap();
        assert_eq!(place.file.read(at(1)).unwrap().unwrap().body, b"before");
        place.file.write(b"x", at(2)).unwrap();
        assert_eq!(names(&place), ["state"]);
    }

    #[test]
    fn each_kind_of_bad_file_is_told_apart() {
        let place = place();
        let check = |bytes: &[u8], expect: StateProblem| {
            fs::write(place.file.path(), bytes).unwrap();
            assert_eq!(problem(place.file.read(at(1_000))), expect);
            assert!(!place.file.path().exists());
        };
        place.file.write(b"body", at(1_000)).unwrap();
        let good = fs::read(place.file.path()).unwrap();
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        check(b"", StateProblem::NoStateFile);
        check(b"[state]\ndir = ''\n", StateProblem::NoStateFile);
        check(&with(8, 8), StateProblem::Format(8));
        check(&good[..20], StateProblem::Length { announced: 32, actual: 20 });
        check(&good[..35], StateProblem::Length { announced: 36, actual: 35 });
        check(&[&good[..], b"x"].concat(), StateProblem::Length { announced: 36, actual: 37 });
        check(&with(29, b'B'), StateProblem::Checksum);

        place.file.write(b"body", at(1_061)).unwrap();
        assert_eq!(
            problem(place.file.read(at(1_000))),
            StateProblem::Future { ahead: Duration::from_secs(61) }
        );
        place.file.write(b"body", at(1_060)).unwrap();
        assert!(place.file.read(at(1_000)).unwrap().is_some(), "clocks are set");
        let error = place.file.reject("there is no module 3");
        assert!(error.to_string().ends_with("state.bad: there is no module 3"), "{error}");
    }

    #[test]
    fn the_newest_bad_files_are_kept() {
        let place = place();
        for n in 0..5 {
            fs::write(place.file.path(), format!("bad {n}")).unwrap();
            problem(place.file.read(at(1)));
        }
        let kept = ["state.bad", "state.bad.1", "state.bad.2"];
        assert_eq!(names(&place), kept);
        let texts = kept.map(|name| fs::read_to_string(place.dir.path().join(name)).unwrap());
        assert_eq!(texts, ["bad 4", "bad 3", "bad 2"]);
    }

    #[test]
    fn a_write_that_fails_leaves_what_was_there() {
        let place = place();
        place.file.write(b"before", at(1)).unwrap();
        // Nobody, not even root, can write a file where a folder is.
        fs::create_dir(place.dir.path().join("state.new")).unwrap();
        let error = place.file.write(b"after", at(2)).unwrap_err();
        assert!(error.to_string().contains("cannot write"), "{error}");
        assert_eq!(place.file.read(at(2)).unwrap().unwrap().body, b"before");
    }

    proptest! {
        #[test]
        fn every_truncation_and_every_changed_bit_is_found(
            body in prop::collection::vec(any::<u8>(), 0..200),
            cut: prop::sample::Index,
            bit: prop::sample::Index,
        ) {
            let place = place();
            place.file.write(&body, at(1_000)).unwrap();
            let good = fs::read(place.file.path()).unwrap();
            let mut flipped = good.clone();
            let bit = bit.index(good.len() * 8);
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(place.file.parse(flipped, at(1_000)).is_err(), "bit {}", bit);
            let cut = cut.index(good.len());
            prop_assert!(place.file.parse(good[..cut].to_vec(), at(1_000)).is_err(), "{} bytes", cut);
            let read = place.file.parse(good, at(1_000));
            prop_assert_eq!(read, Ok(SavedState { written_at: at(1_000), body }));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>, with_magic: bool) {
            let file = StateFile::new("", "state", FORMAT);
            let start = if with_magic { &MAGIC[..] } else { &[] };
            prop_assert!(file.parse([start, &bytes].concat(), at(1_000)).is_err());
        }
    }
}
