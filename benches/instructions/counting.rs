//! Runs an operation under callgrind and reads what it counted.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Done;
use crate::operations::{BATCHES, Operation, WARM_UPS};

/// Instructions of one operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted {
    /// Of one operation, as the least batch had it.
    pub(crate) instructions: u64,
    /// From the least batch to the greatest, in per cent.
    pub(crate) spread: f64,
}

/// A folder that goes away with this.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("starling-instructions-{}-{name}", std::process::id()));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What a count hangs on besides the code: the compiler, the machine that callgrind plays, and the C library. `None`
/// where there is no valgrind.
pub(crate) fn machine() -> Done<Option<Vec<(String, String)>>> {
    let Some(valgrind) = said("valgrind", ["--version"])? else { return Ok(None) };
    // Asked in the workspace, so that it is the compiler that cargo took.
    let compiler = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let compiler = said(&compiler, ["--version"])?.unwrap_or_else(|| "unknown".to_owned());
    let library = said("getconf", ["GNU_LIBC_VERSION"])?.unwrap_or_else(|| "unknown".to_owned());
    let own = std::env::current_exe()?;
    let plays = said("valgrind", [OsStr::new("-q"), OsStr::new("--tool=none"), own.as_os_str(), OsStr::new("cpu")])?;
    let named = [
        ("compiler", compiler),
        ("valgrind", valgrind),
        ("c library", library),
        ("processor", plays.unwrap_or_else(|| "unknown".to_owned())),
    ];
    Ok(Some(named.map(|(name, value)| (name.to_owned(), value)).into()))
}

/// What programs look for before they take the fast way (glibc for copies, aws-lc for ciphers), as far as this processor
/// has it. Under valgrind it is the processor that valgrind plays, which hangs on the real one.
pub(crate) fn processor() -> String {
    let mut words = vec![std::env::consts::ARCH];
    words.extend(features());
    words.join(" ")
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<&'static str> {
    macro_rules! having {
        ($($feature:tt),*) => {
            [$(($feature, std::arch::is_x86_feature_detected!($feature))),*]
        };
    }
    let all = having!(
        "ssse3",
        "sse4.1",
        "sse4.2",
        "popcnt",
        "movbe",
        "aes",
        "pclmulqdq",
        "avx",
        "avx2",
        "bmi1",
        "bmi2",
        "fma",
        "lzcnt",
        "adx",
        "sha",
        "vaes",
        "vpclmulqdq",
        "avx512f",
        "rdrand",
        "rdseed",
        "f16c"
    );
    all.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn features() -> Vec<&'static str> {
    Vec::new()
}

/// The first line that a program prints; `None` if there is no such program, or it fails.
fn said<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> io::Result<Option<String>> {
    match Command::new(program).args(arguments).output() {
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).lines().next().map(|line| line.trim().to_owned()))
        }
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Counts one operation: the least of [`BATCHES`], divided by its number of operations. What chance adds (timers that
/// come due on a busy machine) only ever adds. A run that fails is repeated: on such a machine a deadline of the agents
/// can pass, since callgrind makes them fifty times slower.
pub(crate) fn count(operation: &Operation) -> Done<Counted> {
    const TRIES: usize = 3;
    for _ in 1..TRIES {
        match count_once(operation) {
            Err(error) => eprintln!("again: {error}"),
            counted @ Ok(_) => return counted,
        }
    }
    count_once(operation)
}

fn count_once(operation: &Operation) -> Done<Counted> {
    let folder = Folder::new(operation.name)?;
    let out = folder.0.join("out");
    let output = Command::new("valgrind")
        .args(["-q", "--tool=callgrind", "--fair-sched=yes", "--dump-before=*instructions_batch_ends*"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe()?)
        .args(["run", operation.name])
        .output()?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("{} under callgrind: {}\n{told}", operation.name, output.status).into());
    }
    // Parts are numbered from 1. The first one holds the start, too; what comes after the last batch is not in any.
    let mut batches: Vec<u64> =
        (WARM_UPS..WARM_UPS + BATCHES).map(|batch| batch + 1).map(|part| total(&out, part)).collect::<Done<_>>()?;
    batches.sort_unstable();
    let [least, .., greatest] = batches[..] else { return Err("no batches".into()) };
    let times = u64::from(operation.times);
    let instructions = (least + times / 2) / times;
    Ok(Counted { instructions, spread: (greatest - least) as f64 / least.max(1) as f64 * 100.0 })
}

/// What one part of callgrind's output adds up to.
fn total(out: &Path, part: usize) -> Done<u64> {
    let path = format!("{}.{part}", out.display());
    let text = std::fs::read_to_string(&path).map_err(|error| format!("callgrind wrote no part {part}: {error}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("totals: "));
    Ok(line.ok_or("callgrind's output has no line \"totals:\"")?.trim().parse()?)
}
