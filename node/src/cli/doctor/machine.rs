//! What is looked at on this machine: clock, descriptors, the state folder, the node that runs here and its shares.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::timeout;

use super::Finding;
use crate::cli::text::{bytes, date, duration};
use crate::status::{Asked, NodeStatus, ShareStatus, ask_all};

/// The nodes of this state folder, and what there is to say of them.
pub(super) struct RunningNodes {
    pub(super) nodes: Vec<NodeStatus>,
    pub(super) findings: Vec<Finding>,
}

/// Whether the clock is about right: times of files are judged by it, and STEP's tokens.
pub(super) fn clock(state: &Path) -> Vec<Finding> {
    const CHECK: &str = "clock";
    let now = seconds(SystemTime::now());
    let todo = "set the clock, or let the machine set it by itself (NTP)";
    let shown = date(now);
    if now < YEAR_2025 {
        let says = "it is years behind, so files look as if they were from the future";
        return vec![Finding::problem(CHECK, &shown, says, todo)];
    }
    let made = fs::metadata(state.join("identity.pem")).and_then(|file| file.modified());
    if let Ok(made) = made.map(seconds)
        && made > now + CLOCK_BEHIND_MAX
    {
        let says = format!("it was {} already when this node's identity was made", date(made));
        return vec![Finding::warning(CHECK, &shown, says, todo)];
    }
    vec![Finding::ok(CHECK, &shown, "the clock is plausible")]
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// How many files may be open at once.
pub(super) fn descriptors() -> Vec<Finding> {
    use rustix::process::{Resource, getrlimit};
    const CHECK: &str = "limits";
    // What a node raises by itself was raised when this program started.
    let limit = getrlimit(Resource::Nofile).current;
    match limit {
        Some(limit) if limit < DESCRIPTORS_ENOUGH => {
            let says = format!("{limit} files may be open at once: a busy node has to turn some away");
            let todo = "raise the hard limit (`ulimit -Hn`, LimitNOFILE= of a service)";
            let finding = if limit < DESCRIPTORS_MIN { Finding::problem } else { Finding::warning };
            vec![finding(CHECK, "open files".to_owned(), says, todo.to_owned())]
        }
        _ => vec![Finding::ok(CHECK, "open files", "enough files may be open at once")],
    }
}

/// Whether the state folder can be used, and by whom. And whether a node can start with it.
pub(super) fn state_folder(state: &Path) -> (Vec<Finding>, bool) {
    const CHECK: &str = "state";
    let shown = state.display().to_string();
    let choose = "let this user write there, or choose another folder with --state";
    if let Err(error) = fs::create_dir_all(state) {
        return (vec![Finding::problem(CHECK, &shown, format!("it cannot be made: {error}"), choose)], false);
    }
    if let Err(error) = tempfile::Builder::new().prefix(".doctor-").tempfile_in(state) {
        let says = format!("nothing can be written there: {error}");
        return (vec![Finding::problem(CHECK, &shown, says, choose)], false);
    }
    let mut findings = Vec::new();
    let user = rustix::process::geteuid().as_raw();
    if let Ok(metadata) = fs::metadata(state) {
        if metadata.uid() != user {
            let says = format!(
                "it is the folder of user number {}: nodes of two users get in each other's way",
                metadata.uid()
            );
            findings.push(Finding::warning(
                CHECK,
                &shown,
                says,
                "give each user a folder of its own with --state",
            ));
        }
        if metadata.mode() & 0o022 != 0 {
            let says = "other users may write there, and so replace what this node takes for its own";
            findings.push(Finding::warning(CHECK, &shown, says, format!("chmod go-w {shown}")));
        }
    }
    let identity = state.join("identity.pem");
    if fs::metadata(&identity).is_ok_and(|file| file.mode() & 0o077 != 0) {
        let says = "other users can read this node's key, and so be taken for this node";
        let todo = format!(
            "chmod 600 {0}; if somebody may have read it, remove it, and the node gets a new one",
            identity.display()
        );
        findings.push(Finding::problem(CHECK, identity.display(), says, todo));
    }
    if let Ok(free) = rustix::fs::statvfs(state).map(|system| system.f_bavail.saturating_mul(system.f_frsize))
        && free < STATE_FREE_MIN
    {
        let says = format!("{} are free there: hashes may not be remembered", bytes(free));
        findings.push(Finding::warning(CHECK, &shown, says, "make room"));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, &shown, "it can be written, and its key is this user's only"));
    }
    (findings, true)
}

/// The nodes that run with this state folder, and whether what they share can be read.
pub(super) async fn running(state: &Path) -> RunningNodes {
    const CHECK: &str = "node";
    let shown = state.display().to_string();
    let all = match ask_all(state).await {
        Ok(all) => all,
        Err(error) => {
            let says = format!("who runs with it cannot be seen: {error}");
            let findings =
                vec![Finding::warning(CHECK, &shown, says, "run this as the user who started the node")];
            return RunningNodes { nodes: Vec::new(), findings };
        }
    };
    let (mut nodes, mut findings) = (Vec::new(), Vec::new());
    for Asked { instance, answer } in all {
        match answer {
            Ok(status) => nodes.push(status),
            Err(error) => {
                let says = format!("it runs and does not say how it is: {error}");
                let todo = "the process hangs or is stopped: look at its log, or start it again";
                findings.push(Finding::problem(CHECK, format!("instance {instance}"), says, todo));
            }
        }
    }
    if nodes.is_empty() && findings.is_empty() {
        let says =
            "no node runs with this state folder: others find nothing here, and `get` works all the same";
        findings.push(Finding::ok(CHECK, &shown, says));
    }
    for node in &nodes {
        let about = format!("{} (process {})", node.name, node.pid);
        let what = if node.session_addr.is_some() {
            "it runs, and answers"
        } else {
            "it runs, and takes no sessions"
        };
        findings.push(Finding::ok(CHECK, about, format!("{what}; up {}", duration(node.uptime_seconds))));
        for share in &node.shares {
            findings.push(look_at_share(share).await);
        }
        findings.extend(not_shared(node));
        findings.extend(watches(node));
    }
    RunningNodes { nodes, findings }
}

async fn look_at_share(share: &ShareStatus) -> Finding {
    const CHECK: &str = "share";
    let path = share.path.clone();
    // A disk or network file system that hangs hangs a thread, which ends with this program.
    let looking = tokio::task::spawn_blocking(move || {
        let path = Path::new(&path);
        match fs::metadata(path)?.is_dir() {
            true => fs::read_dir(path).map(drop),
            false => fs::File::open(path).map(drop),
        }
    });
    match timeout(SHARE_MAX, looking).await {
        Ok(Ok(Ok(()))) => {
            let says = format!("{} files, {} folders, {}", share.files, share.folders, bytes(share.bytes));
            Finding::ok(CHECK, &share.path, says)
        }
        Ok(Ok(Err(error))) => {
            let todo = "let the node's user read it, or bring it back where it was";
            Finding::problem(CHECK, &share.path, format!("it cannot be read: {error}"), todo)
        }
        _ => {
            let says = format!(
                "it did not answer within {}: its disk or server hangs",
                duration(SHARE_MAX.as_secs_f64())
            );
            Finding::problem(CHECK, &share.path, says, "look at the disk, or at the server that it is on")
        }
    }
}

/// What is in the shares and not offered.
fn not_shared(node: &NodeStatus) -> Option<Finding> {
    let hashing = node.hashing.as_ref().filter(|hashing| hashing.skipped > 0)?;
    let example =
        hashing.skipped_examples.first().map(|(path, reason)| format!(", such as {path}: {reason}"));
    let says =
        format!("{} entries of the shares are not offered{}", hashing.skipped, example.unwrap_or_default());
    let todo = "`ftx-node status` shows more of them, the node's log all";
    Some(Finding::warning("share", &node.name, says, todo))
}

/// Whether the system lets a node watch that many folders.
fn watches(node: &NodeStatus) -> Option<Finding> {
    let folders: u64 = node.shares.iter().map(|share| share.folders + 1).sum();
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_user_watches").ok()?;
    let limit: u64 = limit.trim().parse().ok()?;
    (folders > limit).then(|| {
        let says = format!("{folders} folders are shared and {limit} can be watched: changes are found late");
        let todo = format!("sysctl fs.inotify.max_user_watches={}", folders * 2);
        Finding::warning("limits", "watched folders", says, todo)
    })
}

/// 2025 began then, in seconds since 1970.
const YEAR_2025: i64 = 1_735_689_600;

/// How much later than now, in seconds, something may have been made.
const CLOCK_BEHIND_MAX: i64 = 3600;

/// Open files with which many can be served at once.
const DESCRIPTORS_ENOUGH: u64 = 4 * crate::limits::SESSIONS_MAX as u64;

/// Open files without which little works.
const DESCRIPTORS_MIN: u64 = 256;

/// Room for the hashes of some hundred thousand files.
const STATE_FREE_MIN: u64 = 64 << 20;

/// How long a share may take to be looked at.
const SHARE_MAX: Duration = Duration::from_secs(3);
