//! A strict reader for the zip archives that `.npz` files are.
//!
//! Why it exists: an archive states every size several times, and a reader that allocates by what is stated can be
//! brought down by a file of 200 bytes. This one holds the archive in memory, trusts the central directory only after
//! checking it against the archive's length, and lets buffers grow with the bytes that arrive.
//!
//! Assumes: a single-disk archive below 4 GiB, entries stored or deflated, not encrypted; anything else is
//! [`DataError::Unsupported`].
//! Promises: no panic on any input; entries do not overlap, so the same compressed bytes are never expanded twice; each
//! entry has exactly the stated length and checksum.
//!
//! Source of the layout: PKWARE, APPNOTE.TXT, sections 4.3.7 (local header), 4.3.12 (central directory) and 4.3.16 (end
//! of central directory). All integers are little endian.

use std::io::Read;
use std::ops::Range;

use flate2::Crc;
use flate2::bufread::DeflateDecoder;

use crate::DataError;

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

/// One checked entry: its name and where its compressed bytes are.
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a str,
    /// Where the local header, the name and the compressed bytes are in the archive.
    extent: Range<usize>,
    compressed: &'a [u8],
    deflated: bool,
    n_bytes: u32,
    crc: u32,
}

/// The entries of an archive, in the order of its directory; `name` is what errors call the archive.
pub(crate) fn entries<'a>(archive: &'a [u8], name: &str) -> Result<Vec<Entry<'a>>, DataError> {
    let end = find_end(archive).ok_or_else(|| {
        malformed(name, "end record", "the end record of a zip archive", "none; the file is cut off or no archive")
    })?;
    // find_end made sure that the record is complete, so none of these reads falls short.
    let field = |offset| u16_at(archive, end + offset).unwrap_or_default();
    let wide = |offset| u32_at(archive, end + offset).unwrap_or_default();
    let (disk, directory_disk, n_on_disk, n_entries) = (field(4), field(6), field(8), field(10));
    let (directory_len, directory_start) = (wide(12), wide(16));
    if n_entries == u16::MAX || directory_len == u32::MAX || directory_start == u32::MAX {
        return Err(unsupported(name, "a zip64 archive (4 GiB and more, or 65,535 entries)"));
    }
    if disk != 0 || directory_disk != 0 || n_on_disk != n_entries {
        return Err(unsupported(name, "an archive of several parts"));
    }
    let (directory_start, directory_len) = (to_usize(directory_start), to_usize(directory_len));
    if directory_start.checked_add(directory_len) != Some(end) {
        let got = format!("offset {directory_start} and length {directory_len}");
        return Err(malformed(name, "end record", format!("a directory that ends at offset {end}"), got));
    }

    let mut entries = Vec::new();
    let mut position = directory_start;
    for _ in 0..n_entries {
        let (entry, next) = central_header(&archive[..end], directory_start, position, name)?;
        entries.push(entry);
        position = next;
    }
    if position != end {
        return Err(malformed(name, "central directory", format!("exactly {n_entries} entries"), "surplus bytes"));
    }
    check_disjoint(&entries, name)?;
    Ok(entries)
}

/// Entries that share compressed bytes are how an archive of some kilobytes expands to terabytes.
fn check_disjoint(entries: &[Entry], name: &str) -> Result<(), DataError> {
    let mut extents: Vec<_> = entries.iter().map(|entry| (entry.extent.start, entry.extent.end)).collect();
    extents.sort_unstable();
    if extents.windows(2).any(|pair| pair[0].1 > pair[1].0) {
        return Err(malformed(name, "central directory", "entries that do not overlap", "entries that share bytes"));
    }
    Ok(())
}

impl Entry<'_> {
    /// The uncompressed contents, checked against the stated length and checksum; `name` is what errors call the entry.
    pub(crate) fn contents(&self, name: &str) -> Result<Vec<u8>, DataError> {
        let n_bytes = to_usize(self.n_bytes);
        let mut contents = Vec::new();
        if self.deflated {
            let mut decoder = DeflateDecoder::new(self.compressed);
            // One byte more than stated tells "exact" from "too long" and makes the decoder see its end mark.
            (&mut decoder)
                .take(u64::from(self.n_bytes) + 1)
                .read_to_end(&mut contents)
                .map_err(|error| malformed(name, "compressed data", "an intact deflate stream", error))?;
            if contents.len() == n_bytes && !decoder.get_ref().is_empty() {
                return Err(malformed(name, "compressed data", "nothing after the deflate stream", "surplus bytes"));
            }
        } else {
            contents.extend_from_slice(self.compressed);
        }
        if contents.len() != n_bytes {
            let got = if contents.len() < n_bytes { contents.len().to_string() } else { "more".to_owned() };
            return Err(malformed(name, "contents", format!("exactly {n_bytes} bytes, as the directory says"), got));
        }
        let mut crc = Crc::new();
        crc.update(&contents);
        if crc.sum() != self.crc {
            let required = format!("a CRC-32 of {:08x}, as the directory says", self.crc);
            return Err(malformed(name, "contents", required, format!("{:08x}", crc.sum())));
        }
        Ok(contents)
    }
}

/// The offset of the end record: the last place whose comment reaches exactly to the end of the file.
fn find_end(archive: &[u8]) -> Option<usize> {
    let last = archive.len().checked_sub(END_LEN)?;
    let first = last.saturating_sub(usize::from(u16::MAX));
    (first..=last).rev().find(|&start| {
        u32_at(archive, start) == Some(END_SIGNATURE)
            && u16_at(archive, start + 20)
                .is_some_and(|comment| start + END_LEN + usize::from(comment) == archive.len())
    })
}

/// Reads the central header at `position` and the local header it points to; also the offset of the next header.
/// `archive` ends where the directory does.
fn central_header<'a>(
    archive: &'a [u8],
    directory_start: usize,
    position: usize,
    name: &str,
) -> Result<(Entry<'a>, usize), DataError> {
    let cut_off =
        || malformed(name, "central directory", "a complete header for every entry", "the end of the directory");
    let header = slice(archive, position, CENTRAL_LEN).ok_or_else(cut_off)?;
    let field = |offset| u16_at(header, offset).unwrap_or_default();
    let wide = |offset| u32_at(header, offset).unwrap_or_default();
    if wide(0) != CENTRAL_SIGNATURE {
        return Err(malformed(name, "central directory", "the signature of a header", format!("{:#010x}", wide(0))));
    }
    let name_start = position + CENTRAL_LEN;
    let raw_name = slice(archive, name_start, usize::from(field(28))).ok_or_else(cut_off)?;
    let next = name_start + raw_name.len() + usize::from(field(30)) + usize::from(field(32));
    if next > archive.len() {
        return Err(cut_off());
    }
    let entry_name =
        str::from_utf8(raw_name).map_err(|error| malformed(name, "central directory", "names in UTF-8", error))?;
    let full_name = format!("{name}: {entry_name}");
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

    let body = &archive[..directory_start];
    let outside = || {
        malformed(&full_name, "local header", "a header and data before the directory", "an offset or size beyond it")
    };
    let local = to_usize(local);
    let local_header = slice(body, local, LOCAL_LEN).ok_or_else(outside)?;
    if u32_at(local_header, 0) != Some(LOCAL_SIGNATURE) {
        return Err(malformed(&full_name, "local header", "its signature", "other bytes"));
    }
    let lengths = [26, 28].map(|offset| usize::from(u16_at(local_header, offset).unwrap_or_default()));
    let data = local + LOCAL_LEN + lengths[0] + lengths[1];
    let compressed = slice(body, data, to_usize(n_compressed)).ok_or_else(outside)?;
    let extent = local..data + compressed.len();
    Ok((Entry { name: entry_name, extent, compressed, deflated: method == DEFLATED, n_bytes, crc }, next))
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

/// Saturates where addresses have fewer than 32 bits; a saturated value is out of range and caught as such.
fn to_usize(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
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
