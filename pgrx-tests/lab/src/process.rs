//! Server processes that cannot outlive this one, however it ends.
//!
//! The kernel signals a child when the *thread* that spawned it ends (`PR_SET_PDEATHSIG`). Tests run in threads that
//! come and go, so one thread that never ends spawns all servers. Rust does not drop statics: an `atexit` handler ends
//! the servers and removes the directories that are left when the process exits.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, MutexGuard, Once, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::wait;

/// How long a server may take to obey the signal that ends it before it gets SIGKILL.
const END_DEADLINE: Duration = Duration::from_secs(10);

/// A running server.
pub struct Process {
    child: Child,
    end_signal: i32,
    left: bool,
}

/// What happens to a server when the process that started it is killed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Fate {
    /// It ends too.
    #[default]
    DiesWithUs,
    /// It keeps running, in a session of its own. Drop and exit still end it, until [`Process::leave`].
    CanStay,
}

impl Process {
    /// Starts a server that `end_signal` ends.
    pub fn spawn(mut command: Command, end_signal: i32, fate: Fate) -> Result<Self> {
        let parent = std::process::id();
        // SAFETY: between fork and exec only async-signal-safe functions are called.
        unsafe {
            command.pre_exec(move || {
                // Leave the terminal's process group: Ctrl-C is for us, and we shut the servers down.
                let done = match fate {
                    Fate::DiesWithUs => libc::prctl(libc::PR_SET_PDEATHSIG, end_signal) | libc::setpgid(0, 0),
                    Fate::CanStay => libc::setsid(),
                };
                if done < 0 {
                    return Err(io::Error::last_os_error());
                }
                // The parent may have died before prctl.
                if libc::getppid() as u32 != parent {
                    libc::_exit(1);
                }
                unblock_signals()
            });
        }
        let what = format!("{command:?}");
        let child = spawn_from_lasting_thread(command).with_context(|| what)?;
        registry().pids.insert(child.id(), end_signal);
        Ok(Self { child, end_signal, left: false })
    }

    /// Detaches the running process; returns its id.
    pub fn leave(mut self) -> u32 {
        registry().pids.remove(&self.pid());
        self.left = true;
        self.pid()
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) -> Result<()> {
        send(self.pid(), signal).with_context(|| format!("signal {signal} to process {}", self.pid()))
    }

    /// The exit status if the process has ended.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        let status = self.child.try_wait()?;
        if status.is_some() {
            registry().pids.remove(&self.pid());
        }
        Ok(status)
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("the end of process {}", self.pid());
        wait::until_ok(&what, deadline, || self.exited())
    }

    /// Ends the process: first with its own signal, then with SIGKILL.
    pub fn end(&mut self) {
        // A stopped process would not see the first signal.
        let _ = self.signal(libc::SIGCONT);
        let _ = self.signal(self.end_signal);
        if self.wait(END_DEADLINE).is_err() {
            let _ = self.signal(libc::SIGKILL);
            let _ = self.wait(END_DEADLINE);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.left && !matches!(self.exited(), Ok(Some(_))) {
            self.end();
        }
    }
}

/// Sends a signal to a process by its id.
pub fn send(pid: u32, signal: i32) -> Result<()> {
    // SAFETY: kill has no memory preconditions.
    let result = unsafe { libc::kill(i32::try_from(pid)?, signal) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error().into()) }
}

/// The running children of a process.
pub fn children(parent: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if state_and_parent(pid).is_some_and(|(state, its)| its == parent && state != "Z") {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Whether a process is running.
pub fn is_alive(pid: u32) -> bool {
    state_and_parent(pid).is_some_and(|(state, _)| state != "Z")
}

fn state_and_parent(pid: u32) -> Option<(String, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name comes first, in parentheses, and can hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

/// Makes SIGINT, SIGTERM and SIGHUP end the process through `exit`, which shuts the servers down. Must be called before
/// other threads start.
pub fn exit_in_order_on_signals() {
    // SAFETY: an all-zero sigset_t is valid storage for sigemptyset; the pointers live through the calls.
    let signals = unsafe {
        let mut signals: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut signals);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::sigaddset(&mut signals, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &signals, std::ptr::null_mut());
        signals
    };
    std::thread::spawn(move || {
        let mut signal = 0;
        // SAFETY: both pointers are to live variables of this thread.
        if unsafe { libc::sigwait(&signals, &mut signal) } == 0 {
            INTERRUPTED.store(true, Ordering::Relaxed);
            eprintln!("\ninterrupted: stopping what was started");
            std::process::exit(128 + signal);
        }
    });
}

/// Whether a signal of [`exit_in_order_on_signals`] has arrived. Errors after it are expected.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn unblock_signals() -> io::Result<()> {
    // SAFETY: an all-zero sigset_t is valid storage for sigemptyset; the pointers live through the calls.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
    Ok(())
}

struct Job {
    command: Command,
    reply: Sender<io::Result<Child>>,
}

fn spawn_from_lasting_thread(command: Command) -> Result<Child> {
    static JOBS: OnceLock<Sender<Job>> = OnceLock::new();
    let jobs = JOBS.get_or_init(|| {
        let (sender, receiver) = channel::<Job>();
        std::thread::spawn(move || {
            for mut job in receiver {
                let _ = job.reply.send(job.command.spawn());
            }
        });
        sender
    });
    let (reply, answer) = channel();
    jobs.send(Job { command, reply }).map_err(|_| anyhow!("the spawning thread has ended"))?;
    Ok(answer.recv()??)
}

#[derive(Default)]
struct Registry {
    pids: BTreeMap<u32, i32>,
    directories: BTreeSet<PathBuf>,
}

fn registry() -> MutexGuard<'static, Registry> {
    static REGISTRY: Mutex<Registry> =
        Mutex::new(Registry { pids: BTreeMap::new(), directories: BTreeSet::new() });
    static AT_EXIT: Once = Once::new();
    AT_EXIT.call_once(|| {
        // SAFETY: clean_up takes no argument and does not unwind.
        unsafe { libc::atexit(clean_up) };
    });
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes `path` when this process ends, if it is still there.
pub(crate) fn remove_at_exit(path: &Path) {
    registry().directories.insert(path.to_path_buf());
}

/// Undoes [`remove_at_exit`].
pub(crate) fn keep_at_exit(path: &Path) {
    registry().directories.remove(path);
}

extern "C" fn clean_up() {
    let Registry { pids, directories } = std::mem::take(&mut *registry());
    for (pid, signal) in &pids {
        let _ = send(*pid, libc::SIGCONT);
        let _ = send(*pid, *signal);
    }
    let begin = Instant::now();
    let mut patience = END_DEADLINE;
    for pid in pids.keys() {
        while !reaped(*pid) {
            if begin.elapsed() > patience {
                let _ = send(*pid, libc::SIGKILL);
                patience += Duration::from_secs(1);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    for directory in directories {
        let _ = std::fs::remove_dir_all(directory);
    }
}

fn reaped(pid: u32) -> bool {
    // SAFETY: a null status pointer is allowed.
    unsafe { libc::waitpid(pid as i32, std::ptr::null_mut(), libc::WNOHANG) != 0 }
}
