//! Keeps pgrx's schema section in the extension's library.

fn main() {
    // cargo-pgrx reads the SQL entities from a section that nothing refers to. It passes this flag by
    // itself, but for every crate; given here it concerns the library alone, and plain cargo and
    // cargo-pgrx then share one set of build artifacts.
    #[cfg(target_os = "linux")]
    println!("cargo:rustc-cdylib-link-arg=-Wl,--no-gc-sections");
    println!("cargo:rerun-if-changed=build.rs");
}
