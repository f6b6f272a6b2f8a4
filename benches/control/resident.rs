//! What a process holds of the host's memory, as the kernel tells it: `/proc/PID/status` and `/proc/PID/smaps`.

use std::collections::BTreeMap;

use crate::Done;

/// Where arenas of the C library's allocator begin: at a multiple of this.
const ARENA_BYTES: u64 = 64 << 20;
/// The guard below the stack of a thread.
const GUARD_BYTES: u64 = 4 << 10;

/// Resident memory of a process, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resident {
    pub(crate) all: u64,
    /// Its own: heap, stacks, data it has written.
    pub(crate) anon: u64,
    /// Pages of files, which other processes may share: program and libraries.
    pub(crate) file: u64,
    pub(crate) shmem: u64,
    /// The most that it ever held.
    pub(crate) peak: u64,
}

impl Resident {
    pub(crate) fn of(pid: u32) -> Done<Self> {
        Self::read(&std::fs::read_to_string(format!("/proc/{pid}/status"))?)
    }

    fn read(status: &str) -> Done<Self> {
        let line = |key: &str| -> Done<u64> {
            let rest = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            kib(rest.ok_or_else(|| format!("no {key} in the status of a process"))?)
        };
        Ok(Self {
            all: line("VmRSS")?,
            anon: line("RssAnon")?,
            file: line("RssFile")?,
            shmem: line("RssShmem")?,
            peak: line("VmHWM")?,
        })
    }
}

/// What a mapping is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Use {
    Text,
    Constants,
    Data,
    Libraries,
    Heap,
    Arenas,
    Blocks,
    Stacks,
    Other,
}

impl Use {
    pub(crate) const ALL: [Self; 9] = [
        Self::Text,
        Self::Constants,
        Self::Data,
        Self::Libraries,
        Self::Heap,
        Self::Arenas,
        Self::Blocks,
        Self::Stacks,
        Self::Other,
    ];

    /// For people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Text => "program text (`r-xp`)",
            Self::Constants => "program constants and unwinding tables (`r--p`, relocated ones included)",
            Self::Data => "program data (`rw-p`, `.bss` included)",
            Self::Libraries => "C library, loader, libgcc",
            Self::Heap => "heap, main arena",
            Self::Arenas => "heap, arenas of threads",
            Self::Blocks => "large blocks of the allocator, and other memory of no file",
            Self::Stacks => "stacks of threads, with those for their signals",
            Self::Other => "other",
        }
    }
}

/// Resident memory of one kind of mapping, in KiB, and how many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mapped {
    pub(crate) count: u64,
    pub(crate) resident: u64,
    /// Of it, what is the process's own.
    pub(crate) anon: u64,
}

/// One mapping.
struct Mapping<'a> {
    start: u64,
    end: u64,
    access: &'a str,
    path: &'a str,
    resident: u64,
    anon: u64,
}

/// All mappings of a process by their use.
pub(crate) fn mapped(pid: u32) -> Done<BTreeMap<Use, Mapped>> {
    let program = std::fs::read_link(format!("/proc/{pid}/exe"))?;
    by_use(&std::fs::read_to_string(format!("/proc/{pid}/smaps"))?, &program.display().to_string())
}

fn by_use(smaps: &str, program: &str) -> Done<BTreeMap<Use, Mapped>> {
    let mappings = read(smaps)?;
    let mut sums: BTreeMap<Use, Mapped> = BTreeMap::new();
    let (mut before, mut use_before): (Option<&Mapping<'_>>, Use) = (None, Use::Other);
    for mapping in &mappings {
        let adjacent = before.filter(|before| before.end == mapping.start);
        let what = mapping.what(program, adjacent, use_before);
        let sum = sums.entry(what).or_default();
        sum.count += 1;
        sum.resident += mapping.resident;
        sum.anon += mapping.anon;
        (before, use_before) = (Some(mapping), what);
    }
    Ok(sums)
}

impl Mapping<'_> {
    /// What it is for, by the mapping that ends where it starts. The allocator's mappings have no names: an arena is known
    /// by where it starts, a stack by its guard.
    fn what(&self, program: &str, adjacent: Option<&Mapping<'_>>, adjacent_is: Use) -> Use {
        if self.path == program {
            return match self.access {
                "r-xp" => Use::Text,
                "rw-p" => Use::Data,
                _ => Use::Constants,
            };
        }
        match self.path {
            "[heap]" => Use::Heap,
            "[stack]" => Use::Stacks,
            "" if self.access.starts_with("---") => Use::Other,
            // What follows data of a file is the part of it that starts as zeroes.
            "" if adjacent.is_some_and(|before| !before.path.is_empty()) && adjacent_is != Use::Other => {
                if adjacent_is == Use::Constants { Use::Data } else { adjacent_is }
            }
            "" if self.start.is_multiple_of(ARENA_BYTES) => Use::Arenas,
            "" if adjacent.is_some_and(|guard| {
                guard.access == "---p" && guard.path.is_empty() && guard.end - guard.start == GUARD_BYTES
            }) =>
            {
                Use::Stacks
            }
            "" => Use::Blocks,
            path if path.starts_with('/') => Use::Libraries,
            _ => Use::Other,
        }
    }
}

/// The first line of each mapping is `start-end access offset device inode path`, those below it `Key: value kB`.
fn read(smaps: &str) -> Done<Vec<Mapping<'_>>> {
    let mut all: Vec<Mapping<'_>> = Vec::new();
    for line in smaps.lines() {
        let first = line.split(' ').next().unwrap_or("");
        if let Some((start, end)) = first.split_once('-') {
            let mut words = line.split_ascii_whitespace().skip(1);
            let (start, end) = (u64::from_str_radix(start, 16)?, u64::from_str_radix(end, 16)?);
            let access = words.next().ok_or("a mapping without access")?;
            let path = words.nth(3).unwrap_or("");
            all.push(Mapping { start, end, access, path, resident: 0, anon: 0 });
        } else if let (Some(mapping), Some((key, value))) = (all.last_mut(), line.split_once(':')) {
            match key {
                "Rss" => mapping.resident = kib(value)?,
                "Anonymous" => mapping.anon = kib(value)?,
                _ => {}
            }
        }
    }
    Ok(all)
}

/// `  12 kB`.
fn kib(text: &str) -> Done<u64> {
    Ok(text.trim().strip_suffix(" kB").ok_or_else(|| format!("{text} is not a size"))?.trim().parse()?)
}

#[cfg(test)]
mod tests {
    use super::{Mapped, Resident, Use, by_use};

    #[test]
    fn the_status_of_a_process_tells_its_memory_by_kind() {
        let text =
            "Name:\tx\nVmHWM:\t 30 kB\nVmRSS:\t    25 kB\nRssAnon:\t 10 kB\nRssFile:\t 14 kB\nRssShmem:\t 1 kB\n";
        let expected = Resident { all: 25, anon: 10, file: 14, shmem: 1, peak: 30 };
        assert_eq!(Resident::read(text).unwrap(), expected);
        assert!(Resident::read("VmRSS: many kB\n").is_err());
    }

    /// Each mapping with as many KiB as the number of its line.
    #[test]
    fn mappings_are_told_apart_by_name_place_and_guard() {
        let lines = [
            ("1000-2000 r--p 0 fd:0 1 /bin/x", Use::Constants),
            ("2000-3000 r-xp 0 fd:0 1 /bin/x", Use::Text),
            ("3000-4000 rw-p 0 fd:0 1 /bin/x", Use::Data),
            ("4000-5000 rw-p 0 00:00 0 ", Use::Data),
            ("6000-7000 rw-p 0 00:00 0 [heap]", Use::Heap),
            ("8000000-8021000 rw-p 0 00:00 0 ", Use::Arenas),
            ("8021000-c000000 ---p 0 00:00 0 ", Use::Other),
            ("d000000-d001000 ---p 0 00:00 0 ", Use::Other),
            ("d001000-d201000 rw-p 0 00:00 0 ", Use::Stacks),
            ("e000000-e001000 rw-p 0 00:00 0 ", Use::Blocks),
            ("f000000-f001000 r-xp 0 fd:0 2 /lib/libc.so.6", Use::Libraries),
            ("f001000-f002000 rw-p 0 00:00 0 ", Use::Libraries),
            ("ff00000-ff01000 r-xp 0 00:00 0 [vdso]", Use::Other),
        ];
        let mut text = String::new();
        let mut expected = std::collections::BTreeMap::<Use, Mapped>::new();
        for (at, (line, what)) in (1..).zip(lines) {
            text += &format!("{line}\nSize: 9 kB\nRss: {at} kB\nAnonymous: 0 kB\nVmFlags: rd\n");
            let sum = expected.entry(what).or_default();
            (sum.count, sum.resident) = (sum.count + 1, sum.resident + at);
        }
        assert_eq!(by_use(&text, "/bin/x").unwrap(), expected);
    }
}
