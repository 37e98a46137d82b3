//! What is wrong with a source, and where.

#![forbid(unsafe_code)]

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Nothing is written.
    Error,
    /// Shown, and written all the same.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        })
    }
}

/// A line of a source; `file` indexes [`Problems::files`]. Ordered as they were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    pub file: u32,
    pub line: u32,
}

#[derive(Debug)]
struct Problem {
    origin: Origin,
    severity: Severity,
    text: String,
}

/// All problems of all files, to be shown at once.
#[derive(Debug, Default)]
pub struct Problems {
    files: Vec<PathBuf>,
    list: Vec<Problem>,
}

impl Problems {
    /// Names a file; the number is for [`Origin::file`].
    pub fn add_file(&mut self, path: &Path) -> u32 {
        self.files.push(path.to_owned());
        self.files.len() as u32 - 1
    }

    pub fn add(&mut self, origin: Origin, severity: Severity, text: String) {
        self.list.push(Problem { origin, severity, text });
    }

    pub fn errors(&self) -> usize {
        self.list.iter().filter(|p| p.severity == Severity::Error).count()
    }

    /// `FILE:LINE`, as every message begins.
    pub fn place(&self, origin: Origin) -> String {
        format!("{}:{}", self.files[origin.file as usize].display(), origin.line)
    }

    /// One line for each, by file and line.
    pub fn print(&mut self, out: &mut impl Write) -> io::Result<()> {
        self.list.sort_by_key(|problem| problem.origin);
        for problem in &self.list {
            writeln!(out, "{}: {}: {}", self.place(problem.origin), problem.severity, problem.text)?;
        }
        Ok(())
    }
}
