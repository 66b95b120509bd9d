//! Accesses whose indices are held inside: borders around tensors, and windows that there are not.
//!
//! What a clamp adds to addresses is computed once for all accesses that share it, and as often as it changes: from row to row,
//! or where the last row dim starts again.

use iced_x86::{Code, Register};
use smallvec::SmallVec;

use crate::access::Access;
use crate::wide::encode::Site;
use crate::wide::nest::{Clamped, Nest, SCRATCH, SECOND, Track, frame};

impl Nest<'_> {
    /// The clamps of a new site with elements of `1 << shift` bytes.
    pub(super) fn new_clamps(&mut self, site: usize, access: &Access, shift: u32) {
        let numbers: SmallVec<[usize; 2]> = self.clamps.firsts.by_ref().take(access.clamps.len()).collect();
        for (&(layout, by_row), &number) in access.clamps.iter().zip(&numbers) {
            if self.clamps.known.contains_key(&number) {
                continue;
            }
            let (index, word) = (self.new_word(), self.new_word());
            let last = layout + 1 + self.kernel.dims.len();
            self.clamps.known.insert(number, Clamped { index: self.tracks.len(), layout: last, shift, word });
            self.out.sites.push(Site { word: index, register: None, size: 1, moves: false, stride: None });
            self.tracks.push(Track { arg: None, layout, shift: 0, step: None, unclamped: None, by_row });
        }
        if !numbers.is_empty() {
            self.clamps.sites.push((site, numbers));
        }
    }

    /// What clamps add to addresses: those that move along the last row dim, or the others.
    pub(super) fn clamp(&mut self, by_row: bool) {
        let clamps: SmallVec<[Clamped; 8]> =
            self.clamps.known.values().copied().filter(|clamp| self.tracks[clamp.index].by_row == by_row).collect();
        for Clamped { index, layout, shift, word } in clamps {
            let index = self.out.sites[index].word;
            self.load(SECOND, frame(index));
            let last = self.layout_at(layout);
            self.load(SCRATCH, last);
            self.out.asm.rr(Code::Cmp_r64_rm64, SCRATCH, SECOND);
            self.out.asm.rr(Code::Cmovl_r64_rm64, SECOND, SCRATCH);
            self.out.asm.rr(Code::Xor_r32_rm32, Register::EAX, Register::EAX);
            self.out.asm.rr(Code::Cmp_r64_rm64, SECOND, SCRATCH);
            self.out.asm.rr(Code::Cmovl_r64_rm64, SECOND, SCRATCH);
            let stride = self.layout_at(layout + 1);
            self.out.asm.rm(Code::Imul_r64_rm64, SECOND, stride);
            self.shift(SECOND, shift);
            self.store(frame(word), SECOND);
        }
    }

    /// The addresses of sites with clamps, from those without.
    pub(super) fn add_clamps(&mut self) {
        for (site, clamps) in std::mem::take(&mut self.clamps.sites) {
            let Some(unclamped) = self.tracks[site].unclamped else { continue };
            self.load(SCRATCH, frame(unclamped));
            for clamp in clamps {
                let word = self.clamps.known[&clamp].word;
                self.out.asm.rm(Code::Add_r64_rm64, SCRATCH, frame(word));
            }
            let word = self.out.sites[site].word;
            self.store(frame(word), SCRATCH);
        }
    }
}
