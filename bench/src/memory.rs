//! Watches a worker's memory while it works, and compares it with its memory when idle.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use crate::figures::Figures;
use crate::processes;

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The observations of one worker.
#[derive(Default)]
pub struct Memory {
    idle_kb: AtomicU64,
    peak_kb: AtomicU64,
}

/// Observes the worker until it is dropped.
pub struct Looking {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Memory {
    /// Notes the memory of the idle worker.
    pub fn note_idle(&self, worker: u32) {
        self.idle_kb.store(processes::own_memory_kb(worker).unwrap_or(0), Ordering::Relaxed);
    }

    /// Starts to note the highest value.
    pub fn look(self: &Arc<Self>, worker: u32) -> Looking {
        let stop = Arc::new(AtomicBool::new(false));
        let (memory, stopped) = (self.clone(), stop.clone());
        let thread = spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                memory.peak_kb.fetch_max(processes::own_memory_kb(worker).unwrap_or(0), Ordering::Relaxed);
                sleep(LOOK_EVERY);
            }
        });
        Looking { stop, thread: Some(thread) }
    }

    /// The memory when idle and the highest, in MB of a million bytes.
    pub fn megabytes(&self) -> [f64; 2] {
        [&self.idle_kb, &self.peak_kb].map(|kb| kb.load(Ordering::Relaxed) as f64 * 1024.0 / 1e6)
    }

    /// Sets the figures under `key`, in MB of a million bytes, and the worst of all scenarios under
    /// `memory.peak_over_idle_mb`.
    pub fn note(&self, figures: &mut Figures, key: &str) {
        const WORST: &str = "memory.peak_over_idle_mb";
        let [idle, peak] = self.megabytes();
        figures.set(format!("{key}.idle_mb"), idle);
        figures.set(format!("{key}.peak_mb"), peak);
        figures.set(WORST, (peak - idle).max(figures.get(WORST).unwrap_or(0.0)));
        eprintln!("    memory of the relay: {idle:.1} MB idle, {peak:.1} MB at most");
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
