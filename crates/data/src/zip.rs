//! A strict reader for the zip archives that `.npz` files are.
//!
//! Why it exists: an archive states every size several times, and a reader that allocates by what is stated can be
//! brought down by a file of 200 bytes. This one reads the directory, trusts it only after checking it against the archive's
//! length, and reads an entry when it is asked for; buffers grow with the bytes that arrive.
//!
//! Assumes: a single-disk archive below 4 GiB, entries stored or deflated, not encrypted; anything else is
//! [`DataError::Unsupported`].
//! Promises: no panic on any input; entries do not overlap, so the same compressed bytes are never expanded twice; each
//! entry has exactly the stated length and checksum.
//!
//! Source of the layout: PKWARE, APPNOTE.TXT, sections 4.3.7 (local header), 4.3.12 (central directory) and 4.3.16 (end
//! of central directory). All integers are little endian.

use std::io::{self, BufRead, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use flate2::Crc;
use flate2::bufread::DeflateDecoder;

use crate::{DataError, reading};

const LOCAL_SIGNATURE: u32 = 0x0403_4b50;
const CENTRAL_SIGNATURE: u32 = 0x0201_4b50;
const END_SIGNATURE: u32 = 0x0605_4b50;
/// The length of the end record without its comment.
const END_LEN: usize = 22;
/// The length of a central header without name, extra field and comment.
const CENTRAL_LEN: usize = 46;
/// The length of a local header without name and extra field.
const LOCAL_LEN: usize = 30;
/// The flag bit of an encrypted entry.
const ENCRYPTED: u16 = 1;
const STORED: u16 = 0;
const DEFLATED: u16 = 8;

/// An archive, open for reading.
#[derive(Debug)]
pub(crate) struct Archive<R> {
    file: R,
    n_bytes: u64,
    entries: Vec<Entry>,
    /// What errors call it.
    name: String,
}

/// One checked entry: its name and where its compressed bytes are.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    /// The uncompressed length, as the directory states it.
    n_bytes: u64,
    /// Where the local header, the name and the compressed bytes are in the archive.
    extent: Range<u64>,
    n_compressed: u64,
    deflated: bool,
    crc: u32,
}

impl Entry {
    /// The bytes that it expands to; none if it is stored as it is.
    pub(crate) fn expanded(&self) -> u64 {
        if self.deflated { self.n_bytes } else { 0 }
    }
}

impl<R: BufRead + Seek> Archive<R> {
    /// Reads and checks the directory.
    pub(crate) fn open(mut file: R, name: &str) -> Result<Self, DataError> {
        let n_bytes = file.seek(SeekFrom::End(0)).map_err(|error| broken(name, "end record", error))?;
        if n_bytes > u64::from(u32::MAX) {
            return Err(unsupported(name, "a file of 4 GiB and more"));
        }
        let mut archive = Archive { file, n_bytes, entries: Vec::new(), name: name.to_owned() };
        let (directory, n_entries) = archive.end_record()?;
        let bytes = archive.range(directory.start, directory.end - directory.start, "central directory")?;
        let mut position = 0;
        for _ in 0..n_entries {
            position = archive.central_header(&bytes, position, directory.start)?;
        }
        if position != bytes.len() {
            return Err(archive.malformed(
                "central directory",
                format!("exactly {n_entries} entries"),
                "surplus bytes",
            ));
        }
        archive.check_disjoint()?;
        Ok(archive)
    }

    /// The length of the archive.
    pub(crate) fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// The entries, in the order of the directory.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The uncompressed contents of an entry, checked against the stated length and checksum; `name` is what errors call it.
    pub(crate) fn contents(&mut self, entry: usize, name: &str) -> Result<Vec<u8>, DataError> {
        let entry = &self.entries[entry];
        reading::ask(name, if entry.deflated { entry.n_bytes } else { entry.n_bytes.min(entry.n_compressed) })?;
        let cut_off = |error| broken(name, "compressed data", error);
        self.file.seek(SeekFrom::Start(entry.extent.end - entry.n_compressed)).map_err(cut_off)?;
        let mut compressed = (&mut self.file).take(entry.n_compressed);
        let mut contents = Vec::new();
        if entry.deflated {
            let mut decoder = DeflateDecoder::new(compressed);
            // One byte more than stated tells "exact" from "too long" and makes the decoder see its end mark.
            let read = (&mut decoder).take(entry.n_bytes + 1).read_to_end(&mut contents);
            read.map_err(cut_off)?;
            if contents.len() as u64 == entry.n_bytes && decoder.get_ref().limit() > 0 {
                return Err(malformed(name, "compressed data", "nothing after the deflate stream", "surplus bytes"));
            }
        } else {
            compressed.read_to_end(&mut contents).map_err(cut_off)?;
        }
        if contents.len() as u64 != entry.n_bytes {
            let got =
                if (contents.len() as u64) < entry.n_bytes { contents.len().to_string() } else { "more".to_owned() };
            let required = format!("exactly {} bytes, as the directory says", entry.n_bytes);
            return Err(malformed(name, "contents", required, got));
        }
        let mut crc = Crc::new();
        crc.update(&contents);
        if crc.sum() != entry.crc {
            let required = format!("a CRC-32 of {:08x}, as the directory says", entry.crc);
            return Err(malformed(name, "contents", required, format!("{:08x}", crc.sum())));
        }
        Ok(contents)
    }

    /// Where the directory is, and how many entries it has.
    fn end_record(&mut self) -> Result<(Range<u64>, u16), DataError> {
        let tail_len = self.n_bytes.min((END_LEN + usize::from(u16::MAX)) as u64);
        let tail_start = self.n_bytes - tail_len;
        let tail = self.range(tail_start, tail_len, "end record")?;
        let end = find_end(&tail).ok_or_else(|| {
            self.malformed("end record", "the end record of a zip archive", "none; the file is cut off or no archive")
        })?;
        // find_end made sure that the record is complete, so none of these reads falls short.
        let field = |offset| u16_at(&tail, end + offset).unwrap_or_default();
        let wide = |offset| u32_at(&tail, end + offset).unwrap_or_default();
        let (disk, directory_disk, n_on_disk, n_entries) = (field(4), field(6), field(8), field(10));
        let (length, start) = (wide(12), wide(16));
        if n_entries == u16::MAX || length == u32::MAX || start == u32::MAX {
            return Err(unsupported(&self.name, "a zip64 archive (4 GiB and more, or 65,535 entries)"));
        }
        if disk != 0 || directory_disk != 0 || n_on_disk != n_entries {
            return Err(unsupported(&self.name, "an archive of several parts"));
        }
        let (end, start, length) = (tail_start + end as u64, u64::from(start), u64::from(length));
        if start + length != end {
            let got = format!("offset {start} and length {length}");
            return Err(self.malformed("end record", format!("a directory that ends at offset {end}"), got));
        }
        Ok((start..end, n_entries))
    }

    /// Reads the central header at `position` of the directory, which begins at `start`, and the local header that it points
    /// to; returns the position of the next one.
    fn central_header(&mut self, directory: &[u8], position: usize, start: u64) -> Result<usize, DataError> {
        let cut_off = |archive: &Self| {
            archive.malformed("central directory", "a complete header for every entry", "the end of the directory")
        };
        let Some(header) = slice(directory, position, CENTRAL_LEN) else { return Err(cut_off(self)) };
        let field = |offset| u16_at(header, offset).unwrap_or_default();
        let wide = |offset| u32_at(header, offset).unwrap_or_default();
        if wide(0) != CENTRAL_SIGNATURE {
            let got = format!("{:#010x}", wide(0));
            return Err(self.malformed("central directory", "the signature of a header", got));
        }
        let name_start = position + CENTRAL_LEN;
        let Some(raw_name) = slice(directory, name_start, usize::from(field(28))) else { return Err(cut_off(self)) };
        let next = name_start + raw_name.len() + usize::from(field(30)) + usize::from(field(32));
        if next > directory.len() {
            return Err(cut_off(self));
        }
        let name = str::from_utf8(raw_name)
            .map_err(|error| self.malformed("central directory", "names in UTF-8", error))?
            .to_owned();
        let full_name = format!("{}: {name}", self.name);
        let (flags, method, crc, n_compressed, n_bytes, local) =
            (field(8), field(10), wide(16), wide(20), wide(24), wide(42));
        if flags & ENCRYPTED != 0 {
            return Err(unsupported(&full_name, "an encrypted entry"));
        }
        if method != STORED && method != DEFLATED {
            return Err(unsupported(
                &full_name,
                &format!("compression method {method} (only stored and deflated are read)"),
            ));
        }
        if [n_compressed, n_bytes, local].contains(&u32::MAX) {
            return Err(unsupported(&full_name, "a zip64 entry (4 GiB and more)"));
        }
        let (local, n_compressed) = (u64::from(local), u64::from(n_compressed));
        let outside = || {
            let required = "a header and data before the directory";
            malformed(&full_name, "local header", required, "an offset or size beyond it")
        };
        if local + LOCAL_LEN as u64 > start {
            return Err(outside());
        }
        let local_header = self.range(local, LOCAL_LEN as u64, "local header")?;
        if u32_at(&local_header, 0) != Some(LOCAL_SIGNATURE) {
            return Err(malformed(&full_name, "local header", "its signature", "other bytes"));
        }
        let lengths = [26, 28].map(|offset| u64::from(u16_at(&local_header, offset).unwrap_or_default()));
        let end = local + LOCAL_LEN as u64 + lengths[0] + lengths[1] + n_compressed;
        if end > start {
            return Err(outside());
        }
        let (deflated, n_bytes) = (method == DEFLATED, u64::from(n_bytes));
        self.entries.push(Entry { name, n_bytes, extent: local..end, n_compressed, deflated, crc });
        Ok(next)
    }

    /// Entries that share compressed bytes are how an archive of some kilobytes expands to terabytes.
    fn check_disjoint(&self) -> Result<(), DataError> {
        let mut extents: Vec<_> = self.entries.iter().map(|entry| (entry.extent.start, entry.extent.end)).collect();
        extents.sort_unstable();
        if extents.windows(2).any(|pair| pair[0].1 > pair[1].0) {
            let got = "entries that share bytes";
            return Err(self.malformed("central directory", "entries that do not overlap", got));
        }
        Ok(())
    }

    /// Some bytes of the archive, which has them.
    fn range(&mut self, start: u64, n_bytes: u64, part: &'static str) -> Result<Vec<u8>, DataError> {
        let cut_off = |error| broken(&self.name, part, error);
        self.file.seek(SeekFrom::Start(start)).map_err(cut_off)?;
        let mut bytes = Vec::new();
        (&mut self.file).take(n_bytes).read_to_end(&mut bytes).map_err(cut_off)?;
        if bytes.len() as u64 == n_bytes { Ok(bytes) } else { Err(cut_off(io::ErrorKind::UnexpectedEof.into())) }
    }

    fn malformed(&self, part: &'static str, required: impl Into<String>, got: impl ToString) -> DataError {
        malformed(&self.name, part, required, got)
    }
}

/// The offset of the end record: the last place whose comment reaches exactly to the end of the file.
fn find_end(tail: &[u8]) -> Option<usize> {
    let last = tail.len().checked_sub(END_LEN)?;
    (0..=last).rev().find(|&start| {
        u32_at(tail, start) == Some(END_SIGNATURE)
            && u16_at(tail, start + 20).is_some_and(|comment| start + END_LEN + usize::from(comment) == tail.len())
    })
}

fn slice(bytes: &[u8], start: usize, n_bytes: usize) -> Option<&[u8]> {
    bytes.get(start..start.checked_add(n_bytes)?)
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// The file ended too early, or its compression is corrupt, or the system refused.
fn broken(name: &str, part: &'static str, error: io::Error) -> DataError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
            malformed(name, part, "an intact archive and intact deflate streams", error)
        }
        _ => DataError::io(Path::new(name), "read", error),
    }
}

fn malformed(name: &str, part: &'static str, required: impl Into<String>, got: impl ToString) -> DataError {
    DataError::Malformed {
        name: name.to_owned(),
        part,
        required: required.into(),
        got: got.to_string(),
        fix: "check that this is the right file and make it again with numpy.savez or write_npz".to_owned(),
    }
}

fn unsupported(name: &str, what: &str) -> DataError {
    DataError::Unsupported {
        name: name.to_owned(),
        what: what.to_owned(),
        fix: "save the arrays with numpy.savez or numpy.savez_compressed, split into files below 4 GiB".to_owned(),
    }
}
