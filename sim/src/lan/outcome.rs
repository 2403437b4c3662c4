//! What came out of a measurement.

use super::shape::Rate;

/// One run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Outcome {
    /// All fetches, in the order of their hosts.
    pub fetches: Vec<Fetched>,
    /// What `curl` did, where it was asked.
    pub tcp: Option<Downloaded>,
    /// The sources that were killed, by their hosts' numbers, and at how many fetched bytes.
    pub killed: Vec<(usize, u64)>,
    /// Who had how much of the link when the first of several that ran at once had ended.
    pub together: Vec<Share>,
}

/// One fetch by a node.
#[derive(Debug, Clone, PartialEq)]
pub struct Fetched {
    /// The host that fetched.
    pub host: usize,
    /// What it says about it, or why it failed.
    pub result: Result<Report, String>,
    /// What is wrong with the file, if anything is.
    pub wrong: Option<String>,
}

/// What a node says about a fetch.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Bytes.
    pub size: u64,
    /// From the first question for content to the last byte; without the search before.
    pub seconds: f64,
    /// From the start of the process to its end.
    pub seconds_in_all: f64,
    /// Who gave what.
    pub sources: Vec<Given>,
}

/// What one source gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// Its name, which is that of its host.
    pub name: String,
    /// Its address.
    pub addr: String,
    /// Verified bytes.
    pub bytes: u64,
    /// Verified chunks.
    pub chunks: u64,
    /// Chunks that had to be asked for again.
    pub retransmitted: u64,
    /// Fragments of chunks that had to be asked for again, in datagrams.
    pub fragments_again: u64,
    /// Chunks that were wrong.
    pub bad: u64,
    /// What carried them.
    pub lane: String,
}

/// What `curl` did.
#[derive(Debug, Clone, PartialEq)]
pub struct Downloaded {
    /// Bytes.
    pub bytes: u64,
    /// From its start to its end.
    pub seconds: f64,
    /// Whether it was over in the time that it was given.
    pub complete: bool,
    /// What is wrong with the file, if it is complete, or with `curl`.
    pub wrong: Option<String>,
}

/// What one of several at once had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Who: a host's name, or `tcp`.
    pub name: String,
    /// Bytes, while all of them ran.
    pub bytes: u64,
}

impl Outcome {
    /// Everything that is not as it should be; nothing if the run was right.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for Fetched { host, result, wrong } in &self.fetches {
            match result {
                Err(error) => problems.push(format!("h{host}: {error}")),
                Ok(report) => {
                    problems
                        .extend(wrong.iter().map(|wrong| format!("h{host} fetched something else: {wrong}")));
                    let bad = report.sources.iter().filter(|source| source.bad > 0);
                    problems.extend(bad.map(|it| {
                        format!("h{host}: {} is honest, but sent {} wrong chunks", it.name, it.bad)
                    }));
                }
            }
        }
        let curl = self.tcp.iter().filter_map(|tcp| tcp.wrong.as_ref());
        problems.extend(curl.map(|wrong| format!("curl: {wrong}")));
        problems
    }
}

/// Bytes per second of the content.
pub fn goodput(bytes: u64, seconds: f64) -> f64 {
    bytes as f64 / seconds.max(1e-6)
}

/// Which part of a link content took, from 0 to 1; the headers around it are not counted.
pub fn share_of_link(bytes: u64, seconds: f64, rate: Rate) -> f64 {
    goodput(bytes, seconds) / rate.bytes()
}

/// The value in the middle.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told() {
        let given = |bad| Given {
            name: "h1".to_owned(),
            addr: "10.77.0.1:1".to_owned(),
            bytes: 1,
            chunks: 1,
            retransmitted: 0,
            fragments_again: 0,
            bad,
            lane: "stream".to_owned(),
        };
        let fetched = |bad, wrong: Option<&str>| Outcome {
            fetches: vec![Fetched {
                host: 2,
                result: Ok(Report { size: 1, seconds: 1.0, seconds_in_all: 1.0, sources: vec![given(bad)] }),
                wrong: wrong.map(str::to_owned),
            }],
            ..Outcome::default()
        };
        assert!(fetched(0, None).problems().is_empty());
        assert_eq!(fetched(1, Some("it is short")).problems().len(), 2);
        let failed = Fetched { host: 3, result: Err("no".to_owned()), wrong: None };
        assert_eq!(Outcome { fetches: vec![failed], ..Outcome::default() }.problems(), ["h3: no"]);
        let tcp = Downloaded { bytes: 1, seconds: 1.0, complete: false, wrong: None };
        assert!(Outcome { tcp: Some(tcp), ..Outcome::default() }.problems().is_empty());
    }

    #[test]
    fn a_full_link_is_one() {
        assert_eq!(share_of_link(125_000_000, 1.0, "1gbit".parse().unwrap()), 1.0);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }
}
