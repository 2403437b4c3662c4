//! The users of STEP who have a password: a file of names and hashes, and verifying what is sent.
//!
//! A line of the file is `NAME:HASH`, the hash being argon2 (as a PHC string) of the lower-case hex digits of the MD5 of
//! the password, since that is what the classic clients send in its place; the others send the password itself. The file
//! is read at every login, and looked at with every token, so what is added, changed or removed counts at once: a token
//! is bound to the line that its user had. A file that cannot be read lets nobody in. It is for its owner only, and
//! written whole or not at all.
//!
//! Verifying is slow on purpose: it runs on blocking threads, few at once, and whoever fails often has to wait.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use argon2::Argon2;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use ftx_proto::digest::Digest;
use ftx_proto::interop::step::token::{Authenticator, Secrets, TokenKey, classic_password};
use ftx_proto::interop::step::value::UserName;
use tokio::sync::Semaphore;

/// Largest file of users, in bytes.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Passwords that are verified at once; each takes 19 MiB of memory while it is.
const VERIFICATIONS_MAX: usize = 2;

/// Failures of one address within [`FAILURE_WINDOW`] that cost nothing.
const FREE_FAILURES: u32 = 5;

/// What each further failure adds to the wait before the next attempt.
const FAILURE_WAIT: Duration = Duration::from_millis(250);

/// The longest wait before an attempt.
const FAILURE_WAIT_MAX: Duration = Duration::from_secs(3);

/// After so long without one, failures are forgotten.
const FAILURE_WINDOW: Duration = Duration::from_secs(60);

/// Addresses whose failures are remembered.
const ADDRESSES_MAX: usize = 1024;

/// How long a token is good.
const TOKEN_SECONDS: u64 = 24 * 60 * 60;

const TOKEN_KEY_FILE: &str = "step-token-key";

/// A file of users.
#[derive(Debug, Clone)]
pub struct StepUsers {
    path: PathBuf,
}

/// Why a file of users could not be used.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// It cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// A line of it is not `NAME:HASH`.
    #[error("{}, line {line}: it has to be NAME:HASH, as `ftx-node step-user add` writes it", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// Hashing failed.
    #[error("the password cannot be hashed: {0}")]
    Hash(argon2::password_hash::Error),
}

impl StepUsers {
    /// The users in this file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        StepUsers { path: path.into() }
    }

    /// Their names, in order.
    pub fn names(&self) -> Result<Vec<UserName>, UsersError> {
        let mut names: Vec<UserName> = self.read()?.into_iter().map(|(name, _)| name).collect();
        names.sort();
        Ok(names)
    }

    /// Adds a user, or gives one another password. `true` if the user was there.
    pub fn add(&self, name: &UserName, password: &str) -> Result<bool, UsersError> {
        let mut users = match self.read() {
            Err(UsersError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            result => result?,
        };
        let before = users.len();
        users.retain(|(other, _)| other != name);
        let existed = users.len() < before;
        let hashed = hash_of(password).map_err(UsersError::Hash)?;
        users.push((name.clone(), hashed));
        self.write(&users)?;
        Ok(existed)
    }

    /// Removes a user. `false` if there is none of this name.
    pub fn remove(&self, name: &UserName) -> Result<bool, UsersError> {
        let mut users = self.read()?;
        let before = users.len();
        users.retain(|(other, _)| other != name);
        if users.len() == before {
            return Ok(false);
        }
        self.write(&users)?;
        Ok(true)
    }

    /// A digest of what is kept of the user's secret, if this is the password, or the MD5 of it. Takes some 20 ms of
    /// computing, by intention.
    pub fn verify(&self, name: &UserName, password: &str) -> Result<Option<[u8; 32]>, UsersError> {
        let users = self.read()?;
        let found = users.iter().find(|(other, _)| other == name);
        // For a name that does not exist it takes as long.
        let hash = found.map_or(DECOY, |(_, hash)| hash.as_str());
        let is_digits = password.len() == 32 && password.bytes().all(|byte| byte.is_ascii_hexdigit());
        let as_sum = is_digits && matches(hash, &password.to_ascii_lowercase());
        // A password may itself look like a sum.
        let good = as_sum || matches(hash, &classic_password(password));
        Ok(found.filter(|_| good).map(|(_, hash)| digest_of(hash)))
    }

    /// All users, each with a digest of what is kept of the secret.
    fn secrets(&self) -> Result<Secrets, UsersError> {
        Ok(self.read()?.into_iter().map(|(name, hash)| (name, digest_of(&hash))).collect())
    }

    fn read(&self) -> Result<Vec<(UserName, String)>, UsersError> {
        use io::Read;
        let mut text = String::new();
        let file = fs::File::open(&self.path).map_err(|error| self.failed(error))?;
        file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(|error| self.failed(error))?;
        users_in(&text).map_err(|line| UsersError::Line { path: self.path.clone(), line })
    }

    fn write(&self, users: &[(UserName, String)]) -> Result<(), UsersError> {
        let text = text_of(users);
        let mut draft = self.path.clone().into_os_string();
        draft.push(format!(".{:016x}", rand::random::<u64>()));
        let draft = PathBuf::from(draft);
        let written = write_private(&draft, text.as_bytes()).and_then(|()| fs::rename(&draft, &self.path));
        written.map_err(|error| {
            // The first error is the one that counts.
            let _ = fs::remove_file(&draft);
            self.failed(error)
        })
    }

    fn failed(&self, error: io::Error) -> UsersError {
        UsersError::Io { path: self.path.clone(), error }
    }
}

/// The users in a text, or the number of the line that is wrong.
pub(super) fn users_in(text: &str) -> Result<Vec<(UserName, String)>, usize> {
    let mut users = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let user = line.rsplit_once(':').and_then(|(name, hash)| {
            let hash = hash.trim();
            PasswordHash::new(hash).ok()?;
            Some((name.parse().ok()?, hash.to_owned()))
        });
        users.push(user.ok_or(number + 1)?);
    }
    Ok(users)
}

/// The text that has these users.
pub(super) fn text_of(users: &[(UserName, String)]) -> String {
    let mut text =
        "# Users of STEP, and argon2 hashes of their passwords. See `ftx-node step-user --help`.\n"
            .to_owned();
    for (name, hash) in users {
        text.push_str(&format!("{name}:{hash}\n"));
    }
    text
}

fn digest_of(hash: &str) -> [u8; 32] {
    Digest::of(hash.as_bytes()).0
}

/// Hash of a password that nobody has.
const DECOY: &str = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$\
                     AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn hash_of(password: &str) -> Result<String, argon2::password_hash::Error> {
    let salt = SaltString::encode_b64(&rand::random::<[u8; 16]>())?;
    Ok(Argon2::default().hash_password(classic_password(password).as_bytes(), &salt)?.to_string())
}

fn matches(hash: &str, password: &str) -> bool {
    let Ok(hash) = PasswordHash::new(hash) else { return false };
    Argon2::default().verify_password(password.as_bytes(), &hash).is_ok()
}

/// A new file that only its owner may read, on the disk when this returns.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// The key that this node seals tokens with; a new one if there is none yet. It outlives the node, and so do tokens.
///
/// # Errors
/// It cannot be read or written.
pub fn token_key(state_dir: &Path) -> io::Result<TokenKey> {
    let path = state_dir.join(TOKEN_KEY_FILE);
    let read = || match fs::read(&path) {
        Ok(bytes) => <[u8; 32]>::try_from(bytes)
            .map(Some)
            .map_err(|_| io::Error::other("it is no key; remove it to get a new one")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let key = match read()? {
        Some(key) => key,
        None => {
            let draft = state_dir.join(format!("{TOKEN_KEY_FILE}.{:016x}", rand::random::<u64>()));
            write_private(&draft, &rand::random::<[u8; 32]>())?;
            let linked = fs::hard_link(&draft, &path);
            fs::remove_file(&draft)?;
            match linked {
                // Another process was first: its key is the one.
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => read()?.ok_or(io::ErrorKind::NotFound)?,
            }
        }
    };
    Ok(TokenKey::new(key, TOKEN_SECONDS))
}

/// Who may use STEP.
#[derive(Debug)]
pub enum StepAccess {
    /// Whoever says a name.
    Classic,
    /// Who has a password, or a token that was given for it.
    Secrets(TokenKey, Box<PasswordGate>),
}

impl StepAccess {
    /// What requests are checked with at this moment.
    pub fn authenticator(&self) -> Authenticator {
        match self {
            StepAccess::Classic => Authenticator::Classic,
            StepAccess::Secrets(key, gate) => Authenticator::Secrets(key.clone(), gate.secrets()),
        }
    }

    /// Whether the password is good, and what the token for it is to be made with.
    pub async fn verify(&self, from: IpAddr, user: UserName, password: String) -> (bool, Authenticator) {
        let StepAccess::Secrets(key, gate) = self else { return (false, Authenticator::Classic) };
        let verified = gate.verify(from, user.clone(), password).await;
        let secrets = gate.secrets();
        // It may have been changed since: then it was not this one.
        let good = verified.is_some_and(|secret| secrets.of(&user) == Some(&secret));
        (good, Authenticator::Secrets(key.clone(), secrets))
    }
}

/// Verifies passwords, a few at once, and slows down who fails. Knows the secrets that stand now.
#[derive(Debug)]
pub struct PasswordGate {
    users: StepUsers,
    known: Mutex<Known>,
    places: Semaphore,
    failures: Mutex<HashMap<IpAddr, Failures>>,
}

/// What was read of the file, when it looked like this.
#[derive(Debug, Default)]
struct Known {
    stamp: Option<FileStamp>,
    secrets: Arc<Secrets>,
    /// That it cannot be read was said.
    complained: bool,
}

/// Device, number, size, and seconds and nanoseconds of the last change, that of the file's data and that of any kind.
type FileStamp = (u64, u64, u64, [i64; 4]);

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

impl PasswordGate {
    /// A gate for these users.
    pub fn new(users: StepUsers) -> Self {
        let (known, failures) = (Mutex::default(), Mutex::default());
        PasswordGate { users, known, places: Semaphore::new(VERIFICATIONS_MAX), failures }
    }

    /// The secrets that stand now. Reads the file if it was changed; none if it cannot be read.
    pub fn secrets(&self) -> Arc<Secrets> {
        // Before reading, so that a change while it is read is noticed the next time.
        let stamp = file_stamp(&self.users.path);
        // Nothing panics half-way through a change of it.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if stamp.is_some() && known.stamp == stamp {
            return Arc::clone(&known.secrets);
        }
        match self.users.secrets() {
            Ok(secrets) => *known = Known { stamp, secrets: Arc::new(secrets), complained: false },
            Err(error) => {
                if !known.complained {
                    tracing::error!(%error, "no token is good");
                }
                *known = Known { complained: true, ..Known::default() };
            }
        }
        Arc::clone(&known.secrets)
    }

    /// A digest of the user's secret if the password is good. Whoever failed often before waits first.
    pub async fn verify(&self, from: IpAddr, user: UserName, password: String) -> Option<[u8; 32]> {
        let wait = self.wait_of(from);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let Ok(_place) = self.places.acquire().await else { return None };
        let (users, name) = (self.users.clone(), user.clone());
        let verified = tokio::task::spawn_blocking(move || users.verify(&name, &password)).await;
        let good = match verified {
            Ok(Ok(good)) => good,
            Ok(Err(error)) => {
                tracing::error!(%error, "nobody can log in");
                return None;
            }
            Err(_) => return None,
        };
        if good.is_none() {
            tracing::warn!(%from, user = ?user.as_str(), "wrong password");
        }
        self.note(from, good.is_some());
        good
    }

    fn wait_of(&self, from: IpAddr) -> Duration {
        let failures = self.lock();
        let Some(failures) = failures.get(&from).filter(|failures| failures.last.elapsed() < FAILURE_WINDOW)
        else {
            return Duration::ZERO;
        };
        (FAILURE_WAIT * failures.count.saturating_sub(FREE_FAILURES).min(1000)).min(FAILURE_WAIT_MAX)
    }

    fn note(&self, from: IpAddr, good: bool) {
        let mut failures = self.lock();
        if good {
            failures.remove(&from);
            return;
        }
        if failures.len() >= ADDRESSES_MAX && !failures.contains_key(&from) {
            let oldest = failures.iter().min_by_key(|(_, failures)| failures.last).map(|(from, _)| *from);
            oldest.and_then(|oldest| failures.remove(&oldest));
        }
        let now = Instant::now();
        let entry = failures.entry(from).or_insert(Failures { count: 0, last: now });
        if now.duration_since(entry.last) >= FAILURE_WINDOW {
            entry.count = 0;
        }
        *entry = Failures { count: entry.count.saturating_add(1), last: now };
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Failures>> {
        // Nothing panics half-way through a change of it.
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn file_stamp(path: &Path) -> Option<FileStamp> {
    let file = fs::metadata(path).ok()?;
    let changed = [file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()];
    Some((file.dev(), file.ino(), file.size(), changed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn user(name: &str) -> UserName {
        name.parse().unwrap()
    }

    #[test]
    fn a_password_is_good_plain_and_as_its_md5() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        let users = StepUsers::new(&path);
        let looks_like_a_sum = "00112233445566778899aabbccddeeff";
        assert!(!users.add(&user("al.ice"), "secret").unwrap());
        assert!(!users.add(&user("b:ob"), looks_like_a_sum).unwrap());
        let sum = classic_password("secret");
        for (name, password, good) in [
            ("al_ice", "secret", true),
            ("al.ice", &sum, true),
            ("al.ice", &sum.to_uppercase(), true),
            ("al.ice", "Secret", false),
            ("al.ice", "", false),
            ("al.ice", &classic_password("al.ice"), false),
            ("b:ob", looks_like_a_sum, true),
            ("b:ob", &classic_password(looks_like_a_sum), true),
            ("b:ob", "secret", false),
            ("carol", "secret", false),
        ] {
            assert_eq!(users.verify(&user(name), password).unwrap().is_some(), good, "{name} {password}");
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!fs::read_to_string(&path).unwrap().contains("secret"));
        assert!(users.add(&user("al.ice"), "other").unwrap());
        assert!(users.verify(&user("al.ice"), "secret").unwrap().is_none());
        assert_eq!(users.names().unwrap(), [user("al_ice"), user("b:ob")]);
        assert!(users.remove(&user("al.ice")).unwrap());
        assert!(!users.remove(&user("al.ice")).unwrap());
        assert_eq!(users.names().unwrap(), [user("b:ob")]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
        assert!(PasswordHash::new(DECOY).is_ok());
    }

    #[test]
    fn a_damaged_file_says_where() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        fs::write(&path, "# comment\n\nalice:secret\n").unwrap();
        let error = StepUsers::new(&path).names().unwrap_err().to_string();
        assert!(error.contains("line 3"), "{error}");
        assert!(StepUsers::new(folder.path().join("no")).names().is_err());
    }

    #[test]
    fn the_key_of_tokens_stays() {
        let folder = tempfile::tempdir().unwrap();
        token_key(folder.path()).unwrap();
        let path = folder.path().join(TOKEN_KEY_FILE);
        let first = fs::read(&path).unwrap();
        token_key(folder.path()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), first);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_secrets_follow_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        let users = StepUsers::new(&path);
        let gate = PasswordGate::new(users.clone());
        assert_eq!(gate.secrets().of(&user("a")), None, "there is no file");
        users.add(&user("a"), "secret").unwrap();
        users.add(&user("b"), "secret").unwrap();
        let (first, other) = (gate.secrets(), gate.secrets());
        assert!(Arc::ptr_eq(&first, &other), "what did not change is not read again");
        assert_eq!(users.verify(&user("a"), "secret").unwrap().as_ref(), first.of(&user("a")));
        users.add(&user("a"), "secret").unwrap();
        let second = gate.secrets();
        assert_ne!(second.of(&user("a")), first.of(&user("a")), "the same password was given anew");
        assert_eq!(second.of(&user("b")), first.of(&user("b")));
        users.remove(&user("b")).unwrap();
        assert_eq!(gate.secrets().of(&user("b")), None);
        fs::write(&path, "nonsense").unwrap();
        assert_eq!(gate.secrets().of(&user("a")), None, "a damaged file lets nobody in");
    }

    #[test]
    fn whoever_fails_often_waits_and_success_forgives() {
        let gate = PasswordGate::new(StepUsers::new("/nonexistent"));
        let (bad, other) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        for _ in 0..FREE_FAILURES {
            gate.note(bad, false);
            assert_eq!(gate.wait_of(bad), Duration::ZERO);
        }
        gate.note(bad, false);
        assert_eq!(gate.wait_of(bad), FAILURE_WAIT);
        for _ in 0..100 {
            gate.note(bad, false);
        }
        assert_eq!(gate.wait_of(bad), FAILURE_WAIT_MAX);
        assert_eq!(gate.wait_of(other), Duration::ZERO);
        gate.note(bad, true);
        assert_eq!(gate.wait_of(bad), Duration::ZERO);
        for number in 0..=u16::MAX {
            let [high, low] = number.to_be_bytes();
            gate.note(IpAddr::from([10, 0, high, low]), false);
            if number > 3000 {
                break;
            }
        }
        assert!(gate.lock().len() <= ADDRESSES_MAX);
    }
}
