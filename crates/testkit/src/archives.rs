//! Archives and compressed files, made byte by byte, so that readers are not tested with writers of their own house.
//!
//! For tests: what is written here is legal; whoever wants it broken changes the bytes.

use std::io::Write;

use flate2::write::{DeflateEncoder, GzEncoder};
use flate2::{Compression, Crc};

/// A raw deflate stream.
pub fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    // Writing to memory does not fail; a mistake here would show as an unreadable whole file.
    written.unwrap_or_default()
}

/// A gzip stream of a level from 0 to 9.
pub fn gzip(bytes: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    // As above.
    written.unwrap_or_default()
}

/// A gzip stream of `head` and then `n_zeros` zero bytes, of which it takes a thousandth.
pub fn gzip_bomb(head: &[u8], n_zeros: usize) -> Vec<u8> {
    const PIECE: usize = 1 << 16;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let pieces = (0..n_zeros).step_by(PIECE).map(|at| PIECE.min(n_zeros - at));
    let mut written = encoder.write_all(head);
    for n in pieces {
        written = written.and_then(|()| encoder.write_all(&[0; PIECE][..n]));
    }
    // As above.
    written.and_then(|()| encoder.finish()).unwrap_or_default()
}

/// An entry of an archive.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The name, with its suffix.
    pub name: String,
    /// The bytes as they stand in the archive.
    pub packed: Vec<u8>,
    /// Whether these are a deflate stream.
    pub deflated: bool,
    /// The length and the checksum of the contents.
    pub n_bytes: u32,
    /// The CRC-32 of the contents.
    pub crc: u32,
}

impl Entry {
    /// An entry of these contents, deflated or stored.
    pub fn new(name: impl Into<String>, contents: &[u8], deflated: bool) -> Self {
        let mut crc = Crc::new();
        crc.update(contents);
        let packed = if deflated { deflate(contents) } else { contents.to_vec() };
        Entry { name: name.into(), packed, deflated, n_bytes: contents.len() as u32, crc: crc.sum() }
    }
}

/// A zip archive.
pub fn zip(entries: &[Entry]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let start = out.len() as u32;
        // Version, flags, method, time and date, as both headers have them.
        let mut common = Vec::new();
        for field in [20u16, 0, if entry.deflated { 8 } else { 0 }, 0, 0] {
            common.extend(field.to_le_bytes());
        }
        for field in [entry.crc, entry.packed.len() as u32, entry.n_bytes] {
            common.extend(field.to_le_bytes());
        }
        common.extend((entry.name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        out.extend(b"PK\x03\x04");
        out.extend(&common);
        out.extend(entry.name.as_bytes());
        out.extend(&entry.packed);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&common);
        // Comment length, disk, attributes.
        directory.extend([0; 10]);
        directory.extend(start.to_le_bytes());
        directory.extend(entry.name.as_bytes());
    }
    let start = out.len() as u32;
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    for _ in 0..2 {
        out.extend((entries.len() as u16).to_le_bytes());
    }
    out.extend((directory.len() as u32).to_le_bytes());
    out.extend(start.to_le_bytes());
    out.extend([0, 0]);
    out
}

/// The header of an array file of NumPy; the elements follow it.
pub fn npy_header(descr: &str, fortran_order: bool, shape: &[usize]) -> Vec<u8> {
    let extents: String = shape.iter().map(|extent| format!("{extent}, ")).collect();
    let order = if fortran_order { "True" } else { "False" };
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': ({extents}), }}");
    // The elements start at a multiple of 64 bytes.
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes
}
