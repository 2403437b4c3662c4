//! Who a node is: a key made at its first start, and the certificate that shows it.
//!
//! The key lies in the state folder, readable by its owner only. It is written under another name and linked to its
//! own, so that a crash leaves either no identity or a whole one, and two first starts at once agree on one.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ftx_proto::digest::NodeId;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::error::{Code, Error};

/// A key with its self-signed certificate.
#[derive(Debug)]
pub struct Identity {
    key: PrivateKeyDer<'static>,
    certificate: CertificateDer<'static>,
    node: NodeId,
}

impl Identity {
    /// The identity in `state_dir`; a new one if there is none yet.
    pub fn load_or_create(state_dir: &Path) -> Result<Self, Error> {
        let path = state_dir.join(FILE_NAME);
        match fs::read(&path) {
            Ok(pem) => Self::from_pem(&pem, &path),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                store_new(state_dir, &path).map_err(|error| not_stored(state_dir, &error))?;
                let pem = fs::read(&path).map_err(|error| unreadable(&path, &error))?;
                Self::from_pem(&pem, &path)
            }
            Err(error) => Err(unreadable(&path, &error)),
        }
    }

    fn from_pem(pem: &[u8], path: &Path) -> Result<Self, Error> {
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|error| unreadable(path, &error))?;
        let certificate = CertificateDer::from_pem_slice(pem).map_err(|error| unreadable(path, &error))?;
        let node = node_of(&certificate).ok_or_else(|| unreadable(path, &"the certificate is malformed"))?;
        Ok(Identity { key, certificate, node })
    }

    /// The id that others see.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The certificate that is shown in handshakes.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    /// The key that proves it.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }
}

/// The id of the node that shows this certificate; `None` if it is none.
pub fn node_of(certificate: &CertificateDer<'_>) -> Option<NodeId> {
    let parsed = webpki::EndEntityCert::try_from(certificate).ok()?;
    Some(NodeId::of_public_key(&parsed.subject_public_key_info()))
}

const FILE_NAME: &str = "identity.pem";

fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::other(format!(
        "cannot read this node's identity from {}: {error}; move the file away to get a new identity",
        path.display()
    ))
}

fn not_stored(state_dir: &Path, error: &std::io::Error) -> Error {
    let (code, what_to_do) = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => (Code::DiskFull, "make room, or "),
        _ => (Code::Other, ""),
    };
    let state = state_dir.display();
    let message = format!(
        "cannot store this node's identity in {state}: {error}; {what_to_do}choose another folder with --state"
    );
    Error::new(code, message)
}

fn store_new(state_dir: &Path, path: &Path) -> std::io::Result<()> {
    let key = rcgen::KeyPair::generate().map_err(std::io::Error::other)?;
    let certificate = rcgen::CertificateParams::new(vec!["ftx-node".to_owned()])
        .and_then(|params| params.self_signed(&key))
        .map_err(std::io::Error::other)?;
    let draft = state_dir.join(format!("{FILE_NAME}.{}", std::process::id()));
    let written = write_draft(&draft, &key, &certificate);
    let linked = written.and_then(|()| fs::hard_link(&draft, path));
    let removed = fs::remove_file(&draft);
    match linked {
        // Another process was first: its identity is the one.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => removed,
        Err(error) => Err(error),
        Ok(()) => removed,
    }
}

fn write_draft(draft: &Path, key: &rcgen::KeyPair, certificate: &rcgen::Certificate) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(draft)?;
    file.write_all(key.serialize_pem().as_bytes())?;
    file.write_all(certificate.pem().as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn an_identity_stays_and_is_the_owners_only() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::load_or_create(dir.path()).unwrap();
        let again = Identity::load_or_create(dir.path()).unwrap();
        assert_eq!(first.node(), again.node());
        let mode = fs::metadata(dir.path().join(FILE_NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn a_damaged_identity_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE_NAME), "nonsense").unwrap();
        let error = Identity::load_or_create(dir.path()).unwrap_err();
        assert!(error.message.contains("identity.pem"), "{error}");
    }
}
