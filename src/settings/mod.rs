//! Owns the settings (GUCs), grouped by who reads them: [`kafka`] and [`registry`] configure connections, [`relay`] a
//! relay, [`consumer`] the inbox's worker, [`events`] what sessions and triggers do with events, and
//! [`workers`] limits the number of workers. `envelope` has what shapes a record,
//! [`additions`] what sessions add to events.
//!
//! Runs in: the postmaster, which defines them; any process reads them.

use std::ffi::{CStr, CString};
use std::ops::RangeInclusive;
use std::time::Duration;

use pgrx::guc::GucEnum;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_sys};

pub mod additions;
pub mod backlog;
pub mod consumer;
mod envelope;
pub mod events;
pub mod kafka;
pub mod naming;
pub mod registry;
pub mod relay;
pub mod secret;
pub mod workers;

/// The prefix of all settings' names.
pub const PREFIX: &str = "event_outbox.";

/// Only superusers, and roles that were granted the right, may set them, since they decide where a database's
/// events go. `ALTER DATABASE … SET` sets them for one database.
const CONTEXT: GucContext = GucContext::Suset;

/// Defines all settings.
pub fn init() {
    kafka::init();
    registry::init();
    relay::init();
    envelope::init();
    consumer::init();
    events::init();
    backlog::init();
    events::init_captures();
    additions::init();
    naming::init();
    workers::init();
}

/// A setting as `pg_settings` describes it.
struct Guc {
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
}

impl Guc {
    const fn new(name: &'static CStr, short: &'static CStr, long: &'static CStr) -> Self {
        Self { name, short, long }
    }

    fn boolean(self, setting: &'static GucSetting<bool>) {
        let flags = GucFlags::default();
        GucRegistry::define_bool_guc(self.name, self.short, self.long, setting, CONTEXT, flags);
    }

    fn integer(self, setting: &'static GucSetting<i32>, range: RangeInclusive<i32>, unit: GucFlags) {
        let (least, most) = range.into_inner();
        GucRegistry::define_int_guc(self.name, self.short, self.long, setting, least, most, CONTEXT, unit);
    }

    fn text(self, setting: &'static GucSetting<Option<CString>>) {
        let flags = GucFlags::default();
        GucRegistry::define_string_guc(self.name, self.short, self.long, setting, CONTEXT, flags);
    }

    fn choice<T: GucEnum + Copy>(self, setting: &'static GucSetting<T>) {
        let flags = GucFlags::default();
        GucRegistry::define_enum_guc(self.name, self.short, self.long, setting, CONTEXT, flags);
    }
}

/// Has Postgres say why, unless all is well. Only check hooks may call it.
fn explain(is_sound: bool, why: &'static CStr) -> bool {
    if !is_sound {
        // SAFETY: Postgres reads the text when the hook returns; it is a constant.
        unsafe { pg_sys::GUC_check_errdetail_string = why.as_ptr().cast_mut() };
    }
    is_sound
}

fn text(setting: &GucSetting<Option<CString>>) -> String {
    setting.get().map(|value| value.to_string_lossy().into_owned()).unwrap_or_default()
}

// No setting has a negative minimum, so no sign is lost below.

fn size(setting: &GucSetting<i32>) -> usize {
    setting.get().unsigned_abs() as usize
}

fn seconds(setting: &GucSetting<i32>) -> Duration {
    Duration::from_secs(setting.get().unsigned_abs().into())
}

fn millis(setting: &GucSetting<i32>) -> Duration {
    Duration::from_millis(setting.get().unsigned_abs().into())
}
