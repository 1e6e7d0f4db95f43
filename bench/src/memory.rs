//! Watches the relay's memory while it works, and compares it with its memory when idle.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use crate::figures::Figures;
use crate::processes;

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The observations of one relay.
#[derive(Default)]
pub struct Memory {
    idle_kb: AtomicU64,
    peak_kb: AtomicU64,
}

/// Observes the relay until it is dropped.
pub struct Looking {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Memory {
    /// Notes the memory of the idle relay.
    pub fn note_idle(&self, relay: u32) {
        self.idle_kb.store(processes::own_memory_kb(relay).unwrap_or(0), Ordering::Relaxed);
    }

    /// Starts to note the highest value.
    pub fn look(self: &Arc<Self>, relay: u32) -> Looking {
        let stop = Arc::new(AtomicBool::new(false));
        let (memory, stopped) = (self.clone(), stop.clone());
        let thread = spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                memory.peak_kb.fetch_max(processes::own_memory_kb(relay).unwrap_or(0), Ordering::Relaxed);
                sleep(LOOK_EVERY);
            }
        });
        Looking { stop, thread: Some(thread) }
    }

    /// Sets the figures under `key`, in MB of a million bytes, and the worst of all scenarios under
    /// `memory.peak_over_idle_mb`.
    pub fn note(&self, figures: &mut Figures, key: &str) {
        const WORST: &str = "memory.peak_over_idle_mb";
        let megabytes = |kb: u64| kb as f64 * 1024.0 / 1e6;
        let [idle, peak] = [&self.idle_kb, &self.peak_kb].map(|kb| kb.load(Ordering::Relaxed));
        let over = megabytes(peak.saturating_sub(idle));
        figures.set(format!("{key}.idle_mb"), megabytes(idle));
        figures.set(format!("{key}.peak_mb"), megabytes(peak));
        figures.set(WORST, over.max(figures.get(WORST).unwrap_or(0.0)));
        eprintln!(
            "    memory of the relay: {:.1} MB idle, {:.1} MB at most",
            megabytes(idle),
            megabytes(peak)
        );
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
