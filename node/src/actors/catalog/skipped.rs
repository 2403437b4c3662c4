//! What is in the shares and not offered: logged once by name, and kept for whoever asks.

use std::collections::BTreeMap;

use crate::catalog::Skipped;

/// What is not offered and why.
#[derive(Debug, Default)]
pub(super) struct SkippedLog {
    /// Path to reason, and the scan that came across it last.
    entries: BTreeMap<String, (String, u64)>,
    /// How many did not fit, in this scan and in the last one.
    beyond: u64,
    beyond_before: u64,
}

impl SkippedLog {
    /// Most entries that are kept, and logged by name.
    const ENTRIES_MAX: usize = 1024;

    /// Most entries that are shown.
    const EXAMPLES_MAX: usize = 32;

    /// Something was come across by this scan, or hashed after it.
    pub(super) fn note(&mut self, Skipped { path, reason }: Skipped, scan: u64) {
        let reason = reason.to_string();
        if let Some(known) = self.entries.get_mut(&path) {
            *known = (reason, scan);
        } else if self.entries.len() < Self::ENTRIES_MAX {
            tracing::warn!("{path} is not shared: {reason}");
            self.entries.insert(path, (reason, scan));
        } else {
            self.beyond += 1;
        }
    }

    /// Forgets what was not come across any more.
    pub(super) fn scan_ended(&mut self, scan: u64) {
        // What hashing came across after the last scan is found out again after this one.
        self.entries.retain(|_, (_, seen)| *seen + 1 >= scan);
        if self.beyond > 0 && self.beyond_before == 0 {
            tracing::warn!("{} further entries are not shared", self.beyond);
        }
        self.beyond_before = std::mem::take(&mut self.beyond);
    }

    /// How many.
    pub(super) fn count(&self) -> u64 {
        self.entries.len() as u64 + self.beyond.max(self.beyond_before)
    }

    /// Some of them: path and reason.
    pub(super) fn examples(&self) -> Vec<(String, String)> {
        let shown = self.entries.iter().take(Self::EXAMPLES_MAX);
        shown.map(|(path, (reason, _))| (path.clone(), reason.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::SkipReason;
    use std::path::Path;

    fn note(log: &mut SkippedLog, name: &str, scan: u64) {
        log.note(Skipped::new(Path::new(name), SkipReason::Link), scan);
    }

    #[test]
    fn what_is_not_come_across_any_more_is_forgotten() {
        let mut log = SkippedLog::default();
        note(&mut log, "stays", 1);
        note(&mut log, "goes", 1);
        log.scan_ended(1);
        for scan in 2..4 {
            note(&mut log, "stays", scan);
            log.scan_ended(scan);
        }
        assert_eq!(log.examples(), [("stays".to_owned(), SkipReason::Link.to_string())]);
        assert_eq!(log.count(), 1);
    }

    #[test]
    fn too_many_are_counted_and_not_kept() {
        let mut log = SkippedLog::default();
        let all = SkippedLog::ENTRIES_MAX + 7;
        for scan in 1..3 {
            for number in 0..all {
                note(&mut log, &format!("{number:05}"), scan);
            }
            assert_eq!(log.count(), all as u64);
            log.scan_ended(scan);
            assert_eq!(log.count(), all as u64);
        }
        assert_eq!(log.entries.len(), SkippedLog::ENTRIES_MAX);
        assert_eq!(log.examples().len(), SkippedLog::EXAMPLES_MAX);
    }
}
