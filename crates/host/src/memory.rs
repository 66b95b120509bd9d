//! How much memory there is, and whether some can be had.
//!
//! Why it exists: where a system promises more memory than it has (Linux does by default), an allocation succeeds and the
//! process is killed when it uses it; where it does not, an allocation that fails ends the process. So whoever is about to need
//! much asks first, and a refusal is an error like any other.
//!
//! Assumes: who asks allocates soon. Promises: memory that was granted can be allocated, unless others take it in between; on
//! Linux it is also there, in the machine, in the process's limits and in those of its control group. Elsewhere what the
//! machine has is not known, and the allocator alone decides.

use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use crate::exhausted::refusable;

/// The variable that says how much memory may be taken, in bytes, in the place of what the machine has.
const VARIABLE: &str = "COTANGENT_MEMORY";

/// Up to here nobody looks at what the machine has.
const LITTLE: usize = 1 << 20;

/// From here on, somebody looks at what is free.
const MUCH: usize = 1 << 26;

/// What must be left for everything that nobody asks for.
const SLACK: usize = 1 << 25;

/// Memory that could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// How many bytes were asked for.
    pub n_bytes: usize,
    /// Why.
    pub because: Because,
}

/// Why memory could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// The allocator refuses.
    Allocator,
    /// The machine, or what it lets this process have of it, is smaller: so many bytes.
    Machine(usize),
    /// So many bytes are free.
    Free(usize),
    /// The user's limit is lower: so many bytes.
    Limit(usize),
    /// `COTANGENT_MEMORY` is no number of bytes.
    Variable,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of memory, ", Bytes(self.n_bytes))?;
        match self.because {
            Because::Allocator => write!(f, "which the system refuses"),
            Because::Machine(all) => write!(f, "more than the {} that this machine has", Bytes(all)),
            Because::Free(free) => write!(f, "more than the {} that are free", Bytes(free)),
            Because::Limit(limit) => write!(f, "more than the limit of {}", Bytes(limit)),
            Because::Variable => write!(f, "and {VARIABLE} is not a number of bytes"),
        }
    }
}

impl std::error::Error for Refused {}

/// A number of bytes, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub usize);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut value, mut unit) = (self.0 as f64 / 1024.0, 0);
        while value >= 10_240.0 && unit < 3 {
            (value, unit) = (value / 1024.0, unit + 1);
        }
        match self.0 {
            0..10_240 => write!(f, "{} B", self.0),
            _ => write!(f, "{value:.1} {}", ["KiB", "MiB", "GiB", "TiB"][unit]),
        }
    }
}

/// How much memory may be taken: by default what the machine has, or what `COTANGENT_MEMORY` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    limit: Option<usize>,
}

impl Memory {
    /// So many bytes, whatever the machine has.
    pub fn limited_to(n_bytes: usize) -> Self {
        Memory { limit: Some(n_bytes) }
    }

    /// The user's limit, of this program or in the environment.
    fn limit(self, n_bytes: usize) -> Result<Option<usize>, Refused> {
        static SET: OnceLock<Option<Result<usize, ()>>> = OnceLock::new();
        let parsed =
            || std::env::var_os(VARIABLE).map(|text| text.to_str().and_then(|t| t.trim().parse().ok()).ok_or(()));
        match (self.limit, SET.get_or_init(parsed)) {
            (Some(limit), _) => Ok(Some(limit)),
            (None, Some(Err(()))) => Err(Refused { n_bytes, because: Because::Variable }),
            (None, Some(Ok(limit))) => Ok(Some(*limit)),
            (None, None) => Ok(None),
        }
    }

    /// Whether something may need so many bytes in all: whether the machine could ever give them.
    ///
    /// # Errors
    /// [`Refused`] if it has less, or if the limit is lower.
    pub fn may_need(self, n_bytes: usize) -> Result<(), Refused> {
        let refuse = |because| Err(Refused { n_bytes, because });
        match self.limit(n_bytes)? {
            Some(limit) if n_bytes > limit => refuse(Because::Limit(limit)),
            Some(_) => Ok(()),
            None if n_bytes <= LITTLE => Ok(()),
            None => match all() {
                Some(all) if n_bytes > all => refuse(Because::Machine(all)),
                _ => Ok(()),
            },
        }
    }

    /// Whether so many bytes more can be had now.
    ///
    /// # Errors
    /// [`Refused`] if the machine has less, if less is free, if the allocator refuses, or if the limit is lower.
    pub fn ask(self, n_bytes: usize) -> Result<(), Refused> {
        self.may_need(n_bytes)?;
        if n_bytes <= LITTLE {
            return Ok(());
        }
        let refuse = |because| Err(Refused { n_bytes, because });
        // Given back at once and never touched: it costs a call of the system.
        if refusable(|| Vec::<u8>::new().try_reserve_exact(n_bytes.saturating_add(SLACK))).is_err() {
            return refuse(Because::Allocator);
        }
        match self.limit(n_bytes)? {
            None if n_bytes >= MUCH => match free() {
                Some(free) if n_bytes > free => refuse(Because::Free(free)),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

/// Bytes that this process could have at most, if that is known.
fn all() -> Option<usize> {
    static ALL: OnceLock<Option<usize>> = OnceLock::new();
    *ALL.get_or_init(|| {
        let info = read("/proc/meminfo")?;
        let machine = field(&info, "MemTotal:")?.saturating_add(field(&info, "SwapTotal:").unwrap_or(0));
        let limits = read("/proc/self/limits").unwrap_or_default();
        let of_process = ["Max address space", "Max data size"].map(|name| soft_limit(&limits, name));
        let swap = field(&info, "SwapTotal:").unwrap_or(0);
        let of_group = groups().map(|group| group.limit.saturating_add(swap)).min();
        of_process.into_iter().flatten().chain(of_group).chain([machine]).min()
    })
}

/// Bytes that are free now, those of caches included, if that is known.
fn free() -> Option<usize> {
    let info = read("/proc/meminfo")?;
    let swap = field(&info, "SwapFree:").unwrap_or(0);
    let machine = field(&info, "MemAvailable:")?.saturating_add(swap);
    let of_group = groups().map(|group| group.limit.saturating_sub(group.used).saturating_add(swap));
    of_group.chain([machine]).min()
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// A line `NAME 123 kB`, in bytes; other lines have no unit.
fn field(text: &str, name: &str) -> Option<usize> {
    let mut words = text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace();
    let number: usize = words.next()?.parse().ok()?;
    Some(if words.next() == Some("kB") { number.saturating_mul(1024) } else { number })
}

/// A line `NAME soft hard bytes` of `/proc/self/limits`; `None` if it is unlimited.
fn soft_limit(text: &str, name: &str) -> Option<usize> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// The memory of a control group.
struct Group {
    limit: usize,
    /// Without what caches of files hold, which is given back when it is needed.
    used: usize,
}

/// The control groups that this process is in, the innermost first: all of those with a limit bind it.
fn groups() -> impl Iterator<Item = Group> {
    let mine = read("/proc/self/cgroup").unwrap_or_default();
    let folders = mine.lines().filter_map(group_of).collect::<Vec<_>>();
    folders.into_iter().flat_map(|(root, path, names)| {
        let folders = Path::new(path.trim_start_matches('/')).ancestors().map(|path| Path::new(root).join(path));
        folders
            .filter_map(move |folder| {
                let number = |name: &str| read(folder.join(name))?.trim().parse::<usize>().ok();
                let stat = read(folder.join("memory.stat")).unwrap_or_default();
                let caches = ["inactive_file ", "active_file "].map(|name| field(&stat, name).unwrap_or(0));
                let used = number(names[1]).unwrap_or(0).saturating_sub(caches.iter().sum());
                Some(Group { limit: number(names[0])?, used })
            })
            .collect::<Vec<_>>()
    })
}

/// A line `N:CONTROLLERS:PATH` of `/proc/self/cgroup`: where the groups of memory stand in version 1 or 2, the group, and the
/// names of its limit and of what it uses.
fn group_of(line: &str) -> Option<(&'static str, String, [&'static str; 2])> {
    let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
    match controllers {
        "" => Some(("/sys/fs/cgroup", path.to_owned(), ["memory.max", "memory.current"])),
        _ if controllers.split(',').any(|name| name == "memory") => {
            Some(("/sys/fs/cgroup/memory", path.to_owned(), ["memory.limit_in_bytes", "memory.usage_in_bytes"]))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_kept_to_the_byte() {
        let memory = Memory::limited_to(1000);
        assert_eq!(memory.ask(1000), Ok(()));
        let refused = Refused { n_bytes: 1001, because: Because::Limit(1000) };
        assert_eq!((memory.ask(1001), memory.may_need(1001)), (Err(refused), Err(refused)));
        assert_eq!(refused.to_string(), "1001 B of memory, more than the limit of 1000 B");
        // Whatever the machine has, but not more than can be addressed.
        assert_eq!(Memory::limited_to(usize::MAX).may_need(1 << 62), Ok(()));
        assert_eq!(
            Memory::limited_to(usize::MAX).ask(1 << 62).map_err(|refused| refused.because),
            Err(Because::Allocator)
        );
    }

    /// A little is always granted, and no machine has 2⁶⁰ bytes, whether that is known or not.
    #[test]
    fn the_machine_is_the_limit_otherwise() {
        if std::env::var_os(VARIABLE).is_none() {
            assert_eq!(Memory::default().ask(3 << 20), Ok(()));
            assert!(Memory::default().ask(1 << 60).is_err());
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn linux_says_what_it_has() {
        let (all, free) = (all().unwrap(), free().unwrap());
        assert!(LITTLE < free && free <= all && all < 1 << 60, "{free} of {all}");
    }

    #[test]
    fn files_of_the_system_are_read() {
        let info = "MemTotal:       24684084 kB\nMemFree:         4777568 kB\nHugePages_Total:       3\n";
        assert_eq!(field(info, "MemTotal:"), Some(24_684_084 * 1024));
        assert_eq!((field(info, "HugePages_Total:"), field(info, "SwapFree:")), (Some(3), None));
        let limits = "Limit   Soft Limit   Hard Limit   Units\n\
                      Max data size             unlimited            unlimited            bytes\n\
                      Max address space         1048576    unlimited            bytes\n";
        assert_eq!(soft_limit(limits, "Max address space"), Some(1 << 20));
        assert_eq!((soft_limit(limits, "Max data size"), soft_limit(limits, "Max nothing")), (None, None));
        let group = |line| group_of(line).map(|(root, path, _)| (root, path));
        assert_eq!(group("0::/user.slice/a"), Some(("/sys/fs/cgroup", "/user.slice/a".to_owned())));
        assert_eq!(group("4:cpu,memory:/b:c"), Some(("/sys/fs/cgroup/memory", "/b:c".to_owned())));
        assert_eq!((group("8:pids:/"), group("nonsense")), (None, None));
    }

    #[test]
    fn numbers_of_bytes_have_units() {
        let texts = [0, 10_239, 10_240, 10_485_760, 320_000_000_000, usize::MAX].map(|n| Bytes(n).to_string());
        assert_eq!(texts, ["0 B", "10239 B", "10.0 KiB", "10.0 MiB", "298.0 GiB", "16777216.0 TiB"]);
    }
}
