//! Owns the setting that names the Schema Registry.
//!
//! Runs in: the postmaster, which defines it; any process reads it. Only a relay speaks to the registry.

use std::ffi::{CStr, CString, c_char, c_void};

use event_outbox_policy::registry::url::{RegistryUrl, UrlError};
use pgrx::prelude::*;
use pgrx::{GucFlags, GucRegistry, GucSetting};

use super::{CONTEXT, explain, kafka, secret, text};

// Empty, since a database of its own can number its schemas itself.
static SCHEMA_REGISTRY_URL: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

pub(super) fn init() {
    // SAFETY: the hook has the signature of a check hook and changes nothing.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            c"event_outbox.schema_registry_url",
            c"Address of the Schema Registry.",
            c"http://host:port with its path, or several of them with commas between. Set by superusers alone.",
            &SCHEMA_REGISTRY_URL,
            CONTEXT,
            GucFlags::default(),
            Some(check_url),
            None,
            None,
        );
    }
}

/// Check hook: the value is empty or an address, and a superuser sets it: whoever chooses the server is told what logs in there.
unsafe extern "C-unwind" fn check_url(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: Postgres passes a C string.
    let value_text = unsafe { CStr::from_ptr(*value) }.to_str().map_err(|_| UrlError::Character);
    let why = match value_text.and_then(RegistryUrl::parse) {
        Ok(_) => return secret::may_set_address(source),
        Err(UrlError::Scheme) => c"It does not begin with http:// or https://.",
        Err(UrlError::Host) => c"It names no host.",
        Err(UrlError::Credentials) => {
            c"It names a user: schema.registry.basic.auth.user.info in event_outbox.kafka_properties_file is the place for that."
        }
        Err(UrlError::Query) => c"It has a query.",
        Err(UrlError::Character) => c"It has a character that addresses do not have.",
    };
    explain(false, why)
}

/// The Schema Registry's address, if one is set: what its ids are stored with.
#[must_use]
pub fn url() -> Option<RegistryUrl> {
    RegistryUrl::parse(&text(&SCHEMA_REGISTRY_URL)).ok().flatten()
}

/// What a relay must know to speak to the Schema Registry. The properties have secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// The address; `None` if there is no registry.
    pub url: Option<RegistryUrl>,
    /// Properties in the form of the setting.
    pub properties: String,
    /// A file of further properties.
    pub properties_file: Option<std::path::PathBuf>,
}

impl Settings {
    /// Reads the current settings of this process.
    #[must_use]
    pub fn read() -> Self {
        Self { url: url(), properties: secret::value(), properties_file: kafka::properties_file() }
    }
}
