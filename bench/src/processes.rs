//! Reads the resource usage of processes from /proc.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

/// The CPU time of a process with all its live threads.
pub fn cpu(pid: u32) -> Result<Duration> {
    let mut nanoseconds = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid}"))? {
        // A thread may end meanwhile.
        if let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) {
            nanoseconds += first_number(&text)?;
        }
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// What does some work: a process, or some threads of this one.
pub enum Work {
    /// A process with all its threads.
    Process(u32),
    /// Threads that live until the last look at them.
    Threads(BTreeSet<u32>),
}

impl Work {
    /// The CPU time used so far.
    pub fn cpu(&self) -> Result<Duration> {
        match self {
            Self::Process(pid) => cpu(*pid),
            Self::Threads(threads) => threads.iter().map(|thread| cpu_of_thread(*thread)).sum(),
        }
    }

    /// Its own memory in kibibytes. Threads have none of their own.
    pub fn memory_kb(&self) -> Result<Option<u64>> {
        match self {
            Self::Process(pid) => own_memory_kb(*pid).map(Some),
            Self::Threads(_) => Ok(None),
        }
    }
}

/// The threads of this process.
pub fn threads() -> Result<BTreeSet<u32>> {
    let tasks = fs::read_dir("/proc/self/task")?;
    tasks.map(|task| Ok(task?.file_name().to_str().context("a thread's name")?.parse()?)).collect()
}

/// The threads of this process that are librdkafka's.
pub fn threads_of_librdkafka() -> Result<BTreeSet<u32>> {
    let is_one = |thread: &u32| {
        // A thread may end meanwhile.
        let name = fs::read_to_string(format!("/proc/self/task/{thread}/comm")).unwrap_or_default();
        name.starts_with("rdk:")
    };
    Ok(threads()?.into_iter().filter(is_one).collect())
}

/// The CPU time of a thread of this process.
fn cpu_of_thread(thread: u32) -> Result<Duration> {
    let file = format!("/proc/self/task/{thread}/schedstat");
    let text = fs::read_to_string(file).with_context(|| format!("thread {thread}"))?;
    Ok(Duration::from_nanos(first_number(&text)?))
}

/// The CPU time of the calling thread.
pub fn cpu_of_this_thread() -> Result<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(Duration::from_nanos(first_number(&text)?))
}

/// How often the threads of a process have gone to sleep.
pub fn sleeps(pid: u32) -> Result<u64> {
    let mut sleeps = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid}"))? {
        if let Ok(text) = fs::read_to_string(task?.path().join("status")) {
            sleeps += field(&text, "voluntary_ctxt_switches:").unwrap_or(0);
        }
    }
    Ok(sleeps)
}

/// A process's own memory in kibibytes. PostgreSQL's shared buffers, which every process maps, do not count.
pub fn own_memory_kb(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    field(&text, "RssAnon:").with_context(|| format!("no RssAnon of process {pid}"))
}

/// The children of a process, selected by their titles.
pub fn children(parent: u32) -> Result<BTreeMap<u32, String>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let Some(pid) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok())
        else {
            continue;
        };
        if parent_of(&path) == Some(parent) {
            let title = fs::read_to_string(path.join("cmdline")).unwrap_or_default();
            found.insert(pid, title.trim_end_matches('\0').to_string());
        }
    }
    Ok(found)
}

/// The CPU time of a server with its children, including those that have ended and were waited for.
pub fn cpu_of_tree(root: u32) -> Result<Duration> {
    let ticks = ticks(&fs::read_to_string(format!("/proc/{root}/stat"))?).context("stat")?;
    let mut sum = cpu(root)? + ticks;
    for pid in children(root)?.keys() {
        // A child may end meanwhile; then its parent has its time.
        sum += cpu(*pid).unwrap_or_default();
    }
    Ok(sum)
}

fn parent_of(process: &Path) -> Option<u32> {
    let text = fs::read_to_string(process.join("status")).ok()?;
    u32::try_from(field(&text, "PPid:")?).ok()
}

/// `cutime` and `cstime`: the CPU time of the children that were waited for.
fn ticks(stat: &str) -> Option<Duration> {
    // SAFETY: sysconf has no preconditions.
    let per_second = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).ok()?;
    // The name in parentheses may contain any character.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(13);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(Duration::from_millis((user + system) * 1000 / per_second))
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn first_number(text: &str) -> Result<u64> {
    Ok(text.split_whitespace().next().context("schedstat is empty")?.parse()?)
}
