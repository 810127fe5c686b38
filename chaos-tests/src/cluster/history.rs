//! What clients were promised, in a file that is only ever appended to: one line of JSON for each answered request, written
//! with one system call before the client goes on. It is read again for the checks, so that they see what a file keeps.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::promises::Promises;

#[derive(Debug)]
pub struct History {
    file: File,
    path: PathBuf,
}

/// An answered request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    pub unix_ms: u64,
    /// A tenant's number in this run.
    pub tenant: usize,
    /// The idempotency key.
    pub request: String,
    /// Who answered.
    pub node: usize,
    pub attempts: u32,
    pub took_ms: u64,
    pub messages: Vec<String>,
}

impl History {
    pub fn create(path: PathBuf) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(&path);
        Ok(Self { file: file.with_context(|| format!("creating {}", path.display()))?, path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lines of several clients never mix: each is one write to a file in append mode.
    pub fn add(&self, promise: &Promise) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(promise)?;
        line.push(b'\n');
        (&self.file).write_all(&line).context("writing the history")
    }

    pub fn sync(&self) -> anyhow::Result<()> {
        self.file.sync_all().context("syncing the history")
    }
}

pub fn read(path: &Path) -> anyhow::Result<Vec<Promise>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let line =
        |(number, line)| serde_json::from_str(line).with_context(|| format!("{}:{}", path.display(), number + 1));
    text.lines().enumerate().map(line).collect()
}

/// The promises to one tenant.
pub fn of_tenant(history: &[Promise], tenant: usize) -> Promises {
    let mut promises = Promises::default();
    for promise in history.iter().filter(|promise| promise.tenant == tenant) {
        promises.add(&promise.request, &promise.messages);
    }
    promises
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let history = History::create(folder.path().join("history")).unwrap();
        let promise = |tenant, request: &str, id: &str| Promise {
            unix_ms: 1,
            tenant,
            request: request.into(),
            node: 2,
            attempts: 3,
            took_ms: 4,
            messages: vec![id.into()],
        };
        let all = [promise(0, "a", "m1"), promise(1, "b", "m2"), promise(0, "c", "m1")];
        all.iter().for_each(|promise| history.add(promise).unwrap());
        history.sync().unwrap();
        let read = read(history.path()).unwrap();
        assert_eq!(read, all);
        let promises = of_tenant(&read, 0);
        assert_eq!((promises.len(), promises.doubled.as_slice()), (1, &["m1".to_owned()][..]));
    }
}
