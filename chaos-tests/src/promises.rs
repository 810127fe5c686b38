//! What clients were promised: the ids of every answered request. Kept in this process, which no fault touches.

use std::collections::HashMap;

/// Promised message ids, and the request each came from.
#[derive(Debug, Default)]
pub struct Promises {
    requests: HashMap<String, String>,
    /// Ids that were promised to two different requests: each is a finding.
    pub doubled: Vec<String>,
}

impl Promises {
    pub fn add(&mut self, request: &str, ids: &[String]) {
        for id in ids {
            if let Some(other) = self.requests.insert(id.clone(), request.to_owned())
                && other != request
            {
                self.doubled.push(id.clone());
            }
        }
    }

    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.requests.keys().map(String::as_str)
    }

    pub fn len(&self) -> usize {
        self.requests.len()
    }

    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }
}
