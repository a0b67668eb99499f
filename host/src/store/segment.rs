//! Spool segments: files that bodies are appended to, each body in a checked frame.
//!
//! Synchronous. The database says which frames count: what lies behind the last committed one is free space, and a
//! torn tail is overwritten by the next append. Overwriting blocks that exist already takes half the time of growing a
//! file: so a segment grows in steps, and one whose bodies nobody needs is renamed to become a later one. Each frame
//! names its segment's number, so that a leftover of the file's earlier life is never taken for a body.
//!
//! A frame: magic (4), length of the body (4), segment (8), message id (16), XXH3 of the body (8), XXH3 of all that
//! (8), body. Integers are little-endian.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use thiserror::Error;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use super::{BodyRef, private};

const MAGIC: [u8; 4] = *b"PHB1";
const HEADER_BYTES: usize = 48;
/// Bodies up to this size are gathered and written together; larger ones go to the file by themselves.
const GATHER_BYTES: usize = 256 * 1024;
/// What a segment grows by, in zeros: a sync of a file that grew waits for the file system's own records too. At most a
/// part of a whole segment.
const STEP_BYTES: u64 = 256 * 1024;
const STEP_SHARE: u64 = 16;
/// What is written ends with a whole block of the file system: the rest of one would be read first.
const BLOCK_BYTES: u64 = 4096;
/// Emptied segments kept to be used again.
const KEPT_FREE: usize = 2;
/// Where space lacks, a segment that holds this part of a whole one is closed, so that it can go.
const CLOSED_SHARE: u64 = 16;
const EXTENSION: &str = "seg";
const FREE_EXTENSION: &str = "free";

/// The digest of a body: finds damage and tells two bodies of one id apart. Not proof against forgery.
pub(super) fn digest(body: &[u8]) -> u64 {
    xxh3_64(body)
}

/// Where a frame lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) position: u64,
    /// Of the body.
    pub(super) size: u32,
}

impl Place {
    fn end(self) -> u64 {
        self.position + HEADER_BYTES as u64 + u64::from(self.size)
    }

    fn damaged(self, what: &'static str) -> BodyError {
        BodyError::Damaged { segment: self.segment, position: self.position, what }
    }

    pub(super) fn to_ref(self) -> BodyRef {
        BodyRef(format!("{}:{}:{}", self.segment, self.position, self.size))
    }
}

impl FromStr for Place {
    type Err = BodyError;

    fn from_str(text: &str) -> Result<Place, BodyError> {
        let unreadable = || BodyError::Unreadable(text.to_owned());
        let mut numbers = text.splitn(3, ':');
        let mut next = || numbers.next().and_then(|number| number.parse::<u64>().ok()).ok_or_else(unreadable);
        let (segment, position, size) = (next()?, next()?, next()?);
        Ok(Place { segment, position, size: u32::try_from(size).map_err(|_| unreadable())? })
    }
}

/// Why a body cannot be read.
#[derive(Debug, Error)]
pub(super) enum BodyError {
    #[error("`{0}` is not a body reference of this store")]
    Unreadable(String),
    #[error("segment {0} is gone: its messages are done with and their retention is over")]
    Gone(u64),
    #[error("the frame at segment {segment}, position {position} is damaged: {what}")]
    Damaged { segment: u64, position: u64, what: &'static str },
    #[error("segment {segment} cannot be read: {source}")]
    Io { segment: u64, source: io::Error },
}

/// Reads one body. Safe beside a writer: whatever does not fit the reference is an error, never another body.
pub(super) fn read(folder: &Path, place: Place) -> Result<Vec<u8>, BodyError> {
    let (header, body) = read_frame(folder, place, place.size)?;
    if header.digest != digest(&body) {
        return Err(place.damaged("the body's checksum is wrong"));
    }
    Ok(body)
}

/// Reads the first `octets` of a body, or all of a shorter one. Its frame is checked as in `read`; the checksum covers
/// the whole body and is not.
pub(super) fn read_head(folder: &Path, place: Place, octets: u32) -> Result<Vec<u8>, BodyError> {
    if octets >= place.size {
        return read(folder, place);
    }
    Ok(read_frame(folder, place, octets)?.1)
}

/// A frame's header, which fits the reference, and the first `octets` of its body.
fn read_frame(folder: &Path, place: Place, octets: u32) -> Result<(Header, Vec<u8>), BodyError> {
    let Place { segment, position, size } = place;
    let file = match File::open(path_of(folder, segment)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(BodyError::Gone(segment)),
        Err(source) => return Err(BodyError::Io { segment, source }),
    };
    // A wrong reference must not make us allocate more than the file can hold.
    let length = file.metadata().map_err(|source| BodyError::Io { segment, source })?.len();
    if length < place.end() {
        return Err(place.damaged("the segment ends before it"));
    }
    let mut frame = vec![0; HEADER_BYTES + octets as usize];
    file.read_exact_at(&mut frame, position).map_err(|source| BodyError::Io { segment, source })?;
    let body = frame.split_off(HEADER_BYTES);
    let header = Header::parse(&frame).ok_or_else(|| place.damaged("its header is not one"))?;
    if header.segment != segment || header.size != size {
        return Err(place.damaged("it is another frame"));
    }
    Ok((header, body))
}

/// The fixed part in front of a body.
struct Header {
    size: u32,
    segment: u64,
    id: Uuid,
    digest: u64,
}

impl Header {
    fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&self.size.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.segment.to_le_bytes());
        bytes[16..32].copy_from_slice(self.id.as_bytes());
        bytes[32..40].copy_from_slice(&self.digest.to_le_bytes());
        let check = xxh3_64(&bytes[0..40]);
        bytes[40..48].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Header> {
        let number = |from: usize| Some(u64::from_le_bytes(bytes.get(from..from + 8)?.try_into().ok()?));
        if bytes.get(0..4)? != MAGIC || number(40)? != xxh3_64(bytes.get(0..40)?) {
            return None;
        }
        Some(Header {
            size: u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?),
            segment: number(8)?,
            id: Uuid::from_slice(bytes.get(16..32)?).ok()?,
            digest: number(32)?,
        })
    }
}

/// The segment being written, and those waiting to be used again. Belongs to the writer thread.
pub(super) struct Spool {
    folder: PathBuf,
    /// Size from which on the next group begins a new segment.
    segment_bytes: u64,
    number: u64,
    file: File,
    /// Of the file, as far as it is known to be written.
    length: u64,
    /// Where the next frame goes, behind what is gathered.
    position: u64,
    gathered: Vec<u8>,
    free: Vec<PathBuf>,
    /// Whether the segment's name may be lost yet in a power cut.
    is_new: bool,
}

impl Spool {
    /// Goes on behind `last`, the last committed frame. `known` are the segments that hold committed bodies; all other
    /// files are leftovers of a crash and are free.
    pub(super) fn open(folder: &Path, segment_bytes: u64, last: Option<Place>, known: &[u64]) -> io::Result<Spool> {
        private::folder(folder)?;
        sync_folder(folder.parent().unwrap_or(folder))?;
        let newest_known = known.iter().copied().max().unwrap_or(0);
        let mut newest = last.map_or(0, |place| place.segment).max(newest_known);
        // The newest bodies may be retired already; their segment is not begun a second time, and an older one not again.
        let last = last.filter(|place| known.contains(&place.segment) && place.segment == newest_known);
        let current = last.map(|place| place.segment);
        let mut free = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            match number_of(&path) {
                Some(number) if known.contains(&number) => {}
                Some(number) => {
                    newest = newest.max(number);
                    free.push(path);
                }
                None if path.extension().is_some_and(|extension| extension == FREE_EXTENSION) => free.push(path),
                None => {}
            }
        }
        let (number, position) = match last {
            Some(place) => (place.segment, place.end()),
            None => (newest + 1, 0),
        };
        let file = match current {
            // Missing or too short, it is made again: what it held is reported when it is read.
            Some(number) => private::file(&path_of(folder, number))?,
            None => begin(folder, number, free.pop())?,
        };
        let (folder, length, gathered) = (folder.to_owned(), file.metadata()?.len(), Vec::new());
        let mut spool = Spool { folder, segment_bytes, number, file, length, position, gathered, free, is_new: true };
        // Numbers of leftovers are never given out again: a reference may name them.
        if newest > spool.number {
            spool.roll_to(newest + 1)?;
        }
        spool.trim_free(KEPT_FREE)?;
        Ok(spool)
    }

    /// The segment that the next frame goes to.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Where a failed group rewinds to.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Begins a new segment where the present one is full. Only between groups, so that a group is in one segment.
    pub(super) fn roll_if_full(&mut self) -> io::Result<()> {
        if self.position < self.segment_bytes {
            return Ok(());
        }
        self.roll_to(self.number + 1)
    }

    /// Gives back what can be spared, where space lacks: files that are kept to be used again go, and the present segment is
    /// closed, because one that is written to stays. Only between groups.
    pub(super) fn make_room(&mut self) -> io::Result<()> {
        self.trim_free(0)?;
        if self.position < self.segment_bytes / CLOSED_SHARE {
            return Ok(());
        }
        self.roll_to(self.number + 1)
    }

    /// Adds a frame to the group. Not durable before `sync`.
    pub(super) fn append(&mut self, id: Uuid, body: &[u8], digest: u64) -> io::Result<Place> {
        let size = u32::try_from(body.len())
            .map_err(|_| io::Error::new(io::ErrorKind::FileTooLarge, "a body of 4 GiB or more"))?;
        let place = Place { segment: self.number, position: self.position, size };
        let header = Header { size, segment: self.number, id, digest };
        self.gathered.extend_from_slice(&header.to_bytes());
        self.position = place.end();
        if body.len() <= GATHER_BYTES {
            self.gathered.extend_from_slice(body);
            if self.gathered.len() >= 4 * GATHER_BYTES {
                self.flush(self.position)?;
            }
        } else {
            self.flush(self.position - body.len() as u64)?;
            self.file.write_all_at(body, self.position - body.len() as u64)?;
        }
        Ok(place)
    }

    /// Hands all frames of the group to the system, without waiting for the disk. `grows`: the file may take more room than
    /// they need.
    pub(super) fn write(&mut self, grows: bool) -> io::Result<()> {
        let (end, gathered) = (self.position, self.gathered.len());
        let padded = if end > self.length && !grows {
            end
        } else if end > self.length {
            let step = STEP_BYTES.min(self.segment_bytes / STEP_SHARE).max(1);
            end.next_multiple_of(step).min(self.segment_bytes).max(end)
        } else {
            end.next_multiple_of(BLOCK_BYTES).min(self.length)
        };
        self.gathered.resize(gathered + (padded - end) as usize, 0);
        if self.flush(padded).is_ok() {
            self.length = self.length.max(padded);
            return Ok(());
        }
        // Without the padding, where the disk has no room for it, and without what was written of it.
        self.gathered.truncate(gathered);
        self.file.set_len(end.max(self.length))?;
        self.flush(end)
    }

    /// Makes the written frames durable, and the name of a new segment with the first of them.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        if self.is_new {
            sync_folder(&self.folder)?;
            self.is_new = false;
        }
        Ok(())
    }

    /// Forgets the frames behind a position: their group was not committed.
    pub(super) fn rewind(&mut self, position: u64) {
        self.gathered.clear();
        self.position = position;
    }

    /// Takes a segment out of use, once the database no longer names it. `keep_free`: its file may be used again.
    pub(super) fn retire(&mut self, number: u64, keep_free: bool) -> io::Result<()> {
        if number == self.number {
            return Ok(());
        }
        let path = path_of(&self.folder, number);
        let free = path.with_extension(FREE_EXTENSION);
        match std::fs::rename(&path, &free) {
            Ok(()) => self.free.push(free),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        self.trim_free(if keep_free { KEPT_FREE } else { 0 })
    }

    fn flush(&mut self, end: u64) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        self.file.write_all_at(&self.gathered, end - self.gathered.len() as u64)?;
        self.gathered.clear();
        Ok(())
    }

    fn roll_to(&mut self, number: u64) -> io::Result<()> {
        let file = begin(&self.folder, number, self.free.pop())?;
        let length = file.metadata()?.len();
        (self.file, self.length, self.number, self.position, self.is_new) = (file, length, number, 0, true);
        Ok(())
    }

    /// Keeps so many files to be used again; the others go.
    pub(super) fn trim_free(&mut self, kept: usize) -> io::Result<()> {
        while self.free.len() > kept {
            if let Some(path) = self.free.pop() {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

/// Makes the file of a segment, out of a free one where there is one.
fn begin(folder: &Path, number: u64, free: Option<PathBuf>) -> io::Result<File> {
    let path = path_of(folder, number);
    if let Some(free) = free {
        std::fs::rename(free, &path)?;
    }
    private::file(&path)
}

/// A new name in a folder survives a power cut only when the folder is synced too.
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

pub(super) fn path_of(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:010}.{EXTENSION}"))
}

fn number_of(path: &Path) -> Option<u64> {
    if path.extension()? != EXTENSION {
        return None;
    }
    path.file_stem()?.to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const BIG: u64 = 1 << 20;

    fn put(spool: &mut Spool, body: &[u8]) -> Place {
        let place = spool.append(Uuid::from_u128(7), body, digest(body)).unwrap();
        spool.write(true).unwrap();
        spool.sync().unwrap();
        place
    }

    #[test]
    fn bodies_of_every_size_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path(), BIG, None, &[]).unwrap();
        let mut stored = Vec::new();
        for size in [0, 1, 10_000, GATHER_BYTES, GATHER_BYTES + 1, 3 * GATHER_BYTES, 10, 5 * GATHER_BYTES, 9] {
            let body: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            stored.push((spool.append(Uuid::from_u128(size as u128), &body, digest(&body)).unwrap(), body));
        }
        spool.write(true).unwrap();
        for (place, body) in &stored {
            assert_eq!(&read(folder.path(), *place).unwrap(), body);
            assert_eq!(place.to_ref().0.parse::<Place>().unwrap(), *place);
        }
    }

    #[test]
    fn a_torn_tail_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path(), BIG, None, &[]).unwrap();
        let kept = put(&mut spool, b"kept");
        put(&mut spool, b"torn: never committed");
        drop(spool);
        let mut spool = Spool::open(folder.path(), BIG, Some(kept), &[kept.segment]).unwrap();
        let next = put(&mut spool, b"next");
        assert_eq!(next.position, kept.end());
        assert_eq!(read(folder.path(), kept).unwrap(), b"kept");
        assert_eq!(read(folder.path(), next).unwrap(), b"next");
    }

    #[test]
    fn a_segment_grows_in_steps_and_not_beyond_its_size() {
        const STEP: u64 = BIG / STEP_SHARE;
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path(), BIG, None, &[]).unwrap();
        let length = |spool: &Spool| std::fs::metadata(path_of(folder.path(), spool.number())).unwrap().len();
        let first = put(&mut spool, b"first");
        assert_eq!(length(&spool), STEP);
        let second = put(&mut spool, &[b'x'; 5000]);
        assert_eq!(length(&spool), STEP, "there was room");
        let third = put(&mut spool, &vec![b'y'; BIG as usize - 6000]);
        assert_eq!(length(&spool), BIG, "a part of a step");
        let fourth = put(&mut spool, &[b'z'; 2000]);
        assert_eq!(length(&spool), fourth.end(), "a group may exceed it, no padding does");
        drop(spool);
        let mut spool = Spool::open(folder.path(), BIG, Some(second), &[second.segment]).unwrap();
        let again = put(&mut spool, b"over what was not committed");
        assert_eq!(again.position, third.position);
        for (place, body) in [(first, &b"first"[..]), (second, &[b'x'; 5000]), (again, b"over what was not committed")]
        {
            assert_eq!(read(folder.path(), place).unwrap(), body);
        }
    }

    #[test]
    fn damage_is_told_and_never_another_body() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path(), BIG, None, &[]).unwrap();
        let place = put(&mut spool, b"0123456789");
        let file = private::file(&path_of(folder.path(), place.segment)).unwrap();
        for position in 0..place.end() {
            let mut byte = [0];
            file.read_exact_at(&mut byte, position).unwrap();
            file.write_all_at(&[byte[0] ^ 1], position).unwrap();
            assert!(matches!(read(folder.path(), place), Err(BodyError::Damaged { .. })), "octet {position}");
            file.write_all_at(&byte, position).unwrap();
        }
        assert_eq!(read(folder.path(), place).unwrap(), b"0123456789");
        file.set_len(place.end() - 1).unwrap();
        assert!(matches!(read(folder.path(), place), Err(BodyError::Damaged { .. })));
        assert!(matches!(read(folder.path(), Place { segment: 99, ..place }), Err(BodyError::Gone(99))));
    }

    #[test]
    fn a_head_is_read_without_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path(), BIG, None, &[]).unwrap();
        let place = put(&mut spool, b"0123456789");
        for (octets, expect) in [(0, "".as_bytes()), (4, b"0123"), (10, b"0123456789"), (99, b"0123456789")] {
            assert_eq!(read_head(folder.path(), place, octets).unwrap(), expect, "{octets}");
        }
        let other = Place { size: 9, ..place };
        assert!(matches!(read_head(folder.path(), other, 4), Err(BodyError::Damaged { .. })));
        let file = private::file(&path_of(folder.path(), place.segment)).unwrap();
        file.write_all_at(b"x", place.end() - 1).unwrap();
        assert_eq!(read_head(folder.path(), place, 4).unwrap(), b"0123");
        assert!(matches!(read_head(folder.path(), place, 10), Err(BodyError::Damaged { .. })));
    }

    #[test]
    fn references_that_are_none_are_refused() {
        for text in ["", "1", "1:2", "1:2:x", "1:2:3:4", "-1:2:3", "1:2:4294967296"] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_full_segment_is_followed_by_a_recycled_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path(), 100, None, &[]).unwrap();
        let first = put(&mut spool, &[b'a'; 200]);
        spool.roll_if_full().unwrap();
        let second = put(&mut spool, b"second");
        assert_eq!(second.segment, first.segment + 1);
        spool.roll_if_full().unwrap();
        assert_eq!(spool.number(), second.segment, "not full yet");
        put(&mut spool, &[b'b'; 200]);
        spool.retire(first.segment, true).unwrap();
        assert!(matches!(read(folder.path(), first), Err(BodyError::Gone(_))));
        spool.roll_if_full().unwrap();
        assert_eq!(spool.number(), second.segment + 1);
        let stale = Place { segment: spool.number(), ..first };
        assert!(matches!(read(folder.path(), stale), Err(BodyError::Damaged { .. })), "a leftover is no body");
        let files = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(files, 2, "the first file became the third segment");
        assert_eq!(read(folder.path(), second).unwrap(), b"second");
    }

    #[test]
    fn leftovers_of_a_crash_are_used_again_under_a_new_number() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path(), 100, None, &[]).unwrap();
        let first = put(&mut spool, &[b'a'; 200]);
        spool.roll_if_full().unwrap();
        let lost = put(&mut spool, b"its group was never committed");
        drop(spool);
        let mut spool = Spool::open(folder.path(), 100, Some(first), &[first.segment]).unwrap();
        assert!(spool.number() > lost.segment);
        assert!(read(folder.path(), lost).is_err());
        let next = put(&mut spool, b"next");
        assert_eq!(read(folder.path(), next).unwrap(), b"next");
        assert_eq!(read(folder.path(), first).unwrap(), [b'a'; 200]);
    }

    #[test]
    fn a_rewound_group_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path(), BIG, None, &[]).unwrap();
        let start = spool.position();
        spool.append(Uuid::from_u128(1), b"x", 1).unwrap();
        spool.rewind(start);
        let place = put(&mut spool, b"y");
        assert_eq!(place.position, start);
        assert_eq!(read(folder.path(), place).unwrap(), b"y");
    }
}
