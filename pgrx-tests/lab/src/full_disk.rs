//! Simulates a full disk for one server.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::postgres::ClusterOptions;
use crate::process::Fate;
use crate::run_as;
use crate::scratch::Scratch;

const SOURCE: &str = include_str!("full_disk.c");

/// The files for which there is no room.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Part {
    /// Tables and indexes.
    Data,
    /// The write-ahead log.
    Wal,
}

/// A library that a server preloads (see [`FullDisk::serve`]) and the file that tells it which disk is full. It needs
/// neither privileges nor a file system of its own.
pub struct FullDisk {
    scratch: Scratch,
}

impl FullDisk {
    /// Compiles the library. The disk is not full yet.
    pub fn prepare() -> Result<Self> {
        let disk = Self { scratch: Scratch::new("disk", Fate::DiesWithUs)? };
        let source = disk.scratch.path().join("full_disk.c");
        fs::write(&source, SOURCE)?;
        let library = disk.library();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).arg("-ldl");
        let output = compiler.output().context("run cc")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        run_as::give_to_server(&library)?;
        Ok(disk)
    }

    /// From now on no file of this part can grow.
    pub fn fill(&self, part: Part) -> Result<()> {
        let (flag, new) = (self.flag(), self.scratch.path().join("new"));
        fs::write(&new, if part == Part::Data { "/base/" } else { "/pg_wal/" })?;
        run_as::give_to_server(&new)?;
        Ok(fs::rename(new, flag)?)
    }

    /// Makes room again.
    pub fn clear(&self) -> Result<()> {
        Ok(fs::remove_file(self.flag())?)
    }

    /// Puts a server's files on this disk.
    pub fn serve(&self, options: ClusterOptions) -> ClusterOptions {
        options.env("LD_PRELOAD", self.library()).env("FULL_DISK", self.flag())
    }

    fn library(&self) -> PathBuf {
        self.scratch.path().join("full_disk.so")
    }

    fn flag(&self) -> PathBuf {
        self.scratch.path().join("full")
    }
}
